//! A fake of a program that receives webhooks: it answers as it is told and keeps what it is sent.

use std::collections::VecDeque;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::http::header::{LOCATION, RETRY_AFTER};
use actix_web::web::{self, Bytes, Data};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use testkit::eventually;

/// How a request is answered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reply {
    Ok,
    Status(u16),
    /// Too fast; to be tried again after so many seconds.
    TooFast(u64),
    /// Elsewhere, to an address of this very program.
    Moved,
}

/// A request as it came in.
#[derive(Debug, Clone)]
pub struct Received {
    pub path: String,
    pub id: String,
    pub timestamp: String,
    pub signature: String,
    pub body: Vec<u8>,
}

#[derive(Default)]
struct State {
    /// For the next requests; afterwards everything is taken.
    replies: Mutex<VecDeque<Reply>>,
    received: Mutex<Vec<Received>>,
}

pub struct FakeReceiver {
    state: Arc<State>,
    /// `127.0.0.1:port`
    pub address: String,
    server: ServerHandle,
}

impl FakeReceiver {
    /// Answers the first requests with `replies` and takes everything after them.
    pub fn start(replies: &[Reply]) -> FakeReceiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State { replies: Mutex::new(replies.iter().copied().collect()), ..State::default() });
        let shared = state.clone();
        let server =
            HttpServer::new(move || App::new().app_data(Data::from(shared.clone())).default_service(web::to(receive)));
        let server = server.workers(1).disable_signals().listen(listener).unwrap().run();
        let handle = server.handle();
        tokio::spawn(server);
        FakeReceiver { state, address, server: handle }
    }

    pub fn received(&self) -> Vec<Received> {
        self.state.received.lock().unwrap().clone()
    }

    /// Waits until `count` requests came.
    pub async fn has(&self, count: usize) -> Vec<Received> {
        eventually(&format!("{count} webhooks came"), async || {
            let received = self.received();
            (received.len() >= count).then_some(received)
        })
        .await
    }

    pub async fn stop(self) {
        self.server.stop(false).await;
    }
}

async fn receive(receiver: Data<State>, request: HttpRequest, body: Bytes) -> HttpResponse {
    let header = |name: &str| {
        let value = request.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    receiver.received.lock().unwrap().push(Received {
        path: request.path().to_owned(),
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp"),
        signature: header("webhook-signature"),
        body: body.to_vec(),
    });
    match receiver.replies.lock().unwrap().pop_front().unwrap_or(Reply::Ok) {
        Reply::Ok => HttpResponse::NoContent().finish(),
        Reply::Status(status) => HttpResponse::build(StatusCode::from_u16(status).unwrap()).body("internal secret"),
        Reply::TooFast(seconds) => {
            HttpResponse::TooManyRequests().insert_header((RETRY_AFTER, seconds.to_string())).finish()
        }
        Reply::Moved => HttpResponse::TemporaryRedirect().insert_header((LOCATION, "/elsewhere")).finish(),
    }
}
