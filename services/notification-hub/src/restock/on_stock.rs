//! Reactions to stock: `STOCK_REPLENISHED` begins a restock round, `STOCK_DEPLETED` ends it.
//!
//! The two are read in no particular order. What is newer says the version of the stock.

use common::db::{Prepared, Tx};
use common::inbox::{Handler, Received};
use common::{Error, Result};
use contract::events::{StockDepleted, StockReplenished};
use contract::ids::ProductId;
use diesel::dsl::now;
use diesel::sql_types::{BigInt, Text, Uuid};
use diesel::{ExpressionMethods, OptionalExtension, QueryDsl};
use diesel_async::RunQueryDsl;

use crate::App;
use crate::restock::end_round::count_later;
use crate::restock::round::{RoundKey, RoundStatus, Start, start};
use crate::schema::product_notification_history;

impl Handler<StockReplenished> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<StockReplenished>]) -> Result<()> {
        for Received { event, .. } in events {
            let product: ProductId = event.product_id.parse().map_err(Error::fault)?;
            let key = RoundKey { product, round: event.restock_round };
            begin_round(self, tx, key, event.stock_version).await?;
            observe_later(self, tx, product, event.stock_version, event.available);
        }
        Ok(())
    }
}

impl Handler<StockDepleted> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<StockDepleted>]) -> Result<()> {
        for Received { event, .. } in events {
            let product: ProductId = event.product_id.parse().map_err(Error::fault)?;
            end_sold_out(tx, product, event.stock_version).await?;
            observe_later(self, tx, product, event.stock_version, 0);
        }
        Ok(())
    }
}

/// Tells the gate when the event is applied.
fn observe_later(app: &App, tx: &mut Tx, product: ProductId, version: i64, available: i64) {
    let gate = app.restock.gate.clone();
    tx.after_commit(move || gate.observe(product, version, available));
}

/// Begins the round with the stock at `stock_version`, once, and has a runner take it.
pub async fn begin_round(app: &App, tx: &mut Tx, key: RoundKey, stock_version: i64) -> Result<Start> {
    let decision = start(newest_round(tx, key.product).await?, key.round);
    let status = match decision {
        Start::Known => return Ok(decision),
        Start::Late => RoundStatus::CanceledBySoldOut,
        Start::Begin { ends_before } => {
            if ends_before {
                end_sold_out(tx, key.product, stock_version).await?;
            }
            RoundStatus::InProgress
        }
    };
    let query = diesel::sql_query(include_str!("insert_round.sql"))
        .bind::<Uuid, _>(key.product)
        .bind::<BigInt, _>(key.round)
        .bind::<Uuid, _>(key.id())
        .bind::<Text, _>(status)
        .bind::<BigInt, _>(stock_version);
    if Prepared(query).execute(tx).await? == 0 {
        return Ok(Start::Known);
    }
    count_later(tx, status);
    let wake = app.restock.wake.clone();
    tx.after_commit(move || wake.notify_one());
    Ok(decision)
}

/// The product's newest round, locked.
pub async fn newest_round(tx: &mut Tx, product: ProductId) -> Result<Option<(i64, RoundStatus)>> {
    let newest = product_notification_history::table
        .filter(product_notification_history::product_id.eq(product))
        .order(product_notification_history::round.desc())
        .limit(1)
        .select((product_notification_history::round, product_notification_history::status))
        .for_update()
        .first(tx)
        .await;
    Ok(newest.optional()?)
}

/// Ends the round of `product` that is in progress, if it began with an older stock than `stock_version`.
async fn end_sold_out(tx: &mut Tx, product: ProductId, stock_version: i64) -> Result<()> {
    let ended: Vec<i64> = diesel::update(product_notification_history::table)
        .filter(product_notification_history::product_id.eq(product))
        .filter(product_notification_history::status.eq(RoundStatus::InProgress))
        .filter(product_notification_history::stock_version.lt(stock_version))
        .set((
            product_notification_history::status.eq(RoundStatus::CanceledBySoldOut),
            product_notification_history::ended_at.eq(now),
            product_notification_history::lease_until.eq(None::<chrono::DateTime<chrono::Utc>>),
        ))
        .returning(product_notification_history::round)
        .get_results(tx)
        .await?;
    for round in ended {
        count_later(tx, RoundStatus::CanceledBySoldOut);
        tx.after_commit(move || {
            tracing::info!(
                product.id = %product, round, stock_version,
                "Restock round {round} of product {product} is CANCELED_BY_SOLD_OUT"
            );
        });
    }
    Ok(())
}
