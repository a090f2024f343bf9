//! Loops that wake on a signal and sweep on a timer: the signal is for latency, the sweep is for truth.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::error::Result;

/// When a loop runs.
#[derive(Clone)]
pub struct Schedule {
    /// The longest pause between two runs, ± 10 % so that replicas drift apart.
    pub period: Duration,
    /// Runs at once when signalled. A signal during a run leads to one more run.
    pub wake: Option<Arc<Notify>>,
}

/// Runs `run` until `stopping`, never twice at once. A failure is logged and the loop goes on.
pub async fn run<F, Fut>(name: &'static str, schedule: Schedule, stopping: CancellationToken, run: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<()>>,
{
    loop {
        let span = tracing::info_span!("periodic", loop_name = name);
        if let Err(error) = run().instrument(span).await {
            metrics::counter!("stampede_loop_failures_total", "loop" => name).increment(1);
            if error.is_transient() {
                tracing::warn!(loop_name = name, %error, "A background run failed for now");
            } else {
                tracing::error!(loop_name = name, %error, "A background run failed");
            }
        }
        let pause = schedule.period.mul_f64(rand::rng().random_range(0.9..1.1));
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            () = signalled(schedule.wake.as_deref()) => {}
        }
    }
}

async fn signalled(wake: Option<&Notify>) {
    match wake {
        Some(notify) => notify.notified().await,
        None => std::future::pending().await,
    }
}
