//! The order service through HTTP, gRPC and Kafka, on real PostgreSQL, Redis and Kafka.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

mod coupon;
mod inventory;
mod site;

mod announcing;
mod archive_runs;
mod archiving;
mod cancelling;
mod discounting;
mod entering;
mod expiring;
mod paying;
mod placing;
mod racing;
mod reading;
mod reserving;
mod soak;
mod statements;
