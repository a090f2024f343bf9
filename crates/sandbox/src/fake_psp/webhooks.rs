//! The provider's webhooks: signed as Standard Webhooks says, and sent again until they are taken.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::web::{Data, Json, ServiceConfig};
use actix_web::{HttpResponse, delete, get, put};
use anyhow::Result;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, SecondsFormat, Utc};
use parking_lot::{Mutex, MutexGuard};
use reqwest::Url;
use reqwest::redirect::Policy;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::faults::Faults;
use crate::silences::Silences;

/// One, and five repetitions.
const ATTEMPTS_MAX: u32 = 6;

/// Before the second attempt; doubled before each further one, so that the last comes 15 s after the first.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Who answers later than this has not answered.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(10);

/// Attempts at the same time.
const SENDING_MAX: usize = 32;

/// Webhooks that are not yet taken; those beyond are not told at all, as real ones are sometimes not.
const WAITING_MAX: usize = 10_000;

const URL_BYTES_MAX: usize = 2_048;

/// What the standard asks for, in bytes.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Money has moved. Amounts are won.
pub(super) struct Webhook {
    /// The same in every attempt.
    pub(super) id: String,
    pub(super) kind: &'static str,
    pub(super) at: DateTime<Utc>,
    pub(super) payment_id: String,
    pub(super) merchant_pay_key: String,
    pub(super) amount: i64,
}

impl Webhook {
    fn body(&self) -> String {
        json!({
            "type": self.kind,
            "timestamp": self.at.to_rfc3339_opts(SecondsFormat::Micros, true),
            "data": {
                "paymentId": self.payment_id,
                "merchantPayKey": self.merchant_pay_key,
                "amount": self.amount,
                "currency": "KRW",
            },
        })
        .to_string()
    }

    /// Says the contrary of what has happened.
    fn forged(&self) -> Webhook {
        Webhook {
            id: format!("{}_forged", self.id),
            kind: if self.kind == "payment.approved" { "payment.cancelled" } else { "payment.approved" },
            at: self.at,
            payment_id: self.payment_id.clone(),
            merchant_pay_key: self.merchant_pay_key.clone(),
            amount: self.amount,
        }
    }
}

/// `PUT /webhooks`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetWebhooks {
    url: String,
    /// `whsec_` and base64.
    secret: String,
}

#[derive(Clone)]
struct Target {
    url: Url,
    secret: Vec<u8>,
}

impl SetWebhooks {
    fn check(&self) -> Result<Target, &'static str> {
        let secret = self.secret.strip_prefix("whsec_").and_then(|secret| STANDARD.decode(secret).ok());
        let Some(secret) = secret.filter(|secret| SECRET_BYTES.contains(&secret.len())) else {
            return Err("secret is whsec_ and 24 to 64 bytes in base64");
        };
        let url = Url::parse(&self.url).ok().filter(|_| self.url.len() <= URL_BYTES_MAX);
        match url.filter(is_loopback) {
            Some(url) => Ok(Target { url, secret }),
            None => Err("url is http://127.0.0.1:…"),
        }
    }
}

/// `GET /webhooks`: how it went.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    /// What has happened that somebody wanted to hear of.
    told: u64,
    /// Taken with a 2xx; what is told twice counts twice.
    taken: u64,
    /// What genuine attempts were answered. 0 is no answer.
    answers: BTreeMap<u16, u64>,
    duplicated: u64,
    reordered: u64,
    forged: u64,
    /// Forged webhooks that were taken with a 2xx.
    forged_taken: u64,
    /// Not taken in the last attempt, or too many waited.
    given_up: u64,
}

struct State {
    target: Option<Target>,
    counts: Counts,
}

/// Where webhooks go, and those under way.
pub(super) struct Webhooks {
    faults: Arc<Faults>,
    silences: Arc<Silences>,
    client: reqwest::Client,
    /// Where deliveries run; the workers that tell end first.
    runtime: Handle,
    waiting: Arc<Semaphore>,
    sending: Semaphore,
    state: Mutex<State>,
}

impl Webhooks {
    /// Deliveries run on the runtime that this is called on.
    pub(super) fn start(faults: Arc<Faults>, silences: Arc<Silences>) -> Result<Webhooks> {
        let client = reqwest::Client::builder().no_proxy().redirect(Policy::none()).timeout(ATTEMPT_LIMIT).build()?;
        Ok(Webhooks {
            faults,
            silences,
            client,
            runtime: Handle::try_current()?,
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            sending: Semaphore::new(SENDING_MAX),
            state: Mutex::new(State { target: None, counts: Counts::default() }),
        })
    }

    /// Returns at once.
    pub(super) fn send(self: &Arc<Self>, webhook: Webhook) {
        let mut state = self.state();
        if state.target.is_none() {
            return;
        }
        state.counts.told += 1;
        let Ok(place) = Arc::clone(&self.waiting).try_acquire_owned() else {
            state.counts.given_up += 1;
            return;
        };
        drop(state);
        self.runtime.spawn(Arc::clone(self).deliver(webhook, place));
    }

