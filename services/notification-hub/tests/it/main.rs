//! The hub through its own doors: events in by Kafka, answers out by HTTP, on real servers. Only account is played.

mod deliveries;
mod reading;
mod site;
