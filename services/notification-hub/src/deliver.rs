//! The delivery workers: claim → send → settle.
//!
//! A new e-mail is claimed by the transaction that writes it, and one worker sends what this replica has written.
//! Another claims what is left: what there was no room for, what is to be tried again, and what others have lost.
//! Slack has a worker of its own (`deliver_slack.rs`), so that a provider that hangs delays nobody else's messages.
//!
//! Towards the provider this is at-least-once, in our record exactly-once: a worker that dies after sending leaves a
//! lease that runs out, the message is sent again under the same id, and only the current claim can settle.

use std::collections::{HashMap, VecDeque};
use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use common::backoff::Backoff;
use common::db::{Prepared, Tx};
use common::{Error, Result};
use contract::ids::{AccountId, DeliveryId, NotificationId};
use diesel::QueryableByName;
use diesel::sql_types::{Array, BigInt, Bool, Double, Integer, Nullable, Text, Uuid};
use diesel_async::RunQueryDsl;
use parking_lot::Mutex;
use rand::RngExt;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::channel::{Channel, Message, log_email};
use crate::notification::{DeliveryStatus, Failure, Next, Outcome, next};
use crate::settings::LEASE_MARGIN;
use crate::{App, deliver_slack};

/// Sends whatever e-mails are due. Full claims follow each other; then a claim follows each signal, and each pause. The pauses
/// double while claims are empty, and once they are as long as the loop's own period the loop takes over.
pub async fn deliver_due(app: &App) -> Result<()> {
    let mut pause = app.settings.idle_poll_first();
    while !app.stopping.is_cancelled() {
        let claimed = deliver_claim(app).await?;
        if claimed > 0 {
            pause = app.settings.idle_poll_first();
        }
        if claimed >= app.settings.claim_batch_max as usize {
            continue;
        }
        if pause >= app.settings.idle_poll_max() {
            return Ok(());
        }
        tokio::select! {
            () = app.stopping.cancelled() => {}
            () = tokio::time::sleep(pause.mul_f64(jitter())) => pause *= 2,
            () = app.due.of(Channel::Email).notified() => pause = app.settings.idle_poll_first(),
        }
    }
    Ok(())
}

/// Makes one claim and sees it through. Returns how many deliveries it had.
async fn deliver_claim(app: &App) -> Result<usize> {
    // Before the claim: the lease that the database counts can only end later than ours.
    let lease_end = Instant::now() + app.settings.lease();
    let (batch_max, lease) = (app.settings.claim_batch_max, app.settings.lease());
    let claim = app.db.tx("claim_deliveries", async move |tx| claim(tx, Channel::Email, batch_max, lease).await);
    let deliveries = claim.await?;
    let count = deliveries.len();
    if count > 0 {
        see_through(app, InHand { channel: Channel::Email, deliveries, lease_end }).await?;
    }
    Ok(count)
}

/// Sends the new deliveries that this replica claimed as it wrote them.
pub async fn deliver_new(app: &App) -> Result<()> {
    while let Some(claimed) = app.new.take() {
        see_through(app, claimed).await?;
    }
    Ok(())
}

/// Sends and records. What cannot be started well before the lease ends is handed back.
pub async fn see_through(app: &App, InHand { channel, deliveries, lease_end }: InHand) -> Result<()> {
    app.db.point("delivery.after_claim").await;
    let deadline = lease_end - LEASE_MARGIN;
    let settlements = match channel {
        Channel::Email => send_emails(app, deliveries, deadline).await,
        Channel::Slack => deliver_slack::send(app, deliveries, deadline).await,
    };
    app.db.point("delivery.after_send").await;
    record(app, &settlements, lease_end).await
}

/// A delivery as its worker needs it.
#[derive(QueryableByName)]
pub struct Claimed {
    #[diesel(sql_type = Uuid)]
    pub id: DeliveryId,
    #[diesel(sql_type = Uuid)]
    pub notification_id: NotificationId,
    #[diesel(sql_type = Text)]
    pub channel: Channel,
    #[diesel(sql_type = Integer)]
    pub attempt: i32,
    #[diesel(sql_type = BigInt)]
    pub lock_token: i64,
    /// Of the last try that failed.
    #[diesel(sql_type = Nullable<Text>)]
    pub last_error: Option<String>,
    #[diesel(sql_type = Text)]
    pub subject: String,
    #[diesel(sql_type = Text)]
    pub body: String,
    /// None: it is for operators alone.
    #[diesel(sql_type = Nullable<Uuid>)]
    pub user_id: Option<AccountId>,
}

