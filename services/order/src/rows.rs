//! Stored orders as rows: reads whole orders, with their items and their shipping.

use chrono::{DateTime, Utc};
use common::Result;
use contract::ids::{AccountId, CouponIssueId, OrderId, PaymentAttemptId, PaymentId, ProductId};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Integer, Nullable, Record, Text, Uuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::all_orders::{all_order_items, all_orders, all_shipping_info};
use crate::order::{Item, Order, Reservation, Shipping};
use crate::status::Status;

pub type ItemRecord = Record<(Uuid, Text, Text, Integer, BigInt, BigInt, Array<Text>)>;
pub type ShippingRecord = Record<(Text, Text, Text, Text, Nullable<Text>)>;

diesel::define_sql_function! {
    #[aggregate]
    #[sql_name = "array_agg"]
    fn array_of_items(item: ItemRecord) -> Nullable<Array<ItemRecord>>;
}

/// Product, SKU, name, quantity, unit price, discount and seats of one line.
type ItemColumns = (ProductId, String, String, i32, i64, i64, Vec<String>);

/// A row of `orders` with the rows of its items and its shipping, and the database's clock at that moment. Select it with
/// [`order_columns`].
#[derive(Queryable)]
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
    items: Option<Vec<ItemColumns>>,
    shipping: Option<(String, String, String, String, Option<String>)>,
    pub now: DateTime<Utc>,
}

/// The columns of an [`OrderRow`]: of the live tables, which can be locked, or of the views that have the archive too.
///
/// Made of Diesel's expressions, and not of a piece of SQL text: Diesel does not keep a statement prepared that has such a
/// piece in it.
macro_rules! order_columns {
    ($orders:ident, $items:ident, $shipping:ident) => {
        (
            $orders::id,
            $orders::user_id,
            $orders::status,
            $orders::version,
            $orders::amount,
            $orders::currency,
            $orders::fingerprint,
            $orders::hold_expires_at,
            $orders::first_hold_expires_at,
            $orders::created_at,
            $orders::cancel_reason,
            $orders::approving_payment_id,
            $orders::approving_attempt_id,
            $orders::ended_attempt_ids,
            $orders::paid_payment_id,
            $orders::returned_payment_ids,
            $orders::coupon_issue_id,
            $items::table
                .filter($items::order_id.eq($orders::id))
                .select(
                    $crate::rows::array_of_items((
                        $items::product_id,
                        $items::sku,
                        $items::name,
                        $items::quantity,
                        $items::unit_price,
                        $items::discount,
                        $items::seats,
                    ))
                    .aggregate_order($items::line),
                )
                .single_value(),
            $shipping::table
                .filter($shipping::order_id.eq($orders::id))
                .select(
                    (
                        $shipping::recipient,
                        $shipping::phone,
                        $shipping::postal_code,
                        $shipping::address,
                        $shipping::memo,
                    )
                        .into_sql::<$crate::rows::ShippingRecord>(),
                )
                .single_value(),
            common::sql::clock_timestamp(),
        )
    };
}
pub(crate) use order_columns;

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

/// The orders among `ids` that exist, archived or not, in no particular order.
pub async fn load_orders(conn: &mut AsyncPgConnection, ids: &[OrderId]) -> Result<Vec<Order>> {
    let rows: Vec<OrderRow> = all_orders::table
        .filter(all_orders::id.eq_any(ids))
        .select(order_columns!(all_orders, all_order_items, all_shipping_info))
        .load(conn)
        .await?;
    Ok(rows.into_iter().map(OrderRow::into_current).collect())
}
