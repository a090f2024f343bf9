//! Parked events: kept with everything that is known about them until somebody lets them be applied again.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use diesel::{OptionalExtension, QueryableByName, sql_types};
use diesel_async::RunQueryDsl;
use serde::Serialize;
use uuid::Uuid;

use super::{Consumer, Message};
use crate::db::{Db, Prepared, Tx};
use crate::error::{Error, Result};

/// An event that waits for help, or behind one that does.
#[derive(Debug, Clone, Serialize, QueryableByName)]
#[serde(rename_all = "camelCase")]
pub struct Parked {
    /// Events of one consumer, topic and key are applied again in this order.
    #[diesel(sql_type = sql_types::BigInt)]
    pub seq: i64,
    #[diesel(sql_type = sql_types::Text)]
    pub consumer: String,
    #[diesel(sql_type = sql_types::Text)]
    pub topic: String,
    #[diesel(sql_type = sql_types::Nullable<sql_types::Text>)]
    pub key: Option<String>,
    #[diesel(sql_type = sql_types::Uuid)]
    pub event_id: Uuid,
    #[diesel(sql_type = sql_types::Integer)]
    pub partition: i32,
    #[diesel(sql_type = sql_types::BigInt)]
    pub kafka_offset: i64,
    #[diesel(sql_type = sql_types::Jsonb)]
    pub headers: serde_json::Value,
    #[diesel(sql_type = sql_types::Binary)]
    #[serde(skip)]
    pub payload: Vec<u8>,
    #[diesel(sql_type = sql_types::Text)]
    pub error: String,
    #[diesel(sql_type = sql_types::Timestamptz)]
    pub parked_at: DateTime<Utc>,
    #[diesel(sql_type = sql_types::Nullable<sql_types::Timestamptz>)]
    pub replay_requested_at: Option<DateTime<Utc>>,
}

impl From<Parked> for Message {
    fn from(parked: Parked) -> Message {
        Message {
            topic: parked.topic,
            partition: parked.partition,
            offset: parked.kafka_offset,
            key: parked.key,
            event_id: parked.event_id,
            headers: match parked.headers {
                serde_json::Value::Object(headers) => headers,
                _ => serde_json::Map::new(),
            },
            payload: parked.payload,
        }
    }
}

/// What is parked, of one consumer or of all in the schema, in the order of `seq` after `after`.
pub async fn parked(db: &Db, consumer: Option<&str>, after: i64, limit: i64) -> Result<Vec<Parked>> {
    let parked = diesel::sql_query(
        "select *
         from parked
         where ($1::text is null or consumer = $1) and seq > $2
         order by seq
         limit $3",
    )
    .bind::<sql_types::Nullable<sql_types::Text>, _>(consumer)
    .bind::<sql_types::BigInt, _>(after)
    .bind::<sql_types::BigInt, _>(limit);
    Ok(parked.load(&mut db.read().await?).await?)
}

/// Lets the consumer apply its parked events again, of one key or all, and returns how many there are.
///
/// It begins within `inbox.replay_poll_ms`, one event after the other. The first event of a key that fails again stays
/// with its new error, and so do those behind it.
pub async fn request_replay(db: &Db, consumer: &str, key: Option<&str>) -> Result<u64> {
    let requested = diesel::sql_query(
        "update parked set replay_requested_at = now() where consumer = $1 and ($2::text is null or key = $2)",
    )
    .bind::<sql_types::Text, _>(consumer)
    .bind::<sql_types::Nullable<sql_types::Text>, _>(key);
    db.tx("request_replay", async |tx| Ok(requested.execute(tx).await? as u64)).await
}

/// Gives a parked event up for good: it counts as seen and is never applied. Returns whether there was one.
///
/// Those behind it stay parked until a replay.
pub async fn discard_parked(db: &Db, consumer: &str, event_id: Uuid) -> Result<bool> {
    let discarded = diesel::sql_query("delete from parked where consumer = $1 and event_id = $2")
        .bind::<sql_types::Text, _>(consumer)
        .bind::<sql_types::Uuid, _>(event_id);
    db.tx("discard_parked", async |tx| Ok(discarded.execute(tx).await? == 1)).await
}

