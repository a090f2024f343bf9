//! `Listener`: what every replica hears of the log for itself, once and without remembering it: for what is passed on at
//! once, or kept in memory only.
//!
//! It has partitions assigned to it and is a member of no group, so it shares them with nobody, commits nothing and leaves
//! nothing behind on the broker. What was said while its process was down is not told to it as new.

mod layout;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::{Instant, MissedTickBehavior, sleep};
use tokio_util::sync::CancellationToken;

use self::layout::{Layout, Place, layout, places, watermarks};
use crate::backoff::Backoff;
use crate::error::{Error, Result};
use crate::inbox::{Message, Received};
use crate::kafka::Kafka;
use crate::kafka::librdkafka::{ConsumerClient, Silence, log_debug};
use crate::outbox::Event;
/// Between attempts to hear from a broker that is away.
const AWAY: Backoff = Backoff { first: Duration::from_millis(50), max: Duration::from_secs(1) };

/// The first attempts of a new system fail: partitions that were created a moment ago have no leader yet. So many attempts take
/// some three seconds.
const ATTEMPTS_UNTOLD: u32 = 8;

/// How often it looks whether the log is still the same one.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// How often it looks for new partitions of its topics.
const LAYOUT_PERIOD: Duration = Duration::from_secs(60);

/// Where a topic is heard from when the process starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// Everything that the log still has, and what is new.
    Retained,
    /// Only what is new.
    Now,
}

/// A reaction to one kind of event. It waits for nothing and cannot fail.
pub trait Hear<E>: Send + Sync + 'static {
    /// A repeat has the same `event_id`.
    fn hear(&self, heard: Received<E>, when: Reception);
}

/// When an event was heard.
#[derive(Debug, Clone, Copy)]
pub struct Reception {
    /// It was in the log before this process listened.
    pub is_past: bool,
    pub at: std::time::Instant,
    /// How long before that it became true, as far as the clocks agree.
    pub age: Option<Duration>,
}

/// What a listener tells beside the events.
pub trait Listen: Send + Sync + 'static {
    /// Everything of the past has been heard: from now on nothing is missed for as long as the process lives.
    fn caught_up(&self);

    /// The broker is a new one, and events may have been missed. Its log is heard as the first one was at the start.
    fn log_replaced(&self);
}

type Reaction = Box<dyn Fn(&Message, Reception) -> Result<()> + Send + Sync>;

struct Topic {
    name: &'static str,
    since: Since,
    react: Reaction,
}

/// The topics that one service hears in each of its replicas.
pub struct Listener {
    name: &'static str,
    app: Arc<dyn Listen>,
    topics: Vec<Topic>,
}

impl Listener {
    pub fn new<A: Listen>(name: &'static str, app: &Arc<A>) -> Listener {
        Listener { name, app: app.clone(), topics: Vec::new() }
    }

    /// Lets `app` hear the events `E`. One reaction for each topic.
    pub fn hears<E: Event, A: Hear<E>>(mut self, app: &Arc<A>, since: Since) -> Listener {
        debug_assert!(self.topic(E::TOPIC).is_none(), "{} hears {} twice", self.name, E::TOPIC);
        let app = app.clone();
        let react: Reaction = Box::new(move |message, when| {
            app.hear(message.decode()?, when);
            Ok(())
        });
        self.topics.push(Topic { name: E::TOPIC, since, react });
        self
    }

    fn topic(&self, name: &str) -> Option<&Topic> {
        self.topics.iter().find(|topic| topic.name == name)
    }

    /// Listens until `stopping`.
    pub async fn run(self, kafka: Kafka, stopping: CancellationToken) {
        let mut heard = Heard::default();
        let mut attempt = 0;
        while !stopping.is_cancelled() {
            let opened = tokio::select! {
                () = stopping.cancelled() => return,
                opened = self.open(&kafka, &mut heard) => opened,
            };
            match opened {
                Ok(mut reader) => {
                    attempt = 0;
                    reader.follow(&mut heard, &stopping).await;
                }
                Err(error) => {
                    attempt += 1;
                    if attempt == ATTEMPTS_UNTOLD {
                        tracing::warn!(
                            %error, listener = self.name,
                            "The listener of {} cannot read its topics; it tries again until it can", self.name
                        );
                    }
                    tokio::select! {
                        () = stopping.cancelled() => return,
                        () = sleep(AWAY.delay(attempt)) => {}
                    }
                }
            }
        }
    }

