//! The stream: facts pushed to clients as they become known, over one connection for each (server-sent events).
//!
//! Each replica hears the facts for itself and tells its own clients. Nothing is promised but to say so when a client has
//! missed something: what is true is read over the other routes.

mod clients;
mod full;
mod on_facts;
pub mod open_stream;
mod own_news;
mod ring;
mod sales;
mod topics;

use std::time::Duration;

use common::listener::Listen;
use common::rpc::Upstream;
use contract::order::order_service_client::OrderServiceClient;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::App;
use clients::Clients;
use open_stream::new_epoch;
use ring::Bounds;

/// Gateways end a connection on which nothing has come for a minute.
const HEARTBEAT_SECONDS_MAX: u64 = 30;

/// Section `[notification_hub.stream]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamSettings {
    pub streams_max: usize,
    pub streams_per_account: usize,
    pub streams_per_address: usize,
    pub client_frames: usize,
    pub ring_frames: usize,
    pub account_frames: usize,
    pub ring_minutes: u64,
    pub heartbeat_seconds: u64,
}

impl StreamSettings {
    pub fn check(&self) -> anyhow::Result<()> {
        for (name, value) in [
            ("streams_max", self.streams_max),
            ("streams_per_account", self.streams_per_account),
            ("streams_per_address", self.streams_per_address),
            ("client_frames", self.client_frames),
        ] {
            anyhow::ensure!(value > 0, "notification_hub.stream.{name} must be at least 1");
        }
        anyhow::ensure!(
            (1..=HEARTBEAT_SECONDS_MAX).contains(&self.heartbeat_seconds),
            "notification_hub.stream.heartbeat_seconds must be 1 to {HEARTBEAT_SECONDS_MAX}: gateways end silent connections"
        );
        Ok(())
    }

    pub fn public_bounds(&self) -> Bounds {
        Bounds { frames_max: self.ring_frames, age_max: self.ring_age() }
    }

    pub fn account_bounds(&self) -> Bounds {
        Bounds { frames_max: self.account_frames, age_max: self.ring_age() }
    }

    fn ring_age(&self) -> Duration {
        Duration::from_secs(self.ring_minutes * 60)
    }

    pub fn heartbeat(&self) -> Duration {
        Duration::from_secs(self.heartbeat_seconds)
    }
}

/// Why the process ended a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Ended {
    /// The client did not take its frames in time.
    Slow,
    /// Facts may have been missed.
    LogReplaced,
    TokenExpired,
    Shutdown,
}

impl Ended {
    /// For metrics.
    pub fn name(self) -> &'static str {
        match self {
            Ended::Slow => "slow",
            Ended::LogReplaced => "log_replaced",
            Ended::TokenExpired => "token_expired",
            Ended::Shutdown => "shutdown",
        }
    }
}

/// What the stream may use beyond what all flows of the hub have.
pub struct Stream {
    clients: Clients,
    /// Asked once for each order that a client names.
    order: OrderServiceClient<Upstream>,
    draining: CancellationToken,
}

impl Stream {
    pub fn new(order: Upstream, draining: CancellationToken, settings: &StreamSettings) -> Stream {
        Stream { clients: Clients::new(settings, &new_epoch()), order: OrderServiceClient::new(order), draining }
    }
}

impl Listen for App {
    fn caught_up(&self) {
        self.stream.clients.caught_up();
    }

    fn log_replaced(&self) {
        self.stream.clients.begin_epoch(&new_epoch());
    }
}
