//! A turn of a round's runner: one transaction that records the last batch and writes the next.

use std::collections::HashSet;
use std::time::Duration;

use common::Result;
use common::db::{Prepared, Tx};
use contract::ids::{AccountId, DeliveryId, NotificationId};
use diesel::pg::Pg;
use diesel::sql_types::{Array, BigInt, Double, Integer, Uuid};
use diesel::{ExpressionMethods, OptionalExtension, QueryDsl, QueryableByName, Selectable, SelectableHelper};
use diesel_async::RunQueryDsl;
use serde_json::Value;
use tokio::time::Instant;

use crate::App;
use crate::channel::Message;
use crate::claims::{self, Recorded};
use crate::delivery::PRIORITY_BULK;
use crate::find_templates::Wanted;
use crate::insert_notifications::{NewDelivery, NewNotification, insert_notifications};
use crate::manage_preferences::who_muted;
use crate::restock::alert::{CHANNEL, KIND, message};
use crate::restock::end_round::{End, end, end_unsent, release};
use crate::restock::round::{RoundKey, RoundStatus, Run, cursor_after};
use crate::restock::send_batch::{Recipient, Sent, Tried};
use crate::schema::product_notification_history;

/// What a runner has to do next.
#[derive(Debug)]
pub enum Turn {
    /// To send these, in their order.
    Batch(Vec<Recipient>),
    /// Nothing: the round has ended, has been taken by another runner, or has been released because the host stops.
    Over,
}

/// Alerts of a round that are written and not recorded as tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rest {
    None,
    /// This runner's, which has not tried them: to claim them again costs no attempt.
    Untried,
    /// Perhaps of a runner that has died, and may have sent them.
    OfAnother,
}

#[derive(diesel::Queryable, Selectable)]
#[diesel(table_name = product_notification_history, check_for_backend(Pg))]
pub struct Progress {
    status: RoundStatus,
    last_subscription_id: i64,
}

pub async fn take_turn(app: &App, run: &Run, alert: &Value, sent: &Sent, rest: Rest) -> Result<Turn> {
    let (turn, recorded) = app
        .db
        .tx("restock_turn", async |tx| {
            let Some(progress) = lock(tx, run).await? else { return Ok((Turn::Over, Vec::new())) };
            let recorded = record(tx, run.key(), sent).await?;
            let succeeded = sent.succeeded(&recorded);
            let turn = next(app, tx, run, alert, &progress, Last { sent, succeeded, rest }).await?;
            tx.point("restock.before_commit").await;
            Ok((turn, recorded))
        })
        .await?;
    claims::count_results(&sent.results(), &recorded);
    Ok(turn)
}

/// What became of the last batch. Attempts that are not the latest of their delivery change nothing.
pub async fn record(tx: &mut Tx, key: RoundKey, sent: &Sent) -> Result<Vec<Recorded>> {
    if sent.tried.is_empty() {
        return Ok(Vec::new());
    }
    note_attempts(tx, key, &sent.tried).await?;
    claims::record_results(tx, &sent.results()).await
}

/// Locks the round. None: it is another runner's.
pub async fn lock(tx: &mut Tx, run: &Run) -> Result<Option<Progress>> {
    let found = product_notification_history::table
        .filter(product_notification_history::id.eq(run.key().id()))
        .filter(product_notification_history::epoch.eq(run.epoch))
        .select(Progress::as_select())
        .for_update()
        .first(tx)
        .await;
    Ok(found.optional()?)
}

async fn note_attempts(tx: &mut Tx, key: RoundKey, tried: &[Tried]) -> Result<()> {
    // Once for all: those that went out together have one time.
    let now = Instant::now();
    let query = diesel::sql_query(include_str!("note_attempts.sql"))
        .bind::<Uuid, _>(key.product)
        .bind::<BigInt, _>(key.round)
        .bind::<Array<BigInt>, _>(tried.iter().map(|tried| tried.subscription).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(
            tried.iter().map(|tried| now.duration_since(tried.at).as_micros() as i64).collect::<Vec<_>>(),
        );
    Prepared(query).execute(tx).await?;
    Ok(())
}

/// What is known of the batch before.
struct Last<'s> {
    sent: &'s Sent,
    succeeded: i64,
    rest: Rest,
}

