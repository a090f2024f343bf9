//! The loop of a consumer: take what is ready, settle it in one go, store the offsets; from a new log, start again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use diesel::sql_types;
use diesel_async::RunQueryDsl;
use futures_util::FutureExt;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::{Instant, MissedTickBehavior, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Consumer, InboxSettings, Message};
use crate::backoff::Backoff;
use crate::error::{Error, Result};
use crate::kafka::Kafka;
use crate::kafka::librdkafka::{ConsumerClient, Silence, log_debug};
use crate::periodic::{self, Schedule};

/// Between attempts to hear from a broker that is away.
const AWAY: Backoff = Backoff { first: Duration::from_millis(50), max: Duration::from_secs(1) };

/// How long leaving the group may hold up a stop. Who does not manage is missed after the session timeout instead.
const LEAVE_MAX: Duration = Duration::from_secs(3);

impl Consumer {
    /// Consumes until `stopping`; then the batch under way is finished and its offsets are committed.
    pub async fn run(self, kafka: Kafka, settings: InboxSettings, stopping: CancellationToken) {
        let tidy = Schedule { period: Duration::from_millis(settings.cleanup_ms), wake: None };
        tokio::join!(
            self.consume(&kafka, &settings, &stopping),
            periodic::run("clean_inbox", tidy, stopping.clone(), async || self.clean(&settings).await),
        );
    }

    /// Follows one log after the other: there is a new one when the broker has been replaced.
    async fn consume(&self, kafka: &Kafka, settings: &InboxSettings, stopping: &CancellationToken) {
        let mut attempt = 0;
        while !stopping.is_cancelled() {
            match self.join(kafka, settings).await {
                Ok(mut member) => {
                    attempt = 0;
                    member.follow(stopping).await;
                    leave(member.client).await;
                }
                Err(error) => {
                    attempt += 1;
                    if attempt == 1 {
                        tracing::warn!(%error, inbox.consumer = self.group, "The consumer waits until Kafka can be reached");
                    }
                    tokio::select! {
                        () = stopping.cancelled() => return,
                        () = sleep(AWAY.delay(attempt)) => {}
                    }
                }
            }
        }
    }

    async fn join<'a>(&'a self, kafka: &'a Kafka, settings: &'a InboxSettings) -> Result<Member<'a>> {
        let topics = self.topics();
        let cluster = kafka.cluster_id_since(std::time::Instant::now()).await?;
        // A group that subscribes to a topic before it exists learns of it minutes later.
        let missing = kafka.ensure_topics(&topics).await?;
        let (missing, there): (Vec<&str>, Vec<&str>) = topics.iter().partition(|topic| missing.contains_key(**topic));
        if there.is_empty() {
            return Err(Error::transient(anyhow::anyhow!("Kafka cannot have its topics for now: {missing:?}")));
        }
        let client = Arc::new(kafka.consumer(self.group, &cluster, &there)?);
        let (ahead, silence) = (VecDeque::new(), Silence::begins_now());
        Ok(Member { consumer: self, kafka, settings, client, cluster, missing, ahead, silence })
    }

    /// Forgets the events that arrived longer ago than `inbox.retention_days`.
    async fn clean(&self, settings: &InboxSettings) -> Result<()> {
        loop {
            let remove = diesel::sql_query(
                "delete from inbox
                 where (consumer, event_id) in (
                     select consumer, event_id
                     from inbox
                     where day < current_date - $1::int
                     limit $2
                     for update skip locked
                 )",
            )
            .bind::<sql_types::Integer, _>(settings.retention_days)
            .bind::<sql_types::BigInt, _>(settings.cleanup_batch_max);
            let removed = self.db.tx("clean_inbox", async |tx| Ok(remove.execute(tx).await?)).await?;
            if (removed as i64) < settings.cleanup_batch_max {
                return Ok(());
            }
        }
    }
}

/// A consumer as a member of the group for the log of one cluster.
struct Member<'a> {
    consumer: &'a Consumer,
    kafka: &'a Kafka,
    settings: &'a InboxSettings,
    client: Arc<ConsumerClient>,
    cluster: Arc<str>,
    /// Topics that did not exist when it joined.
    missing: Vec<&'static str>,
    /// Taken from the client while a batch was waiting for its next attempt.
    ahead: VecDeque<Message>,
    silence: Silence,
}

