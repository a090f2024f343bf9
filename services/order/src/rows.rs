//! Stored orders as rows: loading whole orders, and nothing else.

use anyhow::Context;
use chrono::{DateTime, Utc};
use common::Result;
use common::sql::clock_timestamp;
use contract::ids::{AccountId, OrderId, PaymentAttemptId, PaymentId};
use diesel::dsl::sql;
use diesel::expression::SqlLiteral;
use diesel::prelude::*;
use diesel::sql_types::{Jsonb, Nullable};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;

use crate::order::{Order, Reservation, Status};
use crate::schema::orders;

/// A row of `orders` with what belongs to it, and the database's clock when it was read.
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
    items: Value,
    shipping: Option<Value>,
    pub now: DateTime<Utc>,
}

/// The lines of an order, in their order.
const ITEMS: &str = "(select coalesce(jsonb_agg(to_jsonb(item) order by item.line), '[]') from order_items as item where item.order_id = orders.id)";
/// Where it goes, if that was said.
const SHIPPING: &str = "(select to_jsonb(info) from shipping_info as info where info.order_id = orders.id)";

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
    SqlLiteral<Jsonb>,
    SqlLiteral<Nullable<Jsonb>>,
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
        sql(ITEMS),
        sql(SHIPPING),
        clock_timestamp(),
    )
}

impl OrderRow {
    /// The order with its status as of the row's clock.
    pub fn into_current(self) -> Result<Order> {
        let now = self.now;
        let order = self.into_stored()?;
        Ok(Order { status: order.status_at(now), ..order })
    }

    /// The order with its status as it is stored, for whoever writes it again.
    pub fn into_stored(self) -> Result<Order> {
        let approving = self.approving_payment_id.zip(self.approving_attempt_id);
        Ok(Order {
            status: Status::parse(&self.status).with_context(|| format!("status {}", self.status))?,
            items: serde_json::from_value(self.items).context("the lines of an order")?,
            shipping: self.shipping.map(serde_json::from_value).transpose().context("where an order goes")?,
            id: self.id,
            user_id: self.user_id,
            version: self.version,
            amount: self.amount,
            currency: self.currency,
            fingerprint: self.fingerprint,
            hold_expires_at: self.hold_expires_at,
            first_hold_expires_at: self.first_hold_expires_at,
            created_at: self.created_at,
            cancel_reason: self.cancel_reason,
            reservation: approving.map(|(payment, attempt)| Reservation { payment, attempt }),
            ended_attempt_ids: self.ended_attempt_ids,
            paid_payment_id: self.paid_payment_id,
            returned_payment_ids: self.returned_payment_ids,
        })
    }
}

/// The orders among `ids` that exist, in no particular order.
pub async fn by_ids(conn: &mut AsyncPgConnection, ids: &[OrderId]) -> Result<Vec<Order>> {
    let rows = orders::table.filter(orders::id.eq_any(ids)).select(columns()).load::<OrderRow>(conn).await?;
    rows.into_iter().map(OrderRow::into_current).collect()
}
