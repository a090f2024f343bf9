//! The coupon service through its own doors, on real PostgreSQL, Redis and Kafka.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

mod coupons;
mod issuing;
mod loading;
mod orders;
mod postgres_clock;
mod recovering;
mod redeeming;
mod site;
mod soak;
mod sweeping;
mod windows;
