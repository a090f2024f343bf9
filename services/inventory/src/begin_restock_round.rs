//! `BeginRestockRound`: raises the restock round of a product by hand, while there are units to sell.

use common::Result;
use common::db::Tx;
use contract::ids::ProductId;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use crate::App;
use crate::refused::{Refused, Shortage};
use crate::schema::stocks;
use crate::stock_rows::{Moved, read_level};

/// Compares and sets: of two that ask at once, one raises the round.
///
/// It is no event of the stock: nothing came back that was gone. Refuses with `PRODUCT_NOT_FOUND`, `OUT_OF_STOCK` and
/// `CONCURRENT_MODIFICATION`.
pub async fn begin_restock_round(app: &App, product: ProductId, after_round: i64) -> Result<Moved> {
    app.db
        .tx("begin_restock_round", async move |tx| {
            let begun = raise_round(tx, product, after_round).await?;
            app.feed.tell_after_commit(tx, std::slice::from_ref(&begun));
            Ok(begun)
        })
        .await
}

async fn raise_round(tx: &mut Tx, product: ProductId, after_round: i64) -> Result<Moved> {
    let raised = diesel::update(stocks::table.find(product))
        .filter(stocks::restock_round.eq(after_round))
        .filter(stocks::on_hand.gt(stocks::held))
        .set((stocks::restock_round.eq(stocks::restock_round + 1), stocks::version.eq(stocks::version + 1)))
        .returning(Moved::as_returning())
        .get_result(tx)
        .await
        .optional()?;
    if let Some(raised) = raised {
        return Ok(raised);
    }
    let level = read_level(tx, product).await?.ok_or(Refused::ProductNotFound(product))?;
    Err(match level.on_hand - level.held {
        ..=0 => Refused::OutOfStock { shortages: vec![Shortage { product, requested: 1, available: 0 }] },
        _ => Refused::ConcurrentModification,
    }
    .into())
}
