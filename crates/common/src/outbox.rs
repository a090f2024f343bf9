//! The outbox: an event is a row written in the transaction that makes it true, and the relay sends the rows.

mod relay;
mod reports;
mod send;
mod session;

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::{QueryableByName, sql_types};
use diesel_async::RunQueryDsl;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::db::{Db, Prepared, Tx};
use crate::error::{Error, Result};
use crate::id::derive_uuid;
use crate::kafka::Kafka;
use crate::periodic::{self, Schedule};
use crate::telemetry;

/// Section `[outbox]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutboxSettings {
    pub batch_max: i64,
    pub poll_ms: u64,
    pub notify_ms: u64,
    pub pace_ms: u64,
    pub attempts_max: i32,
    pub retry_first_ms: u64,
    pub retry_max_ms: u64,
    pub retention_hours: i64,
    pub cleanup_ms: u64,
    pub cleanup_batch_max: i64,
}

/// Parts that the rows of a schema are divided into, so that replicas can share the work. Each row remembers its
/// shard and the migration checks it, so this only changes together with both.
const SHARDS: u8 = 8;

/// A fact that others may want to know. Its JSON is the message.
pub trait Event: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The Kafka topic, without the namespace. It is also the name of the event.
    const TOPIC: &'static str;
    /// What kind of thing this happened to: `order`.
    const AGGREGATE: &'static str;

    /// The id of the thing. Events of one topic and key arrive in the order of their versions.
    fn key(&self) -> &str;

    /// The thing's version after the event; two events of one topic and key never share one.
    fn version(&self) -> i64;
}

/// Records `event` to be sent when, and only when, the transaction commits.
///
/// Call it after the aggregate's row has been locked, inserted or updated in `tx`: that lock is what puts the events
/// of one aggregate in order.
pub async fn publish<E: Event>(tx: &mut Tx, event: &E) -> Result<()> {
    publish_all(tx, std::slice::from_ref(event)).await
}

/// [`publish`] for many events of one request, in one statement and in the order of `events`.
pub async fn publish_all<E: Event>(tx: &mut Tx, events: &[E]) -> Result<()> {
    let context = telemetry::Context::outgoing();
    let caused: Vec<_> = events.iter().map(|event| (event, &context)).collect();
    insert(tx, &caused).await
}

/// An event and the request that caused it.
pub struct EventWithContext<E> {
    pub event: E,
    /// [`telemetry::Context::outgoing`] of the request, taken while it ran.
    pub context: telemetry::Context,
}

/// [`publish_all`] for events that different requests caused, such as those served by one batch.
pub async fn publish_with_contexts<E: Event>(tx: &mut Tx, events: &[EventWithContext<E>]) -> Result<()> {
    let caused: Vec<_> = events.iter().map(|caused| (&caused.event, &caused.context)).collect();
    insert(tx, &caused).await
}

async fn insert<E: Event>(tx: &mut Tx, events: &[(&E, &telemetry::Context)]) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let mut ids = Vec::with_capacity(events.len());
    let mut shards = Vec::with_capacity(events.len());
    let mut keys = Vec::with_capacity(events.len());
    let mut versions = Vec::with_capacity(events.len());
    let mut payloads = Vec::with_capacity(events.len());
    let mut headers = Vec::with_capacity(events.len());
    for (event, context) in events {
        let (key, version) = (event.key(), event.version());
        ids.push(derive_uuid("event", &[E::TOPIC.as_bytes(), key.as_bytes(), version.to_string().as_bytes()]));
        shards.push(shard(key));
        keys.push(key);
        versions.push(version);
        payloads.push(serde_json::to_string(event).map_err(Error::fault)?);
        headers.push(context_headers(context));
    }
    Prepared(
        diesel::sql_query(
            "insert into outbox_events
             (event_id, shard, aggregate_type, topic, key, aggregate_version, payload, headers)
         select e.event_id, e.shard, $7, $8, e.key, e.version, e.payload, e.headers
         from unnest($1::uuid[], $2::smallint[], $3::text[], $4::bigint[], $5::text[], $6::jsonb[]) with ordinality
              as e (event_id, shard, key, version, payload, headers, place)
         order by e.place",
        )
        .bind::<sql_types::Array<sql_types::Uuid>, _>(ids)
        .bind::<sql_types::Array<sql_types::SmallInt>, _>(shards)
        .bind::<sql_types::Array<sql_types::Text>, _>(keys)
        .bind::<sql_types::Array<sql_types::BigInt>, _>(versions)
        .bind::<sql_types::Array<sql_types::Text>, _>(payloads)
        .bind::<sql_types::Array<sql_types::Jsonb>, _>(headers)
        .bind::<sql_types::Text, _>(E::AGGREGATE)
        .bind::<sql_types::Text, _>(E::TOPIC),
    )
    .execute(tx)
    .await?;
    tx.published = true;
    Ok(())
}

fn shard(key: &str) -> i16 {
    i16::from(derive_uuid("shard", &[key.as_bytes()]).as_bytes()[0] % SHARDS)
}

