//! Payments and attempts as rows: locking one, reading some, and nothing else.

use chrono::{DateTime, Utc};
use common::Result;
use common::db::{Prepared, Tx};
use common::id::derive_uuid;
use contract::ids::{AccountId, OrderId, PaymentAttemptId, PaymentId, RefundId};
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::pg::{Pg, PgValue};
use diesel::sql_types::{BigInt, Binary, Bool, Integer, Nullable, Text, Timestamptz, Uuid};
use diesel::{OptionalExtension, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::payment::{Method, Refused, Status};
use crate::provider::Approval;

/// [`Status`] in a column.
#[derive(Debug, Clone, Copy, FromSqlRow)]
pub struct StatusColumn(pub Status);

impl FromSql<Text, Pg> for StatusColumn {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let name = <String as FromSql<Text, Pg>>::from_sql(value)?;
        Ok(Self(Status::parse(&name).ok_or_else(|| format!("unknown status {name:?}"))?))
    }
}

/// [`Method`] in a column.
#[derive(Debug, Clone, Copy, FromSqlRow)]
pub struct MethodColumn(pub Method);

impl FromSql<Text, Pg> for MethodColumn {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let name = <String as FromSql<Text, Pg>>::from_sql(value)?;
        Ok(Self(Method::parse(&name).ok_or_else(|| format!("unknown method {name:?}"))?))
    }
}

/// A row of `payments`.
#[derive(Debug, Clone, QueryableByName)]
pub struct Payment {
    #[diesel(sql_type = Uuid)]
    pub id: PaymentId,
    #[diesel(sql_type = Uuid)]
    pub order_id: OrderId,
    #[diesel(sql_type = Uuid)]
    pub user_id: AccountId,
    #[diesel(sql_type = Text)]
    pub method: MethodColumn,
    #[diesel(sql_type = BigInt)]
    pub amount: i64,
    #[diesel(sql_type = Text)]
    pub currency: String,
    #[diesel(sql_type = Binary)]
    pub fingerprint: Vec<u8>,
    #[diesel(sql_type = Text)]
    pub status: StatusColumn,
    #[diesel(sql_type = BigInt)]
    pub version: i64,
    #[diesel(sql_type = Nullable<Uuid>)]
    pub attempt_id: Option<PaymentAttemptId>,
    #[diesel(sql_type = Nullable<Text>)]
    pub pg_payment_id: Option<String>,
    #[diesel(sql_type = BigInt)]
    pub captured: i64,
    #[diesel(sql_type = BigInt)]
    pub refunded: i64,
    #[diesel(sql_type = Timestamptz)]
    pub expires_at: DateTime<Utc>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub approving_since: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub requested_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Integer)]
    pub asked: i32,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub absent_since: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub undo_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Bool)]
    pub owes_release: bool,
    #[diesel(sql_type = Bool)]
    pub owes_order: bool,
    #[diesel(sql_type = Timestamptz)]
    pub created_at: DateTime<Utc>,
    #[diesel(sql_type = Timestamptz)]
    pub updated_at: DateTime<Utc>,
}

impl Payment {
    pub fn status(&self) -> Status {
        self.status.0
    }

    pub fn method(&self) -> Method {
        self.method.0
    }

    /// The attempt under way or the last one.
    pub fn approval(&self) -> Option<Approval> {
        Some(self.approval_of(self.attempt_id?, self.pg_payment_id.clone()?))
    }

    /// The attempt that begins with this version of the payment.
    pub fn next_approval(&self, pg_payment_id: String) -> Approval {
        let attempt = PaymentAttemptId::derive(&[self.id.as_bytes(), &self.version.to_be_bytes()]);
        self.approval_of(attempt, pg_payment_id)
    }

    fn approval_of(&self, attempt: PaymentAttemptId, pg_payment_id: String) -> Approval {
        let key = derive_uuid("approval", &[self.id.as_bytes(), pg_payment_id.as_bytes()]).to_string();
        let (payment, user, amount, currency) = (self.id, self.user_id, self.amount, self.currency.clone());
        Approval { attempt, key, payment, user, pg_payment_id, amount, currency }
    }
}

/// A row of `refunds`.
#[derive(Debug, Clone, QueryableByName)]
pub struct Refund {
    #[diesel(sql_type = Uuid)]
    pub id: RefundId,
    #[diesel(sql_type = Uuid)]
    pub payment_id: PaymentId,
    #[diesel(sql_type = BigInt)]
    pub amount: i64,
    #[diesel(sql_type = Text)]
    pub reason: String,
    #[diesel(sql_type = Binary)]
    pub fingerprint: Vec<u8>,
    #[diesel(sql_type = Text)]
    pub pg_payment_id: String,
    #[diesel(sql_type = Bool)]
    pub stray: bool,
    #[diesel(sql_type = Text)]
    pub status: String,
    /// What the provider said last.
    #[diesel(sql_type = Nullable<Text>)]
    pub pg_code: Option<String>,
    #[diesel(sql_type = Integer)]
    pub asked: i32,
}

impl Refund {
    pub fn is_pending(&self) -> bool {
        self.status == "PENDING"
    }
}

/// The payment, if it is this buyer's. Other people's payments do not exist.
pub async fn own(conn: &mut AsyncPgConnection, id: PaymentId, user: AccountId) -> Result<Payment> {
    let query = sql_query("select * from payments where id = $1 and user_id = $2");
    let found = Prepared(query.bind::<Uuid, _>(id).bind::<Uuid, _>(user)).get_result(conn).await.optional()?;
    Ok(found.ok_or(Refused::NotFound)?)
}

pub async fn by_id(conn: &mut AsyncPgConnection, id: PaymentId) -> Result<Option<Payment>> {
    let query = sql_query("select * from payments where id = $1").bind::<Uuid, _>(id);
    Ok(Prepared(query).get_result(conn).await.optional()?)
}

/// Whether some of its money went back, or is to go back.
pub async fn is_given_back(conn: &mut AsyncPgConnection, id: PaymentId) -> Result<bool> {
    #[derive(QueryableByName)]
    struct Exists {
        #[diesel(sql_type = Bool)]
        exists: bool,
    }
    let query = sql_query("select exists (select from refunds where payment_id = $1 and not stray) as exists");
    let Exists { exists } = Prepared(query.bind::<Uuid, _>(id)).get_result(conn).await?;
    Ok(exists)
}

/// The payment, locked, and the database's time: not from before any change that was waited for.
pub async fn lock(tx: &mut Tx, id: PaymentId) -> Result<Option<(Payment, DateTime<Utc>)>> {
    #[derive(QueryableByName)]
    struct Locked {
        #[diesel(embed)]
        payment: Payment,
        #[diesel(sql_type = Timestamptz)]
        now: DateTime<Utc>,
    }
    let query = sql_query("select *, clock_timestamp() as now from payments where id = $1 for update");
    let found = Prepared(query.bind::<Uuid, _>(id)).get_result(tx).await.optional()?;
    Ok(found.map(|Locked { payment, now }| (payment, now)))
}

/// The clock that all times here are told by.
pub async fn database_time(conn: &mut AsyncPgConnection) -> Result<DateTime<Utc>> {
    #[derive(QueryableByName)]
    struct Now {
        #[diesel(sql_type = Timestamptz)]
        now: DateTime<Utc>,
    }
    let Now { now } = Prepared(sql_query("select clock_timestamp() as now")).get_result(conn).await?;
    Ok(now)
}
