//! Stored orders as rows: loading whole orders, and nothing else.

use std::collections::HashMap;

use anyhow::Context;
use chrono::{DateTime, Utc};
use common::Result;
use contract::ids::{AccountId, OrderId, PaymentAttemptId, PaymentId, ProductId};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::draft::{Item, Shipping};
use crate::order::{Order, Reservation, Status};
use crate::schema::{clock_timestamp, order_items, orders, shipping_info};

/// A row of `orders`, and the database's clock when it was read.
#[derive(Queryable)]
pub struct OrderRow {
    pub id: OrderId,
    pub user_id: AccountId,
    pub status: String,
    pub version: i64,
    pub amount: i64,
    pub currency: String,
    pub fingerprint: Vec<u8>,
    pub hold_expires_at: DateTime<Utc>,
    pub first_hold_expires_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    pub cancel_reason: Option<String>,
    pub approving_payment_id: Option<PaymentId>,
    pub approving_attempt_id: Option<PaymentAttemptId>,
    pub ended_attempt_ids: Vec<PaymentAttemptId>,
    pub paid_payment_id: Option<PaymentId>,
    pub returned_payment_ids: Vec<PaymentId>,
    pub now: DateTime<Utc>,
}

/// [`Order::status_at`] in the words of the database, at its clock: for looking orders up by their status.
pub const STATUS_NOW: &str = "case when orders.status in ('CREATED', 'PENDING_PAYMENT') and orders.approving_payment_id is null and orders.hold_expires_at <= clock_timestamp() then 'EXPIRED' else orders.status end";

/// The columns of an [`OrderRow`].
#[expect(clippy::type_complexity, reason = "one type for each column")]
pub fn columns() -> (
    orders::id,
    orders::user_id,
    orders::status,
    orders::version,
    orders::amount,
    orders::currency,
    orders::fingerprint,
    orders::hold_expires_at,
    orders::first_hold_expires_at,
    orders::created_at,
    orders::cancel_reason,
    orders::approving_payment_id,
    orders::approving_attempt_id,
    orders::ended_attempt_ids,
    orders::paid_payment_id,
    orders::returned_payment_ids,
    clock_timestamp,
) {
    (
        orders::id,
        orders::user_id,
        orders::status,
        orders::version,
        orders::amount,
        orders::currency,
        orders::fingerprint,
        orders::hold_expires_at,
        orders::first_hold_expires_at,
        orders::created_at,
        orders::cancel_reason,
        orders::approving_payment_id,
        orders::approving_attempt_id,
        orders::ended_attempt_ids,
        orders::paid_payment_id,
        orders::returned_payment_ids,
        clock_timestamp(),
    )
}

#[derive(Queryable)]
struct ItemRow {
    order_id: OrderId,
    product_id: ProductId,
    sku: String,
    name: String,
    quantity: i32,
    unit_price: i64,
}

#[derive(Queryable)]
struct ShippingRow {
    order_id: OrderId,
    recipient: String,
    phone: String,
    postal_code: String,
    address: String,
    memo: Option<String>,
}

/// Adds items and shipping to `rows`, in the order of `rows`. The statuses are as of the clock of each row.
pub async fn complete(conn: &mut AsyncPgConnection, rows: Vec<OrderRow>) -> Result<Vec<Order>> {
    let stored = complete_as_stored(conn, rows).await?;
    Ok(stored.into_iter().map(|(order, now)| Order { status: order.status_at(now), ..order }).collect())
}

/// The same with the statuses as they are stored, for whoever writes them again, and the clock of each row.
pub async fn complete_as_stored(
    conn: &mut AsyncPgConnection,
    rows: Vec<OrderRow>,
) -> Result<Vec<(Order, DateTime<Utc>)>> {
    let ids: Vec<OrderId> = rows.iter().map(|row| row.id).collect();
    let mut items: HashMap<OrderId, Vec<Item>> = HashMap::new();
    for item in order_items::table
        .filter(order_items::order_id.eq_any(&ids))
        .order((order_items::order_id, order_items::line))
        .select((
            order_items::order_id,
            order_items::product_id,
            order_items::sku,
            order_items::name,
            order_items::quantity,
            order_items::unit_price,
        ))
        .load::<ItemRow>(conn)
        .await?
    {
        let ItemRow { order_id, product_id, sku, name, quantity, unit_price } = item;
        items.entry(order_id).or_default().push(Item { product_id, sku, name, quantity, unit_price });
    }
    let mut shipping: HashMap<OrderId, Shipping> = shipping_info::table
        .filter(shipping_info::order_id.eq_any(&ids))
        .select(shipping_info::all_columns)
        .load::<ShippingRow>(conn)
        .await?
        .into_iter()
        .map(|row| {
            let ShippingRow { order_id, recipient, phone, postal_code, address, memo } = row;
            (order_id, Shipping { recipient, phone, postal_code, address, memo })
        })
        .collect();
    rows.into_iter()
        .map(|row| {
            let now = row.now;
            let approving = row.approving_payment_id.zip(row.approving_attempt_id);
            let order = Order {
                status: Status::parse(&row.status).with_context(|| format!("status {}", row.status))?,
                items: items.remove(&row.id).unwrap_or_default(),
                shipping: shipping.remove(&row.id),
                id: row.id,
                user_id: row.user_id,
                version: row.version,
                amount: row.amount,
                currency: row.currency,
                fingerprint: row.fingerprint,
                hold_expires_at: row.hold_expires_at,
                first_hold_expires_at: row.first_hold_expires_at,
                created_at: row.created_at,
                cancel_reason: row.cancel_reason,
                reservation: approving.map(|(payment, attempt)| Reservation { payment, attempt }),
                ended_attempt_ids: row.ended_attempt_ids,
                paid_payment_id: row.paid_payment_id,
                returned_payment_ids: row.returned_payment_ids,
            };
            Ok((order, now))
        })
        .collect()
}

/// The orders among `ids` that exist, in no particular order.
pub async fn by_ids(conn: &mut AsyncPgConnection, ids: &[OrderId]) -> Result<Vec<Order>> {
    let rows = orders::table.filter(orders::id.eq_any(ids)).select(columns()).load::<OrderRow>(conn).await?;
    complete(conn, rows).await
}
