//! `PinHold`, `UnpinHold`, `ReleaseHold`, `ConfirmHold`, `ReturnStock`: one transaction for everybody who is waiting.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use common::batch::{Batch, BatchSettings};
use common::db::{Db, Prepared, Tx};
use common::{Error, Result};
use contract::ids::{HoldId, PaymentAttemptId, ProductId, SeatId};
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, Bool, Nullable, Text, Timestamptz, Uuid};
use diesel_async::RunQueryDsl;

use crate::App;
use crate::gate::{Gate, GateUpdate};
use crate::hold::{Effect, Hold, Step};
use crate::hold_rows::{HoldsRead, lock_holds, read_holds};
use crate::plan::{HoldStep, Plan, StockNotLocked, moved_products};
use crate::refused::Refused;
use crate::seat::Seat;
use crate::seat_rows::{read_seats, take_seats};
use crate::stock::{Moves, Stock, short_products};
use crate::stock_rows::{StockFeed, insert_audits, lock_stocks, move_stocks};
use crate::take_over::take_over;

/// How often a batch is tried when its holds change between the look at them and the locks.
const ATTEMPTS_MAX: usize = 3;

/// Takes a step of a hold. Returns the hold after it.
///
/// Idempotent. Refuses with `HOLD_ALREADY_CONFIRMED`, `HOLD_ALREADY_RELEASED`, `HOLD_EXPIRED`, `HOLD_NOT_FOUND`,
/// `HOLD_NOT_CONFIRMED`, `PAYMENT_IN_PROGRESS` or `OUT_OF_STOCK`, depending on the step.
pub async fn settle_hold(app: &App, hold: HoldId, step: Step) -> Result<Hold> {
    app.steps.submit(HoldStep { hold, step }).await
}

/// Starts the queue of [`settle_hold`].
pub fn start_batch(settings: &BatchSettings, db: &Db, gate: &Gate, feed: &StockFeed) -> Batch<HoldStep, Hold> {
    let (db, gate, feed) = (db.clone(), gate.clone(), feed.clone());
    Batch::start("settle_hold", settings, move |steps| {
        let (db, gate, feed) = (db.clone(), gate.clone(), feed.clone());
        async move { settle_batch(&db, &gate, &feed, steps).await }
    })
}

/// Serves one batch, then tells the gate. Idempotent.
async fn settle_batch(db: &Db, gate: &Gate, feed: &StockFeed, steps: Arc<[HoldStep]>) -> Result<Vec<Result<Hold>>> {
    for _ in 0..ATTEMPTS_MAX {
        let steps = &steps;
        match db.tx("settle_hold", async |tx| settle(tx, feed, steps).await).await? {
            Attempt::HoldsChanged => {}
            Attempt::Settled { outcomes, after_commit } => {
                if pins(&after_commit.effects) {
                    db.point("pin.after_commit").await;
                }
                after_commit.run(gate);
                return Ok(outcomes.into_iter().map(|outcome| outcome.map_err(Error::from)).collect());
            }
        }
    }
    Err(Error::transient(anyhow::anyhow!(
        "holds changed {ATTEMPTS_MAX} times between the look at them and their locks"
    )))
}

/// What a transaction comes to.
pub enum Attempt {
    /// One outcome for each step.
    Settled { outcomes: Vec<Result<Hold, Refused>>, after_commit: AfterCommit },
    /// A hold has changed or appeared since it was looked at. The transaction must be run again. It may commit: it has
    /// written tombstones at most, and those are right.
    HoldsChanged,
}

/// What is left to do after the commit.
pub struct AfterCommit {
    effects: Vec<Effect>,
    gate_updates: Vec<GateUpdate>,
}

impl AfterCommit {
    pub fn run(self, gate: &Gate) {
        for effect in self.effects {
            let outcome = match effect {
                Effect::Nothing | Effect::Tombstone | Effect::BlockAttempt => continue,
                Effect::Pin => "pinned",
                Effect::Retake => "retaken",
                Effect::Unpin => "unpinned",
                Effect::Release => "released",
                Effect::Confirm => "confirmed",
                Effect::Return | Effect::ConfirmAndReturn => "returned",
            };
            metrics::counter!("stampede_holds_total", "outcome" => outcome).increment(1);
        }
        gate.apply_later(self.gate_updates);
    }
}

fn pins(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Pin | Effect::Retake))
}

