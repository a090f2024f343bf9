//! `ClusterIdGuard`: whether a client is still connected to the cluster that it was made for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rdkafka::client::{Client, ClientContext};

/// What a client for the log of one cluster knows about the clusters that it was connected to.
pub(crate) struct ClusterIdGuard {
    cluster: Arc<str>,
    /// Whether the first cluster that it met was the right one. Not set before it met one.
    first_is_right: OnceLock<bool>,
    met_another: AtomicBool,
}

impl ClusterIdGuard {
    pub(crate) fn new(cluster: Arc<str>) -> ClusterIdGuard {
        ClusterIdGuard { cluster, first_is_right: OnceLock::new(), met_another: AtomicBool::new(false) }
    }

    /// Whether `client`, whose context holds this guard, has met another cluster than its own.
    ///
    /// librdkafka writes a line to its log when it meets a second cluster. The line comes through the same queue as the
    /// messages and reports from there, and before them. Only for the first cluster is the client asked, and only until
    /// it knows: the binding never frees the answer.
    pub(crate) fn cluster_changed<C: ClientContext>(&self, client: &Client<C>) -> bool {
        if self.met_another.load(Ordering::Acquire) {
            return true;
        }
        let first_is_right = self.first_is_right.get().copied().or_else(|| {
            let first = client.fetch_cluster_id(Duration::ZERO)?;
            Some(*self.first_is_right.get_or_init(|| *first == *self.cluster))
        });
        first_is_right == Some(false)
    }

    /// Takes a line of the client's log, to be called from [`ClientContext::log`].
    pub(crate) fn read_log(&self, facility: &str, message: &str) {
        if facility == "CLUSTERID" {
            self.met_another.store(true, Ordering::Release);
        }
        log_debug(facility, message);
    }

    /// Whether the client has met a cluster yet.
    #[cfg(test)]
    pub(super) fn has_met_one(&self) -> bool {
        self.first_is_right.get().is_some()
    }
}

/// Keeps librdkafka's own lines out of the log at levels that operators read: who meets the failure logs it once.
pub(crate) fn log_debug(what: &str, message: &str) {
    tracing::debug!(kafka.facility = what, "Kafka's client says: {message}");
}
