//! The rows of stock: locked in one order, moved by one statement.
//!
//! Every flow locks in the same order, so none can deadlock: first all rows of `stocks` it needs by product id, then
//! headers of `holds` by hold id. Whoever needs a row out of order takes it with `skip locked` or not at all.

use std::collections::BTreeMap;

use common::db::{Prepared, Tx};
use common::{Error, Result, outbox};
use contract::events::{StockDepleted, StockReplenished};
use contract::ids::ProductId;
use diesel::sql_types::{Array, BigInt, Bool, Integer, Nullable, Text, Uuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;

use crate::stock::{Crossing, Moves, Stock, crossing};

#[derive(QueryableByName)]
struct StockRow {
    #[diesel(sql_type = Uuid)]
    product_id: ProductId,
    #[diesel(sql_type = BigInt)]
    on_hand: i64,
    #[diesel(sql_type = BigInt)]
    held: i64,
    #[diesel(sql_type = BigInt)]
    version: i64,
    #[diesel(sql_type = Text)]
    sku: String,
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = BigInt)]
    price_amount: i64,
    #[diesel(sql_type = Text)]
    currency: String,
    #[diesel(sql_type = Nullable<Integer>)]
    max_per_user: Option<i32>,
}

impl StockRow {
    fn into_entry(self) -> (ProductId, Stock) {
        let StockRow { product_id, on_hand, held, version, sku, name, price_amount, currency, max_per_user } = self;
        (product_id, Stock { on_hand, held, version, max_per_user, unit_price: price_amount, currency, sku, name })
    }
}

/// Locks the stock of `products` in product order, waiting for whoever has it. Unknown products are left out.
pub async fn lock_stocks(tx: &mut Tx, products: &[ProductId]) -> Result<BTreeMap<ProductId, Stock>> {
    let rows: Vec<StockRow> = Prepared(
        sql_query(
            "select stocks.product_id, stocks.on_hand, stocks.held, stocks.version, products.sku, products.name,
                    products.price_amount, products.currency, products.max_per_user
               from stocks
               join products on products.id = stocks.product_id
              where stocks.product_id = any($1)
              order by stocks.product_id
                for update of stocks",
        )
        .bind::<Array<Uuid>, _>(products),
    )
    .load(tx)
    .await?;
    Ok(rows.into_iter().map(StockRow::into_entry).collect())
}

/// [`lock_stocks`] without the lock: a move that relies on it finds out by the version if it has been outrun.
pub async fn peek_stocks(tx: &mut Tx, products: &[ProductId]) -> Result<BTreeMap<ProductId, Stock>> {
    let rows: Vec<StockRow> = Prepared(
        sql_query(
            "select stocks.product_id, stocks.on_hand, stocks.held, stocks.version, products.sku, products.name,
                    products.price_amount, products.currency, products.max_per_user
               from stocks
               join products on products.id = stocks.product_id
              where stocks.product_id = any($1)",
        )
        .bind::<Array<Uuid>, _>(products),
    )
    .load(tx)
    .await?;
    Ok(rows.into_iter().map(StockRow::into_entry).collect())
}

/// A row of stock after a move.
#[derive(Debug, Clone, QueryableByName)]
pub struct Moved {
    #[diesel(sql_type = Uuid)]
    pub product_id: ProductId,
    #[diesel(sql_type = BigInt)]
    pub on_hand: i64,
    #[diesel(sql_type = BigInt)]
    pub held: i64,
    #[diesel(sql_type = BigInt)]
    pub version: i64,
    #[diesel(sql_type = BigInt)]
    pub restock_round: i64,
}

/// Moves rows that this transaction has locked and announces what sold out and what is back.
///
/// `before` are the rows as locked.
pub async fn move_stocks(tx: &mut Tx, before: &BTreeMap<ProductId, Stock>, moves: &Moves) -> Result<Vec<Moved>> {
    let moved = try_move_stocks(tx, before, moves).await?;
    moved.ok_or_else(|| Error::fault(anyhow::anyhow!("locked stock did not move as decided: a guard held")))
}

/// Moves every row in `moves` if none has changed since `before` was read. None: one has, and the transaction must not
/// commit if other rows have moved.
///
/// The guard and the checks of the table are the last word: should the rules ever promise too much, nothing commits.
pub async fn try_move_stocks(
    tx: &mut Tx,
    before: &BTreeMap<ProductId, Stock>,
    moves: &Moves,
) -> Result<Option<Vec<Moved>>> {
    let sellable = |product: &ProductId| before.get(product).map_or(0, Stock::sellable);
    let versions: Vec<_> = moves.keys().map(|id| before.get(id).map_or(0, |stock| stock.version)).collect();
    let replenished: Vec<_> =
        moves.iter().map(|(id, change)| crossing(sellable(id), *change) == Crossing::Replenished).collect();
    let moved: Vec<Moved> = Prepared(
        sql_query(
            "update stocks
                set on_hand = stocks.on_hand + moves.on_hand,
                    held = stocks.held + moves.held,
                    version = stocks.version + 1,
                    restock_round = stocks.restock_round + moves.replenished::int
               from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bool[])
                    as moves (product_id, version, on_hand, held, replenished)
              where stocks.product_id = moves.product_id
                and stocks.version = moves.version
                and stocks.on_hand - stocks.held + moves.on_hand - moves.held >= 0
             returning stocks.product_id, stocks.on_hand, stocks.held, stocks.version, stocks.restock_round",
        )
        .bind::<Array<Uuid>, _>(moves.keys().copied().collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(versions)
        .bind::<Array<BigInt>, _>(moves.values().map(|change| change.on_hand).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(moves.values().map(|change| change.held).collect::<Vec<_>>())
        .bind::<Array<Bool>, _>(replenished),
    )
    .load(tx)
    .await?;
    if moved.len() != moves.len() {
        return Ok(None);
    }
    announce(tx, before, moves, &moved).await?;
    Ok(Some(moved))
}

async fn announce(tx: &mut Tx, before: &BTreeMap<ProductId, Stock>, moves: &Moves, moved: &[Moved]) -> Result<()> {
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
