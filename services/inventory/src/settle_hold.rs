//! `PinHold`, `UnpinHold`, `ReleaseHold`, `ConfirmHold`, `ReturnStock`: what becomes of a hold, one transaction for
//! everybody who is waiting.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use common::db::{Db, Prepared, Tx};
use common::{Error, Result};
use contract::ids::{HoldId, PaymentAttemptId, ProductId};
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, Bool, Nullable, Text, Timestamptz, Uuid};
use diesel_async::RunQueryDsl;

use crate::App;
use crate::expire_holds::{mark_expired, take_over_due};
use crate::gate::{Gate, Settlement};
use crate::hold::{Effect, Hold, Step};
use crate::ledger::{Moved, lock_stocks, move_stocks};
use crate::plan::{Audit, Plan, Settle, moved_products};
use crate::read_holds::{Known, known_holds, lock_holds};
use crate::refused::Refused;
use crate::stock::{Move, Moves, Stock};

/// How often a batch is tried when something happens to its holds between the look at them and the locks.
const ATTEMPTS_MAX: usize = 3;

/// Takes a hold one step further; returns it as it is then.
///
/// Idempotent. Refuses with `HOLD_ALREADY_CONFIRMED`, `HOLD_ALREADY_RELEASED`, `HOLD_EXPIRED`, `HOLD_NOT_FOUND`,
/// `HOLD_NOT_CONFIRMED`, `PAYMENT_IN_PROGRESS` or `OUT_OF_STOCK`, each as the step demands.
pub async fn settle_hold(app: &App, hold: HoldId, step: Step) -> Result<Hold> {
    app.steps.submit(Settle { hold, step }).await
}

/// Serves one batch, then tells the gate. Idempotent.
pub async fn settle_batch(db: &Db, gate: &Gate, asked: Arc<[Settle]>) -> Result<Vec<Result<Hold>>> {
    for _ in 0..ATTEMPTS_MAX {
        let asked = &asked;
        let Some(settled) = db.tx("settle_hold", async |tx| settle(tx, asked).await).await? else { continue };
        if pins(&settled.done.effects) {
            db.point("pin.after_commit").await;
        }
        settled.done.tell(gate);
        return Ok(settled.outcomes.into_iter().map(|outcome| outcome.map_err(Error::from)).collect());
    }
    Err(Error::transient(anyhow::anyhow!("holds kept changing while their rows were locked")))
}

/// What a transaction comes to, for the callers.
pub struct Settled {
    pub outcomes: Vec<Result<Hold, Refused>>,
    pub done: Done,
}

/// What a transaction has done, to be told after its commit.
pub struct Done {
    effects: Vec<Effect>,
    settlements: Vec<Settlement>,
}

impl Done {
    pub fn tell(self, gate: &Gate) {
        for effect in self.effects {
            let outcome = match effect {
                Effect::Nothing | Effect::Tombstone | Effect::Bar => continue,
                Effect::Pin => "pinned",
                Effect::Retake => "retaken",
                Effect::Unpin => "unpinned",
                Effect::Release => "released",
                Effect::Confirm => "confirmed",
                Effect::Return | Effect::ConfirmAndReturn => "returned",
            };
            metrics::counter!("stampede_holds_total", "outcome" => outcome).increment(1);
        }
        gate.settle_later(self.settlements);
    }
}

fn pins(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Pin | Effect::Retake))
}

/// Takes the steps that `asked` names, in the caller's transaction. None: a hold has changed or appeared since it was
/// looked at, and the transaction must be run again; it may commit, for it has left nothing but right tombstones.
pub async fn settle(tx: &mut Tx, asked: &[Settle]) -> Result<Option<Settled>> {
    let mut ids: Vec<_> = asked.iter().map(|settle| settle.hold).collect();
    ids.sort();
    ids.dedup();
    // First only a look: a payment that pins, and news of what is done already, need not wait for a hot row of stock.
    let Known { now, holds } = known_holds(tx, &ids).await?;
    let products = moved_products(asked, &holds, now);
    let mut stocks = if products.is_empty() { BTreeMap::new() } else { lock_stocks(tx, &products).await? };
    let Known { now, holds } = lock_holds(tx, &ids).await?;

    let Some(mut plan) = Plan::new(asked, holds.clone(), &stocks, Moves::new(), now) else { return Ok(None) };
    // Before anything else is written, so that what it says goes for everything.
    if insert_tombstones(tx, &plan.tombstones, now).await? != plan.tombstones.len() {
        return Ok(None);
    }
    let short = plan.short_products();
    if !short.is_empty() {
        // What has lapsed is on sale, for a payment that came late as for everybody.
        let taken_over = take_over_due(tx, &short, &stocks, &ids, now).await?;
        if !taken_over.holds.is_empty() {
            mark_expired(tx, &taken_over.holds, now).await?;
            stocks.extend(taken_over.also_locked);
            let freed = taken_over.units.into_iter();
            let freed = freed.map(|(product, units)| (product, Move { held: -units, ..Move::default() })).collect();
            plan = Plan::new(asked, holds, &stocks, freed, now)
                .ok_or_else(|| Error::fault(anyhow::anyhow!("stock that was locked is not")))?;
        }
    }
    write(tx, &plan, &stocks, now).await?;
    let Plan { outcomes, effects, settlements, .. } = plan;
    Ok(Some(Settled { outcomes, done: Done { effects, settlements } }))
}

