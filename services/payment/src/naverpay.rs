//! Naver Pay over HTTP: approve, history, cancel. Every answer is classified here, and nowhere else.

mod history;
#[cfg(test)]
mod tests;

use std::time::Duration;

use contract::ids::PaymentId;
use reqwest::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::provider::{Approval, Approved, Giveback, GivenBack, Known, Provider};
use history::Row;

pub use history::{Entry, Movement, Of, Page, Unread};

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
    /// Asking what is known, and then for the money.
    pub fn longest(&self) -> Duration {
        Duration::from_millis(self.query_timeout_ms + self.read_timeout_ms)
    }
}

const APPROVE: &str = "naverpay-partner/naverpay/payments/v2.2/apply/payment";
const CANCEL: &str = "naverpay-partner/naverpay/payments/v1/cancel";
/// More than a page of the history has.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// The name of this provider in our tables, events and paths.
pub const NAME: &str = "naverpay";

/// A client of the provider. Cheap to clone.
#[derive(Clone)]
pub struct NaverPay {
    http: reqwest::Client,
    settings: Settings,
}

#[derive(Deserialize)]
struct Answer<B> {
    code: String,
    #[serde(default)]
    message: String,
    body: Option<B>,
}

#[derive(Deserialize)]
struct ApprovedBody {
    detail: Option<Row>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CancelBody {
    payment_id: Option<String>,
}

/// Why there is no answer that can be used.
enum Trouble {
    /// Nothing was sent.
    NotSent(String),
    Unclear(String),
}

impl NaverPay {
    pub fn new(settings: &Settings) -> anyhow::Result<NaverPay> {
        let http = reqwest::Client::builder()
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

    fn post(&self, path: &str, key: &str, timeout_ms: u64) -> reqwest::RequestBuilder {
        let Settings { url, client_id, client_secret, chain_id, .. } = &self.settings;
        let request = self
            .http
            .post(format!("{url}/{path}"))
            .timeout(Duration::from_millis(timeout_ms))
            .header("X-Naver-Client-Id", client_id)
            .header("X-Naver-Client-Secret", client_secret.expose_secret())
            .header("X-NaverPay-Chain-Id", chain_id);
        if key.is_empty() { request } else { request.header("X-NaverPay-Idempotency-Key", key) }
    }

    /// Gives back `amount` of what was captured, whether or not it was ever one of our payments. The same `key` again does
    /// nothing again.
    pub async fn cancel(
        &self,
        pg_payment_id: &str,
        merchant_pay_key: &str,
        amount: i64,
        reason: &str,
        key: &str,
    ) -> GivenBack {
        let body = serde_json::json!({
            "paymentId": pg_payment_id,
            "merchantPayKey": merchant_pay_key,
            "cancelAmount": amount,
            "cancelReason": reason,
            // 2: the seller.
            "cancelRequester": "2",
            "taxScopeAmount": amount,
            "taxExScopeAmount": 0,
        });
        match answer::<CancelBody>(self.post(CANCEL, key, self.settings.read_timeout_ms).json(&body)).await {
            Ok(Answer { code, body, .. }) => match code.as_str() {
                "Success" => match body.and_then(|body| body.payment_id) {
                    Some(other) if other != pg_payment_id => GivenBack::Unknown { code: "MISMATCH".to_owned() },
                    Some(_) | None => GivenBack::Done,
                },
                "OverRemainAmount" | "AlreadyCanceled" | "InvalidPaymentId" => GivenBack::Refused { code },
                _ => GivenBack::Unknown { code },
            },
            Err(Trouble::NotSent(code) | Trouble::Unclear(code)) => GivenBack::Unknown { code },
        }
    }
}

impl Provider for NaverPay {
    async fn approve(&self, approval: &Approval) -> Approved {
        let form = format!("paymentId={}", form_encoded(&approval.pg_payment_id));
        let asked = self.post(APPROVE, &approval.key, self.settings.read_timeout_ms);
        let asked = asked.header("Content-Type", "application/x-www-form-urlencoded").body(form);
        let Answer::<ApprovedBody> { code, message, body } = match answer(asked).await {
            Ok(answer) => answer,
            Err(Trouble::NotSent(message)) => return Approved::NotDone { code: "NOT_SENT".to_owned(), message },
            Err(Trouble::Unclear(message)) => return Approved::Unknown { code: "NO_ANSWER".to_owned(), message },
        };
        match code.as_str() {
            "Success" => match body.and_then(|body| body.detail) {
                Some(row) if row.captures(approval) => Approved::Captured,
                _ => {
                    tracing::error!(payment.id = %approval.payment, "The provider confirmed something else than was asked for");
                    Approved::Unknown { code: "MISMATCH".to_owned(), message: "confirmed something else".to_owned() }
                }
            },
            // Done before, under another key: the history tells whether it was this.
            "AlreadyComplete" => match self.known(approval).await {
                Known::Captured => Approved::Captured,
                Known::Foreign => Approved::Declined { code, message },
                Known::Cancelled | Known::Absent | Known::WrongAmount { .. } | Known::Unclear(_) => {
                    Approved::Unknown { code, message }
                }
            },
            "TimeExpired" | "OwnerAuthFail" | "NotEnoughAccountBalance" | "InvalidPaymentId" | "UserCancel" => {
                Approved::Declined { code, message }
            }
            "MaintenanceOngoing" | "InvalidMerchant" => Approved::NotDone { code, message },
            // AlreadyOnGoing, Fail, and whatever may be invented yet.
            _ => Approved::Unknown { code, message },
        }
    }

    async fn known(&self, approval: &Approval) -> Known {
        match self.rows(&Of::Payment(&approval.pg_payment_id)).await {
            Ok(rows) => history::judge(&rows, approval),
            Err(Unread(message)) => Known::Unclear(message),
        }
    }

    async fn give_back(&self, giveback: &Giveback) -> GivenBack {
        let Giveback { pg_payment_id, amount, reason, .. } = giveback;
        self.cancel(pg_payment_id, &giveback.payment.to_string(), *amount, reason, &giveback.refund.to_string()).await
    }
}

/// The id comes from a client: whatever is in it stays in its field.
fn form_encoded(text: &str) -> String {
    let encoded = text.bytes().map(|byte| match byte {
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    });
    encoded.collect()
}

async fn answer<B: DeserializeOwned>(request: reqwest::RequestBuilder) -> Result<Answer<B>, Trouble> {
    let mut response = request.send().await.map_err(trouble)?;
    let status = response.status();
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(trouble)? {
        text.extend_from_slice(&chunk);
        if text.len() > ANSWER_BYTES_MAX {
            return Err(Trouble::Unclear("an answer without end".to_owned()));
        }
    }
    // A refusal comes with 200 or 400 and a code; what a proxy or a crash says is no answer of the provider.
    if !matches!(status, StatusCode::OK | StatusCode::BAD_REQUEST) {
        return Err(Trouble::Unclear(format!("HTTP {}", status.as_u16())));
    }
    serde_json::from_slice(&text).map_err(|error| Trouble::Unclear(format!("not an answer: {error}")))
}

fn trouble(error: reqwest::Error) -> Trouble {
    // Without its address, which is not for our tables.
    let is_connect = error.is_connect();
    let text = error.without_url().to_string();
    if is_connect { Trouble::NotSent(text) } else { Trouble::Unclear(text) }
}
