//! `Kafka`: names of topics and groups, topics, and which cluster this is. Relays and consumers make their clients here.

mod access;
pub(crate) mod librdkafka;
mod topics;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::admin::AdminClient;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use serde::Deserialize;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use crate::error::{Error, Result};
pub use access::client_config;
pub(crate) use access::problems;
use librdkafka::{ClosedElsewhere, ConsumerClient, GroupHealth, JOIN_MAX, Subscriber, log_debug};
use topics::Topics;

/// Section `[kafka]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaSettings {
    pub brokers: String,
    pub security: String,
    pub sasl_mechanism: String,
    pub username: String,
    pub password: secrecy::SecretString,
    pub ca_file: String,
    pub cert_file: String,
    pub key_file: String,
    pub partitions: i32,
    pub replication_factor: i32,
    pub retention_hours: u64,
    pub request_timeout_ms: u64,
    pub cluster_check_ms: u64,
    pub linger_ms: u64,
    pub delivery_timeout_ms: u64,
    pub session_timeout_ms: u64,
}

/// The brokers, as one process sees them. Cheap to clone.
#[derive(Clone)]
pub struct Kafka(Arc<Inner>);

struct Inner {
    settings: KafkaSettings,
    namespace: String,
    admin: Mutex<Arc<Admin>>,
    seen: tokio::sync::Mutex<Option<Seen>>,
    topics: Mutex<Topics>,
}

/// The client that asks for metadata and creates topics.
///
/// It is replaced when it does not answer any more: librdkafka may have forgotten all brokers for good (ADR 11, no. 1). A
/// client that has never answered knows no broker that it could forget, and is still connecting.
struct Admin {
    client: ClosedElsewhere<AdminClient<DebugLog>>,
    /// The ids of the brokers, as of the last answer; empty before the first.
    brokers: Mutex<Vec<i32>>,
}

impl Admin {
    fn new(settings: &KafkaSettings) -> Result<Admin, KafkaError> {
        let client = client_config(settings).create_with_context(DebugLog)?;
        Ok(Admin { client: ClosedElsewhere::new(client), brokers: Mutex::default() })
    }

    /// Blocks.
    fn cluster_id(&self, limit: Duration) -> Result<Arc<str>> {
        let client = self.client.inner();
        // Every answer with metadata renews the cluster id that librdkafka remembers, which the second call then reads
        // back. Alone, the second call would return the id of a broker that is long gone.
        let metadata = client.fetch_metadata(None, limit).map_err(Error::transient)?;
        if metadata.brokers().is_empty() {
            return Err(Error::transient(anyhow::anyhow!("no broker takes part in the cluster for now")));
        }
        *self.brokers.lock() = metadata.brokers().iter().map(|broker| broker.id()).collect();
        Ok(client.fetch_cluster_id(limit).unwrap_or_default().into())
    }
}

/// The last answer to the question for the cluster's id.
struct Seen {
    /// The answer is not older than this.
    at: Instant,
    cluster: Result<Arc<str>>,
}

/// How often a producer that waits for the broker looks whether it is still the same one.
pub(crate) const LOOK_PERIOD: Duration = Duration::from_millis(50);

impl Kafka {
    /// Connects in the background; an absent broker is not an error here. `namespace` goes before every topic and
    /// group, so that several sites can share a broker.
    pub fn open(settings: &KafkaSettings, namespace: &str) -> anyhow::Result<Kafka> {
        let inner = Inner {
            admin: Mutex::new(Arc::new(Admin::new(settings)?)),
            settings: settings.clone(),
            namespace: namespace.to_owned(),
            seen: tokio::sync::Mutex::new(None),
            topics: Mutex::default(),
        };
        Ok(Kafka(Arc::new(inner)))
    }

    /// The name of `topic` on the broker.
    pub fn topic(&self, topic: &str) -> String {
        format!("{}{topic}", self.0.namespace)
    }

