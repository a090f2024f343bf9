//! Reactions to orders: the buyer is told by e-mail that the order has been taken, and gets a receipt when it is paid.

use common::Result;
use common::db::Tx;
use common::inbox::{Handler, Received};
use contract::events::{OrderCreated, OrderPlaced};

use crate::{App, order_created, order_placed};

impl Handler<OrderCreated> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<OrderCreated>]) -> Result<()> {
        self.create_notifications(tx, events, order_created::draft).await
    }
}

impl Handler<OrderPlaced> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<OrderPlaced>]) -> Result<()> {
        self.create_notifications(tx, events, order_placed::draft).await
    }
}
