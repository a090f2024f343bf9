//! The sweeper: puts the units of holds that nobody paid for back on sale.

use std::collections::BTreeSet;

use common::Result;
use common::db::{Prepared, Tx};
use contract::ids::HoldId;
use diesel::sql_types::{Array, BigInt, Uuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;

use crate::App;
use crate::gate::{GateUpdate, Mark};
use crate::schema::holds;
use crate::stock::Moves;
use crate::stock_rows::{StockFeed, lock_stocks, move_stocks};
use crate::take_over::ExpiredLine;

/// Sets holds whose time is up to `EXPIRED`, and puts their units back on sale. Any number of replicas may run it.
///
/// It only tidies: for readers and for other holds they have expired already.
pub async fn expire_holds(app: &App) -> Result<()> {
    loop {
        let expired = app.db.tx("expire_holds", async |tx| sweep(tx, &app.feed, app.sweep_holds_max).await).await?;
        metrics::counter!("stampede_holds_total", "outcome" => "expired").increment(expired.holds as u64);
        // The gate has put these units back itself when their time was up, unless its clock is behind.
        app.gate.apply_later(expired.gate_updates);
        if (expired.holds as i64) < app.sweep_holds_max {
            return Ok(());
        }
    }
}

struct Expired {
    holds: usize,
    gate_updates: Vec<GateUpdate>,
}

async fn sweep(tx: &mut Tx, feed: &StockFeed, holds_max: i64) -> Result<Expired> {
    // First only a look, then the stock, then the holds: see `stock_rows.rs`.
    let query = sql_query(include_str!("expire_holds_find.sql")).bind::<BigInt, _>(holds_max);
    let seen: Vec<ExpiredLine> = Prepared(query).load(tx).await?;
    let ids: BTreeSet<HoldId> = seen.iter().map(|line| line.hold_id).collect();
    metrics::gauge!("stampede_holds_overdue").set(ids.len() as f64);
    if seen.is_empty() {
        return Ok(Expired { holds: 0, gate_updates: Vec::new() });
    }
    let products: Vec<_> = seen.iter().map(|line| line.product_id).collect();
    let stocks = lock_stocks(tx, &products).await?;
    let expired = set_expired(tx, Vec::from_iter(ids)).await?;
    tx.point("sweeper.mid").await;

    let (mut moves, mut gate_updates) = (Moves::new(), Vec::new());
    for line in seen.iter().filter(|line| expired.contains(&line.hold_id)) {
        let (product, quantity) = (line.product_id, i64::from(line.quantity));
        moves.entry(product).or_default().held -= quantity;
        gate_updates.push(GateUpdate { product, quantity, mark: Mark::Back { hold: line.hold_id } });
    }
    if !moves.is_empty() {
        move_stocks(tx, feed, &stocks, &moves).await?;
    }
    Ok(Expired { holds: expired.len(), gate_updates })
}

#[derive(QueryableByName)]
#[diesel(table_name = holds)]
struct ExpiredHold {
    hold_id: HoldId,
}

/// Returns which holds it has set: others have been pinned or have ended since they were found.
async fn set_expired(tx: &mut Tx, ids: Vec<HoldId>) -> Result<BTreeSet<HoldId>> {
    let query = sql_query(include_str!("expire_holds.sql")).bind::<Array<Uuid>, _>(ids);
    let rows: Vec<ExpiredHold> = Prepared(query).load(tx).await?;
    Ok(rows.into_iter().map(|row| row.hold_id).collect())
}
