//! `Faithful`: whether a client is still connected to the cluster that it was made for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;

use super::log_debug;

/// What a client for the log of one cluster has heard of the clusters that it was connected to.
pub(crate) struct Faithful {
    cluster: Arc<str>,
    /// Whether the first cluster that it met was the right one. Not set before it met one.
    began_well: OnceLock<bool>,
    has_met_another: AtomicBool,
}

impl Faithful {
    pub(crate) fn new(cluster: Arc<str>) -> Faithful {
        Faithful { cluster, began_well: OnceLock::new(), has_met_another: AtomicBool::new(false) }
    }

    /// Whether `client`, of which this is a part, has met another cluster than its own.
    ///
    /// librdkafka says so itself when it meets a second one, in a line of its log, which comes through the same queue as
    /// the messages and reports from there and thus before them. Only the first it is asked for, and that only until
    /// it knows: the binding never frees the answer.
    pub(crate) fn has_strayed<C: ClientContext>(&self, client: &Client<C>) -> bool {
        if self.has_met_another.load(Ordering::Acquire) {
            return true;
        }
        let began_well = self.began_well.get().copied().or_else(|| {
            let first = client.fetch_cluster_id(Duration::ZERO)?;
            Some(*self.began_well.get_or_init(|| *first == *self.cluster))
        });
        began_well == Some(false)
    }

    pub(crate) fn hear(&self, facility: &str, message: &str) {
        if facility == "CLUSTERID" {
            self.has_met_another.store(true, Ordering::Release);
        }
        log_debug(facility, message);
    }
}

impl ClientContext for Faithful {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.hear(facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log_debug(&error.to_string(), reason);
    }
}

impl ConsumerContext for Faithful {}
