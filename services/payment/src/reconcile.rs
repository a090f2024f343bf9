//! Reconciliation: the provider's book is read by time and compared with our payments, and these with their orders.
//!
//! Everything else here trusts what it was told about single payments. This trusts nobody: it finds what was lost, taken
//! twice, taken for nobody or given back behind our back. Money that nobody wants is given back, money that somebody
//! may want is asked about, and everything else is reported. Any part may be repeated.

pub mod compare; // rules
pub mod manage_runs;
mod remedy;
mod runs;
mod walk_book;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use common::{Error, Result};
use serde::Deserialize;

use crate::App;
use runs::Run;

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

/// The longest time that one run compares.
const RANGE_MAX: TimeDelta = TimeDelta::days(31);

/// The loop: runs what is due by the clock, what an operator has asked for, and what somebody else began and did not end.
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
    // What was compared is compared again for a while: it may have changed behind our back.
    let from = (reached - TimeDelta::hours(overlap_hours.into())).max(to - RANGE_MAX);
    runs::request(app, from, to, None).await?;
    Ok(())
}

async fn perform(app: &App, run: &Run) -> Result<()> {
    tracing::info!(run.id = %run.id, from = %run.from_time, to = %run.to_time, "Reconciliation begins");
    let outcome = walk_book::walk_book(app, run).await;
    let error = outcome.as_ref().err().map(Error::to_string);
    let Some(ended) = runs::end(app, run, error.as_deref()).await? else {
        tracing::warn!(run.id = %run.id, "Another process has taken this run over");
        return Ok(());
    };
    metrics::counter!("stampede_reconciliation_runs_total", "outcome" => ended.status.to_lowercase()).increment(1);
    metrics::gauge!("stampede_reconciliation_difference").set(ended.difference as f64);
    tracing::info!(
        run.id = %run.id, ended.captured, ended.cancelled, ended.paid, ended.difference, ended.findings,
        "Reconciliation ends: {}", ended.status
    );
    outcome
}

/// As the provider knows times.
fn whole_seconds(at: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp(at.timestamp(), 0).unwrap_or(at)
}
