//! Events of order: `ORDER_PLACED` turns held points into sales, `ORDER_REFUND_REQUESTED` refunds the payment,
//! `ORDER_CANCELLED` and `ORDER_EXPIRED` end the payments that nothing was taken for.

use common::db::{Prepared, Tx};
use common::inbox::{Handler, Received};
use common::{Error, Result};
use contract::events::{OrderCancelled, OrderExpired, OrderPlaced, OrderRefundRequested};
use contract::ids::{OrderId, PaymentId};
use diesel::sql_query;
use diesel::sql_types::{Array, Text, Uuid};
use diesel_async::RunQueryDsl;

use crate::App;
use crate::payment::Status;
use crate::points::confirm_points;
use crate::refunds::request_full_refund;

impl Handler<OrderPlaced> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<OrderPlaced>]) -> Result<()> {
        let payments = events.iter().map(|received| parse(&received.event.payment_id));
        confirm_points(tx, &payments.collect::<Result<Vec<PaymentId>>>()?).await
    }
}

impl Handler<OrderRefundRequested> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<OrderRefundRequested>]) -> Result<()> {
        let mut requests = Vec::with_capacity(events.len());
        for Received { event, .. } in events {
            requests.push((parse::<PaymentId>(&event.payment_id)?, event));
        }
        // Payments are locked in the order of their ids, so that two batches cannot wait for each other.
        requests.sort_by_key(|(payment, _)| *payment);
        for (payment, event) in requests {
            request_full_refund(tx, payment, &format!("order {}", event.order_id), &event.reason).await?;
        }
        let due = self.refunds_due.clone();
        tx.after_commit(move || due.notify_one());
        Ok(())
    }
}

impl Handler<OrderCancelled> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<OrderCancelled>]) -> Result<()> {
        let orders = events.iter().map(|received| parse(&received.event.order_id));
        end_unpaid(tx, &orders.collect::<Result<Vec<OrderId>>>()?, Status::Cancelled).await
    }
}

impl Handler<OrderExpired> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<OrderExpired>]) -> Result<()> {
        let orders = events.iter().map(|received| parse(&received.event.order_id));
        end_unpaid(tx, &orders.collect::<Result<Vec<OrderId>>>()?, Status::Expired).await
    }
}

/// Ends the payments of ended orders that nothing was taken for. Those that may have money are left to the resolver.
async fn end_unpaid(tx: &mut Tx, orders: &[OrderId], status: Status) -> Result<()> {
    let query = sql_query(include_str!("end_unpaid.sql")).bind::<Array<Uuid>, _>(orders).bind::<Text, _>(status);
    Prepared(query).execute(tx).await?;
    Ok(())
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T>
where
    T::Err: Into<anyhow::Error>,
{
    text.parse().map_err(Error::fault)
}
