//! What this service counts. `docs/operations.md` says what to do about it.

use common::telemetry::Metric;

pub const METRICS: &[Metric] = &[
    Metric::counter(
        "stampede_coupons_issued_total",
        "What became of requests for a coupon.",
        &[("outcome", &["issued", "repeated", "sold_out", "refused", "failed", "recovered"])],
    ),
    Metric::counter("stampede_coupon_gate_loads_total", "Gates of coupons loaded from PostgreSQL.", &[]),
    Metric::gauge("stampede_coupon_takes_left", "Takes of the gate that the last sweep found too old.", &[]),
    Metric::counter(
        "stampede_coupon_redemptions_total",
        "What became of coupons in orders.",
        &[(
            "outcome",
            &[
                "reserved",
                "taken_over",
                "pinned",
                "unpinned",
                "retaken",
                "released",
                "confirmed",
                "restored",
                "expired",
            ],
        )],
    ),
];
