//! Events of stock: a sale that is sold out begins again when there is more to sell, and the rooms look at the stock at once.

use common::db::Tx;
use common::inbox::{Handler, Received};
use common::{Error, Result};
use contract::events::{StockDepleted, StockReplenished};
use contract::ids::ProductId;
use diesel::sql_types::{Array, Uuid};
use diesel_async::RunQueryDsl;

use crate::App;

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
        let again = diesel::sql_query(include_str!("on_stock.sql")).bind::<Array<Uuid>, _>(&products);
        again.execute(tx).await?;
        let look = self.look_at_rooms.clone();
        tx.after_commit(move || look.notify_one());
        Ok(())
    }
}
