//! `Membership`: where a member of a consumer group stands, as its client tells every few seconds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use serde::Deserialize;

use super::{Faithful, log_debug};

/// How long the members of a group may take to share the partitions out anew: whoever does not come back for its part by
/// then is left out by the coordinator.
pub(super) const JOIN_MAX: Duration = Duration::from_secs(300);

/// The context of a consumer's client.
pub(crate) struct Membership {
    clusters: Faithful,
    /// The session's timeout.
    session: Duration,
    /// As it was told last; nothing before the first time.
    told: Mutex<Option<Told>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It has its part of the partitions, which may be none, or is about to take it or to give it back when it is asked to
    /// by its owner's next question for messages.
    Settled,
    /// It waits for the other members.
    Joining,
    /// It waits for the coordinator, for metadata, or for the answers to its last commits.
    Adrift,
}

#[derive(Debug, Clone, Copy)]
struct Told {
    standing: Standing,
    /// When it was told so first, without anything else in between.
    since: Instant,
    /// When it was first told that it is not settled, without being settled in between.
    unsettled_since: Instant,
    at: Instant,
}

impl Told {
    fn after(before: Option<Told>, standing: Standing, at: Instant) -> Told {
        let same = before.filter(|told| told.standing == standing);
        let unsettled = before.filter(|told| told.standing != Standing::Settled);
        let (since, unsettled_since) =
            (same.map_or(at, |told| told.since), unsettled.map_or(at, |it| it.unsettled_since));
        Told { standing, since, unsettled_since, at }
    }

    /// Time counts only between two times that it was told: who does not listen does not know.
    fn is_lost(&self, session: Duration) -> bool {
        match self.standing {
            Standing::Settled => false,
            // Others come back within the session's time.
            Standing::Adrift if self.at - self.since > 2 * session => true,
            Standing::Adrift | Standing::Joining => self.at - self.unsettled_since > JOIN_MAX + 2 * session,
        }
    }
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
            ("up", "steady" | "wait-assign-call" | "wait-unassign-call") => Standing::Settled,
            ("up", "wait-join" | "wait-sync") => Standing::Joining,
            _ => Standing::Adrift,
        }
    }
}

impl Membership {
    pub(crate) fn new(cluster: Arc<str>, session: Duration) -> Membership {
        Membership { clusters: Faithful::new(cluster), session, told: Mutex::new(None) }
    }

    pub(crate) fn clusters(&self) -> &Faithful {
        &self.clusters
    }

    /// Whether it has its place in the group, as far as is known.
    pub(crate) fn is_settled(&self) -> bool {
        self.told.lock().is_none_or(|told| told.standing == Standing::Settled)
    }

    /// Whether it has been without a place for so long that it will have none again.
    pub(crate) fn is_lost(&self) -> bool {
        self.told.lock().is_some_and(|told| told.is_lost(self.session))
    }

    /// The cluster does not answer anybody, so nothing that it was told counts.
    pub(crate) fn excuse(&self) {
        *self.told.lock() = None;
    }

    fn tell(&self, standing: Standing) {
        let mut told = self.told.lock();
        *told = Some(Told::after(*told, standing, Instant::now()));
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
                if let Some(group) = cgrp {
                    self.tell(group.standing());
                }
            }
            Err(error) => log_debug("statistics", &error.to_string()),
        }
    }
}

impl ConsumerContext for Membership {}

#[cfg(test)]
mod tests {
    use rdkafka::consumer::{Consumer, StreamConsumer};
    use sandbox::Server;

    use super::*;
    use crate::kafka::Kafka;
    use crate::kafka::tests::broker;

    const PATIENCE: Duration = Duration::from_secs(120);

    async fn until(client: &StreamConsumer<Membership>, wanted: Standing) {
        let started = Instant::now();
        while client.context().told.lock().map(|told| told.standing) != Some(wanted) {
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
        assert_eq!(standing("up", "wait-assign-call"), Standing::Settled);
        assert_eq!(standing("up", "wait-metadata"), Standing::Adrift);
        assert_eq!(standing("up", "wait-unassign-to-complete"), Standing::Adrift);
        assert_eq!(standing("query-coord", "steady"), Standing::Adrift);
        assert_eq!(standing("wait-broker-transport", "init"), Standing::Adrift);
    }

    #[test]
    fn only_who_is_told_so_for_long_is_lost() {
        const SESSION: Duration = Duration::from_secs(6);
        let start = Instant::now();
        let is_lost = |course: &[(u64, Standing)]| {
            let tell = |before, (second, standing): &(u64, Standing)| {
                Some(Told::after(before, *standing, start + Duration::from_secs(*second)))
            };
            course.iter().fold(None, tell).unwrap().is_lost(SESSION)
        };
        use Standing::{Adrift, Joining, Settled};
        assert!(!is_lost(&[(0, Adrift), (12, Adrift)]));
        assert!(is_lost(&[(0, Adrift), (13, Adrift)]));
        assert!(!is_lost(&[(0, Adrift), (6, Settled), (9, Adrift), (18, Adrift)]));
        assert!(!is_lost(&[(0, Adrift), (3, Joining), (6, Adrift), (16, Adrift)]));
        assert!(!is_lost(&[(0, Joining), (312, Joining)]));
        assert!(is_lost(&[(0, Joining), (313, Joining)]));
        assert!(is_lost(&[(0, Joining), (200, Adrift), (203, Joining), (313, Joining)]), "joins that never end");
        assert!(!is_lost(&[(0, Joining), (400, Settled)]));
    }

    /// The words are librdkafka's, and nothing promises that they stay.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_member_hears_where_it_stands() {
        let (sandbox, settings) = broker("membership").await;
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