    async fn deliver(self: Arc<Self>, webhook: Webhook, _place: OwnedSemaphorePermit) {
        let [is_twice, is_late, is_forged] = self.faults.pick_for_webhook();
        if is_late {
            self.state().counts.reordered += 1;
            self.silences.keep(self.faults.reorder()).await;
        }
        if is_forged {
            self.forge(&webhook.forged()).await;
        }
        self.send_until_taken(&webhook).await;
        if is_twice {
            self.state().counts.duplicated += 1;
            self.send_until_taken(&webhook).await;
        }
    }

    /// Tries until it is taken or too often.
    async fn send_until_taken(&self, webhook: &Webhook) {
        let mut pause = FIRST_PAUSE;
        for attempt in 1..=ATTEMPTS_MAX {
            // Read for each attempt: the target may have changed.
            let Some(Target { url, secret }) = self.state().target.clone() else { break };
            let answer = self.attempt(webhook, url, &secret).await;
            if self.count(answer) {
                return;
            }
            if attempt < ATTEMPTS_MAX {
                self.silences.keep(pause).await;
                pause *= 2;
            }
        }
        self.state().counts.given_up += 1;
        tracing::warn!("Webhook {} was not taken in {ATTEMPTS_MAX} attempts and is given up", webhook.id);
    }

    /// Whether this answer takes it.
    fn count(&self, answer: u16) -> bool {
        let mut state = self.state();
        *state.counts.answers.entry(answer).or_default() += 1;
        state.counts.taken += u64::from(is_taken(answer));
        is_taken(answer)
    }

    async fn forge(&self, forged: &Webhook) {
        let Some(Target { url, .. }) = self.state().target.clone() else { return };
        let secret: [u8; 32] = rand::random();
        let answer = self.attempt(forged, url, &secret).await;
        let mut state = self.state();
        state.counts.forged += 1;
        state.counts.forged_taken += u64::from(is_taken(answer));
    }

    /// The status of the answer; 0 if there is none.
    async fn attempt(&self, webhook: &Webhook, url: Url, secret: &[u8]) -> u16 {
        let Ok(_permit) = self.sending.acquire().await else { return 0 };
        let body = webhook.body();
        let timestamp = Utc::now().timestamp();
        let request = self
            .client
            .post(url)
            .header("Content-Type", "application/json")
            .header("webhook-id", &webhook.id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", sign(secret, &webhook.id, timestamp, &body))
            .body(body);
        request.send().await.map_or(0, |response| response.status().as_u16())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// Whether its text names this machine.
fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let is_own = |address: IpAddr| address.is_loopback() || address.is_unspecified();
    url.scheme() == "http" && (host == "localhost" || host.parse().is_ok_and(is_own))
}

fn is_taken(answer: u16) -> bool {
    (200..300).contains(&answer)
}

/// `timestamp` is in seconds since 1970.
fn sign(secret: &[u8], id: &str, timestamp: i64, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let tag = hmac::sign(&key, format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(tag))
}

#[get("/webhooks")]
async fn read_webhooks(webhooks: Data<Webhooks>) -> HttpResponse {
    let (url, counts) = {
        let state = webhooks.state();
        (state.target.as_ref().map(|target| target.url.to_string()), state.counts.clone())
    };
    let waiting = WAITING_MAX - webhooks.waiting.available_permits();
    HttpResponse::Ok().json(json!({ "url": url, "waiting": waiting, "counts": counts }))
}

#[put("/webhooks")]
async fn set_webhooks(webhooks: Data<Webhooks>, wanted: Json<SetWebhooks>) -> HttpResponse {
    match wanted.check() {
        Ok(target) => {
            webhooks.state().target = Some(target);
            HttpResponse::NoContent().finish()
        }
        Err(message) => HttpResponse::BadRequest().body(message),
    }
}

/// Nothing is sent any more, not even what is under way.
#[delete("/webhooks")]
async fn stop_webhooks(webhooks: Data<Webhooks>) -> HttpResponse {
    webhooks.state().target = None;
    HttpResponse::NoContent().finish()
}

pub(super) fn routes(routes: &mut ServiceConfig) {
    routes.service(read_webhooks).service(set_webhooks).service(stop_webhooks);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_as_the_standard_shows() {
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = r#"{"test": 2432232314}"#;
        let signature = sign(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn only_loopback_targets_with_a_good_secret_are_accepted() {
        let check = |url: &str, secret: &str| {
            let asked = SetWebhooks { url: url.to_owned(), secret: secret.to_owned() };
            asked.check().is_ok()
        };
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        assert!(check("http://127.0.0.1:8080/api/v1/webhooks/pg/naverpay", secret));
        for url in ["http://localhost:8080/", "http://[::1]:8080/", "http://0.0.0.0:8080/"] {
            assert!(check(url, secret), "{url}");
        }
        for url in ["http://192.0.2.1/", "http://127.0.0.1.example/", "https://127.0.0.1/", "127.0.0.1", ""] {
            assert!(!check(url, secret), "{url}");
        }
        for secret in ["", "whsec_", "whsec_c2hvcnQ=", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
            assert!(!check("http://127.0.0.1:1/", secret), "{secret}");
        }
    }
}
