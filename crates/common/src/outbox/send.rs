//! Sending one batch: all rows in order, then one wait for all of their reports.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};
use diesel::{QueryableByName, sql_types};
use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::kafka::librdkafka::{ClusterIdGuard, drop_in_background, log_debug};
use crate::kafka::{Kafka, LOOK_PERIOD};

/// A row of the outbox on its way.
#[derive(Debug, QueryableByName)]
pub(super) struct Row {
    #[diesel(sql_type = sql_types::BigInt)]
    pub(super) id: i64,
    #[diesel(sql_type = sql_types::Uuid)]
    pub(super) event_id: Uuid,
    #[diesel(sql_type = sql_types::Text)]
    pub(super) topic: String,
    #[diesel(sql_type = sql_types::Text)]
    pub(super) key: String,
    #[diesel(sql_type = sql_types::BigInt)]
    pub(super) aggregate_version: i64,
    #[diesel(sql_type = sql_types::Text)]
    pub(super) payload: String,
    #[diesel(sql_type = sql_types::Jsonb)]
    pub(super) headers: serde_json::Value,
    #[diesel(sql_type = sql_types::Integer)]
    pub(super) attempts: i32,
    #[diesel(sql_type = sql_types::Timestamptz)]
    pub(super) created_at: DateTime<Utc>,
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Report {
    /// On the disks of enough brokers.
    Acknowledged,
    /// The broker does not want this very message.
    Refused(String),
    /// Not sent, because an earlier one of its key was refused in the same batch.
    HeldBack,
    /// Not known to be there. It may be, and is sent again.
    Unknown,
}

/// An idempotent producer for the log of one cluster. Sends one batch at a time.
pub(super) struct Producer {
    /// Taken out only when dropped.
    inner: Option<ThreadedProducer<Reports>>,
    kafka: Kafka,
    cluster: Arc<str>,
    source: String,
    delivery_timeout: Duration,
}

/// Events larger than the outbox allows cannot exist, and this leaves room for their headers.
const MESSAGE_BYTES_MAX: &str = "1000000";

impl Producer {
    pub(super) fn new(kafka: &Kafka, cluster: Arc<str>, schema: &str) -> Result<Producer> {
        let settings = kafka.settings();
        let inner = kafka
            .client_config()
            .set("client.id", format!("{schema}-relay"))
            .set("acks", "all")
            .set("enable.idempotence", "true")
            // For ever. If messages could expire, the second of a key might, while the third is written. It is the
            // relay that loses patience, and then it sends all of them again through a new producer.
            .set("message.timeout.ms", "0")
            // An unknown topic must be reported before the relay loses patience, or it would be taken for an outage.
            .set("topic.metadata.propagation.max.ms", (settings.delivery_timeout_ms / 2).to_string())
            .set("linger.ms", settings.linger_ms.to_string())
            .set("compression.type", "lz4")
            .set("message.max.bytes", MESSAGE_BYTES_MAX)
            // The partition that Java clients would choose for the same key.
            .set("partitioner", "murmur2_random")
            .create_with_context(Reports::new(cluster.clone()))
            .map_err(Error::transient)?;
        let delivery_timeout = Duration::from_millis(settings.delivery_timeout_ms);
        let source = format!("stampede/{schema}");
        Ok(Producer { inner: Some(inner), kafka: kafka.clone(), cluster, source, delivery_timeout })
    }

    pub(super) fn cluster(&self) -> &Arc<str> {
        &self.cluster
    }

    /// Sends `rows` in order to the topics of `names` and returns a report for each, in the same order.
    ///
    /// After a report that is [`Report::Unknown`] this producer must not be used any more.
    pub(super) async fn send(&self, rows: &[Row], names: &[String]) -> Vec<Report> {
        let Some(producer) = &self.inner else { return vec![Report::Unknown; rows.len()] };
        let reports = producer.context().clone();
        reports.begin(rows.len());
        let mut refused = HashSet::new();
        for (index, (row, name)) in rows.iter().zip(names).enumerate() {
            if refused.contains(&(&row.topic, &row.key)) {
                reports.report(index, Report::HeldBack);
                continue;
            }
            let record = BaseRecord::with_opaque_to(name, index)
                .key(row.key.as_bytes())
                .payload(row.payload.as_bytes())
                .headers(headers(row, &self.source));
            if let Err((error, _)) = producer.send(record) {
                refused.insert((&row.topic, &row.key));
                reports.report(index, outcome(&error));
            }
        }
        let deadline = Instant::now() + self.delivery_timeout;
        while tokio::time::timeout(LOOK_PERIOD, reports.all_in.notified()).await.is_err() {
            if Instant::now() >= deadline || self.is_outdated() {
                break;
            }
        }
        reports.end()
    }

