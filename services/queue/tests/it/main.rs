//! The queue through its own doors, on real PostgreSQL, Redis and Kafka.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

mod administering;
mod admitting;
mod crowd;
mod drawing;
mod losing;
mod opening;
mod passes;
mod room;
mod scheduling;
mod selling_out;
mod site;
mod streaming;