    /// The inverse of [`Kafka::topic`].
    pub(crate) fn bare_topic<'t>(&self, name: &'t str) -> &'t str {
        name.strip_prefix(self.0.namespace.as_str()).unwrap_or(name)
    }

    pub(crate) fn settings(&self) -> &KafkaSettings {
        &self.0.settings
    }

    /// The id of the cluster, at most `kafka.cluster_check_ms` old. Fails, as transient, while no broker answers.
    pub(crate) async fn cluster_id(&self) -> Result<Arc<str>> {
        let age_max = Duration::from_millis(self.0.settings.cluster_check_ms);
        let now = Instant::now();
        self.cluster_id_since(now.checked_sub(age_max).unwrap_or(now)).await
    }

    /// The id of the cluster, not older than `moment`: for callers that met an error at `moment`.
    pub(crate) async fn cluster_id_since(&self, moment: Instant) -> Result<Arc<str>> {
        let called_at = Instant::now();
        // Held while asking, so that all callers share one question.
        let mut seen = self.0.seen.lock().await;
        // A failure is shared only with those who waited for it. A later caller asks again, however old its moment is.
        let is_usable = |seen: &&Seen| seen.at >= if seen.cluster.is_ok() { moment } else { called_at };
        if let Some(seen) = seen.as_ref().filter(is_usable) {
            return seen.cluster.clone();
        }
        let asked_at = Instant::now();
        let (admin, limit) = (self.admin(), self.request_timeout());
        let asking = admin.clone();
        let cluster = spawn_blocking(move || asking.cluster_id(limit)).await?;
        if cluster.is_err() && !admin.brokers.lock().is_empty() {
            self.replace_admin();
        }
        // A broker that answered may have been replaced since it was asked. One that did not answer is unreachable until now.
        let at = if cluster.is_ok() { asked_at } else { Instant::now() };
        *seen = Some(Seen { at, cluster: cluster.clone() });
        cluster
    }

    fn admin(&self) -> Arc<Admin> {
        self.0.admin.lock().clone()
    }

    fn replace_admin(&self) {
        match Admin::new(&self.0.settings) {
            Ok(admin) => *self.0.admin.lock() = Arc::new(admin),
            Err(error) => log_debug("admin", &error.to_string()),
        }
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.0.settings.request_timeout_ms)
    }

    /// The options that every client here shares.
    pub(crate) fn client_config(&self) -> ClientConfig {
        client_config(&self.0.settings)
    }

    /// A member of consumer group `group`, subscribed to `topics`, for the log of `cluster`.
    pub(crate) fn consumer(&self, group: &str, cluster: &Arc<str>, topics: &[&str]) -> Result<ConsumerClient> {
        let session_timeout = Duration::from_millis(self.0.settings.session_timeout_ms);
        let context = GroupHealth::new(cluster.clone(), session_timeout);
        let mut config = self.consumer_config(group, cluster);
        // `Subscriber` waits for a line that is logged at this level only.
        config.set("debug", "cgrp").set_log_level(RDKafkaLogLevel::Debug);
        let consumer = config.create_with_context(context).map_err(Error::transient)?;
        let consumer = ClosedElsewhere::new(Subscriber::new(consumer));
        let names: Vec<String> = topics.iter().map(|topic| self.topic(topic)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        consumer.subscribe(&names).map_err(Error::transient)?;
        Ok(consumer)
    }

    /// A client that gets partitions of the log of `cluster` assigned. It has the name of a group because librdkafka wants one.
    pub(crate) fn reader(&self, name: &str, cluster: &Arc<str>) -> Result<ConsumerClient> {
        let mut config = self.consumer_config(&format!("{name}-{}", Uuid::new_v4()), cluster);
        config.set("enable.auto.commit", "false").set("statistics.interval.ms", "0");
        let context = GroupHealth::new(cluster.clone(), JOIN_MAX);
        Ok(ClosedElsewhere::new(Subscriber::new(config.create_with_context(context).map_err(Error::transient)?)))
    }

    /// The name on the broker of the consumer group `group` for the log of `cluster`.
    ///
    /// It ends with the cluster's id. Offsets belong to one log: were they taken for offsets of the log of a broker that
    /// replaced a lost one, the beginning of that log would be skipped. So a new log has a new group, without offsets, which
    /// starts at the beginning; the inbox drops events that it has applied before.
    fn group(&self, group: &str, cluster: &str) -> String {
        format!("{}{group}@{cluster}", self.0.namespace)
    }

    fn consumer_config(&self, group: &str, cluster: &str) -> ClientConfig {
        let settings = &self.0.settings;
        let mut config = self.client_config();
        config
            .set("group.id", self.group(group, cluster))
            .set("client.id", group)
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "true")
            .set("auto.commit.interval.ms", "1000")
            // For brokers that do not know CreateTopics; elsewhere the topics exist by now.
            .set("allow.auto.create.topics", "true")
            // Only what has been applied is committed.
            .set("enable.auto.offset.store", "false")
            .set("isolation.level", "read_committed")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", settings.session_timeout_ms.to_string())
            .set("max.poll.interval.ms", JOIN_MAX.as_millis().to_string())
            .set("heartbeat.interval.ms", (settings.session_timeout_ms / 3).to_string())
            // The broker answers a fetch as soon as it has one byte, so this costs no latency.
            .set("fetch.wait.max.ms", "500")
            .set("fetch.error.backoff.ms", "100")
            .set("statistics.interval.ms", "3000");
        config
    }
}

/// Writes librdkafka's lines to the log at debug level only: the caller that meets the failure logs it once.
struct DebugLog;

impl ClientContext for DebugLog {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_debug(facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log_debug(&error.to_string(), reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No broker listens there.
    pub fn settings() -> KafkaSettings {
        KafkaSettings {
            brokers: "127.0.0.1:1".to_owned(),
            partitions: 1,
            request_timeout_ms: 100,
            cluster_check_ms: 500,
            linger_ms: 0,
            delivery_timeout_ms: 1_000,
            ..crate::settings::Settings::defaults().unwrap().section("kafka").unwrap()
        }
    }

    /// The embedded broker is such a one.
    #[tokio::test]
    async fn a_broker_that_creates_topics_by_itself_is_not_asked_to() {
        let broker = rdkafka::mocking::MockCluster::new(1).unwrap();
        let settings = KafkaSettings { request_timeout_ms: 30_000, brokers: broker.bootstrap_servers(), ..settings() };
        let kafka = Kafka::open(&settings, "").unwrap();
        assert!(kafka.ensure_topics(&["t"]).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_broker_that_did_not_answer_is_asked_again_about_the_same_moment() {
        let (kafka, moment) = (Kafka::open(&settings(), "").unwrap(), Instant::now());
        let mut answered = Vec::new();
        for _ in 0..2 {
            kafka.cluster_id_since(moment).await.unwrap_err();
            answered.push(kafka.0.seen.lock().await.as_ref().unwrap().at);
        }
        assert!(answered[0] < answered[1], "the first failure was taken for an answer");
    }
}
