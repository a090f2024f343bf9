//! Inventory through its own doors, on real PostgreSQL, Redis and Kafka.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

mod concert;
mod ending;
mod expiring;
mod gate;
mod holding;
mod orders;
mod pinning;
mod products;
mod seat_orders;
mod seats;
mod site;
mod soak;
mod watching;