impl Claimed {
    /// As `create_notifications.sql` writes it.
    pub fn at_birth(
        id: DeliveryId,
        notification_id: NotificationId,
        user_id: Option<AccountId>,
        channel: Channel,
        Message { subject, body }: Message,
    ) -> Claimed {
        Claimed { id, notification_id, channel, attempt: 1, lock_token: 1, last_error: None, subject, body, user_id }
    }

    /// What becomes of it after `outcome`.
    pub fn settle(&self, outcome: Outcome, retry_delays: &[Duration]) -> Settlement {
        Settlement {
            delivery: self.id,
            channel: self.channel,
            lock_token: self.lock_token,
            next: next(outcome, self.attempt, retry_delays, jitter()),
        }
    }
}

/// Deliveries of one channel under one claim.
pub struct InHand {
    pub channel: Channel,
    pub deliveries: Vec<Claimed>,
    pub lease_end: Instant,
}

/// New deliveries on their way from the transaction that claimed them to the worker that sends them.
#[derive(Default)]
pub struct New {
    batches: Mutex<VecDeque<InHand>>,
    pub arrived: Arc<Notify>,
}

impl New {
    pub fn add(&self, batch: InHand) {
        if !batch.deliveries.is_empty() {
            self.batches.lock().push_back(batch);
            self.arrived.notify_one();
        }
    }

    fn take(&self) -> Option<InHand> {
        self.batches.lock().pop_front()
    }

    fn count(&self) -> usize {
        self.batches.lock().iter().map(|batch| batch.deliveries.len()).sum()
    }
}

/// Signalled, for each channel, when a delivery that nobody has claimed may have become due.
#[derive(Default)]
pub struct Due {
    email: Arc<Notify>,
    slack: Arc<Notify>,
}

impl Due {
    pub fn of(&self, channel: Channel) -> &Arc<Notify> {
        match channel {
            Channel::Email => &self.email,
            Channel::Slack => &self.slack,
        }
    }

    pub fn wake(&self, channel: Channel) {
        self.of(channel).notify_one();
    }
}

impl App {
    /// How many new deliveries this replica may claim: as many as a claim may have together with those that still
    /// wait, so that they are sent well within their lease, and none once it stops.
    pub fn room_in_hand(&self) -> usize {
        if self.stopping.is_cancelled() {
            return 0;
        }
        (self.settings.claim_batch_max as usize).saturating_sub(self.new.count())
    }
}

/// Claims up to `count_max` due deliveries of `channel`.
pub async fn claim(tx: &mut Tx, channel: Channel, count_max: u32, lease: Duration) -> Result<Vec<Claimed>> {
    let claimed = Prepared(
        diesel::sql_query(include_str!("deliver_claim.sql"))
            .bind::<BigInt, _>(i64::from(count_max))
            .bind::<Double, _>(lease.as_millis() as f64)
            .bind::<Text, _>(channel.name()),
    )
    .load(tx)
    .await?;
    Ok(claimed)
}