async fn next(
    app: &App,
    tx: &mut Tx,
    run: &Run,
    alert: &Value,
    progress: &Progress,
    Last { sent, succeeded, rest }: Last<'_>,
) -> Result<Turn> {
    if progress.status != RoundStatus::InProgress {
        // The event has ended it; what is written and not sent is never sent.
        end_unsent(tx, run.key()).await?;
        release(tx, run, succeeded).await?;
        return Ok(Turn::Over);
    }
    if sent.is_sold_out {
        end_unsent(tx, run.key()).await?;
        end(tx, run, End::SoldOut, succeeded).await?;
        return Ok(Turn::Over);
    }
    if app.stopping.is_cancelled() {
        release(tx, run, succeeded).await?;
        return Ok(Turn::Over);
    }
    let (count_max, lease) = (app.settings.restock.batch, app.settings.restock.delivery_lease());
    let lease_ms = lease.as_millis() as f64;
    if rest != Rest::None {
        let attempts = i32::from(rest == Rest::OfAnother);
        let batch = take_interrupted(tx, run.key(), count_max, lease_ms, attempts).await?;
        if !batch.is_empty() {
            advance(app, tx, run, progress.last_subscription_id, 0, succeeded).await?;
            return Ok(Turn::Batch(batch));
        }
    }
    let mut subscribers = next_subscriptions(tx, run.key(), progress.last_subscription_id, count_max).await?;
    if subscribers.is_empty() {
        // Before the look: whoever has committed by now is found by it.
        let end_tx = oldest_open_tx(tx).await?;
        subscribers = late_subscriptions(tx, run, count_max).await?;
        if subscribers.is_empty() {
            end(tx, run, End::Completed { end_tx }, succeeded).await?;
            return Ok(Turn::Over);
        }
    }
    let ids: Vec<i64> = subscribers.iter().map(|subscriber| subscriber.subscription).collect();
    let batch = write_batch(app, tx, run.key(), alert, subscribers, lease).await?;
    let cursor = cursor_after(progress.last_subscription_id, &ids);
    advance(app, tx, run, cursor, batch.len(), succeeded).await?;
    Ok(Turn::Batch(batch))
}

#[derive(Debug, QueryableByName)]
struct Subscriber {
    #[diesel(sql_type = BigInt)]
    subscription: i64,
    #[diesel(sql_type = Uuid)]
    user: AccountId,
}

async fn next_subscriptions(tx: &mut Tx, key: RoundKey, cursor: i64, count_max: i64) -> Result<Vec<Subscriber>> {
    let query = diesel::sql_query(include_str!("next_subscriptions.sql"))
        .bind::<Uuid, _>(key.product)
        .bind::<BigInt, _>(cursor)
        .bind::<BigInt, _>(count_max);
    Ok(Prepared(query).load(tx).await?)
}

#[derive(QueryableByName)]
struct Horizon {
    #[diesel(sql_type = BigInt)]
    tx_id: i64,
}

async fn oldest_open_tx(tx: &mut Tx) -> Result<i64> {
    let query = diesel::sql_query("select pg_snapshot_xmin(pg_current_snapshot())::text::bigint as tx_id");
    let Horizon { tx_id } = Prepared(query).get_result(tx).await?;
    Ok(tx_id)
}

async fn late_subscriptions(tx: &mut Tx, run: &Run, count_max: i64) -> Result<Vec<Subscriber>> {
    let query = diesel::sql_query(include_str!("late_subscriptions.sql"))
        .bind::<Uuid, _>(run.key().product)
        .bind::<BigInt, _>(run.start_tx)
        .bind::<BigInt, _>(run.key().round)
        .bind::<BigInt, _>(count_max);
    Ok(Prepared(query).load(tx).await?)
}

async fn take_interrupted(
    tx: &mut Tx,
    key: RoundKey,
    count_max: i64,
    lease_ms: f64,
    attempts: i32,
) -> Result<Vec<Recipient>> {
    let query = diesel::sql_query(include_str!("take_interrupted.sql"))
        .bind::<Uuid, _>(key.product)
        .bind::<BigInt, _>(key.round)
        .bind::<BigInt, _>(count_max)
        .bind::<Double, _>(lease_ms)
        .bind::<Integer, _>(attempts);
    let mut rest: Vec<Recipient> = Prepared(query).load(tx).await?;
    // An update returns its rows in any order.
    rest.sort_by_key(|recipient| recipient.subscription);
    Ok(rest)
}

