//! What this service counts. `docs/operations.md` says what to do about it.

use common::telemetry::Metric;

pub const METRICS: &[Metric] = &[
    Metric::counter(
        "stampede_refresh_tokens_reused_total",
        "Used refresh tokens that were presented again, and ended their session.",
        &[],
    ),
    Metric::counter(
        "stampede_password_hashing_refused_total",
        "Log-ins and registrations turned away because too many were being hashed.",
        &[],
    ),
];
