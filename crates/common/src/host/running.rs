//! `Running`: a started host, and how it drains.

use std::net::SocketAddr;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::HostSettings;
use crate::{health, telemetry};

/// A started host.
pub struct Running {
    pub http_addr: SocketAddr,
    pub grpc_addr: SocketAddr,
    pub(super) handle: ServerHandle,
    pub(super) grpc_stop: CancellationToken,
    pub(super) draining: CancellationToken,
    pub(super) stopping: CancellationToken,
    pub(super) failed: CancellationToken,
    pub(super) tracker: TaskTracker,
    pub(super) state: health::State,
    pub(super) health_reporter: tonic_health::server::HealthReporter,
    pub(super) grpc_names: Vec<&'static str>,
    pub(super) own: HostSettings,
}

impl Running {
    /// Resolves when a server of this host has ended by itself, which it never should.
    pub async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// Drains: not ready any more, then no new requests, then the loops and relays, each within its time.
    pub async fn stop(self) {
        self.state.drain();
        for name in self.grpc_names.iter().copied().chain([""]) {
            self.health_reporter.set_service_status(name, tonic_health::ServingStatus::NotServing).await;
        }
        tokio::time::sleep(Duration::from_secs(self.own.drain_seconds)).await;
        self.draining.cancel();
        self.handle.stop(true).await;
        self.grpc_stop.cancel();
        // Relays and consumers stop last: what the last requests recorded still goes out if it can.
        self.stopping.cancel();
        if tokio::time::timeout(Duration::from_secs(self.own.shutdown_seconds), self.tracker.wait()).await.is_err() {
            tracing::warn!("Some work did not end in time and is cut off; it is taken up at the next start");
        }
        telemetry::flush();
    }
}