#[derive(QueryableByName)]
struct Told {
    #[diesel(sql_type = BigInt)]
    subscription_id: i64,
}

/// Writes the alerts of a batch, and who gets them. Returns those who are told now, in their order: whoever has been told in
/// this round is left out.
async fn write_batch(
    app: &App,
    tx: &mut Tx,
    key: RoundKey,
    alert: &Value,
    subscribers: Vec<Subscriber>,
    lease: Duration,
) -> Result<Vec<Recipient>> {
    let query = diesel::sql_query(include_str!("write_batch.sql"))
        .bind::<Uuid, _>(key.product)
        .bind::<BigInt, _>(key.round)
        .bind::<Array<BigInt>, _>(subscribers.iter().map(|one| one.subscription).collect::<Vec<_>>())
        .bind::<Array<Uuid>, _>(subscribers.iter().map(|one| one.user).collect::<Vec<_>>())
        .bind::<Array<Uuid>, _>(
            subscribers.iter().map(|one| key.notification(one.subscription)).collect::<Vec<NotificationId>>(),
        );
    let told: Vec<Told> = Prepared(query).load(tx).await?;
    let told: HashSet<i64> = told.into_iter().map(|row| row.subscription_id).collect();
    let now: Vec<Subscriber> = subscribers.into_iter().filter(|one| told.contains(&one.subscription)).collect();
    if now.is_empty() {
        return Ok(Vec::new());
    }
    let users = now.iter().map(|one| one.user).collect();
    let muted = who_muted(tx, users, KIND, CHANNEL, &app.settings.transactional_types).await?;
    // Who has muted alerts is noted like everybody else, and gets none.
    let reached: Vec<&Subscriber> = now.iter().filter(|one| !muted.contains(&one.user)).collect();
    let wanted: Vec<Wanted> =
        reached.iter().map(|one| Wanted { name: KIND.to_owned(), user: Some(one.user) }).collect();
    let texts = app.templates.find_in(tx, &wanted).await?;
    let messages: Vec<Message> = reached.iter().map(|one| message(&texts, one.user, alert)).collect::<Result<_>>()?;
    let notifications: Vec<NewNotification<'_>> = now
        .iter()
        .map(|Subscriber { subscription, user }| NewNotification {
            id: key.notification(*subscription),
            event_id: key.alert_event(*subscription),
            kind: KIND,
            user: Some(*user),
            data: alert,
            request: None,
            // A round leads to so many that no trace could be read.
            traceparent: None,
        })
        .collect();
    let deliveries: Vec<NewDelivery<'_>> =
        reached.iter().zip(&messages).map(|(one, message)| delivery(key, one, message)).collect();
    insert_notifications(tx, &notifications, &deliveries, lease).await?;
    let recipients = reached.iter().zip(&deliveries).map(|(one, delivery)| Recipient {
        subscription: one.subscription,
        claimed: delivery.claimed(Some(one.user), None),
    });
    Ok(recipients.collect())
}

/// Claimed as it is written, by the round's runner.
fn delivery<'a>(key: RoundKey, subscriber: &Subscriber, message: &'a Message) -> NewDelivery<'a> {
    let notification = key.notification(subscriber.subscription);
    NewDelivery {
        id: DeliveryId::derive(&[notification.as_bytes(), CHANNEL.name().as_bytes(), b""]),
        notification,
        channel: CHANNEL,
        target: None,
        message,
        priority: PRIORITY_BULK,
        not_before: None,
        is_claimed: true,
    }
}

async fn advance(app: &App, tx: &mut Tx, run: &Run, cursor: i64, recipients: usize, sent: i64) -> Result<()> {
    let lease = app.settings.restock.lease();
    let query = diesel::sql_query(include_str!("advance_round.sql"))
        .bind::<Uuid, _>(run.key().id())
        .bind::<BigInt, _>(run.epoch)
        .bind::<BigInt, _>(cursor)
        .bind::<BigInt, _>(recipients as i64)
        .bind::<BigInt, _>(sent)
        .bind::<Double, _>(lease.as_millis() as f64);
    Prepared(query).execute(tx).await?;
    Ok(())
}
