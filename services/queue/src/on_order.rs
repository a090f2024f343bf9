//! `ORDER_PLACED`: whoever has paid is done, and their pass ends, even if nobody said so.

use std::sync::Arc;

use common::db::Tx;
use common::inbox::{Handler, Received};
use common::{Error, Result};
use contract::events::OrderPlaced;
use contract::ids::{AccountId, ProductId, SaleEventId};
use diesel::QueryableByName;
use diesel::sql_types::{Array, Uuid};
use diesel_async::RunQueryDsl;

use crate::App;
use crate::end_pass::complete_pass;

#[derive(QueryableByName)]
struct Buyer {
    #[diesel(sql_type = Uuid)]
    event_id: SaleEventId,
    #[diesel(sql_type = Uuid)]
    user_id: AccountId,
}

/// With the application in hand, since ending a pass goes on after the transaction.
pub struct OnOrder(pub Arc<App>);

impl Handler<OrderPlaced> for OnOrder {
    async fn handle(&self, tx: &mut Tx, events: &[Received<OrderPlaced>]) -> Result<()> {
        let (mut products, mut buyers): (Vec<ProductId>, Vec<AccountId>) = (Vec::new(), Vec::new());
        for Received { event, .. } in events {
            let buyer: AccountId = event.user_id.parse().map_err(Error::fault)?;
            for item in &event.items {
                products.push(item.product_id.parse().map_err(Error::fault)?);
                buyers.push(buyer);
            }
        }
        let bought = diesel::sql_query(include_str!("on_order.sql"))
            .bind::<Array<Uuid>, _>(&products)
            .bind::<Array<Uuid>, _>(&buyers);
        let bought: Vec<Buyer> = bought.load(tx).await?;
        let app = self.0.clone();
        // A hint: a pass whose end is lost here ends by its own clock.
        tx.after_commit(move || {
            tokio::spawn(async move {
                for Buyer { event_id, user_id } in bought {
                    if let Err(error) = complete_pass(&app, event_id, user_id).await {
                        tracing::debug!(event.id = %event_id, %error, "A pass of a buyer ends by its own clock");
                    }
                }
            });
        });
        Ok(())
    }
}
