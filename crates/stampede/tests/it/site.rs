//! The whole system under test.

use stampede::services::SERVICES;

/// The executable under test.
pub const EXECUTABLE: &str = env!("CARGO_BIN_EXE_stampede");

/// Eight services that look four times a second for what nobody signals take a quarter of a processor. What a test waits for
/// is signalled, except for what a dead process has left.
const SELDOM: [(&str, &str); 7] = [
    ("outbox.poll_ms", "2000"),
    ("inbox.replay_poll_ms", "2000"),
    ("payment.resolve_poll_ms", "500"),
    ("payment.step_poll_ms", "500"),
    ("payment.refund_poll_ms", "500"),
    ("notification_hub.reclaim_period_ms", "1000"),
    ("notification_hub.idle_poll_max_ms", "1000"),
];

/// A site of all services.
pub fn system() -> testkit::Builder {
    testkit::Site::builder(SERVICES).settings(&SELDOM)
}
