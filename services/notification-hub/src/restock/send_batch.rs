//! Sends the alerts of one batch, in their order, outside any transaction.

use std::collections::HashSet;
use std::time::Duration;

use common::db::Prepared;
use common::{Error, Result};
use contract::ids::DeliveryId;
use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Double, Uuid};
use diesel_async::RunQueryDsl;
use tokio::time::{Instant, sleep};

use crate::App;
use crate::claims::{AttemptResult, Claimed, Recorded};
use crate::email::{self, Addresses};
use crate::notification::DeliveryStatus;
use crate::pace::{Pace, Permits};
use crate::restock::round::Run;
use crate::restock::take_permits::take_permits;
use crate::settings::LEASE_MARGIN;

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
    /// Some alerts were not tried: there was no time, the host stops, or something failed.
    pub has_rest: bool,
    /// The product sold out; what was not tried by then is not to be.
    pub is_sold_out: bool,
    /// Why the rest was left.
    pub failure: Option<Error>,
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

/// Sends until the batch has gone out or something ends it. What cannot be begun well before the leases end is left.
pub async fn send_batch(app: &App, run: &Run, batch: Vec<Recipient>, mut lease_end: Instant) -> Sent {
    let pace = app.settings.restock.pace();
    // The lease of the deliveries is longer than the round's, and it is not renewed.
    let batch_end = Instant::now() + app.settings.restock.delivery_lease() / 2;
    let mut sent = Sent::default();
    let mut left = batch.into_iter();
    // Before the permits, which are used at once.
    let claimed = left.as_slice().iter().map(|recipient| &recipient.claimed);
    let addresses = email::look_up(app, claimed, lease_end - LEASE_MARGIN).await;
    while !left.as_slice().is_empty() {
        if app.restock.gate.is_sold_out(run.key().product, run.stock_version) {
            sent.is_sold_out = true;
            break;
        }
        let is_late = app.stopping.is_cancelled() || Instant::now() >= batch_end;
        if is_late || !renew_lease(app, run, &mut lease_end, &mut sent).await {
            sent.has_rest = true;
            break;
        }
        let turns = email::admit(app, left.as_slice().len().min(CHUNK)).await;
        let free = turns.iter().take_while(|turn| turn.is_none()).count();
        if free == 0 {
            // The mail server has no room for now. What is left keeps its order.
            app.db.point("restock.no_turn").await;
            sleep(turns.into_iter().flatten().next().unwrap_or_default().min(LOOK_AGAIN)).await;
            continue;
        }
        let deadline = lease_end - LEASE_MARGIN;
        let granted = match take_in_time(app, run, pace, free as u32, deadline).await {
            Ok(0) => continue,
            Ok(granted) => granted,
            Err(error) => {
                sent.has_rest = true;
                sent.failure = Some(error);
                break;
            }
        };
        app.db.point("restock.before_chunk").await;
        let chunk = left.by_ref().take(granted as usize).collect();
        sent.has_rest = send_chunk(app, chunk, &addresses, deadline, &mut sent.tried).await;
        if sent.has_rest {
            break;
        }
        if !left.as_slice().is_empty() {
            // Where the next permits come one by one, a few of them are better taken together.
            sleep(gap(pace)).await;
        }
    }
    sent
}

/// At least one permit, or none where the product sells out, the host stops or `deadline` comes before there is one. A turn of
/// the mail server that was given is not given back meanwhile.
async fn take_in_time(app: &App, run: &Run, pace: Pace, wanted: u32, deadline: Instant) -> Result<u32> {
    loop {
        let Permits { granted, wait } = take_permits(&app.db, pace, wanted).await?;
        let is_over = app.stopping.is_cancelled()
            || Instant::now() >= deadline
            || app.restock.gate.is_sold_out(run.key().product, run.stock_version);
        if granted > 0 || is_over {
            return Ok(granted);
        }
        app.db.point("restock.no_permit").await;
        sleep(wait.min(LOOK_AGAIN)).await;
    }
}

/// Renews the lease of the round when half of it is over. False: the round is not this runner's any more, or that is not known.
async fn renew_lease(app: &App, run: &Run, lease_end: &mut Instant, sent: &mut Sent) -> bool {
    let lease = app.settings.restock.lease();
    // Read before the statement, so that the lease in the database can only end later than this one.
    let now = Instant::now();
    if now + lease / 2 <= *lease_end {
        return true;
    }
    let query = diesel::sql_query(include_str!("renew_lease.sql"))
        .bind::<Uuid, _>(run.key().id())
        .bind::<BigInt, _>(run.epoch)
        .bind::<Double, _>(lease.as_millis() as f64);
    let renewed = app.db.tx("renew_restock_lease", async move |tx| Ok(Prepared(query).execute(tx).await?)).await;
    match renewed {
        Ok(rows) => {
            *lease_end = now + lease;
            rows > 0
        }
        Err(error) => {
            sent.failure = Some(error);
            false
        }
    }
}

/// After a chunk: as long as the permits for half of the next one take to come.
fn gap(pace: Pace) -> Duration {
    pace.interval * (CHUNK as u32 / 2)
}

/// Returns whether some of it was not tried.
async fn send_chunk(
    app: &App,
    chunk: Vec<Recipient>,
    addresses: &Addresses,
    deadline: Instant,
    tried: &mut Vec<Tried>,
) -> bool {
    let (subscriptions, claimed): (Vec<i64>, Vec<Claimed>) =
        chunk.into_iter().map(|recipient| (recipient.subscription, recipient.claimed)).unzip();
    let results = email::hand_over(app, &claimed, addresses, vec![None; claimed.len()], deadline).await;
    let at = Instant::now();
    let count = tried.len() + results.len();
    let outcomes = subscriptions.into_iter().zip(results).filter(|(_, result)| !result.next.is_handed_back());
    tried.extend(outcomes.map(|(subscription, result)| Tried { subscription, result, at }));
    tried.len() < count
}
