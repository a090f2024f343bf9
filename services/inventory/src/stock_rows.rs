//! The rows of stock: locked in one order, moved by one statement, and every movement of units on hand recorded.
//!
//! Schedule flow locks in the same order, so that none can deadlock: first all rows of `stocks` that it needs, by product
//! id, then rows of `holds`, by hold id. What it needs out of this order it locks with `skip locked`, or not at all.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use common::db::{Prepared, Tx};
use common::{Error, Result, outbox};
use contract::events::{StockDepleted, StockReplenished};
use contract::ids::{ConcertId, HoldId, ProductId};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, Bool, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio::sync::broadcast;
use uuid::Uuid;

use crate::plan::Audit;
use crate::schema::{product_stock_audit, products, stocks};
use crate::stock::{Crossing, Moves, Stock, crossing};

#[derive(Queryable, QueryableByName, Selectable)]
#[diesel(table_name = stocks)]
struct StockRow {
    product_id: ProductId,
    on_hand: i64,
    held: i64,
    version: i64,
    #[diesel(embed)]
    product: ProductColumns,
}

#[derive(Queryable, QueryableByName, Selectable)]
#[diesel(table_name = products)]
struct ProductColumns {
    sku: String,
    name: String,
    price_amount: i64,
    currency: String,
    max_per_user: Option<i32>,
    concert_id: Option<ConcertId>,
}

impl StockRow {
    fn into_entry(self) -> (ProductId, Stock) {
        let StockRow { product_id, on_hand, held, version, product } = self;
        let ProductColumns { sku, name, price_amount: unit_price, currency, max_per_user, concert_id: concert } =
            product;
        (product_id, Stock { on_hand, held, version, max_per_user, unit_price, currency, sku, name, concert })
    }
}

/// Locks the stock of `products`, waiting for whoever has it. Unknown products are left out.
pub async fn lock_stocks(tx: &mut Tx, products: &[ProductId]) -> Result<BTreeMap<ProductId, Stock>> {
    let query = sql_query(include_str!("stock_rows_lock.sql")).bind::<Array<SqlUuid>, _>(products);
    let rows: Vec<StockRow> = Prepared(query).load(tx).await?;
    Ok(rows.into_iter().map(StockRow::into_entry).collect())
}

/// Locks the stock of those of `products` that nobody else has locked.
pub async fn lock_free_stocks(tx: &mut Tx, products: &[ProductId]) -> Result<BTreeMap<ProductId, Stock>> {
    let free: Vec<ProductId> = stocks::table
        .filter(stocks::product_id.eq_any(products))
        .order(stocks::product_id)
        .select(stocks::product_id)
        .for_update()
        .skip_locked()
        .load(tx)
        .await?;
    // This transaction has them, so it does not wait here.
    lock_stocks(tx, &free).await
}

/// [`lock_stocks`] without the lock: [`try_move_stocks`] finds out by the version whether a row has changed since.
pub async fn read_stocks(tx: &mut Tx, products: &[ProductId]) -> Result<BTreeMap<ProductId, Stock>> {
    let rows: Vec<StockRow> = stocks::table
        .inner_join(products::table)
        .filter(stocks::product_id.eq_any(products))
        .select(StockRow::as_select())
        .load(tx)
        .await?;
    Ok(rows.into_iter().map(StockRow::into_entry).collect())
}

/// The units of a product without those of expired holds.
#[derive(QueryableByName)]
pub struct Units {
    #[diesel(sql_type = SqlUuid)]
    product_id: ProductId,
    #[diesel(sql_type = BigInt)]
    pub product_version: i64,
    #[diesel(sql_type = BigInt)]
    pub on_hand: i64,
    #[diesel(sql_type = BigInt)]
    pub held: i64,
}

