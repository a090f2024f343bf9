//! The topics of a cluster: they are created by whoever produces or reads them, when it starts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::seq::IndexedRandom;
use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;
use tokio::task::spawn_blocking;

use super::{Admin, Kafka};
use crate::backoff::Backoff;
use crate::error::{Error, Result};

/// The topics of `cluster` that need not be created any more: they exist, or the cluster refuses them for good.
#[derive(Default)]
pub(super) struct Topics {
    cluster: Option<Arc<str>>,
    names: BTreeSet<String>,
    /// Topics are not created in it before this.
    opens_at: Option<Instant>,
}

/// A broker that replaces another one gets its topics after this. Until then nothing can be written to it, so producers
/// that still hold messages for the lost broker have the time to drop them. Otherwise these would come before the events
/// that are published again. Several times [`LOOK_PERIOD`].
const GRACE: Duration = Duration::from_millis(250);

/// Between attempts to create topics on a broker that is away.
const AWAY: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(5) };

impl Kafka {
    /// Creates `topics` as soon as there is a broker that can have them. Returns when there is nothing left to create.
    pub(crate) async fn create_topics(&self, topics: &[&str]) {
        let mut attempt = 0;
        while !self.ensure_topics(topics).await.is_ok_and(|missing| missing.is_empty()) {
            attempt += 1;
            tokio::time::sleep(AWAY.delay(attempt)).await;
        }
    }

    /// Creates those of `topics` (named without the namespace) that the cluster does not have. Returns those that it cannot
    /// create for now, with the reason; the caller asks again later.
    ///
    /// Costs no request when they are known to exist. A new cluster is noticed and gets them again.
    pub async fn ensure_topics(&self, topics: &[&str]) -> Result<BTreeMap<String, String>> {
        let cluster = self.cluster_id().await?;
        let (missing, opens_at) = self.missing(&cluster, topics);
        if missing.is_empty() {
            return Ok(BTreeMap::new());
        }
        if let Some(opens_at) = opens_at {
            tokio::time::sleep_until(opens_at.into()).await;
        }
        let settings = &self.0.settings;
        let retention_ms = Duration::from_hours(settings.retention_hours).as_millis().to_string();
        let replication = || TopicReplication::Fixed(settings.replication_factor);
        let new_topics: Vec<NewTopic<'_>> = missing
            .iter()
            .map(|name| NewTopic::new(name, settings.partitions, replication()).set("retention.ms", &retention_ms))
            .collect();
        let limit = self.request_timeout();
        let admin = self.admin();
        // Any broker passes the request on to the controller. librdkafka would wait for the controller that the metadata
        // names, and its mock cluster, which is the embedded broker, names one that does not exist.
        let broker = admin.brokers.lock().choose(&mut rand::rng()).copied();
        let options = AdminOptions::new().request_timeout(Some(limit)).operation_timeout(Some(limit)).broker_id(broker);
        let mut failed = BTreeMap::new();
        match admin.client.create_topics(&new_topics, &options).await {
            Ok(outcomes) => failed.extend(outcomes.into_iter().filter_map(std::result::Result::err)),
            // A broker that does not know this request creates topics when a client first names them.
            Err(KafkaError::AdminOp(RDKafkaErrorCode::UnsupportedFeature)) => {}
            Err(error) => return Err(Error::transient(error)),
        }
        failed.retain(|_, code| *code != RDKafkaErrorCode::TopicAlreadyExists);
        // Whoever may make no topics is told so of those too that somebody else has made.
        let is_denied = |code: &RDKafkaErrorCode| *code == RDKafkaErrorCode::TopicAuthorizationFailed;
        let denied: Vec<String> =
            failed.iter().filter(|(_, code)| is_denied(code)).map(|(name, _)| name.clone()).collect();
        if !denied.is_empty() {
            for name in spawn_blocking(move || admin.existing(&denied, limit)).await?? {
                failed.remove(&name);
            }
        }
        for (topic, code) in &failed {
            tracing::error!(
                topic,
                error = %code,
                "Kafka cannot create topic {topic}: {code}. Its events wait, or are refused one by one if it never can. If the topic is \
                 there, our user may not see it"
            );
        }
        failed.retain(|_, code| is_temporary(*code));
        let mut known = self.0.topics.lock();
        if known.cluster.as_ref() == Some(&cluster) {
            known.names.extend(missing.into_iter().filter(|name| !failed.contains_key(name)));
        }
        Ok(failed.into_iter().map(|(name, code)| (self.bare_topic(&name).to_owned(), code.to_string())).collect())
    }

    /// The broker does not have a topic that was known to exist: nothing is known about topics any more.
    pub(crate) fn forget_topics(&self) {
        self.0.topics.lock().names.clear();
    }

    /// Whether this process has met another cluster since it met `cluster`.
    pub(crate) fn has_moved_on_from(&self, cluster: &Arc<str>) -> bool {
        self.0.topics.lock().cluster.as_ref().is_some_and(|known| known != cluster)
    }

    fn missing(&self, cluster: &Arc<str>, topics: &[&str]) -> (Vec<String>, Option<Instant>) {
        let mut known = self.0.topics.lock();
        if known.cluster.as_ref() != Some(cluster) {
            let opens_at = known.cluster.is_some().then(|| Instant::now() + GRACE);
            *known = Topics { cluster: Some(cluster.clone()), names: BTreeSet::new(), opens_at };
        }
        let names = topics.iter().map(|topic| self.topic(topic)).filter(|name| !known.names.contains(name));
        // Each once: the answer names a topic once, and the binding reads as many as were asked for.
        (names.collect::<BTreeSet<String>>().into_iter().collect(), known.opens_at)
    }
}

impl Admin {
    /// Those of `topics` that there are and that our user may know of. Blocks.
    fn existing(&self, topics: &[String], limit: Duration) -> Result<Vec<String>> {
        let metadata = self.client.inner().fetch_metadata(None, limit).map_err(Error::transient)?;
        let there: BTreeSet<&str> = metadata.topics().iter().map(MetadataTopic::name).collect();
        Ok(topics.iter().filter(|name| there.contains(name.as_str())).cloned().collect())
    }
}

/// Whether a topic cannot be created for now, because of the cluster's state and not because of the request.
///
/// Somebody with more rights has not made it yet; a controller is being elected; or brokers are fenced after a stall: the
/// cluster then has too few of them for the topic's replicas, and answers as if their number were wrong.
fn is_temporary(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    !matches!(
        code,
        Code::InvalidTopic
            | Code::InvalidPartitions
            | Code::InvalidConfig
            | Code::InvalidRequest
            | Code::PolicyViolation
            | Code::ClusterAuthorizationFailed
            | Code::UnsupportedVersion
    )
}