    /// Whether the broker turned out to be of another cluster. What it acknowledged then is worth nothing.
    ///
    /// A client learns the cluster's id, and the topics of that cluster, each time it connects. Not airtight: a
    /// message that was on its way when the broker was lost can still come before its predecessors in the new log, if
    /// another process has created the topics there already. Consumers that mind compare versions.
    pub(super) fn is_outdated(&self) -> bool {
        let cluster_changed =
            |producer: &ThreadedProducer<Reports>| producer.context().cluster_id.cluster_changed(producer.client());
        self.inner.as_ref().is_some_and(cluster_changed) || self.kafka.has_moved_on_from(&self.cluster)
    }

    /// Why this producer will never send anything again, if so.
    pub(super) fn fatal_error(&self) -> Option<String> {
        self.inner.as_ref()?.client().fatal_error().map(|(_, reason)| reason)
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        // Its messages are purged.
        drop_in_background(self.inner.take());
    }
}

/// The reports of the batch under way.
struct Reports {
    cluster_id: ClusterIdGuard,
    batch: Mutex<Vec<Report>>,
    missing: AtomicUsize,
    all_in: Notify,
}

impl Reports {
    fn new(cluster: Arc<str>) -> Reports {
        let cluster_id = ClusterIdGuard::new(cluster);
        Reports { cluster_id, batch: Mutex::default(), missing: AtomicUsize::new(0), all_in: Notify::new() }
    }

    fn begin(&self, count: usize) {
        *self.batch.lock() = vec![Report::Unknown; count];
        self.missing.store(count, Ordering::Release);
    }

    fn report(&self, index: usize, report: Report) {
        if let Some(place) = self.batch.lock().get_mut(index) {
            *place = report;
        }
        if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.all_in.notify_one();
        }
    }

    fn end(&self) -> Vec<Report> {
        std::mem::take(&mut *self.batch.lock())
    }
}

impl ClientContext for Reports {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.cluster_id.read_log(facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log_debug(&error.to_string(), reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, index: usize) {
        self.report(index, result.as_ref().map_or_else(|(error, _)| outcome(error), |_| Report::Acknowledged));
    }
}

/// Only errors that the message itself provokes are refusals. Everything else is the broker's trouble and will pass.
fn outcome(error: &KafkaError) -> Report {
    use RDKafkaErrorCode as Code;
    match error {
        KafkaError::MessageProduction(
            Code::MessageSizeTooLarge
            | Code::MessageBatchTooLarge
            | Code::InvalidMessageSize
            | Code::InvalidMessage
            | Code::InvalidRecord
            | Code::InvalidTimestamp
            | Code::InvalidTopic
            | Code::UnknownTopic
            | Code::UnknownTopicOrPartition
            | Code::UnknownPartition
            | Code::TopicAuthorizationFailed
            | Code::PolicyViolation,
        )
        | KafkaError::Nul(_) => Report::Refused(error.to_string()),
        _ => Report::Unknown,
    }
}

/// CloudEvents in Kafka's binary mode.
fn headers(row: &Row, source: &str) -> OwnedHeaders {
    let time = row.created_at.to_rfc3339_opts(SecondsFormat::Millis, true);
    let (id, version) = (row.event_id.to_string(), row.aggregate_version.to_string());
    let attributes = [
        ("ce_id", id.as_str()),
        ("ce_source", source),
        ("ce_type", &row.topic),
        ("ce_specversion", "1.0"),
        ("ce_time", &time),
        ("ce_subject", &row.key),
        ("ce_aggregateversion", &version),
        ("content-type", "application/json"),
    ];
    let context = row.headers.as_object().into_iter().flatten();
    let context = context.filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)));
    attributes
        .into_iter()
        .chain(context)
        .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }))
}
