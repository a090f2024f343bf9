//! Claims: taking due deliveries under a lease, and recording what became of them.
//!
//! Towards the provider this is at least once, in our record exactly once: a worker that dies after sending leaves a
//! lease that runs out, the message is sent again under the same id, and only the current claim can record a result.

use std::collections::HashMap;
use std::time::Duration;

use common::Result;
use common::db::{Prepared, Tx};
use contract::ids::{AccountId, DeliveryId, NotificationId};
use diesel::sql_types::{Array, BigInt, Bool, Double, Integer, Nullable, Text, Uuid};
use diesel::{QueryableByName, Selectable};
use diesel_async::RunQueryDsl;
use rand::RngExt;
use tokio::time::Instant;

use crate::App;
use crate::channel::Channel;
use crate::delivery::{Failure, Next, Outcome, next};
use crate::notification::DeliveryStatus;
use crate::schema::deliveries;

/// One attempt to send one delivery, under one claim.
#[derive(Debug, Clone, diesel::Queryable, Selectable, QueryableByName)]
#[diesel(table_name = deliveries, check_for_backend(diesel::pg::Pg))]
pub struct Attempt {
    #[diesel(column_name = id)]
    pub delivery: DeliveryId,
    pub channel: Channel,
    /// The first is 1.
    #[diesel(column_name = attempt)]
    pub number: i32,
    /// The claim. A result counts only while it is the delivery's latest.
    pub lock_token: i64,
}

impl Attempt {
    /// What becomes of the delivery after `outcome`.
    pub fn result(&self, outcome: Outcome, retry_delays: &[Duration]) -> AttemptResult {
        AttemptResult { attempt: self.clone(), outcome, next: next(outcome, self.number, retry_delays, jitter()) }
    }
}

/// A claimed delivery as its worker needs it.
#[derive(Debug, QueryableByName)]
pub struct Claimed {
    #[diesel(embed)]
    pub attempt: Attempt,
    #[diesel(sql_type = Uuid)]
    pub notification: NotificationId,
    /// Of the last attempt that failed.
    #[diesel(sql_type = Nullable<Text>)]
    pub last_error: Option<String>,
    /// Where it goes; none: where the channel says.
    #[diesel(sql_type = Nullable<Text>)]
    pub target: Option<String>,
    #[diesel(sql_type = Text)]
    pub subject: String,
    #[diesel(sql_type = Text)]
    pub body: String,
    /// The body is the channel's own mark-up.
    #[diesel(sql_type = Bool)]
    pub is_markup: bool,
    /// None: it is for operators only.
    #[diesel(sql_type = Nullable<Uuid>)]
    pub user: Option<AccountId>,
    /// Of the trace that it belongs to.
    #[diesel(sql_type = Nullable<Text>)]
    pub traceparent: Option<String>,
}

/// Deliveries of one channel that a worker took together.
#[derive(Debug)]
pub struct Claim {
    pub deliveries: Vec<Claimed>,
    /// When others may take them, at the earliest.
    pub lease_end: Instant,
}

/// What a worker gets when it asks for work.
#[derive(Debug)]
pub enum Turn {
    Claimed(Claim),
    /// The channel's pace allows no message for this long, or another replica has the turn.
    NotYet(Duration),
    NothingDue,
}

impl From<Claim> for Turn {
    fn from(claim: Claim) -> Turn {
        if claim.deliveries.is_empty() { Turn::NothingDue } else { Turn::Claimed(claim) }
    }
}

/// Claims up to `count_max` due deliveries of `channel`, the most urgent first.
pub async fn claim_deliveries(tx: &mut Tx, channel: Channel, count_max: u32, lease: Duration) -> Result<Claim> {
    // Read before the statement, so that the lease in the database can only end later than this one.
    let lease_end = Instant::now() + lease;
    let deliveries = Prepared(
        diesel::sql_query(include_str!("claim_deliveries.sql"))
            .bind::<Text, _>(channel)
            .bind::<BigInt, _>(i64::from(count_max))
            .bind::<Double, _>(lease.as_millis() as f64),
    )
    .load(tx)
    .await?;
    Ok(Claim { deliveries, lease_end })
}

/// Claims what is due over a channel whose replicas need not take turns.
pub async fn take_turn(app: &App, channel: Channel) -> Result<Turn> {
    let (count_max, lease) = (app.settings.claim_max(channel), app.settings.lease());
    let claim = app.db.tx("claim_deliveries", async move |tx| claim_deliveries(tx, channel, count_max, lease).await);
    Ok(claim.await?.into())
}

/// What becomes of one claimed delivery.
#[derive(Debug, Clone)]
pub struct AttemptResult {
    pub attempt: Attempt,
    pub outcome: Outcome,
    pub next: Next,
}

/// A delivery whose claim was still the current one.
#[derive(Debug, QueryableByName)]
pub struct Recorded {
    #[diesel(sql_type = Uuid)]
    pub id: DeliveryId,
    /// Since the delivery was created.
    #[diesel(sql_type = Double)]
    age_seconds: f64,
}

/// Records those of `results` whose claim is still the current one, and returns which. The others change nothing.
pub async fn record_results(tx: &mut Tx, results: &[AttemptResult]) -> Result<Vec<Recorded>> {
    fn column<T>(results: &[AttemptResult], value: impl Fn(&AttemptResult) -> T) -> Vec<T> {
        results.iter().map(value).collect()
    }
    let recorded = Prepared(
        diesel::sql_query(include_str!("record_results.sql"))
            .bind::<Array<Uuid>, _>(column(results, |result| result.attempt.delivery))
            .bind::<Array<BigInt>, _>(column(results, |result| result.attempt.lock_token))
            .bind::<Array<Text>, _>(column(results, |result| result.next.status))
            .bind::<Array<Integer>, _>(column(results, |result| result.next.attempt))
            .bind::<Array<BigInt>, _>(column(results, |result| result.next.delay.as_millis() as i64))
            .bind::<Array<Nullable<Text>>, _>(column(results, |result| result.next.failure.map(Failure::name)))
            .bind::<Array<Bool>, _>(column(results, |result| result.next.is_dead()))
            .bind::<Array<Bool>, _>(column(results, |result| result.outcome.is_tried())),
    )
    .load(tx)
    .await?;
    Ok(recorded)
}

/// Counts `results` in metrics, after the commit of those that were `recorded`.
pub fn count_results(results: &[AttemptResult], recorded: &[Recorded]) {
    let ages: HashMap<DeliveryId, f64> = recorded.iter().map(|row| (row.id, row.age_seconds)).collect();
    let mut superseded = Vec::new();
    for AttemptResult { attempt: Attempt { delivery, channel, .. }, next, .. } in results {
        let channel = channel.name();
        let age_seconds = ages.get(delivery);
        let outcome = if age_seconds.is_some() { next.name() } else { "superseded" };
        metrics::counter!("stampede_deliveries_total", "channel" => channel, "outcome" => outcome).increment(1);
        match age_seconds {
            Some(seconds) if next.status == DeliveryStatus::Success => {
                metrics::histogram!("stampede_delivery_seconds", "channel" => channel).record(*seconds);
            }
            Some(_) => {}
            None => superseded.push(delivery),
        }
    }
    if let [first, ..] = &superseded[..] {
        tracing::warn!(
            deliveryId = %first, deliveries = superseded.len(),
            "The results of deliveries came after their lease had ended and are dropped; what the later claims record counts"
        );
    }
}

/// Between 0.8 and 1.2.
pub fn jitter() -> f64 {
    rand::rng().random_range(0.8..1.2)
}
