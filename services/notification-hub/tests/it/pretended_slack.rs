//! An incoming webhook that answers as it is told and keeps what it is sent.

use std::collections::VecDeque;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::http::header::{LOCATION, RETRY_AFTER};
use actix_web::web::{self, Data, Json};
use actix_web::{App, HttpResponse, HttpServer};
use serde_json::Value;

/// How a message is answered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Answer {
    Ok,
    /// Too fast; to be tried again after so many seconds.
    TooFast(u64),
    Status(u16),
    /// Moved, to this very address.
    Moved,
    /// Read, and never answered.
    Hang,
}

#[derive(Clone)]
pub struct Heard {
    pub at: Instant,
    pub message: Value,
    pub answer: Answer,
}

#[derive(Default)]
struct State {
    /// For the next messages; afterwards everything is taken.
    answers: VecDeque<Answer>,
    heard: Vec<Heard>,
}

pub struct PretendedSlack {
    url: String,
    state: Arc<Mutex<State>>,
    server: ServerHandle,
}

impl PretendedSlack {
    /// Answers the first messages with `answers` and takes everything after them.
    pub fn start(answers: &[Answer]) -> PretendedSlack {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/services/T000/B000/secret", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State { answers: answers.iter().copied().collect(), heard: Vec::new() }));
        let (shared, own) = (state.clone(), url.clone());
        let server = HttpServer::new(move || {
            App::new()
                .app_data(Data::from(shared.clone()))
                .app_data(Data::new(own.clone()))
                .route("/services/T000/B000/secret", web::post().to(take))
        });
        let server = server.workers(1).disable_signals().listen(listener).unwrap().run();
        let handle = server.handle();
        tokio::spawn(server);
        PretendedSlack { url, state, server: handle }
    }

    /// The settings of a hub that talks to it, and hurries.
    pub fn settings(&self) -> Vec<(&str, &str)> {
        vec![
            ("notification_hub.slack.url", &self.url),
            ("notification_hub.slack.interval_ms", "50"),
            ("notification_hub.slack.retry_delays_seconds", "0,0,0,0,0"),
        ]
    }

    pub fn heard(&self) -> Vec<Heard> {
        self.state.lock().unwrap().heard.clone()
    }

    /// The messages that were taken.
    pub fn taken(&self) -> Vec<Value> {
        self.heard().into_iter().filter(|heard| heard.answer == Answer::Ok).map(|heard| heard.message).collect()
    }

    pub async fn stop(self) {
        self.server.stop(false).await;
    }
}

async fn take(state: Data<Mutex<State>>, own: Data<String>, Json(message): Json<Value>) -> HttpResponse {
    let answer = {
        let mut state = state.lock().unwrap();
        let answer = state.answers.pop_front().unwrap_or(Answer::Ok);
        state.heard.push(Heard { at: Instant::now(), message, answer });
        answer
    };
    match answer {
        Answer::Ok => HttpResponse::Ok().body("ok"),
        Answer::TooFast(seconds) => {
            HttpResponse::TooManyRequests().insert_header((RETRY_AFTER, seconds.to_string())).body("rate_limited")
        }
        Answer::Status(status) => HttpResponse::build(StatusCode::from_u16(status).unwrap()).body("invalid_payload"),
        Answer::Moved => HttpResponse::Found().insert_header((LOCATION, own.as_str())).finish(),
        Answer::Hang => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            HttpResponse::Ok().body("ok")
        }
    }
}
