//! Events of stock: a sale that is sold out begins again when there is more to sell, and the rooms look at the stock at once.

use common::db::Tx;
use common::inbox::{Handler, Received};
use common::{Error, Result, outbox};
use contract::events::{StockDepleted, StockReplenished};
use contract::ids::{ProductId, SaleEventId};
use diesel::prelude::*;
use diesel::sql_types::{Array, Bool, Uuid};
use diesel_async::RunQueryDsl;

use crate::App;
use crate::sale_event::SaleEvent;
use crate::schema::sale_events;

#[derive(QueryableByName)]
struct Restocked {
    #[diesel(sql_type = Uuid)]
    id: SaleEventId,
    #[diesel(sql_type = Bool)]
    begins_again: bool,
}

impl Handler<StockDepleted> for App {
    async fn handle(&self, tx: &mut Tx, _: &[Received<StockDepleted>]) -> Result<()> {
        let look = self.look_at_rooms.clone();
        tx.after_commit(move || look.notify_one());
        Ok(())
    }
}

impl Handler<StockReplenished> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<StockReplenished>]) -> Result<()> {
        let products: Vec<ProductId> = events
            .iter()
            .map(|received| received.event.product_id.parse().map_err(Error::fault))
            .collect::<Result<_>>()?;
        // The old line stays ended: whoever wants to buy now enters a new one.
        let restock = diesel::sql_query(include_str!("on_stock.sql")).bind::<Array<Uuid>, _>(&products);
        let restocked: Vec<Restocked> = restock.load(tx).await?;
        let again: Vec<SaleEventId> = restocked.iter().filter(|sale| sale.begins_again).map(|sale| sale.id).collect();
        let sales = sale_events::table.filter(sale_events::id.eq_any(again)).select(SaleEvent::as_select());
        let scheduled: Vec<_> = sales.load(tx).await?.iter().map(SaleEvent::as_scheduled).collect();
        outbox::publish_all(tx, &scheduled).await?;
        let (look, known) = (self.look_at_rooms.clone(), self.events.clone());
        tx.after_commit(move || {
            tokio::spawn(async move {
                for sale in restocked {
                    known.forget(sale.id).await;
                }
                look.notify_one();
            });
        });
        Ok(())
    }
}
