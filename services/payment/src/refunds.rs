//! Refunds as rows: each is written down before the provider is asked for it.
//!
//! `send_refunds.rs` asks the provider under the row's id until it has said yes or no, also after a crash. So whoever wants
//! a refund twice gets one row, and the provider gives the money back once.

use chrono::{DateTime, TimeDelta, Utc};
use common::db::{Prepared, Tx};
use common::idempotency::same_request;
use common::{Error, Result};
use contract::codes;
use contract::ids::{PaymentId, RefundId};
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::dsl::exists;
use diesel::expression::AsExpression;
use diesel::pg::{Pg, PgValue};
use diesel::prelude::*;
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_query;
use diesel::sql_types::{BigInt, Text, Uuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::Serialize;
use strum::{EnumString, IntoStaticStr};

use crate::payment::{Payment, Wanted, refund_amount};
use crate::provider::Attempt;
use crate::rows;
use crate::schema::refunds;

#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, EnumString, AsExpression, FromSqlRow, Serialize)]
#[diesel(sql_type = Text)]
#[strum(serialize_all = "UPPERCASE")]
#[serde(rename_all = "UPPERCASE")]
pub enum RefundStatus {
    /// The provider has not said yes or no yet.
    Pending,
    Succeeded,
    /// The provider refuses.
    Failed,
}

impl RefundStatus {
    pub fn name(self) -> &'static str {
        self.into()
    }
}

impl FromSql<Text, Pg> for RefundStatus {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        common::sql::from_name(value)
    }
}

impl ToSql<Text, Pg> for RefundStatus {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        <str as ToSql<Text, Pg>>::to_sql(self.name(), out)
    }
}

/// A row of `refunds`.
#[derive(Debug, Clone, Queryable, QueryableByName, Selectable)]
#[diesel(table_name = refunds, check_for_backend(Pg))]
pub struct Refund {
    pub id: RefundId,
    pub payment_id: PaymentId,
    pub amount: i64,
    pub reason: String,
    pub fingerprint: Vec<u8>,
    pub pg_payment_id: String,
    /// It refunds a second capture of the payment, which the payment's own sums do not contain.
    #[diesel(column_name = stray)]
    pub is_of_duplicate_capture: bool,
    pub status: RefundStatus,
    /// The provider's last answer.
    pub pg_code: Option<String>,
    pub asked: i32,
}

#[derive(Insertable)]
#[diesel(table_name = refunds)]
struct InsertedRefund<'a> {
    id: RefundId,
    payment_id: PaymentId,
    amount: i64,
    reason: &'a str,
    fingerprint: &'a [u8],
    pg_payment_id: &'a str,
    stray: bool,
    ask_at: DateTime<Utc>,
}

/// A refund that somebody wants.
pub struct NewRefund {
    /// Derived from the payment and the cause, so that one cause leads to one refund.
    pub id: RefundId,
    pub wanted: Wanted,
    pub reason: String,
    pub fingerprint: Vec<u8>,
    /// After this the loop asks the provider, in case that the requester has died.
    pub loop_after: TimeDelta,
}

impl NewRefund {
    /// A refund of all that is left, wanted by the system itself because of `cause`.
    fn by_system(payment: PaymentId, cause: &str, reason: &str) -> NewRefund {
        NewRefund {
            id: RefundId::derive(&[payment.as_bytes(), cause.as_bytes()]),
            wanted: Wanted::All,
            reason: reason.to_owned(),
            fingerprint: Vec::new(),
            loop_after: TimeDelta::zero(),
        }
    }

    fn row<'a>(
        &'a self,
        payment: PaymentId,
        amount: i64,
        pg_payment_id: &'a str,
        now: DateTime<Utc>,
    ) -> InsertedRefund<'a> {
        InsertedRefund {
            id: self.id,
            payment_id: payment,
            amount,
            reason: &self.reason,
            fingerprint: &self.fingerprint,
            pg_payment_id,
            stray: false,
            ask_at: now + self.loop_after,
        }
    }
}

