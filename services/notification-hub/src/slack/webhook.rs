//! The incoming webhook: how a message is posted.

use std::time::Duration;

use anyhow::Context;
use common::http::call;
use reqwest::header::RETRY_AFTER;
use reqwest::{Response, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;

use crate::delivery::{Failure, Outcome};
use crate::http_answer::{classify, slack_refusal};

/// Section `[notification_hub.slack]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlackSettings {
    pub url: SecretString,
    pub connect_timeout_ms: u64,
    pub timeout_ms: u64,
    pub interval_ms: u64,
    pub digest_max: u32,
    pub retry_after_max_seconds: u64,
    pub retry_delays_seconds: Vec<u64>,
}

impl SlackSettings {
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// Between two messages. A log needs no pause.
    pub fn interval(&self) -> Duration {
        let is_log = self.url.expose_secret().is_empty();
        Duration::from_millis(if is_log { 0 } else { self.interval_ms })
    }
}

/// Slack explains a refusal in one word.
const REASON_CHARS_MAX: usize = 60;

/// A client of one webhook.
pub struct Webhook {
    http: reqwest::Client,
    /// Whoever knows it may post: it never gets into a log.
    url: Url,
    retry_after_max: Duration,
}

/// A message that was not taken.
pub struct NotTaken {
    pub outcome: Outcome,
    /// For the log. The webhook's address is not in it.
    pub reason: String,
}

impl Webhook {
    /// None when no webhook is set.
    pub fn new(settings: &SlackSettings) -> anyhow::Result<Option<Webhook>> {
        let url = settings.url.expose_secret();
        if url.is_empty() {
            return Ok(None);
        }
        let is_http = |url: &Url| ["http", "https"].contains(&url.scheme());
        let url = Url::parse(url).ok().filter(is_http).context("notification_hub.slack.url is not an http address")?;
        let http = common::outside::client(url.as_str())?
            .connect_timeout(Duration::from_millis(settings.connect_timeout_ms))
            .timeout(settings.timeout())
            // A webhook does not move; whoever says so wants our messages.
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Some(Webhook { http, url, retry_after_max: Duration::from_secs(settings.retry_after_max_seconds) }))
    }

    /// Posts one message.
    pub async fn post(&self, message: &Value) -> Result<(), NotTaken> {
        let answer = match call::send(self.http.post(self.url.clone()).json(message)).await {
            Ok(answer) => answer,
            Err(error) => {
                let is_sent = !(error.is_connect() || error.is_builder());
                let failure = if is_sent { Failure::NoAnswer } else { Failure::Unavailable };
                return Err(NotTaken { outcome: Outcome::NotSent(failure), reason: error.without_url().to_string() });
            }
        };
        let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let status = answer.status().as_u16();
        match classify(status, retry_after, self.retry_after_max, slack_refusal) {
            Outcome::Sent => Ok(()),
            outcome => Err(NotTaken { outcome, reason: format!("{status} {}", reason(answer).await) }),
        }
    }
}

/// The beginning of the answer, if there is one, fit for a log.
async fn reason(mut answer: Response) -> String {
    let body = answer.chunk().await.ok().flatten().unwrap_or_default();
    let text = String::from_utf8_lossy(&body);
    text.chars().take(REASON_CHARS_MAX).map(|c| if c.is_ascii_graphic() { c } else { ' ' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_real_slack_needs_pauses() {
        let settings = |url: &str| SlackSettings {
            url: url.to_owned().into(),
            connect_timeout_ms: 1_000,
            timeout_ms: 3_000,
            interval_ms: 1_100,
            digest_max: 20,
            retry_after_max_seconds: 60,
            retry_delays_seconds: vec![1],
        };
        assert_eq!(settings("").interval(), Duration::ZERO);
        assert_eq!(settings("https://hooks.slack.com/services/T/B/X").interval(), Duration::from_millis(1_100));
    }
}
