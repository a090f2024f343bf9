//! Sending one batch: all rows in order, then one wait for all of their reports.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::SecondsFormat;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};

use super::reports::{Report, Reports, report_of};
use super::session::Row;
use crate::error::{Error, Result};
use crate::kafka::librdkafka::ClosedElsewhere;
use crate::kafka::{Kafka, LOOK_PERIOD};

/// An idempotent producer for the log of one cluster. Sends one batch at a time.
pub(super) struct Producer {
    /// When it is dropped, its messages are purged.
    inner: ClosedElsewhere<ThreadedProducer<Reports>>,
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
        Ok(Producer { inner: ClosedElsewhere::new(inner), kafka: kafka.clone(), cluster, source, delivery_timeout })
    }

    pub(super) fn cluster(&self) -> &Arc<str> {
        &self.cluster
    }

    /// Sends `rows` in order to the topics of `names` and returns a report for each, in the same order.
    ///
    /// After a report that is [`Report::Unknown`] this producer must not be used any more.
    pub(super) async fn send(&self, rows: &[Row], names: &[String]) -> Vec<Report> {
        let producer = &self.inner;
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
                reports.report(index, report_of(&error));
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
        let guard = &self.inner.context().cluster_id;
        guard.cluster_changed(self.inner.client()) || self.kafka.has_moved_on_from(&self.cluster)
    }

    /// Why this producer will never send anything again, if so.
    pub(super) fn fatal_error(&self) -> Option<String> {
        self.inner.client().fatal_error().map(|(_, reason)| reason)
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
