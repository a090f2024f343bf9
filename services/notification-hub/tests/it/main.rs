//! The hub through its own doors: events in by Kafka, answers out by HTTP, on real servers. Account and Slack are fakes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod api_keys;
mod dead_letters;
mod deliveries;
mod fake_account;
mod fake_inventory;
mod fake_order;
mod fake_receiver;
mod fake_slack;
mod hub;
mod inbox;
mod leases;
mod lost_workers;
mod payments;
mod reading;
mod restock;
mod scenarios;
mod senders;
mod sending;
mod slack;
mod slack_pace;
mod smtp;
mod stopping;
mod streaming;
mod targets;
mod templates;
mod webhooks;
