//! The runtime that every service shares. It knows no domain word.

pub mod auth;
pub mod backoff;
pub mod batch;
pub mod cache;
pub mod crash;
pub mod db;
pub mod error;
pub mod health;
pub mod host;
pub mod http;
pub mod id;
pub mod idempotency;
pub mod inbox;
pub mod kafka;
pub mod listener;
mod log_json;
mod log_text;
pub mod manifest;
pub mod object;
pub mod openapi;
pub mod outbox;
pub mod page;
pub mod periodic;
pub mod rate;
pub mod redis;
pub mod rpc;
pub mod settings;
pub mod signed;
pub mod sql;
pub mod telemetry;
pub mod text;
mod tls;
mod words;

pub use error::{Code, Error, Fault, Refusal, Refused, Result};
pub use host::Host;
pub use id::Id;
