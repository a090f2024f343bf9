//! Whether a buyer may come in now: the sale has begun, and they have a pass where one is needed.
//!
//! What is decided is in [`crate::waiting_room`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::error::Refusal;
use common::rate::RateLimiter;
use common::rpc::Upstream;
use common::signed::VerifyingKey;
use common::{Code, Result};
use contract::codes;
use contract::ids::{AccountId, ProductId, SaleEventId};
use contract::queue::queue_service_client::QueueServiceClient;
use contract::queue::verify_pass_response::Outcome;
use contract::queue::{PingRequest, VerifyPassRequest};
use parking_lot::Mutex;
use serde::Deserialize;

use crate::Entrance;
use crate::sale::{PassRule, Sale, sale_of};
use crate::waiting_room::{Decision, Evidence, Queue, Shown, Verification, decide};

/// The `typ` of passes.
const PASS_TYP: &str = "entry+jwt";

/// Section `[entry]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntrySettings {
    verify_ms: u64,
    probe_ms: u64,
    probe_period_ms: u64,
    dead_after_ms: u64,
    pub sales_period_ms: u64,
}

/// How a buyer came in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Sale events whose queue is dead, so that no pass was asked for. The caller writes them down before it goes on.
    pub bypassed: Vec<SaleEventId>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryRefusal {
    #[error("This pass is not yours, not for sale event {0}, or has expired.")]
    TokenInvalid(SaleEventId),
    #[error("Sale event {0} has a waiting room: enter its line, and send the pass as X-Queue-Token.")]
    TokenRequired(SaleEventId),
    #[error("The waiting room of sale event {0} does not answer; try again.")]
    Unavailable(SaleEventId),
    #[error("Product {0} is sold only through a waiting room, and no sale event with a waiting room is open for it.")]
    NoRoom(ProductId),
}

impl EntryRefusal {
    fn event(&self) -> Option<SaleEventId> {
        match self {
            EntryRefusal::TokenInvalid(event)
            | EntryRefusal::TokenRequired(event)
            | EntryRefusal::Unavailable(event) => Some(*event),
            EntryRefusal::NoRoom(_) => None,
        }
    }
}

impl Refusal for EntryRefusal {
    fn code(&self) -> Code {
        match self {
            EntryRefusal::TokenInvalid(_) => codes::QUEUE_TOKEN_INVALID,
            EntryRefusal::TokenRequired(_) => codes::QUEUE_TOKEN_REQUIRED,
            EntryRefusal::Unavailable(_) => codes::QUEUE_UNAVAILABLE,
            EntryRefusal::NoRoom(_) => codes::EVENT_NOT_OPEN,
        }
    }

    fn details(&self) -> Vec<serde_json::Value> {
        let details =
            |event| serde_json::json!({ "eventId": event, "tickets": format!("/api/v1/queues/{event}/tickets") });
        self.event().map(details).into_iter().collect()
    }

    fn retry_after(&self) -> Option<Duration> {
        matches!(self, EntryRefusal::Unavailable(_)).then_some(Duration::from_secs(2))
    }
}

/// The queue service, and what this service knows of its life.
pub struct Door {
    client: QueueServiceClient<Upstream>,
    settings: EntrySettings,
    /// Held during a question, so that there is one at a time however many have no pass.
    probe: tokio::sync::Mutex<Option<Instant>>,
    evidence: Mutex<Evidence>,
    born: Instant,
    /// For each dead room, with the rate that it had.
    bypasses: Mutex<HashMap<(SaleEventId, i64), Arc<RateLimiter>>>,
}

impl Door {
    pub fn new(queue: Upstream, settings: EntrySettings) -> Door {
        Door {
            client: QueueServiceClient::new(queue),
            settings,
            probe: tokio::sync::Mutex::default(),
            evidence: Mutex::default(),
            born: Instant::now(),
            bypasses: Mutex::default(),
        }
    }

