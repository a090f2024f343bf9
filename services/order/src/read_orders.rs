//! `GET /orders` and `GET /orders/{orderId}`: one's own orders, newest first.

use std::collections::HashMap;
use std::sync::Arc;

use actix_web::{HttpResponse, get};
use chrono::{DateTime, SecondsFormat, Utc};
use common::auth::Caller;
use common::batch::{Batch, BatchSettings};
use common::db::Db;
use common::http::{Data, Path, Problem, Query};
use common::page::{Cursor, parse_cursor};
use common::sql::clock_timestamp;
use common::{Refused, Result};
use contract::ids::{AccountId, CouponIssueId, OrderId, PaymentId, ProductId};
use contract::money::Money;
use diesel::dsl::not;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::App;
use crate::all_orders::{all_order_items, all_orders, all_shipping_info};
use crate::order::{Order, OrderRefusal};
use crate::rows::{OrderRow, load_orders, order_columns};
use crate::status::Status;

/// An order as its owner sees it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderView {
    #[schema(value_type = String, format = Uuid)]
    order_id: OrderId,
    status: Status,
    /// Counts the changes of this order, from 1.
    version: i64,
    items: Vec<ItemView>,
    totals: Totals,
    /// Until then the units are reserved; RFC 3339, UTC. It moves if the approval of a payment comes to nothing.
    hold_expires_at: String,
    created_at: String,
    /// The payment that paid the order; absent until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Uuid)]
    payment_id: Option<PaymentId>,
    /// The issued coupon that the order uses; absent if it uses none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Uuid)]
    coupon_issue_id: Option<CouponIssueId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shipping_info: Option<ShippingView>,
    /// True: the order has ended long ago and is in the archive. Absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    archived: Option<bool>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ItemView {
    #[schema(value_type = String, format = Uuid)]
    product_id: ProductId,
    sku: String,
    name: String,
    quantity: i32,
    unit_price: Money,
    /// What the coupon takes off all units of this line together.
    discount: Money,
    /// The labels of its seats; absent if the product is not sold by the seat.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    seats: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Totals {
    /// What is to be paid: `items` less `discount`.
    amount: Money,
    /// All lines at their prices.
    items: Money,
    /// What the coupon takes off.
    discount: Money,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ShippingView {
    recipient: String,
    phone: String,
    postal_code: String,
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    memo: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct OrderPage {
    items: Vec<OrderView>,
    /// Send it as `cursor` to go on; null on the last page.
    next_cursor: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Listing {
    status: Option<Status>,
    /// 1 to 100; 50 unless told.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
    cursor: Option<String>,
}

/// The largest page.
const LIMIT_MAX: i64 = 100;
const LIMIT_DEFAULT: i64 = 50;

/// List one's own orders, newest first.
#[utoipa::path(
    tag = "orders",
    params(Listing),
    responses((status = 200, body = OrderPage), (status = 400, body = Problem, description = "VALIDATION_ERROR")),
    security(("bearer" = []))
)]
#[get("/orders")]
pub async fn list_orders(app: Data<App>, caller: Caller, Query(listing): Query<Listing>) -> Result<HttpResponse> {
    let limit = listing.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Refused::invalid("limit", format!("Must be 1 to {LIMIT_MAX}.")).into());
    }
    let mut query = all_orders::table
        .filter(all_orders::user_id.eq(AccountId::from(caller.account)))
        .order((all_orders::created_at.desc(), all_orders::id.desc()))
        .select((order_columns!(all_orders, all_order_items, all_shipping_info), all_orders::archived_at))
        .limit(limit + 1)
        .into_boxed();
    if let Some(status) = listing.status {
        // `Order::status_at`, in SQL.
        let is_overdue = all_orders::status
            .eq_any([Status::Created, Status::PendingPayment])
            .and(all_orders::approving_payment_id.is_null())
            .and(all_orders::hold_expires_at.le(clock_timestamp()));
        query = match status {
            Status::Expired => query.filter(all_orders::status.eq(status).or(is_overdue)),
            _ => query.filter(all_orders::status.eq(status).and(not(is_overdue))),
        };
    }
    if let Some(after) = parse_cursor::<Cursor>(listing.cursor.as_deref())? {
        let is_older = all_orders::created_at.lt(after.at);
        query = query.filter(is_older.or(all_orders::created_at.eq(after.at).and(all_orders::id.lt(after.id))));
    }
    let mut conn = app.db.read().await?;
    let mut found: Vec<Stored> = query.load(&mut conn).await?;
    let more = found.len() as i64 > limit;
    found.truncate(limit as usize);
    let next_cursor =
        found.last().filter(|_| more).map(|(last, _)| Cursor { at: last.created_at, id: last.id.uuid() }.to_string());
    let items = found.into_iter().map(current_view).collect();
    Ok(HttpResponse::Ok().json(OrderPage { items, next_cursor }))
}