/// Parks `messages` in this order. A key whose replay is under way has it extended to them.
pub(super) async fn insert(tx: &mut Tx, consumer: &str, messages: &[&Message], error: &str) -> Result<()> {
    if messages.is_empty() {
        return Ok(());
    }
    diesel::sql_query(
        "insert into parked
             (consumer, topic, key, event_id, partition, kafka_offset, headers, payload, error, replay_requested_at)
         select $1, m.topic, m.key, m.event_id, m.partition, m.kafka_offset, m.headers, m.payload, $2,
                (select min(p.replay_requested_at)
                 from parked as p
                 where p.consumer = $1 and p.topic = m.topic and p.key = m.key)
         from unnest($3::text[], $4::text[], $5::uuid[], $6::int[], $7::bigint[], $8::jsonb[], $9::bytea[])
              with ordinality
              as m (topic, key, event_id, partition, kafka_offset, headers, payload, place)
         order by m.place",
    )
    .bind::<sql_types::Text, _>(consumer)
    .bind::<sql_types::Text, _>(error)
    .bind::<sql_types::Array<sql_types::Text>, _>(Vec::from_iter(messages.iter().map(|m| m.topic.as_str())))
    .bind::<sql_types::Array<sql_types::Nullable<sql_types::Text>>, _>(Vec::from_iter(
        messages.iter().map(|m| m.key.as_deref()),
    ))
    .bind::<sql_types::Array<sql_types::Uuid>, _>(Vec::from_iter(messages.iter().map(|m| m.event_id)))
    .bind::<sql_types::Array<sql_types::Integer>, _>(Vec::from_iter(messages.iter().map(|m| m.partition)))
    .bind::<sql_types::Array<sql_types::BigInt>, _>(Vec::from_iter(messages.iter().map(|m| m.offset)))
    .bind::<sql_types::Array<sql_types::Jsonb>, _>(Vec::from_iter(
        messages.iter().map(|m| serde_json::json!(m.headers)),
    ))
    .bind::<sql_types::Array<sql_types::Binary>, _>(Vec::from_iter(messages.iter().map(|m| m.payload.as_slice())))
    .execute(tx)
    .await?;
    Ok(())
}

#[derive(QueryableByName)]
struct Blocked {
    #[diesel(sql_type = sql_types::Text)]
    topic: String,
    #[diesel(sql_type = sql_types::Text)]
    key: String,
}

#[derive(QueryableByName)]
struct Any {
    #[diesel(sql_type = sql_types::Bool)]
    any: bool,
}

/// Those of `keys` (topic, key) that have parked events.
///
/// They cannot be unblocked before `tx` ends: a replay of their last event waits, or this waits for it.
pub(super) async fn blocked<'k>(
    tx: &mut Tx,
    consumer: &str,
    keys: impl Iterator<Item = (&'k str, &'k str)>,
) -> Result<HashSet<(String, String)>> {
    // The usual answer, and it takes one look at an empty index.
    let any = diesel::sql_query("select exists (select from parked where consumer = $1) as any");
    if !Prepared(any.bind::<sql_types::Text, _>(consumer)).get_result::<Any>(tx).await?.any {
        return Ok(HashSet::new());
    }
    let (topics, keys): (Vec<&str>, Vec<&str>) = keys.unzip();
    let blocked: Vec<Blocked> = diesel::sql_query(
        "select p.topic, p.key
         from parked as p
         where p.consumer = $1
           and (p.topic, p.key) in (select k.topic, k.key from unnest($2::text[], $3::text[]) as k (topic, key))
         order by p.seq
         for share",
    )
    .bind::<sql_types::Text, _>(consumer)
    .bind::<sql_types::Array<sql_types::Text>, _>(topics)
    .bind::<sql_types::Array<sql_types::Text>, _>(keys)
    .load(tx)
    .await?;
    Ok(blocked.into_iter().map(|blocked| (blocked.topic, blocked.key)).collect())
}

