//! `GroupHealth`: whether a consumer still has a place in its group, taken from its client's statistics.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use serde::Deserialize;
use tokio::sync::Notify;

use super::cluster_id_guard::{ClusterIdGuard, log_debug};

/// How long a rebalance may take: the coordinator removes members that have not joined again by then.
pub(crate) const JOIN_MAX: Duration = Duration::from_secs(300);

/// The context of a consumer's client.
pub(crate) struct GroupHealth {
    cluster_id: ClusterIdGuard,
    session_timeout: Duration,
    /// The last report of the client; nothing before the first.
    last: Mutex<Option<Report>>,
    subscription_given_up: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JoinState {
    /// It has its partitions, which may be none, or takes them or gives them up with the next question for messages.
    Stable,
    /// It waits for the other members.
    Rebalancing,
    /// It waits for an answer of the broker: for the coordinator, for metadata, or to its last commits.
    WaitingForBroker,
}

#[derive(Debug, Clone, Copy)]
struct Report {
    state: JoinState,
    /// Since when each report has had this state.
    since: Instant,
    /// Since when no report was stable.
    unstable_since: Instant,
    at: Instant,
}

impl Report {
    fn after(before: Option<Report>, state: JoinState, at: Instant) -> Report {
        let same = before.filter(|report| report.state == state);
        let unstable = before.filter(|report| report.state != JoinState::Stable);
        let (since, unstable_since) =
            (same.map_or(at, |report| report.since), unstable.map_or(at, |report| report.unstable_since));
        Report { state, since, unstable_since, at }
    }

    /// Counts only the time between two reports: they come only while the consumer is polled.
    fn is_stuck(&self, session_timeout: Duration) -> bool {
        match self.state {
            JoinState::Stable => false,
            // A healthy client gets its answer within the session timeout.
            JoinState::WaitingForBroker if self.at - self.since > 2 * session_timeout => true,
            JoinState::WaitingForBroker | JoinState::Rebalancing => {
                self.at - self.unstable_since > JOIN_MAX + 2 * session_timeout
            }
        }
    }
}

/// The part of librdkafka's statistics that is read here.
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
    fn state(&self) -> JoinState {
        match (self.state, self.join_state) {
            ("up", "steady" | "wait-assign-call" | "wait-unassign-call") => JoinState::Stable,
            ("up", "wait-join" | "wait-sync") => JoinState::Rebalancing,
            _ => JoinState::WaitingForBroker,
        }
    }
}

impl GroupHealth {
    pub(crate) fn new(cluster: Arc<str>, session_timeout: Duration) -> GroupHealth {
        GroupHealth {
            cluster_id: ClusterIdGuard::new(cluster),
            session_timeout,
            last: Mutex::new(None),
            subscription_given_up: Notify::new(),
        }
    }

    pub(crate) fn cluster_id(&self) -> &ClusterIdGuard {
        &self.cluster_id
    }

    /// Whether it has its place in the group, or nothing else is known.
    pub(crate) fn is_stable(&self) -> bool {
        self.state().is_none_or(|state| state == JoinState::Stable)
    }

    /// Whether it has been without a place for so long that it never gets one again.
    pub(crate) fn is_stuck(&self) -> bool {
        self.last.lock().is_some_and(|report| report.is_stuck(self.session_timeout))
    }

    pub(super) fn session_timeout(&self) -> Duration {
        self.session_timeout
    }

    /// Resolves when the client has logged that it has no subscription any more, once for each such line.
    pub(super) async fn subscription_given_up(&self) {
        self.subscription_given_up.notified().await;
    }

    /// Forgets the reports: the cluster does not answer anybody, so they say nothing about this client.
    pub(crate) fn reset(&self) {
        *self.last.lock() = None;
    }

    pub(super) fn state(&self) -> Option<JoinState> {
        self.last.lock().map(|report| report.state)
    }

    fn report(&self, state: JoinState) {
        let mut last = self.last.lock();
        *last = Some(Report::after(*last, state, Instant::now()));
    }
}

impl ClientContext for GroupHealth {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // "Group ...: Not rejoining group ...: no subscribed topics"
        if facility == "NOREJOIN" {
            self.subscription_given_up.notify_one();
        }
        // Some lines a second for each partition.
        if !matches!(level, RDKafkaLogLevel::Debug) {
            self.cluster_id.read_log(facility, message);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log_debug(&error.to_string(), reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        match serde_json::from_slice::<Statistics<'_>>(statistics) {
            Ok(Statistics { cgrp }) => {
                if let Some(group) = cgrp {
                    self.report(group.state());
                }
            }
            Err(error) => log_debug("statistics", &error.to_string()),
        }
    }
}

impl ConsumerContext for GroupHealth {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_waits_for_the_others_does_not_wait_for_the_broker() {
        let state = |state, join_state| Group { state, join_state }.state();
        assert_eq!(state("up", "steady"), JoinState::Stable);
        assert_eq!(state("up", "wait-join"), JoinState::Rebalancing);
        assert_eq!(state("up", "wait-sync"), JoinState::Rebalancing);
        assert_eq!(state("up", "wait-assign-call"), JoinState::Stable);
        assert_eq!(state("up", "wait-metadata"), JoinState::WaitingForBroker);
        assert_eq!(state("up", "wait-unassign-to-complete"), JoinState::WaitingForBroker);
        assert_eq!(state("query-coord", "steady"), JoinState::WaitingForBroker);
        assert_eq!(state("wait-broker-transport", "init"), JoinState::WaitingForBroker);
    }

    #[test]
    fn only_a_member_that_reports_no_place_for_long_is_stuck() {
        const SESSION: Duration = Duration::from_secs(6);
        let start = Instant::now();
        let is_stuck = |reports: &[(u64, JoinState)]| {
            let report = |before, (second, state): &(u64, JoinState)| {
                Some(Report::after(before, *state, start + Duration::from_secs(*second)))
            };
            reports.iter().fold(None, report).unwrap().is_stuck(SESSION)
        };
        use JoinState::{Rebalancing, Stable, WaitingForBroker};
        assert!(!is_stuck(&[(0, WaitingForBroker), (12, WaitingForBroker)]));
        assert!(is_stuck(&[(0, WaitingForBroker), (13, WaitingForBroker)]));
        assert!(!is_stuck(&[(0, WaitingForBroker), (6, Stable), (9, WaitingForBroker), (18, WaitingForBroker)]));
        assert!(!is_stuck(&[(0, WaitingForBroker), (3, Rebalancing), (6, WaitingForBroker), (16, WaitingForBroker)]));
        assert!(!is_stuck(&[(0, Rebalancing), (312, Rebalancing)]));
        assert!(is_stuck(&[(0, Rebalancing), (313, Rebalancing)]));
        let never_ends = [(0, Rebalancing), (200, WaitingForBroker), (203, Rebalancing), (313, Rebalancing)];
        assert!(is_stuck(&never_ends), "a rebalance that never ends");
        assert!(!is_stuck(&[(0, Rebalancing), (400, Stable)]));
    }
}