async fn write(tx: &mut Tx, plan: &Plan, stocks: &BTreeMap<ProductId, Stock>, now: DateTime<Utc>) -> Result<()> {
    update_headers(tx, plan, now).await?;
    if !plan.moves.is_empty() {
        let moved = move_stocks(tx, stocks, &plan.moves).await?;
        insert_audits(tx, &plan.audits, &moved, &plan.moves, now).await?;
    }
    if pins(&plan.effects) {
        tx.point("pin.before_commit").await;
    }
    Ok(())
}

/// Returns how many were written: fewer when a hold has appeared meanwhile.
async fn insert_tombstones(tx: &mut Tx, tombstones: &BTreeMap<HoldId, String>, now: DateTime<Utc>) -> Result<usize> {
    if tombstones.is_empty() {
        return Ok(0);
    }
    let (ids, reasons): (Vec<_>, Vec<_>) = tombstones.iter().map(|(id, reason)| (*id, reason.as_str())).unzip();
    let written = sql_query(
        "insert into holds (hold_id, state, expires_at, reason, created_at, updated_at)
         select released.hold_id, 'RELEASED', $3, released.reason, $3, $3
           from unnest($1::uuid[], $2::text[]) as released (hold_id, reason)
          order by released.hold_id
             on conflict (hold_id) do nothing",
    )
    .bind::<Array<Uuid>, _>(ids)
    .bind::<Array<Text>, _>(reasons)
    .bind::<Timestamptz, _>(now)
    .execute(tx)
    .await?;
    Ok(written)
}

async fn update_headers(tx: &mut Tx, plan: &Plan, now: DateTime<Utc>) -> Result<()> {
    let changed = || plan.changed.iter().filter_map(|(id, reason)| Some((plan.holds.get(id)?, reason.as_deref())));
    if plan.changed.is_empty() {
        return Ok(());
    }
    Prepared(
        sql_query(
            "update holds
                set state = changes.state,
                    expires_at = changes.expires_at,
                    pinned_by = changes.pinned_by,
                    pinned_late = changes.pinned_late,
                    unpinned_by = changes.unpinned_by::uuid[],
                    order_version = changes.order_version,
                    reason = case when holds.state = changes.state then holds.reason else changes.reason end,
                    updated_at = case when holds.state = changes.state then holds.updated_at else $9 end
               from unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::uuid[], $5::bool[], $6::text[],
                           $7::bigint[], $8::text[])
                    as changes (hold_id, state, expires_at, pinned_by, pinned_late, unpinned_by, order_version, reason)
              where holds.hold_id = changes.hold_id",
        )
        .bind::<Array<Uuid>, _>(changed().map(|(hold, _)| hold.id).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(changed().map(|(hold, _)| hold.state.name()).collect::<Vec<_>>())
        .bind::<Array<Timestamptz>, _>(changed().map(|(hold, _)| hold.expires_at).collect::<Vec<_>>())
        .bind::<Array<Nullable<Uuid>>, _>(
            changed().map(|(hold, _)| hold.pin.map(|pin| pin.attempt)).collect::<Vec<_>>(),
        )
        .bind::<Array<Bool>, _>(changed().map(|(hold, _)| hold.pin.is_some_and(|pin| pin.late)).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(changed().map(|(hold, _)| array(&hold.unpinned_by)).collect::<Vec<_>>())
        .bind::<Array<Nullable<BigInt>>, _>(changed().map(|(hold, _)| hold.order_version).collect::<Vec<_>>())
        .bind::<Array<Nullable<Text>>, _>(changed().map(|(_, reason)| reason).collect::<Vec<_>>())
        .bind::<Timestamptz, _>(now),
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// As PostgreSQL writes an array: arrays of different lengths cannot be unnested side by side.
fn array(ids: &[PaymentAttemptId]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    format!("{{{}}}", ids.join(","))
}

/// One row for each movement of units on hand, with the stock as each of them left it.
async fn insert_audits(
    tx: &mut Tx,
    audits: &[Audit],
    moved: &[Moved],
    moves: &Moves,
    now: DateTime<Utc>,
) -> Result<()> {
    if audits.is_empty() {
        return Ok(());
    }
    // The rows of one product share a transaction and so a version; their balances still follow each other.
    let start = |row: &Moved| row.on_hand - moves.get(&row.product_id).map_or(0, |change| change.on_hand);
    let mut on_hand: HashMap<ProductId, i64> = moved.iter().map(|row| (row.product_id, start(row))).collect();
    let after: Vec<i64> = audits
        .iter()
        .map(|audit| {
            let balance = on_hand.entry(audit.product).or_default();
            *balance += audit.delta;
            *balance
        })
        .collect();
    Prepared(
        sql_query(
            "insert into product_stock_audit
                    (product_id, hold_id, kind, delta, on_hand_after, held_after, stock_version, reason, created_at)
             select audits.product_id, audits.hold_id, audits.kind, audits.delta, audits.on_hand_after, stocks.held,
                    stocks.version, audits.reason, $7
               from unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[], $5::bigint[], $6::text[])
                    with ordinality as audits (product_id, hold_id, kind, delta, on_hand_after, reason, place)
               join stocks on stocks.product_id = audits.product_id
              order by audits.place",
        )
        .bind::<Array<Uuid>, _>(audits.iter().map(|audit| audit.product).collect::<Vec<_>>())
        .bind::<Array<Uuid>, _>(audits.iter().map(|audit| audit.hold).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(audits.iter().map(|audit| audit.kind).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(audits.iter().map(|audit| audit.delta).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(after)
        .bind::<Array<Nullable<Text>>, _>(audits.iter().map(|audit| audit.reason.as_deref()).collect::<Vec<_>>())
        .bind::<Timestamptz, _>(now),
    )
    .execute(tx)
    .await?;
    Ok(())
}