pub async fn read_units(conn: &mut AsyncPgConnection, products: &[ProductId]) -> Result<HashMap<ProductId, Units>> {
    let query = sql_query(include_str!("stock_rows_units.sql")).bind::<Array<SqlUuid>, _>(products);
    let rows: Vec<Units> = Prepared(query).load(conn).await?;
    Ok(rows.into_iter().map(|row| (row.product_id, row)).collect())
}

/// A row of stock after a move.
#[derive(Debug, Clone, Queryable, QueryableByName, Selectable)]
#[diesel(table_name = stocks)]
pub struct Moved {
    pub product_id: ProductId,
    pub on_hand: i64,
    pub held: i64,
    pub version: i64,
    pub restock_round: i64,
}

/// Changes that a watcher of stock may be behind. One that is further behind reads the stock anew.
const CHANGES_MAX: usize = 1024;

/// The rows of stock that this process has changed, for whoever watches a product here. Cheap to clone.
#[derive(Clone)]
pub struct StockFeed(broadcast::Sender<Moved>);

impl StockFeed {
    pub fn new() -> StockFeed {
        StockFeed(broadcast::channel(CHANGES_MAX).0)
    }

    /// Tells the watchers of this process when the transaction has committed. A hint: they look by themselves as well.
    pub fn tell_after_commit(&self, tx: &mut Tx, moved: &[Moved]) {
        if self.0.receiver_count() == 0 {
            return;
        }
        let (feed, moved) = (self.0.clone(), moved.to_vec());
        tx.after_commit(move || {
            for level in moved {
                // It fails when nobody watches any more, and then nobody misses it.
                drop(feed.send(level));
            }
        });
    }

    pub fn watch(&self) -> broadcast::Receiver<Moved> {
        self.0.subscribe()
    }
}

/// Moves rows that this transaction has locked, and publishes which products ran out or came back.
///
/// `before` are the rows as they were locked.
pub async fn move_stocks(
    tx: &mut Tx,
    feed: &StockFeed,
    before: &BTreeMap<ProductId, Stock>,
    moves: &Moves,
) -> Result<Vec<Moved>> {
    match try_move_stocks(tx, feed, before, moves).await? {
        MoveAttempt::Moved(moved) => Ok(moved),
        MoveAttempt::Conflict => {
            let products: Vec<String> = moves.keys().map(ToString::to_string).collect();
            Err(Error::fault(anyhow::anyhow!("locked stock of {} did not move as decided", products.join(", "))))
        }
    }
}

pub enum MoveAttempt {
    Moved(Vec<Moved>),
    /// A row has changed since it was read. The transaction must not commit: other rows may have moved.
    Conflict,
}