/// The oldest parked event of `$1` whose replay is wanted and that has none of its key before it.
const HEAD: &str = "select p.*
     from parked as p
     where p.consumer = $1
       and p.replay_requested_at is not null
       and not exists (
           select
           from parked as e
           where e.consumer = p.consumer and e.topic = p.topic and e.key = p.key and e.seq < p.seq
       )
     order by p.seq
     limit 1";

/// Replays between two looks at Kafka: some seconds' worth, while new events wait.
const REPLAYS_MAX: usize = 1_000;

impl Consumer {
    /// Applies parked events whose replay is wanted, until there is none, one fails for a transient reason, or the
    /// new events have waited long enough.
    pub(super) async fn replay(&self) -> Result<()> {
        for _ in 0..REPLAYS_MAX {
            let Some(head) = self.head().await? else { return Ok(()) };
            let seq = head.seq;
            let message = Message::from(head);
            let replayed =
                self.db.tx("inbox_replay", async |tx: &mut Tx| self.replay_one(tx, seq, &message).await).await;
            match replayed {
                Ok(true) => {
                    tracing::info!(inbox.consumer = self.group, event.id = %message.event_id, "Applied a parked event");
                }
                // Another replica is at it.
                Ok(false) => return Ok(()),
                Err(error) if error.is_transient() => return Err(error),
                Err(error) => self.give_up(seq, &message, &error).await?,
            }
        }
        Ok(())
    }

    async fn head(&self) -> Result<Option<Parked>> {
        let head = diesel::sql_query(HEAD).bind::<sql_types::Text, _>(self.group);
        Ok(head.get_result(&mut self.db.read().await?).await.optional()?)
    }

    async fn replay_one(&self, tx: &mut Tx, seq: i64, message: &Message) -> Result<bool> {
        let locked =
            diesel::sql_query("select exists (select from parked where seq = $1 for update skip locked) as any");
        if !locked.bind::<sql_types::BigInt, _>(seq).get_result::<Any>(tx).await?.any {
            return Ok(false);
        }
        let Some(reaction) = self.reaction(&message.topic) else {
            return Err(Error::fault(anyhow::anyhow!("{} does not listen to {}", self.group, message.topic)));
        };
        (reaction.handle)(tx, &[message]).await?;
        diesel::sql_query("delete from parked where seq = $1").bind::<sql_types::BigInt, _>(seq).execute(tx).await?;
        Ok(true)
    }

    /// The replay of this event's key ends here.
    async fn give_up(&self, seq: i64, message: &Message, error: &Error) -> Result<()> {
        tracing::error!(inbox.consumer = self.group, event.id = %message.event_id, %error, "A parked event failed again");
        let give_up = diesel::sql_query(
            "update parked
             set replay_requested_at = null,
                 error = case when seq = $1 then $2 else error end
             where seq = $1 or (consumer = $3 and topic = $4 and key = $5)",
        )
        .bind::<sql_types::BigInt, _>(seq)
        .bind::<sql_types::Text, _>(error.to_string())
        .bind::<sql_types::Text, _>(self.group)
        .bind::<sql_types::Text, _>(&message.topic)
        .bind::<sql_types::Nullable<sql_types::Text>, _>(&message.key);
        self.db.tx("give_up_replay", async |tx| Ok(give_up.execute(tx).await.map(drop)?)).await
    }

    /// Updates the gauge of parked events.
    pub(super) async fn measure_parked(&self) -> Result<()> {
        #[derive(QueryableByName)]
        struct Count {
            #[diesel(sql_type = sql_types::BigInt)]
            count: i64,
        }
        let counted = diesel::sql_query("select count(*) as count from parked where consumer = $1");
        let Count { count } =
            counted.bind::<sql_types::Text, _>(self.group).get_result(&mut self.db.read().await?).await?;
        metrics::gauge!("stampede_inbox_parked", "consumer" => self.group).set(count as f64);
        Ok(())
    }
}
