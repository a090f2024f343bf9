//! Events: from an outbox over Kafka into an inbox.

use super::Unit::{Count, PerSecond, Seconds};
use super::{Dashboard, Row, lines, number};

pub(super) const DASHBOARD: Dashboard = Dashboard {
    uid: "stampede-events",
    title: "Stampede: outbox and Kafka",
    description: "Do facts get from those who know them to those who must hear of them, and how late?",
    rows: &[
        Row {
            title: "Now",
            panels: &[
                number(
                    "Oldest event",
                    Seconds,
                    Some(30),
                    "How long the oldest event waits to be sent. Above 30 s: Kafka is away, no relay holds the shard, \
                     or a key is blocked.",
                    &[("max(stampede_outbox_oldest_seconds)", "oldest")],
                ),
                number(
                    "Events that wait",
                    Count,
                    None,
                    "Events in all outboxes that are still to be sent.",
                    &[("sum(max by (schema) (stampede_outbox_pending))", "pending")],
                ),
                number(
                    "Dead events",
                    Count,
                    Some(1),
                    "Events that Kafka refused for good; their keys are blocked until somebody redrives them.",
                    &[("sum(max by (schema) (stampede_outbox_dead))", "dead")],
                ),
                number(
                    "Parked events",
                    Count,
                    Some(1),
                    "Events that could not be applied, and those behind them, until somebody helps.",
                    &[("sum(max by (consumer) (stampede_inbox_parked))", "parked")],
                ),
            ],
        },
        Row {
            title: "Outboxes",
            panels: &[
                lines(
                    "Events that wait",
                    Count,
                    "Rises while Kafka is away and falls by itself.",
                    &[("max by (schema) (stampede_outbox_pending)", "{{schema}}")],
                ),
                lines(
                    "How long the oldest waits",
                    Seconds,
                    "Somebody is called above 30 s.",
                    &[("max by (schema) (stampede_outbox_oldest_seconds)", "{{schema}}")],
                ),
                lines(
                    "Published",
                    PerSecond,
                    "Events a second that Kafka acknowledged.",
                    &[("sum by (schema) (rate(stampede_outbox_published_total[$__rate_interval]))", "{{schema}}")],
                ),
                lines(
                    "Refused for good",
                    Count,
                    "Events dead now, and how many died in an hour.",
                    &[
                        ("max by (schema) (stampede_outbox_dead)", "{{schema}}, now"),
                        ("sum by (schema) (increase(stampede_outbox_dead_total[1h]))", "{{schema}}, in an hour"),
                    ],
                ),
            ],
        },
        Row {
            title: "Inboxes",
            panels: &[
                lines(
                    "Applied",
                    PerSecond,
                    "Events a second that had their effect.",
                    &[("sum by (consumer) (rate(stampede_inbox_applied_total[$__rate_interval]))", "{{consumer}}")],
                ),
                lines(
                    "Delay, 90th percentile",
                    Seconds,
                    "From an event's transaction to its effect. Somebody is told above 5 s.",
                    &[(
                        "histogram_quantile(0.9, sum by (consumer, le) \
                         (rate(stampede_inbox_delay_seconds_bucket[$__rate_interval])))",
                        "{{consumer}}",
                    )],
                ),
                lines(
                    "Dropped as known",
                    PerSecond,
                    "Events that had been applied before. Expected after a crash, a rebalance or a replay.",
                    &[("sum by (consumer) (rate(stampede_inbox_duplicates_total[$__rate_interval]))", "{{consumer}}")],
                ),
                lines(
                    "Parked",
                    Count,
                    "Any is an alert.",
                    &[("max by (consumer) (stampede_inbox_parked)", "{{consumer}}")],
                ),
            ],
        },
    ],
};
