//! A fake of an incoming webhook: it answers as it is told and keeps what it is sent.

use std::collections::VecDeque;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::http::header::{LOCATION, RETRY_AFTER};
use actix_web::web::{self, Data, Json};
use actix_web::{App, HttpResponse, HttpServer};
use contract::events::PaymentFailed;
use serde_json::Value;
use testkit::eventually;
use tokio::sync::Semaphore;

const PATH: &str = "/services/T000/B000/secret";

/// How a message is answered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Answer {
    Ok,
    /// Too fast; to be tried again after so many seconds.
    TooFast(u64),
    Status(u16),
    /// Moved, to this very address.
    Moved,
    /// Read, and answered with "ok" once [`FakeSlack::release`] was called.
    Hang,
}

#[derive(Clone)]
pub struct Post {
    pub at: Instant,
    pub message: Value,
    pub answer: Answer,
}

impl Post {
    /// Notifications that the message is about: a header, and a section and a context for each.
    pub fn parts(&self) -> usize {
        (self.message["blocks"].as_array().unwrap().len() - 1) / 2
    }
}

struct State {
    url: String,
    /// For the next messages; afterwards everything is taken.
    answers: Mutex<VecDeque<Answer>>,
    posts: Mutex<Vec<Post>>,
    released: Semaphore,
}

pub struct FakeSlack {
    state: Arc<State>,
    server: ServerHandle,
}

impl FakeSlack {
    /// Answers the first messages with `answers` and takes everything after them.
    pub fn start(answers: &[Answer]) -> FakeSlack {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let state = Arc::new(State {
            url: format!("http://{}{PATH}", listener.local_addr().unwrap()),
            answers: Mutex::new(answers.iter().copied().collect()),
            posts: Mutex::default(),
            released: Semaphore::new(0),
        });
        let shared = state.clone();
        let server = HttpServer::new(move || {
            App::new().app_data(Data::from(shared.clone())).route(PATH, web::post().to(take_message))
        });
        let server = server.workers(1).disable_signals().listen(listener).unwrap().run();
        let handle = server.handle();
        tokio::spawn(server);
        FakeSlack { state, server: handle }
    }

    /// The settings of a hub that talks to it, and hurries.
    pub fn settings(&self) -> Vec<(&str, &str)> {
        vec![
            ("notification_hub.slack.url", &self.state.url),
            ("notification_hub.slack.interval_ms", "0"),
            ("notification_hub.slack.retry_delays_seconds", "0,0,0,0,0"),
        ]
    }

    /// Everything that was posted, refused messages included.
    pub fn posts(&self) -> Vec<Post> {
        self.state.posts.lock().unwrap().clone()
    }

    /// Waits until `count` messages were posted.
    pub async fn posted(&self, count: usize) {
        eventually(&format!("{count} messages are posted to Slack"), async || {
            (self.posts().len() >= count).then_some(())
        })
        .await;
    }

    /// The messages that were taken.
    pub fn taken(&self) -> Vec<Value> {
        let taken = self.posts().into_iter().filter(|post| matches!(post.answer, Answer::Ok | Answer::Hang));
        taken.map(|post| post.message).collect()
    }

    /// How often the messages that were taken tell of `payment`.
    pub fn told(&self, payment: &PaymentFailed) -> usize {
        self.taken().iter().map(|message| message["blocks"].to_string().matches(&payment.payment_id).count()).sum()
    }

    /// Answers one message that hangs.
    pub fn release(&self) {
        self.state.released.add_permits(1);
    }

    pub async fn stop(self) {
        self.server.stop(false).await;
    }
}

async fn take_message(slack: Data<State>, Json(message): Json<Value>) -> HttpResponse {
    let answer = slack.answers.lock().unwrap().pop_front().unwrap_or(Answer::Ok);
    slack.posts.lock().unwrap().push(Post { at: Instant::now(), message, answer });
    match answer {
        Answer::Ok => HttpResponse::Ok().body("ok"),
        Answer::TooFast(seconds) => {
            HttpResponse::TooManyRequests().insert_header((RETRY_AFTER, seconds.to_string())).body("rate_limited")
        }
        Answer::Status(status) => HttpResponse::build(StatusCode::from_u16(status).unwrap()).body("invalid_payload"),
        Answer::Moved => HttpResponse::Found().insert_header((LOCATION, slack.url.as_str())).finish(),
        Answer::Hang => {
            slack.released.acquire().await.unwrap().forget();
            HttpResponse::Ok().body("ok")
        }
    }
}