/// Takes `steps` in the caller's transaction.
pub async fn settle(tx: &mut Tx, feed: &StockFeed, steps: &[HoldStep]) -> Result<Attempt> {
    let ids: BTreeSet<HoldId> = steps.iter().map(|step| step.hold).collect();
    let ids = Vec::from_iter(ids);
    // First only a look: a pin, and a step that was taken before, need not wait for a hot row of stock.
    let HoldsRead { now, holds } = read_holds(tx, &ids).await?;
    let products = moved_products(steps, &holds, now);
    let mut stocks = if products.is_empty() { BTreeMap::new() } else { lock_stocks(tx, &products).await? };
    let HoldsRead { now, holds } = lock_holds(tx, &ids).await?;

    let retaken = retaken_seats(steps, &holds);
    let seats = read_seats(tx, &retaken).await?;
    let plan = Plan::new(steps, holds.clone(), &stocks, &seats, Moves::new(), now);
    let Ok(mut plan) = plan else { return Ok(Attempt::HoldsChanged) };
    // Before anything else is written: a hold that has appeared meanwhile changes the plan.
    if insert_tombstones(tx, &plan.tombstones, now).await? != plan.tombstones.len() {
        return Ok(Attempt::HoldsChanged);
    }
    let short = short_products(&plan.outcomes);
    if !short.is_empty() {
        let freed = take_over(tx, &short, &mut stocks, &ids, now).await?;
        if !freed.is_empty() {
            let seats: HashMap<SeatId, Seat> = read_seats(tx, &retaken).await?;
            plan = Plan::new(steps, holds, &stocks, &seats, freed, now)
                .map_err(|StockNotLocked| Error::fault(anyhow::anyhow!("a hold needs other stock than before")))?;
        }
    }
    write(tx, feed, &plan, &stocks, now).await?;
    let Plan { outcomes, effects, gate_updates, .. } = plan;
    Ok(Attempt::Settled { outcomes, after_commit: AfterCommit { effects, gate_updates } })
}

/// The seats that steps may take again, after their hold had ended.
fn retaken_seats(steps: &[HoldStep], holds: &HashMap<HoldId, Hold>) -> Vec<SeatId> {
    let retakes = steps.iter().filter(|step| matches!(step.step, Step::Pin { retake: true, .. }));
    let seats = retakes.filter_map(|step| holds.get(&step.hold)).flat_map(Hold::seats).map(|seat| seat.seat_id);
    let seats: BTreeSet<SeatId> = seats.collect();
    seats.into_iter().collect()
}

/// Returns how many were written: fewer than asked for when a hold has appeared meanwhile.
async fn insert_tombstones(tx: &mut Tx, tombstones: &BTreeMap<HoldId, String>, now: DateTime<Utc>) -> Result<usize> {
    if tombstones.is_empty() {
        return Ok(0);
    }
    let (ids, reasons): (Vec<_>, Vec<_>) = tombstones.iter().map(|(id, reason)| (*id, reason.as_str())).unzip();
    let query = sql_query(include_str!("settle_hold_tombstones.sql"))
        .bind::<Timestamptz, _>(now)
        .bind::<Array<Uuid>, _>(ids)
        .bind::<Array<Text>, _>(reasons);
    Ok(Prepared(query).execute(tx).await?)
}

async fn write(
    tx: &mut Tx,
    feed: &StockFeed,
    plan: &Plan,
    stocks: &BTreeMap<ProductId, Stock>,
    now: DateTime<Utc>,
) -> Result<()> {
    update_holds(tx, plan, now).await?;
    if !plan.moves.is_empty() {
        let moved = move_stocks(tx, feed, stocks, &plan.moves).await?;
        insert_audits(tx, &plan.audits, &moved, &plan.moves, now).await?;
    }
    let retaken = plan.retaken.iter().filter_map(|id| plan.holds.get(id)).filter(|hold| hold.state.has_units());
    let retaken: Vec<&Hold> = retaken.collect();
    take_seats(tx, &retaken, now).await?;
    if pins(&plan.effects) {
        tx.point("pin.before_commit").await;
    }
    Ok(())
}

async fn update_holds(tx: &mut Tx, plan: &Plan, now: DateTime<Utc>) -> Result<()> {
    let changed = || plan.changed.iter().filter_map(|(id, reason)| Some((plan.holds.get(id)?, reason.as_deref())));
    if plan.changed.is_empty() {
        return Ok(());
    }
    let query = sql_query(include_str!("settle_hold_update.sql"))
        .bind::<Timestamptz, _>(now)
        .bind::<Array<Uuid>, _>(changed().map(|(hold, _)| hold.id).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(changed().map(|(hold, _)| hold.state).collect::<Vec<_>>())
        .bind::<Array<Timestamptz>, _>(changed().map(|(hold, _)| hold.expires_at).collect::<Vec<_>>())
        .bind::<Array<Nullable<Uuid>>, _>(
            changed().map(|(hold, _)| hold.pin.map(|pin| pin.attempt)).collect::<Vec<_>>(),
        )
        .bind::<Array<Bool>, _>(changed().map(|(hold, _)| hold.pin.is_some_and(|pin| pin.late)).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(changed().map(|(hold, _)| array_text(&hold.unpinned_by)).collect::<Vec<_>>())
        .bind::<Array<Nullable<BigInt>>, _>(changed().map(|(hold, _)| hold.order_version).collect::<Vec<_>>())
        .bind::<Array<Nullable<Text>>, _>(changed().map(|(_, reason)| reason).collect::<Vec<_>>());
    Prepared(query).execute(tx).await?;
    Ok(())
}

/// As PostgreSQL writes an array.
fn array_text(ids: &[PaymentAttemptId]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    format!("{{{}}}", ids.join(","))
}
