//! Taking over expired holds: a batch that is short of units does not wait for the sweeper.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use common::Result;
use common::db::{Prepared, Tx};
use contract::ids::{HoldId, ProductId};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, Timestamptz, Uuid};
use diesel_async::RunQueryDsl;

use crate::hold::HoldState;
use crate::schema::{hold_lines, holds};
use crate::stock::{Moves, Stock};
use crate::stock_rows::lock_free_stocks;

/// Expired holds that one batch takes over at most; the sweeper gets the others.
const HOLDS_MAX: i64 = 500;

/// A line of a hold that has expired.
#[derive(Debug, Clone, Copy, QueryableByName)]
#[diesel(table_name = hold_lines)]
pub struct ExpiredLine {
    pub hold_id: HoldId,
    pub product_id: ProductId,
    pub quantity: i32,
}

/// Sets holds on `short` products whose time was up at `now` to `EXPIRED`. Returns the units that this frees, for the
/// caller to move: of the short products, and of all others in the same holds.
///
/// `stocks` are the rows that the caller has locked. Those of other products are added if nobody has locked them; to wait
/// for them out of order could be a deadlock, so a hold that needs one is left to the sweeper. `except` are holds that
/// the caller changes itself.
pub async fn take_over(
    tx: &mut Tx,
    short: &[ProductId],
    stocks: &mut BTreeMap<ProductId, Stock>,
    except: &[HoldId],
    now: DateTime<Utc>,
) -> Result<Moves> {
    let query = sql_query(include_str!("take_over.sql"))
        .bind::<Timestamptz, _>(now)
        .bind::<Array<Uuid>, _>(short)
        .bind::<Array<Uuid>, _>(except)
        .bind::<BigInt, _>(HOLDS_MAX);
    let lines: Vec<ExpiredLine> = Prepared(query).load(tx).await?;
    expire(tx, &lines, stocks, now).await
}

/// As [`take_over`], but exactly `holds`, which have seats that somebody wants.
pub async fn take_over_holds(
    tx: &mut Tx,
    holds: &BTreeSet<HoldId>,
    stocks: &mut BTreeMap<ProductId, Stock>,
    now: DateTime<Utc>,
) -> Result<Moves> {
    let query = sql_query(include_str!("take_over_holds.sql"))
        .bind::<Timestamptz, _>(now)
        .bind::<Array<Uuid>, _>(Vec::from_iter(holds));
    let lines: Vec<ExpiredLine> = Prepared(query).load(tx).await?;
    expire(tx, &lines, stocks, now).await
}

/// `lines` are all those of some expired holds, whose rows this transaction has locked.
async fn expire(
    tx: &mut Tx,
    lines: &[ExpiredLine],
    stocks: &mut BTreeMap<ProductId, Stock>,
    now: DateTime<Utc>,
) -> Result<Moves> {
    let others: Vec<_> = lines.iter().map(|line| line.product_id).filter(|id| !stocks.contains_key(id)).collect();
    if !others.is_empty() {
        stocks.extend(lock_free_stocks(tx, &others).await?);
    }
    let is_locked = |line: &&ExpiredLine| stocks.contains_key(&line.product_id);
    let left: BTreeSet<HoldId> = lines.iter().filter(|line| !is_locked(line)).map(|line| line.hold_id).collect();

    let (mut expired, mut freed) = (BTreeSet::new(), Moves::new());
    for line in lines.iter().filter(|line| !left.contains(&line.hold_id)) {
        expired.insert(line.hold_id);
        freed.entry(line.product_id).or_default().held -= i64::from(line.quantity);
    }
    if !expired.is_empty() {
        diesel::update(holds::table.filter(holds::hold_id.eq_any(&expired)))
            .set((holds::state.eq(HoldState::Expired), holds::updated_at.eq(now)))
            .execute(tx)
            .await?;
        metrics::counter!("stampede_holds_total", "outcome" => "taken_over").increment(expired.len() as u64);
    }
    Ok(freed)
}
