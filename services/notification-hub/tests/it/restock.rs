//! Restock alerts: subscriptions, campaigns, and what they promise. Inventory is a fake.

mod shop;
mod subscriptions;
