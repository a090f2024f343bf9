//! What the broker reports about a batch of events, and what follows for each row.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::ProducerContext;
use tokio::sync::Notify;

use super::session::Row;
use crate::kafka::librdkafka::{ClusterIdGuard, log_debug};

/// What is known about a message that was given to the producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Report {
    /// In the broker's log.
    Acknowledged,
    /// The broker refuses this very message.
    Refused(String),
    /// Not sent, because an earlier one of its key was refused in the same batch.
    HeldBack,
    /// No report came, or one that does not say. The message may be in the log; it is sent again.
    Unknown,
}

/// What follows for the rows of a batch.
#[derive(Debug)]
pub(super) struct BatchOutcome<'r> {
    /// The ids of the rows that are in the log for sure. No other row may be marked as published.
    pub(super) acknowledged: Vec<i64>,
    /// The rows that are charged an attempt, with the broker's reason: of each key the first that was refused. Those
    /// behind it are tried when it has gone.
    pub(super) refused: Vec<(&'r Row, &'r str)>,
    /// The producer may still hold some of the rows, so it must not be used any more.
    pub(super) has_unknown: bool,
}

impl<'r> BatchOutcome<'r> {
    /// `reports` are those of `rows`, in the same order. A row without a report counts as unknown.
    pub(super) fn of(rows: &'r [Row], reports: &'r [Report]) -> BatchOutcome<'r> {
        let mut keys = HashSet::new();
        let mut outcome =
            BatchOutcome { acknowledged: Vec::new(), refused: Vec::new(), has_unknown: reports.len() < rows.len() };
        for (row, report) in rows.iter().zip(reports) {
            match report {
                Report::Acknowledged => outcome.acknowledged.push(row.id),
                Report::Refused(error) if keys.insert((&row.topic, &row.key)) => outcome.refused.push((row, error)),
                Report::Refused(_) | Report::HeldBack => {}
                Report::Unknown => outcome.has_unknown = true,
            }
        }
        outcome
    }
}

/// The context of a producer's client: collects the reports of the batch under way.
pub(super) struct Reports {
    pub(super) cluster_id: ClusterIdGuard,
    batch: Mutex<Vec<Report>>,
    missing: AtomicUsize,
    pub(super) all_in: Notify,
}

impl Reports {
    pub(super) fn new(cluster: Arc<str>) -> Reports {
        let cluster_id = ClusterIdGuard::new(cluster);
        Reports { cluster_id, batch: Mutex::default(), missing: AtomicUsize::new(0), all_in: Notify::new() }
    }

    /// Until its report comes, nothing is known about a message.
    pub(super) fn begin(&self, count: usize) {
        *self.batch.lock() = vec![Report::Unknown; count];
        self.missing.store(count, Ordering::Release);
    }

    pub(super) fn report(&self, index: usize, report: Report) {
        if let Some(place) = self.batch.lock().get_mut(index) {
            *place = report;
        }
        if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.all_in.notify_one();
        }
    }

    pub(super) fn end(&self) -> Vec<Report> {
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
        self.report(index, result.as_ref().map_or_else(|(error, _)| report_of(error), |_| Report::Acknowledged));
    }
}

/// Only errors that the message itself causes are refusals. Everything else concerns the broker and will pass.
pub(super) fn report_of(error: &KafkaError) -> Report {
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

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use uuid::Uuid;

    use super::*;

    fn row(id: i64, key: &str) -> Row {
        Row {
            id,
            event_id: Uuid::now_v7(),
            topic: "T".to_owned(),
            key: key.to_owned(),
            aggregate_version: id,
            payload: String::new(),
            headers: serde_json::json!({}),
            attempts: 0,
            created_at: Utc::now(),
        }
    }

    #[test]
    fn a_report_that_never_came_is_unknown() {
        let reports = Reports::new("cluster".into());
        reports.begin(3);
        reports.report(1, Report::Acknowledged);
        assert_eq!(reports.end(), [Report::Unknown, Report::Acknowledged, Report::Unknown]);
    }

    #[test]
    fn only_acknowledged_rows_count_as_published_whatever_else_was_reported() {
        let rows = [row(1, "a"), row(2, "b"), row(3, "a")];
        let kinds = [Report::Acknowledged, Report::Refused("no".to_owned()), Report::HeldBack, Report::Unknown];
        for number in 0..kinds.len().pow(3) {
            let reports: Vec<Report> = (0..3).map(|place| kinds[number / kinds.len().pow(place) % 4].clone()).collect();
            let outcome = BatchOutcome::of(&rows, &reports);
            let ids_of = |wanted: &dyn Fn(&Report) -> bool| -> Vec<i64> {
                rows.iter().zip(&reports).filter(|(_, report)| wanted(report)).map(|(row, _)| row.id).collect()
            };
            let acknowledged = ids_of(&|report| *report == Report::Acknowledged);
            assert_eq!(
                outcome.acknowledged, acknowledged,
                "an event is published only when it was acknowledged: {reports:?}"
            );
            let mut refused = ids_of(&|report| matches!(report, Report::Refused(_)));
            if refused.contains(&1) {
                // Row 3 has the key of row 1.
                refused.retain(|id| *id != 3);
            }
            let charged: Vec<i64> = outcome.refused.iter().map(|(row, _)| row.id).collect();
            assert_eq!(charged, refused, "the first refused row of each key is charged: {reports:?}");
            assert_eq!(outcome.has_unknown, reports.contains(&Report::Unknown), "{reports:?}");
        }
    }

    #[test]
    fn rows_without_a_report_are_unknown() {
        let rows = [row(1, "a"), row(2, "b")];
        let outcome = BatchOutcome::of(&rows, &[Report::Acknowledged]);
        assert_eq!((outcome.acknowledged, outcome.has_unknown), (vec![1], true));
    }

    #[test]
    fn an_error_that_does_not_concern_the_message_is_no_refusal_and_no_acknowledgement() {
        use RDKafkaErrorCode as Code;
        for code in
            [Code::MessageTimedOut, Code::PurgeQueue, Code::PurgeInflight, Code::NotEnoughReplicas, Code::QueueFull]
        {
            assert_eq!(report_of(&KafkaError::MessageProduction(code)), Report::Unknown, "{code:?}");
        }
        for code in [Code::MessageSizeTooLarge, Code::UnknownTopicOrPartition, Code::TopicAuthorizationFailed] {
            assert!(matches!(report_of(&KafkaError::MessageProduction(code)), Report::Refused(_)), "{code:?}");
        }
    }
}
