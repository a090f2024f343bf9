//! Every service in one executable, and what looks at all of them: the development site, the rush, the audit, the bench.

mod access;
pub mod asyncapi;
pub mod audit;
pub mod bench;
pub mod cli;
mod demo;
pub mod dev;
pub mod doctor;
pub mod events;
mod latency;
pub mod manifests;
pub mod old_orders;
pub mod output;
pub mod reach;
mod roles;
pub mod rush;
pub mod service_keys;
pub mod services;
pub mod site;
pub mod trace;

/// A client for what is on this machine or beside it: a proxy of the environment's is not for that.
fn near() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder().no_proxy().build()
}
