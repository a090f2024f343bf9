//! The public HTTP interface as a buyer uses it. Light, because it shares the processors with what it measures.

use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, Request, Response, Url};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::record::Told;

mod payments;

pub use payments::{Bill, Heard, Prepared};

/// Longer than the services' own deadlines: who waits less would only ask twice.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Nobody is sent away for longer, whatever the server says: the rush has to end.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);

pub struct Api {
    client: Client,
    base: Url,
}

/// Somebody who is logged in and about to order once.
#[derive(Debug, Clone)]
pub struct Buyer {
    pub account: Uuid,
    pub authorization: HeaderValue,
    /// The Idempotency-Key of the one order this buyer wants.
    pub key: HeaderValue,
}

impl Buyer {
    pub fn new(account: Uuid, access_token: &str) -> anyhow::Result<Buyer> {
        let mut authorization = HeaderValue::from_str(&format!("Bearer {access_token}"))?;
        authorization.set_sensitive(true);
        Ok(Buyer { account, authorization, key: HeaderValue::from_str(&Uuid::new_v4().to_string())? })
    }
}

/// What came of one attempt.
pub enum Reply {
    Told(Told),
    /// Refused for the moment: nothing has happened, and one may come back after this time.
    Later(Duration),
    /// It may have happened or not.
    Unknown,
}

impl Api {
    /// `address` is `http://host:port`.
    pub fn new(address: &str, connections_max: usize) -> anyhow::Result<Api> {
        let client = Client::builder()
            .no_proxy()
            .http1_only()
            .tcp_nodelay(true)
            .pool_max_idle_per_host(connections_max)
            .timeout(REQUEST_TIMEOUT)
            .build()?;
        Ok(Api { client, base: Url::parse(&format!("{}/api/v1/", address.trim_end_matches('/')))? })
    }

    /// `POST /orders`, without a buyer: built once, since all buyers want the same.
    pub fn order_request(&self, product: Uuid, quantity: u64) -> anyhow::Result<Request> {
        let mut request = Request::new(Method::POST, self.base.join("orders")?);
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = json!({ "items": [{ "productId": product, "quantity": quantity }] });
        *request.body_mut() = Some(body.to_string().into());
        Ok(request)
    }

    /// Sends `wanted` once for `buyer`.
    pub async fn place_order(&self, wanted: &Request, buyer: &Buyer) -> Reply {
        let Some(mut request) = wanted.try_clone() else { return Reply::Unknown };
        request.headers_mut().insert(AUTHORIZATION, buyer.authorization.clone());
        request.headers_mut().insert(IDEMPOTENCY_KEY, buyer.key.clone());
        let Ok(response) = self.client.execute(request).await else { return Reply::Unknown };
        let status = response.status().as_u16();
        if status == 429 {
            return Reply::Later(retry_after(response.headers()));
        }
        if status >= 500 || status == 408 {
            return Reply::Unknown;
        }
        match response.bytes().await {
            Ok(body) => Reply::Told(told(status, &body)),
            Err(_) => Reply::Unknown,
        }
    }

    /// `GET /orders/{id}` as `buyer`. None: not to be known at the moment; `Some(None)`: there is no such order.
    pub async fn read_order(&self, order: Uuid, buyer: &Buyer) -> Option<Option<Value>> {
        let url = self.base.join(&format!("orders/{order}")).ok()?;
        let request = self.client.get(url).header(AUTHORIZATION, buyer.authorization.clone());
        let response = request.send().await.ok()?;
        match response.status().as_u16() {
            200 => Some(Some(response.json().await.ok()?)),
            429 | 500.. => None,
            _ => Some(None),
        }
    }

    /// Registers an account and returns its id. Waits while the service says that it is busy, until `deadline`.
    pub async fn register(&self, email: &str, password: &str, deadline: tokio::time::Instant) -> anyhow::Result<Uuid> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Registered {
            user_id: Uuid,
        }
        let body = json!({ "email": email, "password": password, "name": "Rush Buyer" });
        let response = self.post_patiently("auth/register", &body, deadline).await?;
        Ok(response.json::<Registered>().await?.user_id)
    }

    /// Logs in and returns the access token. Waits like [`Api::register`].
    pub async fn log_in(&self, email: &str, password: &str, deadline: tokio::time::Instant) -> anyhow::Result<String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Tokens {
            access_token: String,
        }
        let response =
            self.post_patiently("auth/login", &json!({ "email": email, "password": password }), deadline).await?;
        Ok(response.json::<Tokens>().await?.access_token)
    }

    /// `POST /admin/products`: a new product, and its id.
    pub async fn create_product(&self, admin: &str, product: &Value) -> anyhow::Result<Uuid> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Created {
            product_id: Uuid,
        }
        let request = self.client.post(self.base.join("admin/products")?).bearer_auth(admin).json(product);
        let response = succeeded("admin/products", request.send().await?).await?;
        Ok(response.json::<Created>().await?.product_id)
    }

    async fn post_patiently(
        &self,
        path: &str,
        body: &Value,
        deadline: tokio::time::Instant,
    ) -> anyhow::Result<Response> {
        loop {
            let response = self.client.post(self.base.join(path)?).json(body).send().await?;
            let is_busy = matches!(response.status().as_u16(), 429 | 503);
            let delay = retry_after(response.headers());
            if !is_busy || tokio::time::Instant::now() + delay >= deadline {
                return succeeded(path, response).await;
            }
            tokio::time::sleep(delay).await;
        }
    }
}

async fn succeeded(path: &str, response: Response) -> anyhow::Result<Response> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = response.text().await.with_context(|| format!("reading the answer of {path}"))?;
    bail!("{path} answered {status}: {body}")
}

fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(1)).min(RETRY_AFTER_MAX)
}

fn told(status: u16, body: &[u8]) -> Told {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Placed {
        order_id: Uuid,
    }
    #[derive(Deserialize)]
    struct Problem {
        code: String,
    }
    if status == 201
        && let Ok(Placed { order_id }) = serde_json::from_slice(body)
    {
        return Told::Placed { order_id, body: body.to_vec() };
    }
    let code =
        serde_json::from_slice(body).map_or_else(|_| "without a code".to_owned(), |problem: Problem| problem.code);
    if status == 409 && code == "OUT_OF_STOCK" { Told::OutOfStock } else { Told::Other { status, code } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_an_order_a_refusal_or_something_else() {
        let order = Uuid::from_u128(7);
        let body = format!("{{\"orderId\":\"{order}\",\"status\":\"CREATED\"}}");
        assert_eq!(told(201, body.as_bytes()), Told::Placed { order_id: order, body: body.into_bytes() });
        assert_eq!(told(409, br#"{"code":"OUT_OF_STOCK","message":"x"}"#), Told::OutOfStock);
        let other = |status, code: &str| Told::Other { status, code: code.to_owned() };
        assert_eq!(told(409, br#"{"code":"HOLD_ALREADY_RELEASED"}"#), other(409, "HOLD_ALREADY_RELEASED"));
        assert_eq!(told(201, b"{}"), other(201, "without a code"));
        assert_eq!(told(404, b"<html>"), other(404, "without a code"));
    }
}
