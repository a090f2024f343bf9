//! The payers: every buyer who has an order prepares its payment, agrees to it in the provider's window and approves
//! it, and asks until the end is known.

mod answers;

use std::sync::Arc;
use std::time::Duration;

use client::{Bill, Buyer, Client, Prepared, Reply};
use common::backoff::Backoff;
use futures_util::future::join_all;
use parking_lot::Mutex;
use rand::RngExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use answers::{Ending, PaymentRecord};
use answers::{PaymentState, after_approval, after_reading};

use super::counters::Counters;
use super::kills::Pace;

/// Between two questions about one payment.
const RETRY: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(2) };
/// A buyer who is declined so often gives up.
const DECLINES_MAX: u32 = 3;
/// Of those who approve twice: the share that agrees in two windows of the provider, and not in one.
const TWO_WINDOWS: f64 = 0.5;

/// All buyers who are paying.
pub struct Payers {
    shared: Arc<Shared>,
    at_work: Mutex<JoinSet<PaymentRecord>>,
}

/// What payers share.
pub struct Shared {
    pub client: Client,
    pub buyers: Arc<Vec<Buyer>>,
    pub counters: Arc<Counters>,
    pub pace: Arc<Pace>,
    /// Share of the payers who approve twice at the same moment.
    pub double_clicks: f64,
    pub deadline: Instant,
    /// As many pay at once as order at once. A payer who only waits gives the slot back.
    pub slots: Arc<Semaphore>,
}

impl Payers {
    pub fn new(shared: Shared) -> Payers {
        Payers { shared: Arc::new(shared), at_work: Mutex::default() }
    }

    /// Has `buyer` pay for `order`, which is the answer to it. Returns at once.
    pub fn start(&self, buyer: usize, order: &[u8]) {
        let shared = self.shared.clone();
        let bill = match Bill::of(order) {
            Ok(bill) => bill,
            Err(error) => {
                tracing::error!(%error, "The answer to an order has no amount: nobody pays for it, and the verdict is FAIL");
                return;
            }
        };
        self.at_work.lock().spawn(async move { shared.pay(buyer, bill).await });
    }

    /// Has `buyer` pay for `order`, which is the answer to it, and waits for the end.
    pub async fn pay(&self, buyer: usize, order: &[u8]) -> anyhow::Result<PaymentRecord> {
        Ok(self.shared.pay(buyer, Bill::of(order)?).await)
    }

    /// Waits for all. No payer may start any more.
    pub async fn finish(&self) -> Vec<PaymentRecord> {
        let mut at_work = std::mem::take(&mut *self.at_work.lock());
        let mut all = Vec::with_capacity(at_work.len());
        while let Some(paying) = at_work.join_next().await {
            all.push(paying.expect("a payer only asks and waits, so it cannot panic"));
        }
        all
    }
}

/// One of the slots, while it is taken.
struct Slot<'a> {
    shared: &'a Shared,
    permit: Option<OwnedSemaphorePermit>,
    waits: u32,
}

impl Slot<'_> {
    async fn take(shared: &Shared) -> Slot<'_> {
        let permit = shared.slots.clone().acquire_owned().await.ok();
        Slot { shared, permit, waits: 0 }
    }

    /// Gives the slot back for `delay` and a little. False: the time is up.
    async fn wait(&mut self, delay: Duration) -> bool {
        self.waits += 1;
        let delay = delay + RETRY.delay(self.waits);
        if Instant::now() + delay >= self.shared.deadline {
            return false;
        }
        self.permit = None;
        tokio::time::sleep(delay).await;
        self.permit = self.shared.slots.clone().acquire_owned().await.ok();
        true
    }
}

impl Shared {
    async fn pay(&self, buyer: usize, bill: Bill) -> PaymentRecord {
        let mut slot = Slot::take(self).await;
        self.pace.wait(&self.counters, self.deadline).await;
        let started_at = self.counters.elapsed();
        let buyer = &self.buyers[buyer];
        let mut payment_id = None;
        let ending = match self.prepare(&mut slot, buyer, &bill).await {
            Ok(prepared) => {
                payment_id = Some(prepared.payment_id);
                self.agree_and_approve(&mut slot, buyer, &bill, &prepared).await
            }
            Err(ending) => ending,
        };
        drop(slot);
        let ended_at = self.counters.elapsed();
        self.counters.record_payer_done(ending == Ending::Paid, ended_at - started_at);
        PaymentRecord { order_id: bill.order_id, payment_id, ending, started_at, ended_at }
    }

