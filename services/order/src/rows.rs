//! Stored orders as rows: reads whole orders, with their items and their shipping.

use chrono::{DateTime, Utc};
use common::Result;
use common::sql::clock_timestamp;
use contract::ids::{AccountId, CouponIssueId, OrderId, PaymentAttemptId, PaymentId, ProductId};
use diesel::dsl;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Integer, Nullable, Record, Text, Uuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::order::{Item, Order, Reservation, Shipping};
use crate::schema::{order_items, orders, shipping_info};
use crate::status::Status;

type ItemRecord = Record<(Uuid, Text, Text, Integer, BigInt, BigInt, Array<Text>)>;
type ShippingRecord = Record<(Text, Text, Text, Text, Nullable<Text>)>;

diesel::define_sql_function! {
    #[aggregate]
    #[sql_name = "array_agg"]
    fn array_of_items(item: ItemRecord) -> Nullable<Array<ItemRecord>>;
}

/// Product, SKU, name, quantity, unit price, discount and seats of one line.
type ItemColumns = (ProductId, String, String, i32, i64, i64, Vec<String>);

/// A row of `orders` with the rows of its items and its shipping, and the database's clock at that moment.
///
/// Select it with `OrderRow::as_select()`, and not with a piece of SQL text: Diesel does not keep a statement prepared
/// that has such a piece in it.
#[derive(Queryable, Selectable)]
#[diesel(table_name = orders, check_for_backend(Pg))]
pub struct OrderRow {
    pub id: OrderId,
    user_id: AccountId,
    status: Status,
    version: i64,
    amount: i64,
    currency: String,
    fingerprint: Vec<u8>,
    hold_expires_at: DateTime<Utc>,
    first_hold_expires_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    cancel_reason: Option<String>,
    approving_payment_id: Option<PaymentId>,
    approving_attempt_id: Option<PaymentAttemptId>,
    ended_attempt_ids: Vec<PaymentAttemptId>,
    paid_payment_id: Option<PaymentId>,
    returned_payment_ids: Vec<PaymentId>,
    coupon_issue_id: Option<CouponIssueId>,
    #[diesel(select_expression = items())]
    items: Option<Vec<ItemColumns>>,
    #[diesel(select_expression = shipping())]
    shipping: Option<(String, String, String, String, Option<String>)>,
    #[diesel(select_expression = clock_timestamp())]
    pub now: DateTime<Utc>,
}

#[dsl::auto_type]
fn items() -> _ {
    let item = (
        order_items::product_id,
        order_items::sku,
        order_items::name,
        order_items::quantity,
        order_items::unit_price,
        order_items::discount,
        order_items::seats,
    );
    order_items::table
        .filter(order_items::order_id.eq(orders::id))
        .select(array_of_items(item).aggregate_order(order_items::line))
        .single_value()
}

#[dsl::auto_type]
fn shipping() -> _ {
    let info = (
        shipping_info::recipient,
        shipping_info::phone,
        shipping_info::postal_code,
        shipping_info::address,
        shipping_info::memo,
    );
    shipping_info::table
        .filter(shipping_info::order_id.eq(orders::id))
        .select(info.into_sql::<ShippingRecord>())
        .single_value()
}

impl OrderRow {
    /// The order with its status at the row's clock: for answers.
    pub fn into_current(self) -> Order {
        let now = self.now;
        let order = self.into_stored();
        Order { status: order.status_at(now), ..order }
    }

    /// The order with its stored status: for decisions.
    pub fn into_stored(self) -> Order {
        let item = |(product_id, sku, name, quantity, unit_price, discount, seats)| Item {
            product_id,
            sku,
            name,
            quantity,
            unit_price,
            discount,
            seats,
        };
        let shipping =
            |(recipient, phone, postal_code, address, memo)| Shipping { recipient, phone, postal_code, address, memo };
        let reservation = self.approving_payment_id.zip(self.approving_attempt_id);
        Order {
            id: self.id,
            user_id: self.user_id,
            status: self.status,
            version: self.version,
            amount: self.amount,
            currency: self.currency,
            coupon_issue_id: self.coupon_issue_id,
            fingerprint: self.fingerprint,
            hold_expires_at: self.hold_expires_at,
            first_hold_expires_at: self.first_hold_expires_at,
            created_at: self.created_at,
            cancel_reason: self.cancel_reason,
            reservation: reservation.map(|(payment, attempt)| Reservation { payment, attempt }),
            ended_attempt_ids: self.ended_attempt_ids,
            paid_payment_id: self.paid_payment_id,
            returned_payment_ids: self.returned_payment_ids,
            items: self.items.unwrap_or_default().into_iter().map(item).collect(),
            shipping: self.shipping.map(shipping),
        }
    }
}

/// The orders among `ids` that exist, in no particular order.
pub async fn load_orders(conn: &mut AsyncPgConnection, ids: &[OrderId]) -> Result<Vec<Order>> {
    let rows: Vec<OrderRow> =
        orders::table.filter(orders::id.eq_any(ids)).select(OrderRow::as_select()).load(conn).await?;
    Ok(rows.into_iter().map(OrderRow::into_current).collect())
}
