//! Reconciliation: the provider's book is read by time and compared with our payments, and these with their orders.
//!
//! It finds captures that we do not know, captures that are missing, double captures, and refunds that we did not request.
//! A capture that belongs to no payment is refunded, one that may belong to a payment is given to the resolver, and
//! everything else is reported. Any part of it may be repeated.

pub mod compare; // rules
pub mod manage_runs;
mod remedy;
mod runs;
mod walk_book;

use std::time::Duration;

use chrono::TimeDelta;
use common::{Error, Result};
use serde::Deserialize;

use crate::App;
use runs::{End, RANGE_MAX, Run};

/// Section `[payment.reconciliation]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub check_period_ms: u64,
    pub period_hours: u16,
    pub overlap_hours: u16,
    pub grace_seconds: u32,
    pub retry_minutes: u16,
    pub lease_seconds: u16,
    pub cancels_max: u32,
    pub kept_days: u16,
}

impl Settings {
    pub fn check_period(&self) -> Duration {
        Duration::from_millis(self.check_period_ms)
    }

    fn grace(&self) -> TimeDelta {
        TimeDelta::seconds(self.grace_seconds.into())
    }
}

/// The loop: does the runs that are due, that operators have requested, and that other processes began and did not end.
pub async fn reconcile_due(app: &App) -> Result<()> {
    request_due(app).await?;
    while let Some(run) = runs::take(app).await? {
        perform(app, &run).await?;
    }
    runs::forget(app).await
}

async fn request_due(app: &App) -> Result<()> {
    let Settings { period_hours, overlap_hours, retry_minutes, .. } = app.reconciliation;
    let past = runs::past(app).await?;
    let to = past.now - app.reconciliation.grace();
    let Some(reached) = past.reached else { return Ok(()) };
    let waits = past.failed_at.is_some_and(|at| past.now - at < TimeDelta::minutes(retry_minutes.into()));
    if waits || to - reached < TimeDelta::hours(period_hours.into()) {
        return Ok(());
    }
    // The last part is compared again: a refund may have followed.
    let from = (reached - TimeDelta::hours(overlap_hours.into())).max(to - RANGE_MAX);
    runs::request(app, from, to, None).await?;
    Ok(())
}

async fn perform(app: &App, run: &Run) -> Result<()> {
    tracing::info!(run.id = %run.id, from = %run.from_time, to = %run.to_time, "Reconciliation {} begins", run.id);
    let outcome = walk_book::walk_book(app, run).await;
    let error = outcome.as_ref().err().map(Error::to_string);
    let ended = match runs::end(app, run, error.as_deref()).await? {
        End::Ended(ended) => ended,
        End::TakenOver => {
            tracing::warn!(
                run.id = %run.id,
                "Reconciliation {} was taken over by another process, which goes on with it", run.id
            );
            return Ok(());
        }
    };
    metrics::counter!("stampede_reconciliation_runs_total", "outcome" => ended.status.to_lowercase()).increment(1);
    metrics::gauge!("stampede_reconciliation_difference").set(ended.difference as f64);
    tracing::info!(
        run.id = %run.id, ended.captured, ended.cancelled, ended.paid, ended.difference, ended.findings,
        "Reconciliation {} ends: {}", run.id, ended.status
    );
    outcome
}
