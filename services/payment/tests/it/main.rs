//! The payment service over HTTP and gRPC. Order, inventory and coupon are played by the tests, the provider by the sandbox.
#![expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

mod approving;
#[path = "../../src/standard_webhooks/cases.rs"]
mod cases;
mod coupons;
mod orders;
mod preparing;
mod reconciling;
mod refunding;
mod resolving;
mod shop;
mod upstreams;
mod webhooks;
