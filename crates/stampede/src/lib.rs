//! Every service in one executable, and what looks at all of them: the development site, the rush, the audit, the bench.

pub mod audit;
pub mod bench;
pub mod cli;
mod demo;
pub mod dev;
pub mod events;
mod latency;
pub mod manifests;
pub mod old_orders;
pub mod rush;
pub mod services;
pub mod site;
