//! A client of our own HTTP interface, and the answers it gets.

mod buyer;
mod connection;
mod coupon;
mod payment;
mod seat;
mod setup;

use std::fmt;
use std::time::Duration;

use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use reqwest::header::{AUTHORIZATION, HeaderMap, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

pub use buyer::{Buyer, Reply};
pub use connection::Connection;
pub use payment::{Bill, Prepared, pg_payment_id};
pub use seat::Place;
pub use setup::{NewConcert, NewProduct, NewSeats};

/// Somebody who talks to a system: its address, and a token if they are logged in.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    api: String,
    pub token: Option<String>,
    pub user_id: String,
    pub email: String,
}

pub const PASSWORD: &str = "a long enough password";

/// A product on sale.
#[derive(Debug, Clone)]
pub struct Product {
    pub id: String,
}

/// An HTTP answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    /// For messages: method and path.
    pub asked: String,
    pub path: String,
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Client {
    pub fn new(http: reqwest::Client, api: &str, token: Option<String>) -> Client {
        Client { http, api: api.to_owned(), token, user_id: String::new(), email: String::new() }
    }

    /// The same person with another token.
    pub fn with_token(&self, token: &str) -> Client {
        Client { token: Some(token.to_owned()), ..self.clone() }
    }

    /// Somebody whose token was made elsewhere.
    pub fn known_as(&self, user_id: &str, token: &str) -> Client {
        Client { user_id: user_id.to_owned(), ..self.with_token(token) }
    }

    /// The same person at another address, `http://host:port`.
    pub fn at(&self, api: &str) -> Client {
        Client { api: api.to_owned(), ..self.clone() }
    }

    pub async fn log_in(&self, email: &str, password: &str) -> Client {
        let credentials = json!({ "email": email, "password": password });
        let tokens = self.post("/auth/login", &credentials).await.expect(200).json();
        self.with_token(&text(&tokens["accessToken"])).introduced().await
    }

    /// Asks who the token belongs to.
    pub async fn introduced(self) -> Client {
        let me = self.get("/auth/me").await.expect(200).json();
        Client { user_id: text(&me["userId"]), email: text(&me["email"]), ..self }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// Places an order of one line.
    pub async fn order(&self, key: &str, product: &Product, quantity: i64) -> Answer {
        self.place(key, &json!({ "items": [line(product, quantity)] })).await
    }

    pub async fn place(&self, key: &str, order: &Value) -> Answer {
        self.send(self.placing(key, order)).await
    }

    pub fn placing(&self, key: &str, order: &Value) -> RequestBuilder {
        self.request(Method::POST, "/orders").header("Idempotency-Key", key).json(order)
    }

    /// An administrator's correction of a stock.
    pub async fn adjust(&self, key: &str, product: &Product, delta: i64) -> Answer {
        let path = format!("/admin/products/{}/stock-adjust", product.id);
        let body = json!({ "delta": delta, "reason": "counted again" });
        self.send(self.request(Method::POST, &path).header("Idempotency-Key", key).json(&body)).await
    }

    /// A request below `/api/v1`, with the token if there is one.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.request_root(method, &format!("/api/v1{path}"))
    }

    pub fn request_root(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.api));
        match &self.token {
            Some(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    pub async fn send(&self, request: RequestBuilder) -> Answer {
        self.try_send(request).await.expect("the site answers")
    }

    /// The error is that of a connection: nobody knows what became of the request.
    pub async fn try_send(&self, request: RequestBuilder) -> reqwest::Result<Answer> {
        let request = request.build()?;
        let path = request.url().path().to_owned();
        let asked = format!("{} {}", request.method(), request.url());
        let response = self.http.execute(request).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        Ok(Answer { asked, path, status, headers, body: response.text().await? })
    }

    /// Sends `request` again for as long as the answer is 429 or 503, after the time that it asks for, until `deadline`.
    pub async fn patiently(&self, request: RequestBuilder, deadline: Instant) -> anyhow::Result<Answer> {
        loop {
            let attempt = request.try_clone().context("a request that streams its body can be sent only once")?;
            let answer = self.try_send(attempt).await?;
            let is_busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&answer.status);
            let delay = retry_after(&answer.headers);
            if !is_busy || Instant::now() + delay >= deadline {
                return Ok(answer);
            }
            tokio::time::sleep(delay).await;
        }
    }
}

/// Nobody waits for longer, whatever the server says.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);

/// The time of `Retry-After`; a second where there is none.
fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(1)).min(RETRY_AFTER_MAX)
}

/// The `code` of an error body.
pub fn code_of(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Problem {
        code: String,
    }
    serde_json::from_slice(body).map_or_else(|_| "without a code".to_owned(), |problem: Problem| problem.code)
}

/// A line of an order.
pub fn line(product: &Product, quantity: i64) -> Value {
    json!({ "productId": product.id, "quantity": quantity })
}

/// A key that was never used.
pub fn fresh_key() -> String {
    Uuid::new_v4().to_string()
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a text")).to_owned()
}

impl Answer {
    /// An error unless the status is 2xx.
    pub fn succeeded(self) -> anyhow::Result<Answer> {
        ensure!(self.status.is_success(), "{self}");
        Ok(self)
    }

    /// The body as a `T`.
    pub fn read<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        serde_json::from_str(&self.body).with_context(|| self.to_string())
    }

    /// The `code` of an error body.
    pub fn code(&self) -> String {
        code_of(self.body.as_bytes())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn is_replay(&self) -> bool {
        self.header("Idempotent-Replayed") == Some("true")
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status.as_u16(), status, "{} answered {}", self.asked, self.body);
        self
    }

    /// A refusal in the error body that clients were promised. Returns it.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> Value {
        let problem = self.problem();
        let found = (self.status.as_u16(), problem["code"].as_str());
        assert_eq!(found, (status, Some(code)), "{} answered {}", self.asked, self.body);
        problem
    }

    /// The error body, whose every promised member is looked at.
    #[track_caller]
    pub fn problem(&self) -> Value {
        self.checked_problem().unwrap_or_else(|flaw| panic!("{flaw}: {self}"))
    }

    /// The error body, or what is wrong with it.
    pub fn checked_problem(&self) -> Result<Value, String> {
        let ensure = |holds: bool, flaw: &str| if holds { Ok(()) } else { Err(flaw.to_owned()) };
        ensure(self.header("Content-Type") == Some("application/problem+json"), "not a problem")?;
        let problem: Value = serde_json::from_str(&self.body).map_err(|error| error.to_string())?;
        let member = |name: &str| {
            let value = problem[name].as_str().filter(|value| !value.is_empty());
            value.ok_or_else(|| format!("no {name}"))
        };
        let at: DateTime<Utc> = member("timestamp")?.parse().map_err(|_| "timestamp is no time")?;
        let written = at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
        ensure(member("timestamp")? == written, "timestamp is not in UTC and milliseconds")?;
        ensure(member("path")? == self.path, "path")?;
        let code = member("code")?;
        ensure(code.chars().all(|c| c.is_ascii_uppercase() || c == '_'), "code is not spelt like one")?;
        member("message")?;
        ensure(problem["details"].is_array(), "details is no list")?;
        ["type", "title", "detail"].into_iter().try_for_each(|name| member(name).map(drop))?;
        ensure(problem["status"] == self.status.as_u16(), "status")?;
        ensure(member("instance")? == self.path, "instance")?;
        ensure(Some(member("requestId")?) == self.header("X-Request-Id"), "requestId is not X-Request-Id")?;
        Ok(problem)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} answered {} {}", self.asked, self.status, self.body)
    }
}
