//! What this service counts. `docs/operations.md` says what to do about it.

use common::telemetry::Metric;

pub const METRICS: &[Metric] = &[
    Metric::counter(
        "stampede_holds_total",
        "What became of holds.",
        &[(
            "outcome",
            &[
                "gate_refused",
                "held",
                "repeated",
                "refused",
                "failed",
                "expired",
                "taken_over",
                "pinned",
                "unpinned",
                "retaken",
                "released",
                "confirmed",
                "returned",
            ],
        )],
    ),
    Metric::counter(
        "stampede_gate_total",
        "What the gate said of each line that was asked for.",
        &[("outcome", &["taken", "known", "refused", "rebuild", "away", "drift"])],
    ),
    Metric::gauge("stampede_gate_products", "Products sold between the last two checks of the gate.", &[]),
    Metric::gauge("stampede_holds_overdue", "Expired holds that the last sweep found.", &[]),
    Metric::counter("stampede_gate_rebuilds_total", "Gates loaded from PostgreSQL.", &[]),
    entry::METRIC,
];
