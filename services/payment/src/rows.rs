//! Payments as rows: reading one, locking one, and the attempts that follow from it.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use common::db::Tx;
use common::id::derive_uuid;
use common::{Error, Result};
use contract::ids::{AccountId, OrderId, PaymentAttemptId, PaymentId};
use diesel::deserialize::{self, FromSql};
use diesel::pg::{Pg, PgValue};
use diesel::prelude::*;
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types::Text;
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::payment::{Method, Refused, Status};
use crate::provider::Attempt;
use crate::schema::payments;

diesel::define_sql_function! {
    /// The time at which the row is computed; `now()` would be the time at which the transaction began.
    fn clock_timestamp() -> Timestamptz;
}

/// A row of `payments`.
#[derive(Debug, Clone, Queryable, QueryableByName, Selectable)]
#[diesel(table_name = payments, check_for_backend(Pg))]
pub struct Payment {
    pub id: PaymentId,
    pub order_id: OrderId,
    pub user_id: AccountId,
    pub method: Method,
    pub amount: i64,
    pub currency: String,
    pub fingerprint: Vec<u8>,
    pub status: Status,
    pub version: i64,
    pub attempt_id: Option<PaymentAttemptId>,
    pub pg_payment_id: Option<String>,
    pub captured: i64,
    pub refunded: i64,
    pub expires_at: DateTime<Utc>,
    pub approving_since: Option<DateTime<Utc>>,
    pub requested_at: Option<DateTime<Utc>>,
    pub asked: i32,
    pub absent_since: Option<DateTime<Utc>>,
    pub undo_at: Option<DateTime<Utc>>,
    pub owes_release: bool,
    pub owes_order: bool,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl Payment {
    /// The attempt under way or the last one.
    pub fn attempt(&self) -> Option<Attempt> {
        Some(self.attempt_with(self.attempt_id?, self.pg_payment_id.clone()?))
    }

    /// The attempt that begins with this version of the payment.
    pub fn next_attempt(&self, pg_payment_id: String) -> Attempt {
        let id = PaymentAttemptId::derive(&[self.id.as_bytes(), &self.version.to_be_bytes()]);
        self.attempt_with(id, pg_payment_id)
    }

    fn attempt_with(&self, id: PaymentAttemptId, pg_payment_id: String) -> Attempt {
        let key = derive_uuid("approval", &[self.id.as_bytes(), pg_payment_id.as_bytes()]).to_string();
        let (payment, user, amount, currency) = (self.id, self.user_id, self.amount, self.currency.clone());
        Attempt { id, key, payment, user, pg_payment_id, amount, currency }
    }
}

/// The payment, if it is this buyer's. Another buyer's is [`Refused::NotFound`].
pub async fn own(conn: &mut AsyncPgConnection, id: PaymentId, user: AccountId) -> Result<Payment> {
    let query = payments::table.find(id).filter(payments::user_id.eq(user)).select(Payment::as_select());
    Ok(query.get_result(conn).await.optional()?.ok_or(Refused::NotFound)?)
}

pub async fn by_id(conn: &mut AsyncPgConnection, id: PaymentId) -> Result<Option<Payment>> {
    Ok(payments::table.find(id).select(Payment::as_select()).get_result(conn).await.optional()?)
}

/// The payment, locked, and the database's time: not from before any change that was waited for.
pub async fn lock(tx: &mut Tx, id: PaymentId) -> Result<Option<(Payment, DateTime<Utc>)>> {
    let query = payments::table.find(id).select((Payment::as_select(), clock_timestamp())).for_update();
    Ok(query.get_result(tx).await.optional()?)
}

/// [`lock`] for a payment that other rows refer to, so that it must be there.
pub async fn lock_existing(tx: &mut Tx, id: PaymentId) -> Result<(Payment, DateTime<Utc>)> {
    let locked = lock(tx, id).await?;
    locked.ok_or_else(|| Error::fault(anyhow::anyhow!("payment {id} has no row, but others refer to it")))
}

/// The clock of every time in this schema.
pub async fn database_time(conn: &mut AsyncPgConnection) -> Result<DateTime<Utc>> {
    Ok(diesel::select(clock_timestamp()).get_result(conn).await?)
}

/// Reads an enum from a column of its names.
pub fn from_name<T: FromStr>(value: PgValue<'_>) -> deserialize::Result<T> {
    let name = <String as FromSql<Text, Pg>>::from_sql(value)?;
    name.parse().map_err(|_| format!("unknown {}: {name:?}", std::any::type_name::<T>()).into())
}

impl FromSql<Text, Pg> for Status {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        from_name(value)
    }
}

impl ToSql<Text, Pg> for Status {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        <str as ToSql<Text, Pg>>::to_sql(self.name(), out)
    }
}

impl FromSql<Text, Pg> for Method {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        from_name(value)
    }
}

impl ToSql<Text, Pg> for Method {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        <str as ToSql<Text, Pg>>::to_sql(self.name(), out)
    }
}
