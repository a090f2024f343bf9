//! Notifications: deliveries, restock rounds and the stream.

use super::Unit::{Count, PerSecond, Seconds};
use super::{Dashboard, Row, lines};

pub(super) const DASHBOARD: Dashboard = Dashboard {
    uid: "stampede-notifications",
    title: "Stampede: notifications",
    description: "Do people and programs hear of what concerns them, and how late?",
    rows: &[
        Row {
            title: "Deliveries",
            panels: &[
                lines(
                    "Delivered",
                    PerSecond,
                    "Deliveries a second that their target took.",
                    &[(
                        "sum by (channel) (rate(stampede_deliveries_total{outcome='success'}[$__rate_interval]))",
                        "{{channel}}",
                    )],
                ),
                lines(
                    "Not delivered",
                    PerSecond,
                    "Retry comes again, dead was given up, superseded came after its lease had ended.",
                    &[(
                        "sum by (channel, outcome) \
                         (rate(stampede_deliveries_total{outcome!='success'}[$__rate_interval])) > 0",
                        "{{channel}} {{outcome}}",
                    )],
                ),
                lines(
                    "Deliveries that wait",
                    Count,
                    "EMAIL rises while account or the mail server is away, SLACK while Slack is.",
                    &[("max by (channel) (stampede_deliveries_pending)", "{{channel}}")],
                ),
                lines(
                    "Time to delivery, 95th percentile",
                    Seconds,
                    "From a delivery's creation to its success, retries included.",
                    &[(
                        "histogram_quantile(0.95, sum by (channel, le) \
                         (rate(stampede_delivery_seconds_bucket[$__rate_interval])))",
                        "{{channel}}",
                    )],
                ),
                lines(
                    "Targets that fail",
                    Count,
                    "Targets that a replica leaves alone for a while because they do not answer; warnings name them.",
                    &[("max by (channel) (stampede_targets_failing)", "{{channel}}")],
                ),
                lines(
                    "Requests, and texts that fail",
                    PerSecond,
                    "Requests for a notification, and texts of administrators for which the built-in text was sent.",
                    &[
                        (
                            "sum by (outcome) (rate(stampede_notification_requests_total[$__rate_interval]))",
                            "requests {{outcome}}",
                        ),
                        (
                            "sum by (template) (rate(stampede_template_failures_total[$__rate_interval]))",
                            "text {{template}} fails",
                        ),
                    ],
                ),
            ],
        },
        Row {
            title: "Restock",
            panels: &[
                lines(
                    "Rounds",
                    Count,
                    "Rounds begun (IN_PROGRESS) and ended in an hour. CANCELED_BY_ERROR waits for an operator.",
                    &[("sum by (status) (increase(stampede_restock_rounds_total[1h]))", "{{status}}")],
                ),
                lines(
                    "Permits to send alerts",
                    PerSecond,
                    "At most 486 a second over all replicas. Less while a round runs: the database or the senders are slow.",
                    &[("sum(rate(stampede_restock_permits_total[$__rate_interval]))", "permits")],
                ),
            ],
        },
        Row {
            title: "Stream",
            panels: &[
                lines(
                    "Streams",
                    Count,
                    "Streams that are open, by replica. Near notification_hub.stream.streams_max: add a replica.",
                    &[("sum by (instance) (stampede_stream_clients)", "{{instance}}")],
                ),
                lines(
                    "Lag, 95th percentile",
                    Seconds,
                    "From the transaction of a fact until it was told. Rises: look at the outboxes first, then at \
                     Kafka.",
                    &[(
                        "histogram_quantile(0.95, sum by (le) \
                         (rate(stampede_stream_lag_seconds_bucket[$__rate_interval])))",
                        "p95",
                    )],
                ),
                lines(
                    "Opened, refused and ended",
                    PerSecond,
                    "Many resync without a restart: rings are too small. Many slow: a gateway buffers.",
                    &[
                        ("sum by (start) (rate(stampede_streams_opened_total[$__rate_interval]))", "opened {{start}}"),
                        (
                            "sum by (cause) (rate(stampede_streams_refused_total[$__rate_interval]))",
                            "refused {{cause}}",
                        ),
                        ("sum by (reason) (rate(stampede_streams_ended_total[$__rate_interval]))", "ended {{reason}}"),
                    ],
                ),
                lines(
                    "Frames",
                    PerSecond,
                    "Facts a second put into the buffers of clients.",
                    &[("sum by (event) (rate(stampede_stream_frames_total[$__rate_interval]))", "{{event}}")],
                ),
            ],
        },
    ],
};