/// A refund that is written down.
pub struct RequestedRefund {
    pub refund: Refund,
    /// It was written down by an earlier request with the same id.
    pub is_replay: bool,
}

/// Writes a refund down. The caller holds the payment's lock, so that no two refunds take the same money.
pub async fn request_refund(
    tx: &mut Tx,
    (payment, now): (&Payment, DateTime<Utc>),
    new: &NewRefund,
) -> Result<RequestedRefund> {
    let existing = refunds::table.find(new.id).select(Refund::as_select());
    if let Some(refund) = existing.get_result(tx).await.optional()? {
        same_request(&refund.fingerprint, &new.fingerprint)?;
        return Ok(RequestedRefund { refund, is_replay: true });
    }
    let earlier = done_or_pending(tx, payment.id).await?;
    let amount = refund_amount(payment.status, payment.captured, earlier, new.wanted)?;
    let pg_payment_id = payment.pg_payment_id.as_deref().unwrap_or_default();
    let insert = diesel::insert_into(refunds::table).values(new.row(payment.id, amount, pg_payment_id, now));
    let refund = insert.returning(Refund::as_returning()).get_result(tx).await?;
    Ok(RequestedRefund { refund, is_replay: false })
}

/// Requests a refund of all that is left of a payment, if anything is, in the transaction of whoever has the reason for it.
pub async fn request_full_refund(tx: &mut Tx, id: PaymentId, cause: &str, reason: &str) -> Result<()> {
    let (payment, now) = rows::lock_existing(tx, id).await?;
    match request_refund(tx, (&payment, now), &NewRefund::by_system(id, cause, reason)).await {
        Ok(_) => Ok(()),
        // Nothing is left: all of it is refunded or being refunded.
        Err(error) if is_nothing_left(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

fn is_nothing_left(error: &Error) -> bool {
    error.reason() == Some(&codes::REFUND_EXCEEDS_CAPTURED.reason)
}

/// Requests a refund of a second capture of `payment`, made by `attempt`. Doing it again changes nothing.
pub async fn refund_duplicate_capture(
    tx: &mut Tx,
    (payment, now): (&Payment, DateTime<Utc>),
    attempt: &Attempt,
) -> Result<()> {
    let cause = format!("stray {}", attempt.pg_payment_id);
    let new = NewRefund::by_system(payment.id, &cause, "captured beside the payment's own");
    let row = new.row(payment.id, attempt.amount, &attempt.pg_payment_id, now);
    let insert = diesel::insert_into(refunds::table).values(InsertedRefund { stray: true, ..row });
    if insert.on_conflict_do_nothing().execute(tx).await? > 0 {
        tracing::error!(
            payment.id = %payment.id, attempt.id = %attempt.id, refund.id = %new.id,
            "Payment {} was captured twice; refund {} gives the second capture back", payment.id, new.id
        );
        metrics::counter!("stampede_payments_stray_total").increment(1);
    }
    Ok(())
}

/// Of a payment's money, what is refunded or being refunded.
async fn done_or_pending(tx: &mut Tx, payment: PaymentId) -> Result<i64> {
    #[derive(QueryableByName)]
    struct Total {
        #[diesel(sql_type = BigInt)]
        total: i64,
    }
    let query = sql_query(include_str!("refunds_done_or_pending.sql")).bind::<Uuid, _>(payment);
    Ok(Prepared(query).get_result::<Total>(tx).await?.total)
}

/// Whether some of a payment's money was refunded or is being refunded.
pub async fn is_refunded(conn: &mut AsyncPgConnection, payment: PaymentId) -> Result<bool> {
    let own = refunds::table.filter(refunds::payment_id.eq(payment)).filter(refunds::stray.eq(false));
    Ok(diesel::select(exists(own)).get_result(conn).await?)
}