    async fn verify(&self, sale: &Sale, account: AccountId, pass: &str, now: u64) -> Verification {
        let question = VerifyPassRequest {
            event_id: sale.event_id.to_string(),
            user_id: account.to_string(),
            pass: pass.to_owned(),
        };
        let ask = async || {
            let mut request = tonic::Request::new(question.clone());
            request.set_timeout(Duration::from_millis(self.settings.verify_ms));
            self.client.clone().verify_pass(request).await
        };
        let mut answer = ask().await;
        // A replica of the queue that is replaced in this moment is no outage: another one is asked.
        if answer.as_ref().is_err_and(|status| status.code() == tonic::Code::Unavailable) {
            answer = ask().await;
        }
        match answer {
            Ok(answer) => {
                self.evidence.lock().answered();
                match answer.into_inner().outcome() {
                    Outcome::Ok => Verification::Valid,
                    _ => Verification::Invalid,
                }
            }
            Err(status) => {
                tracing::debug!(event.id = %sale.event_id, %status, "The queue does not answer for a pass");
                self.evidence.lock().failed(self.born.elapsed());
                Verification::NoAnswer { signature_is_good: has_good_signature(sale, account, pass, now) }
            }
        }
    }

    /// Whether the queue lives, by a question that is not older than a moment.
    async fn queue(&self) -> Queue {
        let mut asked = self.probe.lock().await;
        let period = Duration::from_millis(self.settings.probe_period_ms);
        if asked.is_none_or(|asked| asked.elapsed() >= period) {
            let mut ping = tonic::Request::new(PingRequest {});
            ping.set_timeout(Duration::from_millis(self.settings.probe_ms));
            let answered = self.client.clone().ping(ping).await.is_ok();
            *asked = Some(Instant::now());
            let mut evidence = self.evidence.lock();
            if answered { evidence.answered() } else { evidence.failed(self.born.elapsed()) }
        }
        self.evidence.lock().queue(Duration::from_millis(self.settings.dead_after_ms))
    }

    /// As many as the room would admit.
    fn may_bypass(&self, sale: &Sale) -> bool {
        let rate = u32::try_from(sale.rate_per_minute).unwrap_or(u32::MAX);
        let mut limiters = self.bypasses.lock();
        let key = (sale.event_id, sale.rate_per_minute);
        let limiter = limiters.entry(key).or_insert_with(|| Arc::new(RateLimiter::per_minute(rate, rate.div_ceil(60))));
        limiter.check(sale.event_id).is_ok()
    }
}

fn has_good_signature(sale: &Sale, account: AccountId, pass: &str, now: u64) -> bool {
    let audience = format!("event:{}", sale.event_id);
    let key = VerifyingKey::from_text(&sale.pass_key);
    key.is_ok_and(|key| key.verify(PASS_TYP, &audience, account.uuid(), pass, now).is_ok())
}

impl Entrance {
    /// Whether `account` may have `products` now. Which of them need a pass, `rule` says.
    ///
    /// Refuses with `EVENT_NOT_OPEN`, `EVENT_CLOSED`, `QUEUE_TOKEN_REQUIRED`, `QUEUE_TOKEN_INVALID`, `QUEUE_UNAVAILABLE`.
    pub async fn check(
        &self,
        account: AccountId,
        products: impl IntoIterator<Item = ProductId>,
        rule: PassRule,
        pass: Option<&str>,
    ) -> Result<Entry> {
        let (sales, now) = self.sales.now();
        let mut guarded: Vec<&Sale> = Vec::new();
        for product in products {
            let sale = sale_of(&sales, product, rule, now)?.filter(|sale| sale.queue_manage_required);
            match sale {
                Some(sale) if !guarded.contains(&sale) => guarded.push(sale),
                None if rule == PassRule::Always => return Err(refused(EntryRefusal::NoRoom(product))),
                Some(_) | None => {}
            }
        }
        let seconds = u64::try_from(now.timestamp()).unwrap_or_default();
        let mut entry = Entry::default();
        for sale in guarded {
            let shown = match pass {
                Some(pass) => Shown::Pass(self.door.verify(sale, account, pass, seconds).await),
                None => Shown::Nothing { queue: self.door.queue().await },
            };
            match decide(sale.policy(), shown) {
                Decision::Proceed => {}
                Decision::TokenInvalid => return Err(refused(EntryRefusal::TokenInvalid(sale.event_id))),
                Decision::TokenRequired => return Err(refused(EntryRefusal::TokenRequired(sale.event_id))),
                Decision::Bypass if self.door.may_bypass(sale) => {
                    metrics::counter!("stampede_entries_total", "outcome" => "bypass").increment(1);
                    entry.bypassed.push(sale.event_id);
                }
                Decision::Bypass | Decision::Unavailable => {
                    return Err(refused(EntryRefusal::Unavailable(sale.event_id)));
                }
            }
        }
        Ok(entry)
    }
}

fn refused(refusal: EntryRefusal) -> common::Error {
    metrics::counter!("stampede_entries_total", "outcome" => refusal.code().reason.to_string()).increment(1);
    refusal.into()
}
