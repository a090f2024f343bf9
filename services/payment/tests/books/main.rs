//! What the provider says and what its book says: webhooks and reconciliation, on real servers and the sandbox's
//! provider. Orders are played by a stand-in, since only what they answer matters here.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

#[path = "../../src/standard_webhooks/cases.rs"]
mod cases;
mod reconciliation;
mod site;
mod webhooks;
