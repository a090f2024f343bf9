//! `Membership`: where a member of a consumer group stands, as its client tells every few seconds.

use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use serde::Deserialize;

use super::{Faithful, log_debug};

/// The context of a consumer's client.
pub(crate) struct Membership {
    clusters: Faithful,
    /// As it was told last; nothing before the first time.
    standing: Mutex<Option<Standing>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has its part of the partitions, which may be none.
    Settled,
    /// It waits for the other members, which have five minutes to share the partitions out anew.
    Joining,
    /// It waits for the coordinator, for metadata, or to be done with the partitions that it had.
    Adrift,
}

/// librdkafka's statistics, as far as anybody wants to know.
#[derive(Deserialize)]
struct Statistics<'a> {
    #[serde(borrow)]
    cgrp: Option<Group<'a>>,
}

#[derive(Deserialize)]
struct Group<'a> {
    state: &'a str,
    join_state: &'a str,
}

impl Group<'_> {
    fn standing(&self) -> Standing {
        match (self.state, self.join_state) {
            ("up", "steady") => Standing::Settled,
            ("up", "wait-join" | "wait-sync") => Standing::Joining,
            _ => Standing::Adrift,
        }
    }
}

impl Membership {
    pub(crate) fn new(cluster: Arc<str>) -> Membership {
        Membership { clusters: Faithful::new(cluster), standing: Mutex::new(None) }
    }

    pub(crate) fn clusters(&self) -> &Faithful {
        &self.clusters
    }

    pub(crate) fn standing(&self) -> Option<Standing> {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Membership {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.clusters.hear(facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log_debug(&error.to_string(), reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        match serde_json::from_slice::<Statistics<'_>>(statistics) {
            Ok(Statistics { cgrp }) => {
                *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = cgrp.map(|group| group.standing());
            }
            Err(error) => log_debug("statistics", &error.to_string()),
        }
    }
}

impl ConsumerContext for Membership {}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use rdkafka::consumer::{Consumer, StreamConsumer};
    use sandbox::{External, KafkaChoice, Options, Sandbox, Server};

    use super::*;
    use crate::kafka::{Kafka, KafkaSettings};

    const PATIENCE: Duration = Duration::from_secs(120);

    async fn until(client: &StreamConsumer<Membership>, wanted: Standing) {
        let started = Instant::now();
        while client.context().standing() != Some(wanted) {
            assert!(started.elapsed() < PATIENCE, "not told that it is {wanted:?}");
            // Where it stands comes the same way as messages do.
            drop(tokio::time::timeout(Duration::from_millis(10), client.recv()).await);
        }
    }

    #[test]
    fn who_waits_for_the_others_is_not_adrift() {
        let standing = |state, join_state| Group { state, join_state }.standing();
        assert_eq!(standing("up", "steady"), Standing::Settled);
        assert_eq!(standing("up", "wait-join"), Standing::Joining);
        assert_eq!(standing("up", "wait-sync"), Standing::Joining);
        assert_eq!(standing("up", "wait-metadata"), Standing::Adrift);
        assert_eq!(standing("up", "wait-unassign-to-complete"), Standing::Adrift);
        assert_eq!(standing("query-coord", "steady"), Standing::Adrift);
        assert_eq!(standing("wait-broker-transport", "init"), Standing::Adrift);
    }

    /// The words are librdkafka's, and nothing promises that they stay.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_member_hears_where_it_stands() {
        let data_dir = std::env::temp_dir().join(format!("stampede-membership-{}", std::process::id()));
        let nobody = || Some("127.0.0.1:1".to_owned());
        let external = External { postgres_url: nobody(), redis_url: nobody(), kafka_brokers: None };
        let options = Options { data_dir, ephemeral: true, kafka: KafkaChoice::Apache, external, ..Options::default() };
        let sandbox = Sandbox::start(options).await.unwrap();
        let settings = KafkaSettings {
            brokers: sandbox.kafka_brokers(),
            request_timeout_ms: 30_000,
            ..crate::kafka::tests::settings()
        };
        let kafka = Kafka::open(&settings, "").unwrap();
        let cluster = kafka.cluster_id().await.unwrap();
        kafka.ensure_topics(&["t"]).await.unwrap();
        let client = kafka.consumer("g", &cluster, &["t"]).unwrap();

        until(&client, Standing::Settled).await;
        assert_eq!(client.assignment().unwrap().count(), 1);
        sandbox.kill(Server::Kafka).await.unwrap();
        until(&client, Standing::Adrift).await;
        sandbox.restart(Server::Kafka).await.unwrap();
        until(&client, Standing::Settled).await;
        drop(client);
        sandbox.stop().await.unwrap();
    }
}
