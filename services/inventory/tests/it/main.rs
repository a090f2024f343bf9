//! Inventory through its own doors, on real PostgreSQL, Redis and Kafka.

mod gate;
mod holding;
mod products;
mod settling;
mod site;
