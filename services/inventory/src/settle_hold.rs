//! `ReleaseHold`, `ConfirmHold`, `ReturnStock`: the ends of a hold, one transaction for everybody who is waiting.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use common::db::{Db, Prepared, Tx};
use common::{Error, Result};
use contract::ids::{HoldId, ProductId};
use diesel::sql_types::{Array, BigInt, Nullable, Text, Timestamptz, Uuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;

use crate::App;
use crate::gate::{Gate, Mark, Settlement};
use crate::hold::{Effect, Ending, Hold, HoldState, end};
use crate::ledger::{Moved, lock_stocks, move_stocks};
use crate::read_holds::{Known, known_holds};
use crate::refused::Refused;
use crate::stock::Moves;

/// How often a batch is tried when a Hold slips in between looking for a hold and leaving its tombstone.
const ATTEMPTS_MAX: usize = 3;

/// One hold and how it is to end.
#[derive(Debug, Clone)]
pub struct Settle {
    pub hold: HoldId,
    pub ending: Ending,
}

/// Ends a hold; returns it as it is then.
///
/// Idempotent. Refuses with `HOLD_ALREADY_CONFIRMED`, `HOLD_ALREADY_RELEASED`, `HOLD_EXPIRED`, `HOLD_NOT_FOUND` or
/// `HOLD_NOT_CONFIRMED`, each as the ending demands.
pub async fn settle_hold(app: &App, hold: HoldId, ending: Ending) -> Result<Hold> {
    app.endings.submit(Settle { hold, ending }).await
}

/// Serves one batch, then tells the gate. Idempotent.
pub async fn settle_batch(db: &Db, gate: &Gate, asked: Arc<[Settle]>) -> Result<Vec<Result<Hold>>> {
    for _ in 0..ATTEMPTS_MAX {
        let asked = &asked;
        let Some(settled) = db.tx("settle_hold", async |tx| settle(tx, asked).await).await? else { continue };
        gate.settle_later(settled.settlements);
        return Ok(settled.outcomes.into_iter().map(|outcome| outcome.map_err(Error::from)).collect());
    }
    Err(Error::transient(anyhow::anyhow!("holds kept appearing while their tombstones were written")))
}

/// What a transaction did, for the callers and for the gate.
pub struct Settled {
    pub outcomes: Vec<Result<Hold, Refused>>,
    pub settlements: Vec<Settlement>,
}

/// Ends the holds that `asked` names, in the caller's transaction. None: a hold has appeared since it was looked for,
/// and the transaction must be run again.
pub async fn settle(tx: &mut Tx, asked: &[Settle]) -> Result<Option<Settled>> {
    let mut ids: Vec<_> = asked.iter().map(|settle| settle.hold).collect();
    ids.sort();
    ids.dedup();
    // Lines are immutable, so they may be read before anything is locked.
    let Known { mut holds, .. } = known_holds(tx, &ids).await?;
    let products: Vec<ProductId> = holds.values().flat_map(|hold| &hold.lines).map(|line| line.product).collect();
    let stocks = lock_stocks(tx, &products).await?;
    let now = lock_headers(tx, &ids, &mut holds).await?;

    let mut plan = Plan::default();
    let mut outcomes = Vec::with_capacity(asked.len());
    for settle in asked {
        let outcome = end(settle.hold, holds.get(&settle.hold), &settle.ending, now);
        if let Ok(effect) = outcome {
            plan.apply(settle, effect, &mut holds, now);
        }
        let hold = |_| holds.get(&settle.hold).cloned().ok_or(Refused::HoldNotFound(settle.hold));
        outcomes.push(outcome.and_then(hold));
    }
    if insert_tombstones(tx, &plan.tombstones, now).await? != plan.tombstones.len() {
        // The tombstones that were written are right, and nothing else has been.
        return Ok(None);
    }
    update_headers(tx, &plan.changes, now).await?;
    if !plan.moves.is_empty() {
        let moved = move_stocks(tx, &stocks, &plan.moves).await?;
        insert_audits(tx, &plan.audits, &moved, &plan.moves, now).await?;
    }
    Ok(Some(Settled { outcomes, settlements: plan.settlements }))
}

/// Everything a batch of endings writes.
#[derive(Default)]
struct Plan {
    changes: Vec<Change>,
    tombstones: Vec<(HoldId, String)>,
    moves: Moves,
    audits: Vec<Audit>,
    settlements: Vec<Settlement>,
}

struct Change {
    hold: HoldId,
    state: HoldState,
    order_version: Option<i64>,
    reason: Option<String>,
}

struct Audit {
    product: ProductId,
    hold: HoldId,
    kind: &'static str,
    delta: i64,
    reason: Option<String>,
}

impl Plan {
    fn apply(&mut self, settle: &Settle, effect: Effect, holds: &mut HashMap<HoldId, Hold>, now: DateTime<Utc>) {
        let id = settle.hold;
        let (order_version, reason) = match &settle.ending {
            Ending::Confirm { order_version } => (Some(*order_version), None),
            Ending::Release { reason } | Ending::Return { reason } => (None, Some(reason.clone())),
        };
        let state = match effect {
            Effect::Nothing => return,
            Effect::Tombstone => {
                self.tombstones.push((id, reason.unwrap_or_default()));
                let tombstone = Hold { id, user: None, state: HoldState::Released, expires_at: now, lines: Vec::new() };
                holds.insert(id, tombstone);
                return;
            }
            Effect::Release => HoldState::Released,
            Effect::Confirm => HoldState::Confirmed,
            Effect::Return => HoldState::Returned,
        };
        let Some(hold) = holds.get_mut(&id) else { return };
        hold.state = state;
        for line in &hold.lines {
            let (product, quantity) = (line.product, i64::from(line.quantity));
            let change = self.moves.entry(product).or_default();
            let (mark, audit) = match state {
                HoldState::Confirmed => {
                    change.on_hand -= quantity;
                    change.held -= quantity;
                    (Mark::Sold, Some(("CONFIRM", -quantity)))
                }
                HoldState::Returned => {
                    change.on_hand += quantity;
                    change.restocked += quantity;
                    (Mark::Units, Some(("RETURN", quantity)))
                }
                HoldState::Released | HoldState::Held | HoldState::Pinned | HoldState::Expired => {
                    change.held -= quantity;
                    (Mark::Back, None)
                }
            };
            self.settlements.push(Settlement { product, hold: id, quantity, mark });
            self.audits.extend(audit.map(|(kind, delta)| Audit {
                product,
                hold: id,
                kind,
                delta,
                reason: reason.clone(),
            }));
        }
        self.changes.push(Change { hold: id, state, order_version, reason });
    }
}

#[derive(QueryableByName)]
struct HeaderRow {
    #[diesel(sql_type = Timestamptz)]
    now: DateTime<Utc>,
    #[diesel(sql_type = Nullable<Uuid>)]
    hold_id: Option<HoldId>,
    #[diesel(sql_type = Nullable<Text>)]
    state: Option<String>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    expires_at: Option<DateTime<Utc>>,
}

/// Locks the headers by id and brings `holds` up to date; returns the database's clock under the lock.
async fn lock_headers(tx: &mut Tx, ids: &[HoldId], holds: &mut HashMap<HoldId, Hold>) -> Result<DateTime<Utc>> {
    Prepared(
        sql_query("select from holds where hold_id = any($1) order by hold_id for update").bind::<Array<Uuid>, _>(ids),
    )
    .execute(tx)
    .await?;
    let rows: Vec<HeaderRow> = Prepared(
        sql_query(
            "select clock.now, holds.hold_id, holds.state, holds.expires_at
           from (select clock_timestamp() as now) as clock
           left join holds on holds.hold_id = any($1)",
        )
        .bind::<Array<Uuid>, _>(ids),
    )
    .load(tx)
    .await?;
    let now = rows
        .as_slice()
        .first()
        .map(|row| row.now)
        .ok_or_else(|| Error::fault(anyhow::anyhow!("the clock is missing")))?;
    for row in rows {
        let (Some(id), Some(state), Some(expires_at)) = (row.hold_id, row.state, row.expires_at) else { continue };
        // One that was not there before has lines whose stock is not locked: its tombstone will fail.
        let Some(hold) = holds.get_mut(&id) else { continue };
        hold.expires_at = expires_at;
        hold.state = HoldState::parse(&state)
            .ok_or_else(|| Error::fault(anyhow::anyhow!("hold {id} is in unknown state {state}")))?;
    }
    Ok(now)
}

/// Returns how many were written: fewer when a hold has appeared meanwhile.
async fn insert_tombstones(tx: &mut Tx, tombstones: &[(HoldId, String)], now: DateTime<Utc>) -> Result<usize> {
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

async fn update_headers(tx: &mut Tx, changes: &[Change], now: DateTime<Utc>) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    Prepared(
        sql_query(
            "update holds
                set state = changes.state,
                    order_version = coalesce(changes.order_version, holds.order_version),
                    reason = coalesce(changes.reason, holds.reason),
                    updated_at = $5
               from unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[])
                    as changes (hold_id, state, order_version, reason)
              where holds.hold_id = changes.hold_id",
        )
        .bind::<Array<Uuid>, _>(changes.iter().map(|change| change.hold).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(changes.iter().map(|change| change.state.name()).collect::<Vec<_>>())
        .bind::<Array<Nullable<BigInt>>, _>(changes.iter().map(|change| change.order_version).collect::<Vec<_>>())
        .bind::<Array<Nullable<Text>>, _>(changes.iter().map(|change| change.reason.as_deref()).collect::<Vec<_>>())
        .bind::<Timestamptz, _>(now),
    )
    .execute(tx)
    .await?;
    Ok(())
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
