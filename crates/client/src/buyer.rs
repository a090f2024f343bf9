//! A buyer under load: one attempt at a time, and what is known after it. Light, because it shares the processors with
//! what it measures.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue, InvalidHeaderValue};
use reqwest::{Method, Request, RequestBuilder};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{Client, code_of, retry_after};

/// Longer than the services' own deadlines: who waits less would only ask twice.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Somebody who is logged in and places one order.
#[derive(Debug, Clone)]
pub struct Buyer {
    pub account: Uuid,
    authorization: HeaderValue,
    /// The Idempotency-Key of that order.
    key: HeaderValue,
}

/// What is known after one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A definite answer.
    Answered { status: u16, body: Bytes },
    /// 429: nothing has happened; it may be tried again after this time.
    Busy(Duration),
    /// No answer, or 408 or 5xx: it may have happened or not.
    Unknown,
}

impl Buyer {
    pub fn new(account: Uuid, access_token: &str) -> Result<Buyer, InvalidHeaderValue> {
        let mut authorization = HeaderValue::from_str(&format!("Bearer {access_token}"))?;
        authorization.set_sensitive(true);
        Ok(Buyer { account, authorization, key: HeaderValue::from_str(&Uuid::new_v4().to_string())? })
    }

    /// The same person with another order in mind.
    pub fn with_fresh_key(&self) -> Buyer {
        let key = HeaderValue::from_str(&Uuid::new_v4().to_string()).expect("a UUID is visible ASCII");
        Buyer { key, ..self.clone() }
    }
}

impl Client {
    /// A client that keeps up to `connections_max` connections open. `api` is `http://host:port`.
    pub fn for_load(api: &str, connections_max: usize) -> reqwest::Result<Client> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .http1_only()
            .tcp_nodelay(true)
            .pool_max_idle_per_host(connections_max)
            .timeout(REQUEST_TIMEOUT)
            .build()?;
        Ok(Client::new(http, api.trim_end_matches('/'), None))
    }

    /// `POST /orders` without a buyer: built once for all buyers of the same.
    pub fn order_request(&self, product: Uuid, quantity: u64) -> reqwest::Result<Request> {
        let body = json!({ "items": [{ "productId": product, "quantity": quantity }] });
        self.request(Method::POST, "/orders").json(&body).build()
    }

    /// Sends `order`, made by [`Client::order_request`], once for `buyer`.
    pub async fn place_for(&self, buyer: &Buyer, order: &Request) -> Reply {
        let Some(mut request) = order.try_clone() else { return Reply::Unknown };
        request.headers_mut().insert(IDEMPOTENCY_KEY, buyer.key.clone());
        self.attempt(buyer, request).await
    }

    /// `POST /products/{product}/restock-subscriptions` as `buyer`.
    pub async fn subscribe_for(&self, buyer: &Buyer, product: Uuid) -> Reply {
        self.attempt_built(buyer, self.request(Method::POST, &format!("/products/{product}/restock-subscriptions")))
            .await
    }

    /// `GET` of `path` as `buyer`.
    pub async fn read_for(&self, buyer: &Buyer, path: &str) -> Reply {
        self.attempt_built(buyer, self.request(Method::GET, path)).await
    }

    /// Sends `request` once as `buyer`.
    pub(crate) async fn attempt_built(&self, buyer: &Buyer, request: RequestBuilder) -> Reply {
        match request.build() {
            Ok(request) => self.attempt(buyer, request).await,
            Err(_) => Reply::Unknown,
        }
    }

    async fn attempt(&self, buyer: &Buyer, mut request: Request) -> Reply {
        request.headers_mut().insert(AUTHORIZATION, buyer.authorization.clone());
        let Ok(response) = self.http.execute(request).await else { return Reply::Unknown };
        let status = response.status().as_u16();
        if status == 429 {
            return Reply::Busy(retry_after(response.headers()));
        }
        let Ok(body) = response.bytes().await else { return Reply::Unknown };
        let is_definite = match status {
            // The provider has certainly not captured the money.
            502 => code_of(&body) == "PG_ERROR",
            408 | 500.. => false,
            _ => true,
        };
        if is_definite { Reply::Answered { status, body } } else { Reply::Unknown }
    }
}

impl Reply {
    /// The body of a definite answer; null where there is none or it is no JSON.
    pub fn json(&self) -> Value {
        match self {
            Reply::Answered { body, .. } => serde_json::from_slice(body).unwrap_or_default(),
            Reply::Busy(_) | Reply::Unknown => Value::Null,
        }
    }
}
