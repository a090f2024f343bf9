//! Sends the alerts of one batch, in their order, outside any transaction.

use std::collections::HashSet;
use std::time::Duration;

use contract::ids::DeliveryId;
use diesel::QueryableByName;
use diesel::sql_types::BigInt;
use tokio::time::Instant;

use crate::App;
use crate::claims::{AttemptResult, Claimed, Recorded};
use crate::email;
use crate::notification::DeliveryStatus;
use crate::pace::Permits;
use crate::restock::round::Run;

/// Alerts that are handed to their channel together, at most.
const CHUNK: usize = 10;

/// While there is no permit.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A subscriber whose alert is written and claimed.
#[derive(Debug, QueryableByName)]
pub struct Recipient {
    #[diesel(sql_type = BigInt)]
    pub subscription: i64,
    #[diesel(embed)]
    pub claimed: Claimed,
}

/// One alert that was handed to its channel.
#[derive(Debug)]
pub struct Tried {
    pub subscription: i64,
    pub result: AttemptResult,
    pub at: Instant,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Sent {
    pub tried: Vec<Tried>,
    /// Some alerts were not tried: there was no time, or the host stops.
    pub has_rest: bool,
    /// The product sold out; what was not tried by then is not to be.
    pub is_sold_out: bool,
}

impl Sent {
    pub fn results(&self) -> Vec<AttemptResult> {
        self.tried.iter().map(|tried| tried.result.clone()).collect()
    }

    /// How many of those that were `recorded` went out.
    pub fn succeeded(&self, recorded: &[Recorded]) -> i64 {
        let recorded: HashSet<DeliveryId> = recorded.iter().map(|row| row.id).collect();
        let is_sent = |result: &AttemptResult| result.next.status == DeliveryStatus::Success;
        let sent = self.tried.iter().map(|tried| &tried.result).filter(|result| is_sent(result));
        sent.filter(|result| recorded.contains(&result.attempt.delivery)).count() as i64
    }
}

/// What cannot be started well before the lease ends is left.
pub async fn send_batch(app: &App, run: &Run, batch: Vec<Recipient>, lease_end: Instant) -> Sent {
    let deadline = lease_end - app.settings.restock.lease_margin();
    let mut sent = Sent::default();
    let mut left = batch.into_iter();
    while !left.as_slice().is_empty() {
        if app.restock.gate.is_sold_out(run.key().product, run.stock_version) {
            sent.is_sold_out = true;
            break;
        }
        if app.stopping.is_cancelled() || Instant::now() >= deadline {
            sent.has_rest = true;
            break;
        }
        let wanted = left.as_slice().len().min(CHUNK) as u32;
        let Permits { granted, wait } = app.restock.limiter.take(wanted).await;
        if granted == 0 {
            // What ends the batch is looked at again soon.
            tokio::time::sleep(wait.min(LOOK_AGAIN)).await;
            continue;
        }
        app.db.point("restock.before_chunk").await;
        if let Some(pause) = send_chunk(app, left.by_ref().take(granted as usize).collect(), deadline, &mut sent).await
        {
            // The channel has no room for now. What is left follows in its order.
            sent.has_rest = true;
            tokio::time::sleep(pause.min(LOOK_AGAIN)).await;
            break;
        }
        if !left.as_slice().is_empty() {
            // Where the next permits come one by one, a few of them are better taken together.
            tokio::time::sleep(app.restock.limiter.gap()).await;
        }
    }
    sent
}

/// Returns the longest pause after which the channel takes what it has handed back. None: it has taken all.
async fn send_chunk(app: &App, chunk: Vec<Recipient>, deadline: Instant, sent: &mut Sent) -> Option<Duration> {
    let (subscriptions, claimed): (Vec<i64>, Vec<Claimed>) =
        chunk.into_iter().map(|recipient| (recipient.subscription, recipient.claimed)).unzip();
    let results = email::send(app, claimed, deadline).await;
    let at = Instant::now();
    let mut pause = None;
    for (subscription, result) in subscriptions.into_iter().zip(results) {
        match result.next.is_handed_back() {
            true => pause = pause.max(Some(result.next.delay)),
            false => sent.tried.push(Tried { subscription, result, at }),
        }
    }
    pause
}
