//! Stored orders as rows: loading whole orders, and nothing else.

use std::collections::HashMap;

use anyhow::Context;
use chrono::{DateTime, Utc};
use common::Result;
use contract::ids::{AccountId, OrderId, ProductId};
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types;
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::order::{Item, Order, Shipping, Status};
use crate::schema::{order_items, orders, shipping_info};

/// A row of `orders`. `status` is as of now: an order past its time is expired even before the sweep has come by.
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
    pub created_at: DateTime<Utc>,
}

/// The status as of now, by the database's clock.
pub const STATUS_NOW: &str = "case when orders.status = 'CREATED' and orders.hold_expires_at <= clock_timestamp() then 'EXPIRED' else orders.status end";

/// The columns of an [`OrderRow`].
pub fn columns() -> (
    orders::id,
    orders::user_id,
    diesel::expression::SqlLiteral<sql_types::Text>,
    orders::version,
    orders::amount,
    orders::currency,
    orders::fingerprint,
    orders::hold_expires_at,
    orders::created_at,
) {
    (
        orders::id,
        orders::user_id,
        sql::<sql_types::Text>(STATUS_NOW),
        orders::version,
        orders::amount,
        orders::currency,
        orders::fingerprint,
        orders::hold_expires_at,
        orders::created_at,
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

/// Adds items and shipping to `rows`, in the order of `rows`.
pub async fn complete(conn: &mut AsyncPgConnection, rows: Vec<OrderRow>) -> Result<Vec<Order>> {
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
            Ok(Order {
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
                created_at: row.created_at,
            })
        })
        .collect()
}

/// The orders among `ids` that exist, in no particular order.
pub async fn by_ids(conn: &mut AsyncPgConnection, ids: &[OrderId]) -> Result<Vec<Order>> {
    let rows = orders::table.filter(orders::id.eq_any(ids)).select(columns()).load::<OrderRow>(conn).await?;
    complete(conn, rows).await
}