/// Read one of one's own orders.
#[utoipa::path(
    tag = "orders",
    params(("orderId" = String, Path)),
    responses((status = 200, body = OrderView), (status = 404, body = Problem, description = "ORDER_NOT_FOUND")),
    security(("bearer" = []))
)]
#[get("/orders/{orderId}")]
pub async fn read_order(app: Data<App>, caller: Caller, id: Path<OrderId>) -> Result<HttpResponse> {
    let mut conn = app.db.read().await?;
    let found = all_orders::table
        .filter(all_orders::id.eq(*id))
        // Another account's order is not found.
        .filter(all_orders::user_id.eq(AccountId::from(caller.account)))
        .select((order_columns!(all_orders, all_order_items, all_shipping_info), all_orders::archived_at))
        .first::<Stored>(&mut conn)
        .await
        .optional()?;
    Ok(HttpResponse::Ok().json(current_view(found.ok_or(OrderRefusal::NotFound)?)))
}

/// An order, and when it was archived.
type Stored = (OrderRow, Option<DateTime<Utc>>);

fn current_view((row, archived_at): Stored) -> OrderView {
    OrderView { archived: archived_at.map(|_| true), ..view(row.into_current()) }
}

/// Many look-ups by id in one query: when a product is sold out, each refused request makes one.
pub fn lookup_batch(db: &Db, settings: &BatchSettings) -> Batch<OrderId, Option<Order>> {
    let db = db.clone();
    Batch::start("order_lookups", settings, move |ids: Arc<[OrderId]>| {
        let db = db.clone();
        async move {
            let mut conn = db.read().await?;
            let found: HashMap<OrderId, Order> =
                load_orders(&mut conn, &ids).await?.into_iter().map(|order| (order.id, order)).collect();
            Ok(ids.iter().map(|id| Ok(found.get(id).cloned())).collect())
        }
    })
}

/// An order as the HTTP interface shows it. Whether it is archived is said only where it is read.
pub fn view(order: Order) -> OrderView {
    let discount = order.discount();
    OrderView {
        order_id: order.id,
        status: order.status,
        version: order.version,
        items: order
            .items
            .into_iter()
            .map(|item| ItemView {
                product_id: item.product_id,
                sku: item.sku,
                name: item.name,
                quantity: item.quantity,
                unit_price: Money::krw(item.unit_price),
                discount: Money::krw(item.discount),
                seats: item.seats,
            })
            .collect(),
        totals: Totals {
            amount: Money::krw(order.amount),
            items: Money::krw(order.amount + discount),
            discount: Money::krw(discount),
        },
        hold_expires_at: time(order.hold_expires_at),
        created_at: time(order.created_at),
        payment_id: order.paid_payment_id,
        coupon_issue_id: order.coupon_issue_id,
        shipping_info: order.shipping.map(|info| ShippingView {
            recipient: info.recipient,
            phone: info.phone,
            postal_code: info.postal_code,
            address: info.address,
            memo: info.memo,
        }),
        archived: None,
    }
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
