//! Giving back what nobody paid for: by a sweeper, and by whoever needs the units first.

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, Utc};
use common::Result;
use common::db::{Prepared, Tx};
use contract::ids::{HoldId, ProductId};
use diesel::sql_types::{Array, BigInt, Integer, Timestamptz, Uuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;

use crate::App;
use crate::gate::{Mark, Settlement};
use crate::ledger::{lock_stocks, move_stocks};
use crate::stock::{Moves, Stock};

/// Expired holds that one hungry batch takes over at most; the sweeper brings the rest within its period.
const TAKE_OVER_MAX: i64 = 500;

#[derive(Debug, Clone, Copy, QueryableByName)]
struct DueLine {
    #[diesel(sql_type = Uuid)]
    hold_id: HoldId,
    #[diesel(sql_type = Uuid)]
    product_id: ProductId,
    #[diesel(sql_type = Integer)]
    quantity: i32,
}

/// Sets holds whose time is up to `EXPIRED` and puts their units back on sale. Any number of replicas may run it.
///
/// It only tidies: readers and holds ignore what has expired, to the instant.
pub async fn expire_holds(app: &App) -> Result<()> {
    loop {
        let expired = app.db.tx("expire_holds", async |tx| sweep(tx, app.sweep_holds_max).await).await?;
        metrics::counter!("stampede_holds_total", "outcome" => "expired").increment(expired.holds as u64);
        // The gate gave these units back by itself at the same instant; this is for a gate whose clock lags.
        app.gate.settle_later(expired.settlements);
        if (expired.holds as i64) < app.sweep_holds_max {
            return Ok(());
        }
    }
}

struct Expired {
    holds: usize,
    settlements: Vec<Settlement>,
}

async fn sweep(tx: &mut Tx, holds_max: i64) -> Result<Expired> {
    // First only a look, then the stock, then the headers: the one order of locks.
    let seen = due_lines(tx, holds_max).await?;
    metrics::gauge!("stampede_holds_overdue").set(seen.len() as f64);
    if seen.is_empty() {
        return Ok(Expired { holds: 0, settlements: Vec::new() });
    }
    let products: Vec<_> = seen.iter().map(|line| line.product_id).collect();
    let stocks = lock_stocks(tx, &products).await?;
    let expired = expire_those(tx, &seen).await?;
    tx.point("sweeper.mid").await;

    let mut moves = Moves::new();
    let mut settlements = Vec::new();
    for line in seen.iter().filter(|line| expired.contains(&line.hold_id)) {
        let (product, quantity) = (line.product_id, i64::from(line.quantity));
        moves.entry(product).or_default().held -= quantity;
        settlements.push(Settlement { product, hold: line.hold_id, quantity, mark: Mark::Back });
    }
    if !moves.is_empty() {
        move_stocks(tx, &stocks, &moves).await?;
    }
    Ok(Expired { holds: expired.len(), settlements })
}

async fn due_lines(tx: &mut Tx, holds_max: i64) -> Result<Vec<DueLine>> {
    let lines = Prepared(
        sql_query(
            "select hold_lines.hold_id, hold_lines.product_id, hold_lines.quantity
           from (
                select holds.hold_id
                  from holds
                 where holds.state = 'HELD'
                   and holds.expires_at <= statement_timestamp()
                 order by holds.expires_at
                 limit $1
                ) as due
           join hold_lines on hold_lines.hold_id = due.hold_id",
        )
        .bind::<BigInt, _>(holds_max),
    )
    .load(tx)
    .await?;
    Ok(lines)
}

#[derive(QueryableByName)]
struct ExpiredRow {
    #[diesel(sql_type = Uuid)]
    hold_id: HoldId,
}

async fn expire_those(tx: &mut Tx, seen: &[DueLine]) -> Result<HashSet<HoldId>> {
    let mut ids: Vec<_> = seen.iter().map(|line| line.hold_id).collect();
    ids.dedup();
    let rows: Vec<ExpiredRow> = Prepared(
        sql_query(
            "with due as materialized (
            select holds.hold_id
              from holds
             where holds.hold_id = any($1)
               and holds.state = 'HELD'
               and holds.expires_at <= clock_timestamp()
             order by holds.hold_id
               for update skip locked
         )
         update holds
            set state = 'EXPIRED',
                updated_at = clock_timestamp()
           from due
          where holds.hold_id = due.hold_id
         returning holds.hold_id",
        )
        .bind::<Array<Uuid>, _>(ids),
    )
    .load(tx)
    .await?;
    Ok(rows.into_iter().map(|row| row.hold_id).collect())
}