/// Sends outside any transaction. What cannot be started before `deadline` or before the host stops is handed back.
async fn send_emails(app: &App, claimed: Vec<Claimed>, deadline: Instant) -> Vec<Settlement> {
    let enough = async {
        tokio::select! {
            () = app.stopping.cancelled() => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
    };
    let users = claimed.iter().filter_map(|delivery| delivery.user_id).collect();
    let addresses = app.contacts.addresses(users, enough).await;
    log_trouble(&addresses);
    let retry_delays = app.settings.retry_delays(Channel::Email);
    claimed
        .into_iter()
        .map(|mut delivery| {
            let address = delivery.user_id.map(|user| addresses.get(&user));
            let outcome = match address {
                None | Some(Some(Err(Error::Refused(_)))) => Outcome::NotSent(Failure::RecipientUnknown),
                Some(Some(Err(Error::Fault(_)))) => Outcome::NotSent(Failure::AddressUnavailable),
                Some(None) => Outcome::HandedBack,
                Some(Some(Ok(_))) if Instant::now() >= deadline => Outcome::HandedBack,
                Some(Some(Ok(address))) => {
                    let (subject, body) = (take(&mut delivery.subject), take(&mut delivery.body));
                    log_email(delivery.id, address, &Message { subject, body });
                    Outcome::Sent
                }
            };
            delivery.settle(outcome, &retry_delays)
        })
        .collect()
}

/// One line for all that failed together: an upstream that is unavailable fails a whole claim.
fn log_trouble(addresses: &HashMap<AccountId, Result<Arc<str>>>) {
    let mut failures = addresses.values().filter_map(|answer| answer.as_ref().err());
    if let Some(first) = failures.next() {
        let others = failures.count();
        tracing::warn!(error = %first, others, "Some recipients' addresses could not be had");
    }
}

/// What becomes of one claimed delivery.
pub struct Settlement {
    pub delivery: DeliveryId,
    pub channel: Channel,
    /// The claim that this settles; under any other it has no effect.
    pub lock_token: i64,
    pub next: Next,
}

/// Settles in a transaction of its own, and keeps trying while the lease lasts: these messages are out, and forgetting
/// that means sending them again.
async fn record(app: &App, settlements: &[Settlement], lease_end: Instant) -> Result<()> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        match app.db.tx("settle_deliveries", async move |tx| settle(tx, settlements).await).await {
            Ok(settled) => {
                count(settlements, &settled);
                return Ok(());
            }
            Err(error) if error.is_transient() && Instant::now() < lease_end => {
                tracing::warn!(%error, "Results of deliveries could not be recorded yet");
                tokio::time::sleep(Backoff::RECONNECT.delay(attempt)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// A delivery whose claim was still the current one.
#[derive(QueryableByName)]
pub struct Settled {
    #[diesel(sql_type = Uuid)]
    id: DeliveryId,
    /// Since it was created.
    #[diesel(sql_type = Double)]
    age_seconds: f64,
}

/// Records all of `settlements` that are still current, and returns which.
pub async fn settle(tx: &mut Tx, settlements: &[Settlement]) -> Result<Vec<Settled>> {
    fn column<T>(settlements: &[Settlement], value: impl Fn(&Settlement) -> T) -> Vec<T> {
        settlements.iter().map(value).collect()
    }
    let settled = Prepared(
        diesel::sql_query(include_str!("deliver_settle.sql"))
            .bind::<Array<Uuid>, _>(column(settlements, |one| one.delivery))
            .bind::<Array<BigInt>, _>(column(settlements, |one| one.lock_token))
            .bind::<Array<Text>, _>(column(settlements, |one| one.next.status.name()))
            .bind::<Array<Integer>, _>(column(settlements, |one| one.next.attempt))
            .bind::<Array<BigInt>, _>(column(settlements, |one| one.next.delay.as_millis() as i64))
            .bind::<Array<Nullable<Text>>, _>(column(settlements, |one| one.next.failure.map(Failure::name)))
            .bind::<Array<Bool>, _>(column(settlements, |one| one.next.is_dead())),
    )
    .load(tx)
    .await?;
    Ok(settled)
}

/// Metrics, after the commit.
pub fn count(settlements: &[Settlement], settled: &[Settled]) {
    let ages: HashMap<DeliveryId, f64> = settled.iter().map(|row| (row.id, row.age_seconds)).collect();
    for Settlement { delivery, channel, next, .. } in settlements {
        let age_seconds = ages.get(delivery);
        let outcome = if age_seconds.is_some() { next.name() } else { "superseded" };
        metrics::counter!("stampede_deliveries_total", "channel" => channel.name(), "outcome" => outcome).increment(1);
        if let (Some(age_seconds), DeliveryStatus::Success) = (age_seconds, next.status) {
            metrics::histogram!("stampede_delivery_seconds", "channel" => channel.name()).record(*age_seconds);
        }
    }
    let late = settlements.len() - settled.len();
    if late > 0 {
        tracing::warn!(late, "Results came after their lease was lost and were dropped");
    }
}

/// Between 0.8 and 1.2.
pub fn jitter() -> f64 {
    rand::rng().random_range(0.8..1.2)
}
