//! The hub through its own doors: events in by Kafka, answers out by HTTP, on real servers. Only account and Slack are played.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod deliveries;
mod payments;
mod pretended_slack;
mod reading;
mod site;
mod slack;