/// What connects the event with the request that caused it.
fn context_headers(context: &telemetry::Context) -> serde_json::Value {
    let mut headers = BTreeMap::new();
    if let Some(traceparent) = &context.traceparent {
        headers.insert("traceparent", traceparent);
    }
    if !context.request_id.is_empty() {
        headers.insert("requestid", &context.request_id);
    }
    serde_json::json!(headers)
}

/// Sends the events of one schema until `stopping`: one of these runs in each replica of a service.
pub async fn relay(db: Db, kafka: Kafka, settings: OutboxSettings, stopping: CancellationToken) {
    let measure = Schedule { period: Duration::from_millis(settings.poll_ms), wake: None };
    let tidy = Schedule { period: Duration::from_millis(settings.cleanup_ms), wake: None };
    tokio::join!(
        relay::run(&db, &kafka, &settings, &stopping),
        periodic::run("measure_outbox", measure, stopping.clone(), async || {
            let Stats { pending, dead, oldest_age_seconds } = stats(&db).await?;
            let schema = db.schema().to_owned();
            metrics::gauge!("stampede_outbox_pending", "schema" => schema.clone()).set(pending as f64);
            metrics::gauge!("stampede_outbox_dead", "schema" => schema.clone()).set(dead as f64);
            metrics::gauge!("stampede_outbox_oldest_seconds", "schema" => schema).set(oldest_age_seconds);
            Ok(())
        }),
        periodic::run("clean_outbox", tidy, stopping.clone(), async || clean(&db, &settings).await),
    );
}

/// How much a schema still has to tell.
#[derive(Debug, Clone, Serialize, QueryableByName)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Rows to be sent, those of blocked keys included.
    #[diesel(sql_type = sql_types::BigInt)]
    pub pending: i64,
    /// Rows that the broker refused for good; see [`redrive`].
    #[diesel(sql_type = sql_types::BigInt)]
    pub dead: i64,
    /// How long the oldest pending row has been waiting; 0 when there is none.
    #[diesel(sql_type = sql_types::Double)]
    pub oldest_age_seconds: f64,
}

pub async fn stats(db: &Db) -> Result<Stats> {
    let stats = diesel::sql_query(
        "select count(*) filter (where status = 'NEW') as pending,
                count(*) filter (where status = 'DEAD') as dead,
                coalesce(extract(epoch from clock_timestamp() - min(
                    case when published_at is null then created_at else due_at end
                ) filter (where status = 'NEW')), 0)::float8 as oldest_age_seconds
         from outbox_events
         where status = 'NEW' or status = 'DEAD'",
    );
    Ok(stats.get_result(&mut db.read().await?).await?)
}

/// Sends again what was first published at or after `since`, and returns how many events that is.
///
/// For a broker that lost a part of its log. Consumers drop the events that they have seen.
pub async fn replay(db: &Db, since: DateTime<Utc>) -> Result<u64> {
    db.tx("outbox_replay", async move |tx: &mut Tx| {
        let count = reopen(tx, since).await?;
        tx.published = count > 0;
        Ok(count)
    })
    .await
}

/// Makes published rows new again.
async fn reopen(tx: &mut Tx, since: DateTime<Utc>) -> Result<u64> {
    // A day of events may take longer than statements usually may.
    diesel::sql_query("set local statement_timeout = 0").execute(tx).await?;
    let reopened = diesel::sql_query(
        "update outbox_events
         set status = 'NEW', attempts = 0, due_at = now(), last_error = null
         where status = 'PUBLISHED' and published_at >= $1",
    )
    .bind::<sql_types::Timestamptz, _>(since);
    Ok(reopened.execute(tx).await? as u64)
}

/// Gives dead rows another `outbox.attempts_max` attempts, and returns how many there are.
pub async fn redrive(db: &Db) -> Result<u64> {
    db.tx("outbox_redrive", async |tx: &mut Tx| {
        let redriven = diesel::sql_query(
            "update outbox_events set status = 'NEW', attempts = 0, due_at = now() where status = 'DEAD'",
        );
        let count = redriven.execute(tx).await? as u64;
        tx.published = count > 0;
        Ok(count)
    })
    .await
}

/// Removes what was first published longer ago than `outbox.retention_hours`. May run anywhere, any number of times.
pub async fn clean(db: &Db, settings: &OutboxSettings) -> Result<()> {
    loop {
        // Small statements: rows are never locked for long, and a stop loses nothing.
        let remove = diesel::sql_query(
            "delete from outbox_events
             where id in (
                 select id
                 from outbox_events
                 where status = 'PUBLISHED' and published_at < now() - $1 * interval '1 hour'
                 order by published_at
                 limit $2
                 for update skip locked
             )",
        )
        .bind::<sql_types::BigInt, _>(settings.retention_hours)
        .bind::<sql_types::BigInt, _>(settings.cleanup_batch_max);
        let removed = db.tx("clean_outbox", async |tx| Ok(remove.execute(tx).await?)).await?;
        if (removed as i64) < settings.cleanup_batch_max {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_spread_over_all_shards_and_always_the_same_way() {
        let mut counts = [0; SHARDS as usize];
        for n in 0..8_000 {
            let key = format!("order-{n}");
            assert_eq!(shard(&key), shard(&key));
            counts[usize::try_from(shard(&key)).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
        assert_eq!(shard("order-1"), 4, "rows in databases depend on it");
    }
}
