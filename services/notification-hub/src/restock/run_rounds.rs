//! The runner: tells the subscribers of a product that is back, in their order, in batches.
//!
//! One replica at a time runs a round, under a lease. Each turn is one transaction that records what became of the last
//! batch and writes the next one: recipients, notifications, deliveries, cursor. The messages go out between two turns.
//! Whoever dies leaves at most one batch behind, which the next runner sends before it goes on.

use std::time::Duration;

use common::backoff::Backoff;
use common::db::{Prepared, Tx};
use common::{Error, Result};
use diesel::sql_types::Double;
use diesel_async::RunQueryDsl;
use serde_json::Value;
use tokio::time::Instant;

use crate::App;
use crate::claims;
use crate::restock::alert::alert;
use crate::restock::end_round::{End, end};
use crate::restock::follow_stock::follow_stock;
use crate::restock::round::{AfterError, RoundKey, Run, after_error};
use crate::restock::send_batch::{Sent, send_batch};
use crate::restock::take_turn::{Rest, Turn, lock, record, take_turn};

/// Between two tries after an error that may pass.
const PAUSE: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(5) };

/// What is shown of an error.
const ERROR_CHARS_MAX: usize = 500;

/// Runs rounds that nobody runs, one after the other, until there is none.
pub async fn run_rounds(app: &App) -> Result<()> {
    while !app.stopping.is_cancelled() {
        let lease = app.settings.restock.lease();
        let Some(run) = app.db.tx("acquire_round", async move |tx| acquire(tx, lease).await).await? else {
            return Ok(());
        };
        let RoundKey { product, round } = run.key();
        tracing::info!(product.id = %product, round, epoch = run.epoch, "Runs the restock round of a product");
        let watch = app.restock.gate.watch(product);
        let mut sent = Sent::default();
        let told = tokio::select! {
            told = tell_everybody(app, &run, &mut sent) => told,
            never = follow_stock(app, product) => match never {},
        };
        drop(watch);
        if let Err(error) = told {
            tracing::error!(
                product.id = %product, round, %error,
                "Restock round {round} of product {product} is CANCELED_BY_ERROR; an operator may resume it when the cause is gone"
            );
            end_by_error(app, &run, &error, &sent).await?;
        }
    }
    Ok(())
}

/// None: no round is free.
async fn acquire(tx: &mut Tx, lease: Duration) -> Result<Option<Run>> {
    let query = diesel::sql_query(include_str!("acquire_round.sql")).bind::<Double, _>(lease.as_millis() as f64);
    let runs: Vec<Run> = Prepared(query).load(tx).await?;
    Ok(runs.into_iter().next())
}

/// Returns when the round has ended, or is somebody else's, or the host stops. `sent` is what is still to be recorded.
async fn tell_everybody(app: &App, run: &Run, sent: &mut Sent) -> Result<()> {
    let mut failures = 0;
    let mut alert: Option<Value> = None;
    let mut rest = Rest::OfAnother;
    loop {
        // Read before the transaction, so that the lease in the database can only end later than this one.
        let lease_end = Instant::now() + app.settings.restock.lease();
        let turn = async {
            let alert = match &mut alert {
                Some(alert) => alert,
                none => none.insert(look_up(app, run).await?),
            };
            take_turn(app, run, alert, sent, rest).await
        };
        let error = match turn.await {
            Ok(Turn::Batch(batch)) => {
                app.db.point("restock.after_commit").await;
                *sent = send_batch(app, run, batch, lease_end).await;
                app.db.point("restock.after_send").await;
                rest = if sent.has_rest { Rest::Untried } else { Rest::None };
                let Some(error) = sent.failure.take() else {
                    failures = 0;
                    continue;
                };
                error
            }
            Ok(Turn::Over) => return Ok(()),
            Err(error) => {
                // The commit may have gone through, with a batch that nobody has tried.
                rest = rest.max(Rest::Untried);
                error
            }
        };
        failures += 1;
        match after_error(error.is_transient(), failures, app.settings.restock.attempts_max) {
            AfterError::Cancel => return Err(error),
            AfterError::Retry => pause(app, run, &error, failures).await,
        }
    }
}

async fn pause(app: &App, run: &Run, error: &Error, failures: u32) {
    let RoundKey { product, round } = run.key();
    let pause = PAUSE.delay(failures);
    tracing::warn!(
        product.id = %product, round, %error, failures, ?pause,
        "Restock round {round} of product {product} cannot go on for now; tried again after the pause"
    );
    tokio::select! {
        () = app.stopping.cancelled() => {}
        () = tokio::time::sleep(pause) => {}
    }
}

async fn look_up(app: &App, run: &Run) -> Result<Value> {
    let RoundKey { product, round } = run.key();
    let stock = app.restock.stocks.get(product).await?;
    // Before the first message: it may have sold out by now.
    app.restock.gate.observe(product, stock.level.version, stock.level.available);
    Ok(alert(product, &stock.name, round))
}

/// Sets the round to `CANCELED_BY_ERROR`, with the reason for operators, and records what has gone out. If the database
/// does not take that, the round stays in progress and is taken by another runner when its lease is over.
async fn end_by_error(app: &App, run: &Run, error: &Error, sent: &Sent) -> Result<()> {
    let error: String = error.to_string().chars().take(ERROR_CHARS_MAX).collect();
    let recorded = app
        .db
        .tx("end_restock_round", async |tx| {
            if lock(tx, run).await?.is_none() {
                return Ok(Vec::new());
            }
            let recorded = record(tx, run.key(), sent).await?;
            end(tx, run, End::Error { error: error.clone() }, sent.succeeded(&recorded)).await?;
            Ok(recorded)
        })
        .await?;
    claims::count_results(&sent.results(), &recorded);
    Ok(())
}