/// Expired holds that a batch takes over because it is short of their units.
#[derive(Default)]
pub struct TakenOver {
    pub holds: Vec<HoldId>,
    /// Units that are free again, of the short products and of others in the same holds.
    pub units: BTreeMap<ProductId, i64>,
    /// The other products' stock, locked on the way.
    pub also_locked: BTreeMap<ProductId, Stock>,
}

/// Finds holds on `short` products whose time was up at `now`, and locks them and all their stock.
///
/// The caller has locked `locked`; what else a hold of several lines needs is locked only if nobody has it, because
/// waiting out of order could deadlock. Such a hold is left to the sweeper then. `except` are holds that the caller is
/// about to change itself.
pub async fn take_over_due(
    tx: &mut Tx,
    short: &[ProductId],
    locked: &BTreeMap<ProductId, Stock>,
    except: &[HoldId],
    now: DateTime<Utc>,
) -> Result<TakenOver> {
    let due: Vec<DueLine> = Prepared(
        sql_query(include_str!("take_over_due.sql"))
            .bind::<Array<Uuid>, _>(short)
            .bind::<Timestamptz, _>(now)
            .bind::<BigInt, _>(TAKE_OVER_MAX)
            .bind::<Array<Uuid>, _>(except),
    )
    .load(tx)
    .await?;
    let others: Vec<_> = due.iter().map(|line| line.product_id).filter(|id| !locked.contains_key(id)).collect();
    let also_locked = if others.is_empty() { BTreeMap::new() } else { lock_free_stocks(tx, &others).await? };

    let is_locked = |id: &ProductId| locked.contains_key(id) || also_locked.contains_key(id);
    let beyond: HashSet<HoldId> =
        due.iter().filter(|line| !is_locked(&line.product_id)).map(|line| line.hold_id).collect();
    let mut taken = TakenOver { also_locked, ..TakenOver::default() };
    for line in due.iter().filter(|line| !beyond.contains(&line.hold_id)) {
        taken.holds.push(line.hold_id);
        *taken.units.entry(line.product_id).or_default() += i64::from(line.quantity);
    }
    taken.holds.sort();
    taken.holds.dedup();
    Ok(taken)
}

/// Sets holds that [`take_over_due`] has locked to `EXPIRED`.
pub async fn mark_expired(tx: &mut Tx, holds: &[HoldId], now: DateTime<Utc>) -> Result<()> {
    Prepared(
        sql_query("update holds set state = 'EXPIRED', updated_at = $2 where hold_id = any($1)")
            .bind::<Array<Uuid>, _>(holds)
            .bind::<Timestamptz, _>(now),
    )
    .execute(tx)
    .await?;
    metrics::counter!("stampede_holds_total", "outcome" => "taken_over").increment(holds.len() as u64);
    Ok(())
}

#[derive(QueryableByName)]
struct FreeRow {
    #[diesel(sql_type = Uuid)]
    product_id: ProductId,
}

async fn lock_free_stocks(tx: &mut Tx, products: &[ProductId]) -> Result<BTreeMap<ProductId, Stock>> {
    let free: Vec<FreeRow> = Prepared(
        sql_query(
            "select product_id from stocks where product_id = any($1) order by product_id for update skip locked",
        )
        .bind::<Array<Uuid>, _>(products),
    )
    .load(tx)
    .await?;
    let free: Vec<_> = free.into_iter().map(|row| row.product_id).collect();
    // They are ours now: this does not wait.
    lock_stocks(tx, &free).await
}
