//! The inbox: each event is applied once per consumer, however often it is delivered, because its id is written in the
//! transaction that applies it.

mod apply;
mod consume;
mod park;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use rdkafka::message::{BorrowedMessage, Headers, Message as _};
use serde::Deserialize;
use uuid::Uuid;

pub use park::{Parked, discard_parked, parked, request_replay};

use crate::db::{Db, Tx};
use crate::error::{Error, Result};
use crate::id::derive_uuid;
use crate::outbox::Event;
use crate::telemetry::is_traceparent;

/// Section `[inbox]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InboxSettings {
    pub batch_max: usize,
    pub attempts_max: u32,
    pub retry_first_ms: u64,
    pub retry_max_ms: u64,
    pub replay_poll_ms: u64,
    pub retention_days: i32,
    pub cleanup_ms: u64,
    pub cleanup_batch_max: i64,
}

/// An event that this consumer has not applied yet.
#[derive(Debug, Clone)]
pub struct Received<E> {
    pub event_id: Uuid,
    pub event: E,
    /// When the event became true, by the clock of the database that it became true in.
    pub occurred_at: Option<DateTime<Utc>>,
    /// The trace and the request that caused the event.
    pub traceparent: Option<String>,
    pub request_id: Option<String>,
}

/// A reaction to one kind of event.
///
/// `events` have not been seen before and are in the order of the log, so those of one key are in the order of their
/// versions. It runs inside the transaction that marks them as seen: what it writes happens exactly once. It must do
/// nothing but use the database, because after an error everything is rolled back and tried again.
///
/// A transient error is retried for ever. Any other is retried a few times for each event alone, and then the event is
/// parked together with those that follow it with the same key.
pub trait Handler<E>: Send + Sync + 'static {
    fn handle(&self, tx: &mut Tx, events: &[Received<E>]) -> impl Future<Output = Result<()>> + Send;

    /// Tells which events this handler does something with, if not all: the others cost no transaction, and their ids are not
    /// written down. Nothing but the event may decide, and the service's manifest says the same in SQL (`ignores`), for the audit.
    /// A replay of parked events does not ask.
    fn concerns() -> Option<fn(&E) -> bool> {
        None
    }
}

type Handle = Box<dyn for<'a> Fn(&'a mut Tx, &'a [&'a Message]) -> BoxFuture<'a, Result<()>> + Send + Sync>;
/// Whether a handler does something with a message.
type Concerns = Box<dyn Fn(&Message) -> bool + Send + Sync>;

/// A handler of one topic.
struct Reaction {
    topic: &'static str,
    handle: Handle,
    /// None: it does something with all.
    concerns: Option<Concerns>,
}

/// One consumer group: all its topics, one transaction for everything that is ready.
pub struct Consumer {
    group: &'static str,
    db: Db,
    /// In the order of [`Consumer::on`].
    reactions: Vec<Reaction>,
}

impl Consumer {
    /// `group` names the consumer group and the rows of the inbox; changing it applies every event again.
    pub fn new(group: &'static str, db: &Db) -> Consumer {
        Consumer { group, db: db.clone(), reactions: Vec::new() }
    }

    /// Lets `app` handle the events `E`. One handler for each topic.
    pub fn on<E: Event, A: Handler<E>>(mut self, app: &Arc<A>) -> Consumer {
        debug_assert!(self.reaction(E::TOPIC).is_none(), "{} has two handlers for {}", self.group, E::TOPIC);
        let app = app.clone();
        let handle: Handle = Box::new(move |tx, messages| {
            let app = app.clone();
            Box::pin(async move {
                let events = messages.iter().map(|message| message.decode()).collect::<Result<Vec<Received<E>>>>()?;
                app.handle(tx, &events).await
            })
        });
        let concerns = A::concerns().map(|concerns| {
            // What cannot be read is for the handler to refuse.
            Box::new(move |message: &Message| message.decode().map_or(true, |received| concerns(&received.event))) as _
        });
        self.reactions.push(Reaction { topic: E::TOPIC, handle, concerns });
        self
    }

    fn reaction(&self, topic: &str) -> Option<&Reaction> {
        self.reactions.iter().find(|reaction| reaction.topic == topic)
    }

    fn topics(&self) -> Vec<&'static str> {
        self.reactions.iter().map(|reaction| reaction.topic).collect()
    }

    /// Whether a handler does something with `message`.
    fn concerns(&self, message: &Message) -> bool {
        let concerns = self.reaction(&message.topic).and_then(|reaction| reaction.concerns.as_ref());
        concerns.is_none_or(|concerns| concerns(message))
    }
}

/// A Kafka message, taken out of the client's memory.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// Without the namespace.
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    key: Option<String>,
    event_id: Uuid,
    headers: serde_json::Map<String, serde_json::Value>,
    payload: Vec<u8>,
}

impl Message {
    pub fn new(message: &BorrowedMessage<'_>, topic: &str) -> Message {
        let headers: serde_json::Map<_, _> = message
            .headers()
            .into_iter()
            .flat_map(|headers| headers.iter())
            .map(|header| (header.key.to_owned(), String::from_utf8_lossy(header.value.unwrap_or_default()).into()))
            .collect();
        let (partition, offset) = (message.partition(), message.offset());
        // A message from somewhere else has no id of its own; where it stands identifies it as well.
        let place = || derive_uuid("message", &[topic.as_bytes(), &partition.to_be_bytes(), &offset.to_be_bytes()]);
        let event_id = headers.get("ce_id").and_then(|id| id.as_str()?.parse().ok()).unwrap_or_else(place);
        Message {
            topic: topic.to_owned(),
            partition,
            offset,
            key: message.key().map(|key| String::from_utf8_lossy(key).into_owned()),
            event_id,
            headers,
            payload: message.payload().unwrap_or_default().to_vec(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.as_str()
    }

    /// None as well where what was sent is not one.
    fn traceparent(&self) -> Option<&str> {
        self.header("traceparent").filter(|value| is_traceparent(value))
    }

    pub fn occurred_at(&self) -> Option<DateTime<Utc>> {
        DateTime::parse_from_rfc3339(self.header("ce_time")?).ok().map(|time| time.to_utc())
    }

    pub fn decode<E: Event>(&self) -> Result<Received<E>> {
        let event = serde_json::from_slice(&self.payload)
            .map_err(|error| Error::fault(anyhow::anyhow!("not a {} event: {error}", E::TOPIC)))?;
        Ok(Received {
            event_id: self.event_id,
            event,
            occurred_at: self.occurred_at(),
            traceparent: self.traceparent().map(str::to_owned),
            request_id: self.header("requestid").map(str::to_owned),
        })
    }
}
