//! The coupon of a rush. Every buyer asks for it before ordering; some ask several times at once, and try to use the
//! coupon of somebody else.

pub mod judge;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use client::{Buyer, Client, Reply};
use common::backoff::Backoff;
use futures_util::future::join_all;
use parking_lot::Mutex;
use rand::RngExt;
use reqwest::Request;
use serde::Deserialize;
use tokio::sync::OnceCell;
use tokio::time::Instant;
use uuid::Uuid;

use self::judge::{Asked, Attempt, Theft};
use super::counters::Counters;

/// Between two requests of one buyer whose outcome is unknown.
const RETRY: Backoff = Backoff { first: Duration::from_millis(50), max: Duration::from_secs(1) };
/// How often a bot asks at once.
const BOT_COPIES: usize = 3;

/// What is there before the sale begins.
#[derive(Debug, Clone, Copy)]
pub struct Offer {
    pub coupon: Uuid,
    /// How many there are.
    pub total: u64,
    /// What each takes off its order. Won.
    pub discount: i64,
    /// On sale too, and plenty of it: whoever tries to use another's coupon orders this, so that no unit of the sale is
    /// held meanwhile.
    pub bait: Uuid,
}

/// What the buyers share.
pub struct Coupons {
    pub offer: Offer,
    client: Client,
    buyers: Arc<Vec<Buyer>>,
    /// Share of the buyers who behave like bots.
    bots: f64,
    deadline: Instant,
    /// By buyer: the coupon that they have, once that is known.
    issued: Vec<OnceCell<Option<Uuid>>>,
    asked: Mutex<Vec<Asked>>,
    thefts: Mutex<Vec<Theft>>,
    /// A buyer who has a coupon, or none yet: whom bots steal from.
    victim: AtomicUsize,
}

/// No buyer.
const NOBODY: usize = usize::MAX;

impl Coupons {
    pub fn new(offer: Offer, client: Client, buyers: Arc<Vec<Buyer>>, bots: f64, deadline: Instant) -> Coupons {
        let issued = (0..buyers.len()).map(|_| OnceCell::new()).collect();
        let (asked, thefts) = (Mutex::default(), Mutex::default());
        Coupons { offer, client, buyers, bots, deadline, issued, asked, thefts, victim: AtomicUsize::new(NOBODY) }
    }

    /// The order of `buyer` with a coupon, if they get one. The same each time.
    pub async fn order_of(&self, buyer: usize, product: Uuid, quantity: u64, counters: &Counters) -> Option<Request> {
        let issue = *self.issued[buyer].get_or_init(|| self.ask(buyer, counters)).await;
        self.client.order_request_with_coupon(product, quantity, issue?).ok()
    }

    /// What the buyers were told, in the order of the answers.
    pub fn told(&self) -> (Vec<Asked>, Vec<Theft>) {
        (std::mem::take(&mut self.asked.lock()), std::mem::take(&mut self.thefts.lock()))
    }

    async fn ask(&self, buyer: usize, counters: &Counters) -> Option<Uuid> {
        let is_bot = rand::rng().random::<f64>() < self.bots;
        let copies = if is_bot { BOT_COPIES } else { 1 };
        let answers = join_all((0..copies).map(|_| self.ask_once(buyer, counters))).await;
        let issue = answers.iter().find_map(Attempt::issue);
        if is_bot {
            self.steal(buyer).await;
        }
        if issue.is_some() {
            self.victim.store(buyer, Ordering::Relaxed);
        }
        self.asked.lock().extend(answers.into_iter().map(|answer| Asked { buyer, answer }));
        issue
    }

    /// Asks until there is a definite answer.
    async fn ask_once(&self, buyer: usize, counters: &Counters) -> Attempt {
        let mut attempt = 0;
        loop {
            let delay = match self.client.issue_for(&self.buyers[buyer], self.offer.coupon).await {
                Reply::Answered { status, body } => return answer_of(status, &body),
                Reply::Busy(delay) => delay,
                Reply::Unknown => Duration::ZERO,
            };
            attempt += 1;
            counters.record_retry();
            let delay = delay + RETRY.delay(attempt);
            if Instant::now() + delay >= self.deadline {
                return Attempt::Unknown;
            }
            tokio::time::sleep(delay).await;
        }
    }

    /// Orders with the coupon of somebody else.
    async fn steal(&self, buyer: usize) {
        let victim = self.victim.load(Ordering::Relaxed);
        let Some(Some(issue)) = self.issued.get(victim).and_then(OnceCell::get) else { return };
        let Ok(order) = self.client.order_request_with_coupon(self.offer.bait, 1, *issue) else { return };
        let thief = self.buyers[buyer].with_fresh_key();
        // Whether it was let in shows in the answer; without one, the audit finds it.
        if let Reply::Answered { status, body } = self.client.place_for(&thief, &order).await {
            let code = if status == 201 { String::new() } else { client::code_of(&body) };
            self.thefts.lock().push(Theft { status, code });
        }
    }
}

fn answer_of(status: u16, body: &[u8]) -> Attempt {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Issued {
        issue_id: Uuid,
    }
    #[derive(Deserialize)]
    struct Refused {
        code: String,
        details: Vec<serde_json::Value>,
    }
    if status == 201
        && let Ok(Issued { issue_id }) = serde_json::from_slice(body)
    {
        return Attempt::Issued(issue_id);
    }
    let Ok(Refused { code, details }) = serde_json::from_slice(body) else {
        return Attempt::Other { status, code: "without a code".to_owned() };
    };
    let had = details.first().and_then(|detail| detail["issueId"].as_str()).and_then(|id| id.parse().ok());
    match (code.as_str(), had) {
        ("COUPON_ALREADY_ISSUED", Some(issue)) => Attempt::Had(issue),
        ("COUPON_SOLD_OUT", _) => Attempt::SoldOut,
        _ => Attempt::Other { status, code },
    }
}
