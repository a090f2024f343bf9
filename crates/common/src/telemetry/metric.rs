//! What is counted: each metric has its help, and its zeros from the start, so that an alarm sees the first event.

use metrics::Label;

/// A metric, as `/metrics` shows it.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    pub kind: MetricKind,
    pub name: &'static str,
    pub help: &'static str,
    /// Names, each with its values. Values that are known only where they are counted are left out.
    pub labels: &'static [(&'static str, &'static [&'static str])],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

/// Names of labels with their values.
type Labels = &'static [(&'static str, &'static [&'static str])];

impl Metric {
    pub const fn counter(name: &'static str, help: &'static str, labels: Labels) -> Metric {
        Metric { kind: MetricKind::Counter, name, help, labels }
    }

    pub const fn gauge(name: &'static str, help: &'static str, labels: Labels) -> Metric {
        Metric { kind: MetricKind::Gauge, name, help, labels }
    }

    pub const fn histogram(name: &'static str, help: &'static str, labels: Labels) -> Metric {
        Metric { kind: MetricKind::Histogram, name, help, labels }
    }

    /// Tells its help, and shows zeros for all of its known labels. A histogram begins with its first value.
    pub fn announce(&self) {
        let Metric { kind, name, help, labels } = *self;
        match kind {
            MetricKind::Counter => metrics::describe_counter!(name, help),
            MetricKind::Gauge => metrics::describe_gauge!(name, help),
            MetricKind::Histogram => metrics::describe_histogram!(name, help),
        }
        for labels in combinations(labels) {
            match kind {
                MetricKind::Counter => metrics::counter!(name, labels).increment(0),
                // One that is set already keeps its value.
                MetricKind::Gauge => metrics::gauge!(name, labels).increment(0.0),
                MetricKind::Histogram => {}
            }
        }
    }
}

/// Every combination of the labels' values.
fn combinations(labels: Labels) -> Vec<Vec<Label>> {
    labels.iter().fold(vec![Vec::new()], |combined, (name, values)| {
        let with = |labels: &Vec<Label>, value: &'static str| {
            let mut labels = labels.clone();
            labels.push(Label::from_static_parts(name, value));
            labels
        };
        combined.iter().flat_map(|labels| values.iter().map(|value| with(labels, value)).collect::<Vec<_>>()).collect()
    })
}

/// What the kit counts for every service.
pub const METRICS: &[Metric] = &[
    Metric::counter(
        "stampede_rate_limited_total",
        "Requests that a limiter refused, by code.",
        &[("code", &["RATE_LIMITED", "TOO_MANY_ATTEMPTS"])],
    ),
    Metric::counter("stampede_tokens_refused_total", "Access tokens that were not accepted.", &[]),
    Metric::counter(
        "stampede_service_calls_refused_total",
        "Calls over gRPC that were not let in, by reason.",
        &[("reason", &["missing", "invalid", "audience", "expired", "not_allowed", "certificate"])],
    ),
    Metric::counter("stampede_jwks_failures_total", "Readings of the signing keys that failed.", &[]),
    Metric::histogram(
        "stampede_batch_size",
        "Requests that shared a transaction, or a call of a script.",
        &[("batch", &[])],
    ),
    Metric::counter(
        "stampede_batch_refused_total",
        "Requests turned away because the queue of their batch was full.",
        &[("batch", &[])],
    ),
    Metric::counter(
        "stampede_redis_failures_total",
        "Calls that Redis did not answer in time, or refused.",
        &[("call", &[]), ("failure", &[])],
    ),
    Metric::histogram("stampede_db_tx_seconds", "Time of whole transactions, retries included.", &[("tx", &[])]),
    Metric::counter(
        "stampede_db_conflicts_total",
        "Transactions that met a conflict and were run again.",
        &[("tx", &[])],
    ),
    Metric::counter(
        "stampede_loop_failures_total",
        "Runs of a background loop that failed and will be repeated.",
        &[("loop", &[])],
    ),
    Metric::gauge("stampede_outbox_pending", "Events that wait to be sent.", &[("schema", &[])]),
    Metric::gauge("stampede_outbox_oldest_seconds", "How long the oldest event waits to be sent.", &[("schema", &[])]),
    Metric::gauge("stampede_outbox_dead", "Events that the broker has refused for good.", &[("schema", &[])]),
    Metric::counter(
        "stampede_outbox_dead_total",
        "How often the broker has refused an event for good.",
        &[("schema", &[])],
    ),
    Metric::counter("stampede_outbox_published_total", "Events acknowledged by the broker.", &[("schema", &[])]),
    Metric::counter("stampede_inbox_applied_total", "Events applied.", &[("consumer", &[])]),
    Metric::counter(
        "stampede_inbox_duplicates_total",
        "Events that had been applied before and were dropped.",
        &[("consumer", &[])],
    ),
    Metric::counter(
        "stampede_inbox_ignored_total",
        "Events that the consumer has nothing to do with.",
        &[("consumer", &[])],
    ),
    Metric::histogram(
        "stampede_inbox_delay_seconds",
        "Time from an event's transaction to its effect.",
        &[("consumer", &[])],
    ),
    Metric::gauge(
        "stampede_inbox_parked",
        "Events that could not be applied, and those behind them.",
        &[("consumer", &[])],
    ),
    Metric::counter(
        "stampede_trace_exports_failed_total",
        "Batches of spans that the collector of traces has not taken; they are lost.",
        &[],
    ),
    Metric::histogram(
        "http_server_request_duration_seconds",
        "Time of answered HTTP requests.",
        &[("http_request_method", &[]), ("http_route", &[]), ("http_response_status_code", &[])],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_has_a_zero_for_each_combination_of_its_labels() {
        assert_eq!(combinations(&[]).len(), 1);
        assert_eq!(combinations(&[("a", &["1", "2"]), ("b", &["x", "y", "z"])]).len(), 6);
        assert_eq!(combinations(&[("a", &["1", "2"]), ("b", &[])]).len(), 0, "not all of them are known");
    }
}
