//! What tests stand on: servers that all tests share, sites with a namespace of their own, and ways to ask them.

mod builder;
pub mod events; // what other services would publish
pub mod fake_queue; // passes without a queue service
pub mod logs;
pub mod properties;
pub mod proxy;
pub mod servers;
pub mod site;
pub mod sql; // reading the databases
pub mod sse; // streams of server-sent events
pub mod tls; // servers that speak TLS
pub mod tokens; // access tokens without an account service
mod wait;
mod watch; // tests that never end

pub use builder::{Builder, FOR_TESTS, PATIENT};
pub use client::{Answer, Client, Product, fresh_key, line, text};
pub use site::{SERVICE_KEY, Site, variable};
pub use wait::{PATIENCE, eventually};