    /// A client that reads on where the last one stopped.
    async fn open<'a>(&'a self, kafka: &'a Kafka, heard: &mut Heard) -> Result<Reader<'a>> {
        let cluster = kafka.cluster_id_since(std::time::Instant::now()).await?;
        let names: Vec<&str> = self.topics.iter().map(|topic| topic.name).collect();
        let missing = kafka.ensure_topics(&names).await?;
        let client = Arc::new(kafka.reader(self.name, &cluster)?);
        let layout = self.take_up(kafka, &client, cluster, &missing, heard).await?;
        let (silence, layout_looked_at) = (Silence::begins_now(), Instant::now());
        Ok(Reader { listener: self, kafka, client, layout, silence, layout_looked_at })
    }

    /// Has `client` read on where the last one stopped. `missing` are the topics that the cluster cannot have for now.
    async fn take_up(
        &self,
        kafka: &Kafka,
        client: &Arc<ConsumerClient>,
        cluster: Arc<str>,
        missing: &BTreeMap<String, String>,
        heard: &mut Heard,
    ) -> Result<Layout> {
        let names: Vec<&'static str> = self.topics.iter().map(|topic| topic.name).collect();
        let is_known = heard.cluster.as_ref() == Some(&cluster);
        let is_replaced = !is_known && heard.cluster.is_some();
        let mut next = if is_known { heard.clone() } else { Heard { cluster: Some(cluster), ..Heard::default() } };
        let layout = layout(client, kafka, &names).await?;
        // Without its partitions the past of a topic would count as heard.
        if let Some((topic, _)) =
            layout.iter().find(|(topic, partitions)| **partitions == 0 && !missing.contains_key(**topic))
        {
            return Err(Error::transient(anyhow::anyhow!("Kafka does not tell the partitions of {topic} yet")));
        }
        let unknown: Vec<Place> = places(&layout).filter(|place| !next.positions.contains_key(place)).collect();
        for (place, low, high) in watermarks(client, kafka, unknown).await? {
            // Of a partition that came later, all is new.
            let past_until = if is_known { low } else { high };
            let from_now = !is_known && self.topic(place.0).is_none_or(|topic| topic.since == Since::Now);
            next.positions.insert(place, Position { next: if from_now { high } else { low }, past_until });
        }
        client.assign(&next.assignment(kafka)?).map_err(Error::transient)?;
        // Only now: a failure on the way leaves what was known before.
        *heard = next;
        if is_replaced {
            tracing::warn!(
                listener = self.name,
                "The broker is a new one; the listener of {} may have missed events",
                self.name
            );
            self.app.log_replaced();
        }
        heard.tell_when_caught_up(self);
        Ok(layout)
    }
}

/// How far the log of one cluster has been heard.
#[derive(Debug, Clone, Default)]
struct Heard {
    cluster: Option<Arc<str>>,
    positions: BTreeMap<Place, Position>,
    is_caught_up: bool,
}

#[derive(Debug, Clone, Copy)]
struct Position {
    /// The offset of the next message.
    next: i64,
    /// Messages below this offset are of the past.
    past_until: i64,
}

impl Heard {
    fn assignment(&self, kafka: &Kafka) -> Result<TopicPartitionList> {
        let mut list = TopicPartitionList::with_capacity(self.positions.len());
        for ((topic, partition), position) in &self.positions {
            list.add_partition_offset(&kafka.topic(topic), *partition, Offset::Offset(position.next))
                .map_err(Error::fault)?;
        }
        Ok(list)
    }

    fn tell_when_caught_up(&mut self, listener: &Listener) {
        if !self.is_caught_up && self.positions.values().all(|position| position.next >= position.past_until) {
            self.is_caught_up = true;
            listener.app.caught_up();
        }
    }
}