/// Moves every row in `moves` if none has changed since `before` was read.
///
/// The conditions of the statement and the checks of the table come on top of the rules: if those ever promise too much,
/// nothing commits.
pub async fn try_move_stocks(
    tx: &mut Tx,
    feed: &StockFeed,
    before: &BTreeMap<ProductId, Stock>,
    moves: &Moves,
) -> Result<MoveAttempt> {
    let sellable = |product: &ProductId| before.get(product).map_or(0, Stock::sellable);
    let versions: Vec<_> = moves.keys().map(|id| before.get(id).map_or(0, |stock| stock.version)).collect();
    let replenished: Vec<_> =
        moves.iter().map(|(id, change)| crossing(sellable(id), *change) == Crossing::Replenished).collect();
    let query = sql_query(include_str!("stock_rows_move.sql"))
        .bind::<Array<SqlUuid>, _>(moves.keys().copied().collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(versions)
        .bind::<Array<BigInt>, _>(moves.values().map(|change| change.on_hand).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(moves.values().map(|change| change.held).collect::<Vec<_>>())
        .bind::<Array<Bool>, _>(replenished);
    let moved: Vec<Moved> = Prepared(query).load(tx).await?;
    if moved.len() != moves.len() {
        return Ok(MoveAttempt::Conflict);
    }
    publish_crossings(tx, before, moves, &moved).await?;
    feed.tell_after_commit(tx, &moved);
    Ok(MoveAttempt::Moved(moved))
}

/// The stock of `product` as it is. None: there is no such product.
pub async fn read_level(conn: &mut AsyncPgConnection, product: ProductId) -> Result<Option<Moved>> {
    Ok(stocks::table.find(product).select(Moved::as_select()).first(conn).await.optional()?)
}

async fn publish_crossings(
    tx: &mut Tx,
    before: &BTreeMap<ProductId, Stock>,
    moves: &Moves,
    moved: &[Moved],
) -> Result<()> {
    let (mut depleted, mut replenished) = (Vec::new(), Vec::new());
    for row in moved {
        let (Some(stock), Some(change)) = (before.get(&row.product_id), moves.get(&row.product_id)) else { continue };
        match crossing(stock.sellable(), *change) {
            Crossing::Depleted => depleted.push(StockDepleted {
                product_id: row.product_id.to_string(),
                stock_version: row.version,
                on_hand: row.on_hand,
                restock_round: row.restock_round,
            }),
            Crossing::Replenished => replenished.push(StockReplenished {
                product_id: row.product_id.to_string(),
                stock_version: row.version,
                on_hand: row.on_hand,
                available: row.on_hand - row.held,
                restock_round: row.restock_round,
            }),
            Crossing::Nothing => {}
        }
    }
    if !depleted.is_empty() {
        outbox::publish_all(tx, &depleted).await?;
    }
    if !replenished.is_empty() {
        outbox::publish_all(tx, &replenished).await?;
    }
    Ok(())
}

/// Records movements by steps of holds, each with the units on hand after it.
pub async fn insert_audits(
    tx: &mut Tx,
    audits: &[Audit],
    moved: &[Moved],
    moves: &Moves,
    now: DateTime<Utc>,
) -> Result<()> {
    if audits.is_empty() {
        return Ok(());
    }
    // Several movements of one product are one move of its row: the units on hand are counted up from before it.
    let before = |row: &Moved| row.on_hand - moves.get(&row.product_id).map_or(0, |change| change.on_hand);
    let mut on_hand: HashMap<ProductId, i64> = moved.iter().map(|row| (row.product_id, before(row))).collect();
    let mut after = Vec::with_capacity(audits.len());
    for audit in audits {
        let units = on_hand.entry(audit.product).or_default();
        *units += audit.delta;
        after.push(*units);
    }
    let query = sql_query(include_str!("stock_rows_audit.sql"))
        .bind::<Timestamptz, _>(now)
        .bind::<Array<SqlUuid>, _>(audits.iter().map(|audit| audit.product).collect::<Vec<_>>())
        .bind::<Array<SqlUuid>, _>(audits.iter().map(|audit| audit.hold).collect::<Vec<HoldId>>())
        .bind::<Array<Text>, _>(audits.iter().map(|audit| audit.kind).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(audits.iter().map(|audit| audit.delta).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(after)
        .bind::<Array<Nullable<Text>>, _>(audits.iter().map(|audit| audit.reason.as_deref()).collect::<Vec<_>>());
    Prepared(query).execute(tx).await?;
    Ok(())
}

/// A movement by an administrator, with the row of stock after it.
#[derive(Insertable)]
#[diesel(table_name = product_stock_audit)]
pub struct NewAudit<'a> {
    pub product_id: ProductId,
    pub adjustment_id: Option<Uuid>,
    pub kind: &'static str,
    pub delta: i64,
    pub on_hand_after: i64,
    pub held_after: i64,
    pub stock_version: i64,
    pub reason: Option<&'a str>,
    pub reference: Option<&'a str>,
    pub actor: Uuid,
    /// Of the request.
    pub fingerprint: Option<&'a [u8]>,
}

pub async fn insert_audit(tx: &mut Tx, audit: &NewAudit<'_>) -> Result<()> {
    diesel::insert_into(product_stock_audit::table).values(audit).execute(tx).await?;
    Ok(())
}
