//! The hub through its own doors: events in by Kafka, answers out by HTTP, on real servers. Only account is played.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod deliveries;
mod reading;
mod site;
