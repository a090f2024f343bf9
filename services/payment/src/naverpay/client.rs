//! The HTTP side of Naver Pay: requests with our credentials, and whether an answer can be used.

use std::time::Duration;

use anyhow::Context;
use common::http::call;
use contract::ids::PaymentId;
use reqwest::{RequestBuilder, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Section `[payment.naverpay]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub url: String,
    pub checkout_url: String,
    pub client_id: String,
    pub client_secret: SecretString,
    pub chain_id: String,
    pub connect_timeout_ms: u64,
    pub read_timeout_ms: u64,
    pub query_timeout_ms: u64,
}

impl Settings {
    /// The longest time that the resolver may spend on one payment: a query, and then a request for the money.
    pub fn longest(&self) -> Duration {
        Duration::from_millis(self.query_timeout_ms + self.read_timeout_ms)
    }
}

/// A page of the history is smaller.
pub(super) const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// A client of Naver Pay. Cheap to clone.
#[derive(Clone)]
pub struct NaverPay {
    http: reqwest::Client,
    settings: Settings,
}

/// What the provider says to any request.
#[derive(Deserialize)]
pub(super) struct Answer<B> {
    pub(super) code: String,
    #[serde(default)]
    pub(super) message: String,
    pub(super) body: Option<B>,
}

/// Why there is no answer that can be used.
pub(super) enum NoAnswer {
    /// The connection failed, so the provider has not got the request.
    NotSent(String),
    /// The provider may have got the request.
    Unclear(String),
}

impl NaverPay {
    pub fn new(settings: &Settings) -> anyhow::Result<NaverPay> {
        let http = common::outside::client(&settings.url)
            .context("payment.naverpay.url")?
            .connect_timeout(Duration::from_millis(settings.connect_timeout_ms))
            // A redirect would carry the secret elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(NaverPay { http, settings: settings.clone() })
    }

    /// Where the buyer authorises the payment.
    pub fn checkout(&self, payment: PaymentId, amount: i64) -> String {
        format!("{}?merchantPayKey={payment}&amount={amount}", self.settings.checkout_url)
    }

    /// A request without side effects.
    pub(super) fn query(&self, path: &str) -> RequestBuilder {
        self.post(path, self.settings.query_timeout_ms)
    }

    /// A request that moves money. The provider carries it out once for each `key`.
    pub(super) fn command(&self, path: &str, key: &str) -> RequestBuilder {
        self.post(path, self.settings.read_timeout_ms).header("X-NaverPay-Idempotency-Key", key)
    }

    fn post(&self, path: &str, timeout_ms: u64) -> RequestBuilder {
        let Settings { url, client_id, client_secret, chain_id, .. } = &self.settings;
        self.http
            .post(format!("{url}/{path}"))
            .timeout(Duration::from_millis(timeout_ms))
            .header("X-Naver-Client-Id", client_id)
            .header("X-Naver-Client-Secret", client_secret.expose_secret())
            .header("X-NaverPay-Chain-Id", chain_id)
    }
}

pub(super) async fn answer<B: DeserializeOwned>(request: RequestBuilder) -> Result<Answer<B>, NoAnswer> {
    let mut response = call::send(request).await.map_err(no_answer)?;
    let status = response.status();
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(no_answer)? {
        text.extend_from_slice(&chunk);
        if text.len() > ANSWER_BYTES_MAX {
            return Err(NoAnswer::Unclear(format!("the answer is longer than {ANSWER_BYTES_MAX} bytes")));
        }
    }
    // The provider refuses with 200 or 400 and a code. Any other status may come from a proxy or a crash.
    if !matches!(status, StatusCode::OK | StatusCode::BAD_REQUEST) {
        return Err(NoAnswer::Unclear(format!("HTTP {}", status.as_u16())));
    }
    serde_json::from_slice(&text).map_err(|error| NoAnswer::Unclear(format!("not an answer: {error}")))
}

fn no_answer(error: reqwest::Error) -> NoAnswer {
    // Without the provider's address, which is not for our tables.
    let is_connect = error.is_connect();
    let text = error.without_url().to_string();
    if is_connect { NoAnswer::NotSent(text) } else { NoAnswer::Unclear(text) }
}