    async fn prepare(&self, slot: &mut Slot<'_>, buyer: &Buyer, bill: &Bill) -> Result<Prepared, Ending> {
        loop {
            let delay = match self.client.prepare_payment_for(buyer, bill).await {
                Reply::Answered { status: 201, body } => {
                    let unreadable = |_| Ending::Refused { status: 201, code: "without a window".to_owned() };
                    return Prepared::of(&body).map_err(unreadable);
                }
                Reply::Answered { status, body } => {
                    return Err(Ending::Refused { status, code: client::code_of(&body) });
                }
                Reply::Busy(delay) => delay,
                Reply::Unknown => Duration::ZERO,
            };
            self.counters.record_retry();
            if !slot.wait(delay).await {
                return Err(Ending::Unknown);
            }
        }
    }

    /// Agrees and approves until there is an end.
    async fn agree_and_approve(&self, slot: &mut Slot<'_>, buyer: &Buyer, bill: &Bill, prepared: &Prepared) -> Ending {
        let mut declines = 0;
        let mut clicks_twice = rand::rng().random::<f64>() < self.double_clicks;
        loop {
            slot.waits = 0;
            let windows = if clicks_twice && rand::rng().random::<f64>() < TWO_WINDOWS { 2 } else { 1 };
            let Some(mut agreed) = self.agree(slot, prepared, windows).await else { return Ending::Unknown };
            if clicks_twice && windows == 1 {
                agreed.push(agreed[0].clone());
            }
            // Only the first time.
            clicks_twice = false;
            match self.approve(slot, buyer, bill, prepared, agreed).await {
                Some(PaymentState::Paid) => return Ending::Paid,
                Some(PaymentState::Declined) => {
                    declines += 1;
                    if declines == DECLINES_MAX {
                        return Ending::Declined;
                    }
                }
                Some(PaymentState::NotCaptured | PaymentState::InProgress | PaymentState::Unanswered) => {
                    if !slot.wait(Duration::ZERO).await {
                        return Ending::Unknown;
                    }
                }
                Some(PaymentState::Refused(status, code)) => return Ending::Refused { status, code },
                None => return Ending::Unknown,
            }
        }
    }

    /// Agrees in `windows` windows of the provider. Returns its id for each. None: the time is up.
    async fn agree(&self, slot: &mut Slot<'_>, prepared: &Prepared, windows: usize) -> Option<Vec<String>> {
        let mut agreed = Vec::new();
        while agreed.len() < windows {
            match self.client.agree(prepared).await {
                Ok(pg_payment_id) => agreed.push(pg_payment_id),
                Err(error) => {
                    tracing::warn!(
                        payment_id = %prepared.payment_id,
                        error = format!("{error:#}"),
                        "The provider's window does not answer; the buyer tries again"
                    );
                    if !slot.wait(Duration::ZERO).await {
                        return None;
                    }
                }
            }
        }
        Some(agreed)
    }

    /// Approves all of `agreed` at once, and asks until it is known what came of it. None: the time is up.
    async fn approve(
        &self,
        slot: &mut Slot<'_>,
        buyer: &Buyer,
        bill: &Bill,
        prepared: &Prepared,
        agreed: Vec<String>,
    ) -> Option<PaymentState> {
        let payment = prepared.payment_id;
        let path = format!("/payments/{payment}");
        loop {
            let clicks = agreed.iter().map(|pg| self.client.approve_payment_for(buyer, bill, payment, pg));
            let replies = join_all(clicks).await;
            let mut state = replies.iter().map(after_approval).min()?;
            let delay = |reply: &Reply| if let Reply::Busy(delay) = reply { *delay } else { Duration::ZERO };
            let mut delay = replies.iter().map(delay).max().unwrap_or_default();
            let is_unanswered = state == PaymentState::Unanswered;
            while matches!(state, PaymentState::InProgress | PaymentState::Unanswered) {
                self.counters.record_retry();
                if !slot.wait(delay).await {
                    return None;
                }
                delay = Duration::ZERO;
                state = after_reading(&self.client.read_for(buyer, &path).await);
            }
            // The request never arrived, or failed on its way: the same again.
            if is_unanswered && state == PaymentState::NotCaptured {
                continue;
            }
            return Some(state);
        }
    }
}
