//! What this service counts. `docs/operations.md` says what to do about it.

use common::telemetry::Metric;

pub const METRICS: &[Metric] = &[
    Metric::counter(
        "stampede_orders_total",
        "What became of orders.",
        &[(
            "outcome",
            &[
                "placed",
                "replayed",
                "refused",
                "failed",
                "cancelled",
                "expired",
                "paid",
                "refund_requested",
                "refunded",
            ],
        )],
    ),
    Metric::counter(
        "stampede_order_entries_total",
        "Orders that were not let in, by code, and those let in without a pass.",
        &[(
            "outcome",
            &[
                "bypass",
                "QUEUE_TOKEN_REQUIRED",
                "QUEUE_TOKEN_INVALID",
                "QUEUE_UNAVAILABLE",
                "EVENT_NOT_OPEN",
                "EVENT_CLOSED",
            ],
        )],
    ),
];
