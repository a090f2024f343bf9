//! What is left to sell: asked of inventory, and told when nothing is left.
//!
//! A hold that lapses is told by no event, so the stock of open sales is asked for every second. While inventory is away, the
//! last answer stands.

use std::time::{Duration, Instant};

use common::{Result, outbox};
use contract::ids::ProductId;
use contract::inventory::GetStockRequest;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use futures_util::future::join_all;
use tonic::Request;

use crate::App;
use crate::admission::{Stock, next_sold_out};
use crate::names::{SoldOut, Status};
use crate::sale_event::SaleEvent;
use crate::schema::sale_events;

/// What inventory has said.
#[derive(Debug, Clone, Copy)]
pub struct KnownStock {
    pub stock: Stock,
    /// What was held before this moment is not counted as available.
    pub asked: Instant,
}

/// Saving the rooms waits for the answer.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// The event, after its stock was looked at.
pub async fn note_stock(app: &App, event: SaleEvent) -> Result<SaleEvent> {
    let asked = Instant::now();
    let Some(stock) = read_stock(app, &event).await else { return Ok(event) };
    app.stocks.lock().insert(event.id, KnownStock { stock, asked });
    let next = next_sold_out(event.sold_out, stock);
    if next == event.sold_out {
        return Ok(event);
    }
    let id = event.id;
    app.db.point("queue.before_note").await;
    let changed = app.db.tx("note_stock", async |tx| {
        let changed = change(tx, &event, next).await?;
        if let (Some(event), Some(kind)) = (&changed, next) {
            outbox::publish(tx, &event.as_sold_out(kind, stock.held())).await?;
        }
        Ok(changed)
    });
    // None: another replica has noted it, or there was a restock after this look.
    let Some(changed) = changed.await? else { return Ok(event) };
    app.events.forget(id).await;
    tracing::info!(event.id = %id, before = ?event.sold_out, now = ?next, held = stock.held(), "Sale event {id}: what is left has changed");
    Ok(changed)
}

/// Of the version that was looked at.
async fn change(tx: &mut common::db::Tx, event: &SaleEvent, next: Option<SoldOut>) -> Result<Option<SaleEvent>> {
    let update = diesel::update(sale_events::table.find(event.id))
        .filter(sale_events::status.eq(Status::Open))
        .filter(sale_events::version.eq(event.version))
        .set((sale_events::sold_out.eq(next), sale_events::version.eq(sale_events::version + 1)));
    Ok(update.returning(SaleEvent::as_returning()).get_result(tx).await.optional()?)
}

/// Of all products of the event together. None: it is not known.
async fn read_stock(app: &App, event: &SaleEvent) -> Option<Stock> {
    let mut sum = Stock { on_hand: 0, available: 0 };
    let stocks = join_all(event.product_ids.iter().map(|product| product_stock(app, *product))).await;
    for (product, stock) in event.product_ids.iter().zip(stocks) {
        match stock {
            Ok(stock) => sum = sum.and(stock),
            Err(error) => {
                tracing::debug!(event.id = %event.id, product.id = %product, %error, "The stock of a sale is not known");
                return None;
            }
        }
    }
    Some(sum)
}

async fn product_stock(app: &App, product: ProductId) -> Result<Stock> {
    let mut request = Request::new(GetStockRequest { product_id: product.to_string() });
    request.set_timeout(ANSWER_MAX);
    let answer = app.inventory.clone().get_stock(request).await?.into_inner();
    let level = answer.stock.ok_or_else(|| anyhow::anyhow!("inventory answered without a stock"))?;
    Ok(Stock { on_hand: level.on_hand, available: level.available })
}
