//! Inventory through its own doors, on real PostgreSQL, Redis and Kafka.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

mod gate;
mod holding;
mod paying;
mod placing;
mod products;
mod settling;
mod site;
