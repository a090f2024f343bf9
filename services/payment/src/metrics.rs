//! What this service counts. `docs/operations.md` says what to do about it.

use common::telemetry::Metric;

pub const METRICS: &[Metric] = &[
    Metric::counter(
        "stampede_payments_total",
        "What became of payments that were being approved.",
        &[("status", &["PAID", "PENDING", "FAILED", "EXPIRED", "UNKNOWN", "NEEDS_REVIEW"])],
    ),
    Metric::histogram(
        "stampede_payment_approve_seconds",
        "Time of requests for money.",
        &[("method", &[]), ("outcome", &[])],
    ),
    Metric::gauge("stampede_payments_unknown", "Payments whose outcome nobody knows.", &[]),
    Metric::gauge("stampede_payments_unknown_oldest_seconds", "For how long the oldest of them has been so.", &[]),
    Metric::counter(
        "stampede_payments_late_total",
        "Money of which one learnt after the order's time was up.",
        &[("outcome", &["honoured", "refunded"])],
    ),
    Metric::counter("stampede_payments_stray_total", "Payments that were captured twice.", &[]),
    Metric::gauge(
        "stampede_refunds_pending_oldest_seconds",
        "For how long the oldest refund waits for an answer that counts.",
        &[],
    ),
    Metric::counter(
        "stampede_refunds_total",
        "Answers of the provider to refunds.",
        &[("status", &["SUCCEEDED", "PENDING", "FAILED"])],
    ),
    Metric::counter(
        "stampede_psp_webhooks_total",
        "Webhooks of the provider.",
        &[("outcome", &["stored", "repeated", "refused"])],
    ),
    Metric::counter("stampede_points_total", "Points moved.", &[("kind", &["charge", "hold", "confirm", "return"])]),
    Metric::counter(
        "stampede_reconciliation_runs_total",
        "Runs of the reconciliation.",
        &[("outcome", &["completed", "failed"])],
    ),
    Metric::counter(
        "stampede_reconciliation_findings_total",
        "Differences between the provider's book and ours.",
        &[(
            "kind",
            &[
                "STRAY_CAPTURE",
                "MISSING_CAPTURE",
                "AMOUNT_MISMATCH",
                "DOUBLE_CAPTURE",
                "REFUND_MISMATCH",
                "ORDER_MISMATCH",
            ],
        )],
    ),
    Metric::gauge(
        "stampede_reconciliation_difference",
        "Won that the provider's book had above ours in the last run.",
        &[],
    ),
];