impl Member<'_> {
    /// Returns when stopping, or when this membership is of no use any more.
    async fn follow(&mut self, stopping: &CancellationToken) {
        let mut look = tokio::time::interval(Duration::from_millis(self.settings.replay_poll_ms));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut attempt = 0;
        loop {
            let (batch, error) = tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                _ = look.tick() => {
                    let is_over = tokio::select! {
                        () = stopping.cancelled() => return,
                        is_over = self.is_over() => is_over,
                    };
                    if is_over {
                        return;
                    }
                    self.look_after_parked().await;
                    continue;
                }
                gathered = self.gather() => gathered,
            };
            if !batch.is_empty() {
                attempt = 0;
                self.silence = Silence::begins_now();
                let next = next_offsets(&batch);
                let batch = self.concerning(batch);
                if self.is_outdated() || !batch.is_empty() && !self.settle(&batch, stopping).await {
                    return;
                }
                self.store_offsets(next);
            } else if let Some(error) = error {
                if matches!(error, KafkaError::MessageConsumptionFatal(_)) {
                    tracing::warn!(%error, inbox.consumer = self.consumer.group, "Kafka's consumer failed for good; a new one goes on");
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
    }

    /// Whether a new membership is needed: for another log, for more topics, or to hear anything at all again.
    async fn is_over(&mut self) -> bool {
        !self.is_current().await || self.can_have_more().await || self.is_disconnected().await || self.is_stuck().await
    }

    /// Whether the log is still that of the cluster that was joined. A cluster that does not answer has not changed.
    async fn is_current(&self) -> bool {
        !self.is_outdated() && self.kafka.cluster_id().await.map_or(true, |cluster| cluster == self.cluster)
    }

    /// Whether the client has met another cluster. It would go on there from the old log's offset, and the messages
    /// before that would come later, out of order.
    ///
    /// It cannot have messages of the new log without knowing: it asks for topics by their ids, which it learns
    /// together with the id of the cluster.
    fn is_outdated(&self) -> bool {
        let is_outdated = self.client.context().cluster_id().cluster_changed(self.client.client());
        if is_outdated {
            tracing::warn!(
                inbox.consumer = self.consumer.group,
                "The broker is a new one; its log is read from the beginning"
            );
        }
        is_outdated
    }

    async fn is_disconnected(&mut self) -> bool {
        let topic = self.consumer.topics().into_iter().next();
        let is_disconnected = self.silence.is_endless(self.kafka, &self.client, topic).await;
        if is_disconnected {
            tracing::warn!(
                inbox.consumer = self.consumer.group,
                "Kafka's client of consumer {} reaches no broker, while another client does; a new one takes over",
                self.consumer.group
            );
        }
        is_disconnected
    }

    /// Whether it has lost its place in the group for good (ADR 11, no. 2).
    async fn is_stuck(&self) -> bool {
        let health = self.client.context();
        if health.is_stable() {
            return false;
        }
        if self.kafka.cluster_id_since(std::time::Instant::now()).await.is_err() {
            health.reset();
            return false;
        }
        let is_stuck = health.is_stuck();
        if is_stuck {
            tracing::warn!(
                inbox.consumer = self.consumer.group,
                "Kafka's client of consumer {} has lost its place in the group; a new one takes over",
                self.consumer.group
            );
        }
        is_stuck
    }

    /// Whether a topic that was missing is there now.
    async fn can_have_more(&self) -> bool {
        let wanted = self.missing.len();
        wanted > 0 && self.kafka.ensure_topics(&self.missing).await.is_ok_and(|missing| missing.len() < wanted)
    }

    async fn look_after_parked(&self) {
        let replayed = self.consumer.replay().await;
        if let Err(error) = replayed.and(self.consumer.measure_parked().await) {
            tracing::warn!(%error, inbox.consumer = self.consumer.group, "Parked events cannot be looked after for now");
        }
    }

    /// Waits for something, then takes what is ready, up to `inbox.batch_max`. Nothing is lost if this is dropped:
    /// it waits only while it has nothing.
    async fn gather(&mut self) -> (Vec<Message>, Option<KafkaError>) {
        let max = self.settings.batch_max;
        if !self.ahead.is_empty() {
            let count = self.ahead.len().min(max);
            return (self.ahead.drain(..count).collect(), None);
        }
        let (mut batch, mut error) = (Vec::new(), None);
        let mut next = Some(self.client.recv().await);
        // Errors are taken along, since more than one a second would never be worked off with a pause after each.
        for _ in 0..max {
            match next {
                Some(Ok(message)) => batch.push(self.take(&message)),
                Some(Err(failed)) => error = Some(failed),
                None => break,
            }
            next = if batch.len() < max { self.client.recv().now_or_never() } else { None };
        }
        (batch, error)
    }

    /// Those that a handler does something with.
    fn concerning(&self, mut batch: Vec<Message>) -> Vec<Message> {
        let received = batch.len();
        batch.retain(|message| self.consumer.concerns(message));
        let ignored = (received - batch.len()) as u64;
        metrics::counter!("stampede_inbox_ignored_total", "consumer" => self.consumer.group).increment(ignored);
        batch
    }

    fn take(&self, message: &BorrowedMessage<'_>) -> Message {
        Message::new(message, self.kafka.bare_topic(message.topic()))
    }

    /// Tries until it succeeds. Returns false if it has to stop before that.
    async fn settle(&mut self, batch: &[Message], stopping: &CancellationToken) -> bool {
        let backoff = Backoff {
            first: Duration::from_millis(self.settings.retry_first_ms),
            max: Duration::from_millis(self.settings.retry_max_ms),
        };
        let mut attempt = 0;
        while let Err(error) = self.consumer.settle(batch, self.settings).await {
            attempt += 1;
            tracing::warn!(
                %error, attempt, inbox.consumer = self.consumer.group, messages = batch.len(),
                "A batch of events cannot be applied for now; it is tried again"
            );
            self.wait(Instant::now() + backoff.delay(attempt), stopping).await;
            if stopping.is_cancelled() {
                return false;
            }
        }
        if attempt > 0 {
            self.change_flow(|client, partitions| client.resume(partitions));
        }
        true
    }

    /// Stays a member of the group while a batch waits for its next attempt: whoever does not ask for messages is
    /// taken for dead after five minutes, and keeps the others from sharing the partitions out until then. So it asks,
    /// but with the flow paused, and the few messages that come nevertheless wait for their turn.
    async fn wait(&mut self, until: Instant, stopping: &CancellationToken) {
        self.change_flow(|client, partitions| client.pause(partitions));
        loop {
            let received = tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                () = sleep_until(until) => return,
                received = self.client.recv() => received.map(|message| self.take(&message)),
            };
            match received {
                Ok(message) => {
                    self.ahead.push_back(message);
                    // It came from a partition that was assigned only just now.
                    self.change_flow(|client, partitions| client.pause(partitions));
                }
                Err(error) => {
                    log_debug("consumer", &error.to_string());
                    sleep_until(until.min(Instant::now() + AWAY.first)).await;
                }
            }
        }
    }

    fn change_flow(&self, change: impl Fn(&ConsumerClient, &TopicPartitionList) -> KafkaResult<()>) {
        let changed = self.client.assignment().and_then(|assignment| change(&self.client, &assignment));
        if let Err(error) = changed {
            log_debug("consumer", &error.to_string());
        }
    }

    /// The client commits them every second and when it gives a partition up.
    fn store_offsets(&self, next: BTreeMap<(String, i32), i64>) {
        let mut offsets = TopicPartitionList::with_capacity(next.len());
        for ((topic, partition), offset) in next {
            let added = offsets.add_partition_offset(&self.kafka.topic(&topic), partition, Offset::Offset(offset));
            debug_assert!(added.is_ok(), "an offset that was read can be stored");
        }
        // Fails for partitions that have been given to somebody else, who will see these events again and drop them.
        if let Err(error) = self.client.store_offsets(&offsets) {
            log_debug("consumer", &error.to_string());
        }
    }
}

/// Where each topic and partition goes on after `batch`.
fn next_offsets(batch: &[Message]) -> BTreeMap<(String, i32), i64> {
    let mut next = BTreeMap::new();
    for message in batch {
        let place: &mut i64 = next.entry((message.topic.clone(), message.partition)).or_default();
        *place = (*place).max(message.offset + 1);
    }
    next
}

/// Commits what is stored and leaves the group. While somebody still asks something through the client, that is left to them, or
/// to the session timeout if the process ends first: events that were not committed come again, and the inbox drops them.
async fn leave(client: Arc<ConsumerClient>) {
    if let Some(client) = Arc::into_inner(client) {
        // Whether it has left in time is all the same.
        drop(tokio::time::timeout(LEAVE_MAX, client.close()).await);
    }
}