/// A client on the log of one cluster.
struct Reader<'a> {
    listener: &'a Listener,
    kafka: &'a Kafka,
    client: Arc<ConsumerClient>,
    layout: Layout,
    silence: Silence,
    layout_looked_at: Instant,
}

impl Reader<'_> {
    /// Returns when stopping, or when this client is of no use any more.
    async fn follow(&mut self, heard: &mut Heard, stopping: &CancellationToken) {
        let mut look = tokio::time::interval(LOOK_PERIOD);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut attempt = 0;
        loop {
            let error = tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                _ = look.tick() => {
                    let is_over = tokio::select! {
                        () = stopping.cancelled() => return,
                        is_over = self.is_over(heard) => is_over,
                    };
                    if is_over {
                        return;
                    }
                    continue;
                }
                received = self.client.recv() => match received {
                    Ok(message) => {
                        attempt = 0;
                        self.silence = Silence::begins_now();
                        if self.is_outdated() {
                            return;
                        }
                        self.hear(&Message::new(&message, self.kafka.bare_topic(message.topic())), heard);
                        continue;
                    }
                    Err(error) => error,
                },
            };
            if matches!(error, KafkaError::MessageConsumptionFatal(_)) {
                tracing::warn!(%error, listener = self.listener.name, "Kafka's client failed for good; a new one goes on");
                return;
            }
            // While brokers are down, errors come as fast as they are taken.
            attempt += 1;
            tokio::select! {
                () = stopping.cancelled() => return,
                () = sleep(AWAY.delay(attempt)) => {}
            }
            if matches!(error, KafkaError::MessageConsumption(RDKafkaErrorCode::UnknownTopicOrPartition)) {
                self.kafka.forget_topics();
                return;
            }
        }
    }

    fn hear(&self, message: &Message, heard: &mut Heard) {
        let Some(topic) = self.listener.topic(&message.topic) else { return };
        let Some(position) = heard.positions.get_mut(&(topic.name, message.partition)) else { return };
        if message.offset < position.next {
            return;
        }
        position.next = message.offset + 1;
        let age = message.occurred_at().and_then(|occurred_at| (Utc::now() - occurred_at).to_std().ok());
        let is_past = message.offset < position.past_until;
        if let Err(error) = (topic.react)(message, Reception { is_past, at: std::time::Instant::now(), age }) {
            tracing::warn!(
                %error, listener = self.listener.name, partition = message.partition, offset = message.offset,
                "A message of {} cannot be read; the listener goes on without it", topic.name
            );
        }
        heard.tell_when_caught_up(self.listener);
    }

    /// Whether another client is needed: for another log, for more partitions, or to hear anything at all again.
    async fn is_over(&mut self, heard: &Heard) -> bool {
        if self.is_outdated() || self.kafka.cluster_id().await.is_ok_and(|now| heard.cluster.as_ref() != Some(&now)) {
            return true;
        }
        self.is_disconnected().await || self.has_new_layout().await
    }

    fn is_outdated(&self) -> bool {
        self.client.context().cluster_id().cluster_changed(self.client.client())
    }

    async fn is_disconnected(&mut self) -> bool {
        let topic = self.listener.topics.first().map(|topic| topic.name);
        let is_disconnected = self.silence.is_endless(self.kafka, &self.client, topic).await;
        if is_disconnected {
            tracing::warn!(
                listener = self.listener.name,
                "Kafka's client of the listener of {} reaches no broker, while another client does; a new one takes over",
                self.listener.name
            );
        }
        is_disconnected
    }

    /// Whether a topic has got more partitions, or is there at last.
    async fn has_new_layout(&mut self) -> bool {
        let is_complete = self.layout.values().all(|partitions| *partitions > 0);
        if is_complete && self.layout_looked_at.elapsed() < LAYOUT_PERIOD {
            return false;
        }
        self.layout_looked_at = Instant::now();
        let names: Vec<&'static str> = self.layout.keys().copied().collect();
        match layout(&self.client, self.kafka, &names).await {
            Ok(layout) => layout.iter().any(|(topic, partitions)| self.layout[topic] < *partitions),
            Err(error) => {
                log_debug("listener", &error.to_string());
                false
            }
        }
    }
}

#[cfg(test)]
mod tests;
