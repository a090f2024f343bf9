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
    entry::METRIC,
    Metric::counter("stampede_orders_archived_total", "Orders that were moved to the archive.", &[]),
    Metric::counter("stampede_orders_restored_total", "Archived orders that were made live again to be changed.", &[]),
    Metric::counter(
        "stampede_archive_runs_total",
        "Runs of the archive that have ended.",
        &[("outcome", &["completed", "failed"])],
    ),
];
