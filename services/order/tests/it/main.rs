//! Orders through their own doors, on real PostgreSQL, Redis and Kafka.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

mod cancelling;
mod paying;
mod racing;
mod reading;
mod reserving;
mod site;
