//! Restock alerts: subscriptions, campaigns, and what they promise. Inventory is a fake.

mod campaigns;
mod crashes;
mod limits;
mod operators;
mod plans;
mod shop;
mod soak;
mod subscriptions;
