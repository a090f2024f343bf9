//! What this service counts. `docs/operations.md` says what to do about it.

use common::telemetry::Metric;

pub const METRICS: &[Metric] = &[
    Metric::counter(
        "stampede_deliveries_total",
        "What became of tries to deliver.",
        &[
            ("channel", &["EMAIL", "SLACK", "WEBHOOK", "INAPP"]),
            ("outcome", &["success", "retry", "dead", "sold_out", "handed_back", "superseded"]),
        ],
    ),
    Metric::histogram(
        "stampede_delivery_seconds",
        "Time from a delivery's creation to its success.",
        &[("channel", &[])],
    ),
    Metric::gauge("stampede_deliveries_pending", "Deliveries that wait.", &[("channel", &[])]),
    Metric::gauge(
        "stampede_targets_failing",
        "Targets that this process leaves alone because they fail.",
        &[("channel", &[])],
    ),
    Metric::counter(
        "stampede_notification_requests_total",
        "Requests for a notification.",
        &[("outcome", &["stored", "replayed"])],
    ),
    Metric::counter(
        "stampede_template_failures_total",
        "Texts of administrators that could not be rendered for an event.",
        &[("template", &[])],
    ),
    Metric::counter("stampede_restock_permits_total", "Permits to send restock alerts that were taken.", &[]),
    Metric::gauge("stampede_stream_clients", "Streams that are open.", &[]),
    Metric::counter(
        "stampede_stream_frames_total",
        "Facts put into the buffers of clients, by the event of the frame.",
        &[("event", &[])],
    ),
    Metric::histogram(
        "stampede_stream_lag_seconds",
        "Time from the transaction that made a fact true until it was told over the stream.",
        &[],
    ),
    Metric::counter(
        "stampede_streams_opened_total",
        "Streams opened, by how they began.",
        &[("start", &["new", "replayed", "resync"])],
    ),
    Metric::counter(
        "stampede_streams_refused_total",
        "Streams refused, by what was full.",
        &[("cause", &["process", "account", "address", "not_ready"])],
    ),
    Metric::counter(
        "stampede_streams_ended_total",
        "Streams ended, by reason.",
        &[("reason", &["gone", "slow", "token_expired", "shutdown", "log_replaced"])],
    ),
    Metric::counter(
        "stampede_restock_rounds_total",
        "Restock rounds begun and ended.",
        &[("status", &["IN_PROGRESS", "COMPLETED", "CANCELED_BY_SOLD_OUT", "CANCELED_BY_ERROR"])],
    ),
];
