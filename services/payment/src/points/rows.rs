//! Points as rows: locking a balance, reading holds and transfers, and the one statement that moves points.

use chrono::{DateTime, Utc};
use common::db::{Prepared, Tx};
use common::id::derive_uuid;
use common::{Error, Result};
use contract::ids::{AccountId, PaymentAttemptId, PaymentId};
use diesel::deserialize::{self, FromSql};
use diesel::pg::{Pg, PgValue};
use diesel::prelude::*;
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, Binary, Nullable, Text, Timestamptz, Uuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::points::ledger::{Hold, HoldStatus, Kind, Movement};
use crate::schema::{payment_attempt, point, point_holds};
use common::sql::from_name;

impl FromSql<Text, Pg> for Kind {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        from_name(value)
    }
}

impl ToSql<Text, Pg> for Kind {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        <str as ToSql<Text, Pg>>::to_sql(self.name(), out)
    }
}

impl FromSql<Text, Pg> for HoldStatus {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        from_name(value)
    }
}

impl ToSql<Text, Pg> for HoldStatus {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        <str as ToSql<Text, Pg>>::to_sql(self.name(), out)
    }
}

/// A row of `point_transfers`, as far as a repeated request has to match it.
#[derive(Debug, QueryableByName)]
pub struct Transfer {
    #[diesel(sql_type = Nullable<Uuid>)]
    pub payment_id: Option<PaymentId>,
    #[diesel(sql_type = BigInt)]
    pub amount: i64,
    #[diesel(sql_type = Nullable<Binary>)]
    pub fingerprint: Option<Vec<u8>>,
    /// The user's balance after it; None when it moved no user's points.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub balance: Option<i64>,
    #[diesel(sql_type = Timestamptz)]
    pub created_at: DateTime<Utc>,
}

/// A movement to be written.
pub struct Posting {
    /// See [`transfer_id`].
    pub id: uuid::Uuid,
    pub user: AccountId,
    /// None for a charge.
    pub payment: Option<PaymentId>,
    pub movement: Movement,
    /// Of the request to charge.
    pub fingerprint: Option<Vec<u8>>,
}

/// An entry that was written.
#[derive(Debug, Clone, Copy, QueryableByName)]
pub struct Posted {
    /// The user's balance after it; None for an account of the shop.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub balance: Option<i64>,
    #[diesel(sql_type = Timestamptz)]
    pub created_at: DateTime<Utc>,
}

/// The id of the transfer that `cause` leads to. `cause` is the id of one thing, or of several in a fixed order.
pub fn transfer_id(kind: Kind, cause: &[&[u8]]) -> uuid::Uuid {
    let mut parts = vec![kind.name().as_bytes()];
    parts.extend_from_slice(cause);
    derive_uuid("point transfer", &parts)
}

/// The balance of `user`. Locks the row, and creates it first if it is missing.
pub async fn lock_balance(tx: &mut Tx, user: AccountId) -> Result<i64> {
    if let Some(balance) = try_lock_balance(tx, user).await? {
        return Ok(balance);
    }
    let row = (point::account_id.eq(user), point::balance.eq(0));
    diesel::insert_into(point::table).values(row).on_conflict_do_nothing().execute(tx).await?;
    let created = try_lock_balance(tx, user).await?;
    created.ok_or_else(|| Error::fault(anyhow::anyhow!("the points of {user} cannot be locked")))
}

async fn try_lock_balance(tx: &mut Tx, user: AccountId) -> Result<Option<i64>> {
    Ok(point::table.find(user).select(point::balance).for_update().get_result(tx).await.optional()?)
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = point_holds, check_for_backend(Pg))]
struct HoldRow {
    payment_id: PaymentId,
    user_id: AccountId,
    status: HoldStatus,
    amount: i64,
    given_back: i64,
}

impl HoldRow {
    fn into_entry(self) -> (PaymentId, Hold) {
        let HoldRow { payment_id, user_id, status, amount, given_back } = self;
        (payment_id, Hold { user: user_id, status, amount, refunded: given_back })
    }
}

/// The hold of `payment`, not locked.
pub async fn read_hold(conn: &mut AsyncPgConnection, payment: PaymentId) -> Result<Option<Hold>> {
    let row = point_holds::table.find(payment).select(HoldRow::as_select()).get_result(conn).await.optional()?;
    Ok(row.map(|row| row.into_entry().1))
}

/// The holds that there are of `payments`, locked in the order of their payments' ids.
pub async fn lock_holds(tx: &mut Tx, payments: &[PaymentId]) -> Result<Vec<(PaymentId, Hold)>> {
    let in_order = point_holds::table
        .filter(point_holds::payment_id.eq_any(payments))
        .order(point_holds::payment_id)
        .select(HoldRow::as_select())
        .for_update();
    let rows: Vec<HoldRow> = in_order.load(tx).await?;
    Ok(rows.into_iter().map(HoldRow::into_entry).collect())
}

pub async fn lock_hold(tx: &mut Tx, payment: PaymentId) -> Result<Option<Hold>> {
    Ok(lock_holds(tx, &[payment]).await?.pop().map(|(_, hold)| hold))
}

/// Writes holds as they are now. Their payments must be different ones, and their rows locked if they exist.
pub async fn save_holds(tx: &mut Tx, holds: &[(PaymentId, Hold)]) -> Result<()> {
    let payments: Vec<PaymentId> = holds.iter().map(|(payment, _)| *payment).collect();
    let users: Vec<AccountId> = holds.iter().map(|(_, hold)| hold.user).collect();
    let statuses: Vec<HoldStatus> = holds.iter().map(|(_, hold)| hold.status).collect();
    let amounts: Vec<i64> = holds.iter().map(|(_, hold)| hold.amount).collect();
    let refunded: Vec<i64> = holds.iter().map(|(_, hold)| hold.refunded).collect();
    let query = sql_query(include_str!("save_holds.sql"))
        .bind::<Array<Uuid>, _>(payments)
        .bind::<Array<Uuid>, _>(users)
        .bind::<Array<Text>, _>(statuses)
        .bind::<Array<BigInt>, _>(amounts)
        .bind::<Array<BigInt>, _>(refunded);
    Prepared(query).execute(tx).await?;
    Ok(())
}

pub async fn transfer(conn: &mut AsyncPgConnection, id: uuid::Uuid) -> Result<Option<Transfer>> {
    let query = sql_query(include_str!("transfer.sql")).bind::<Uuid, _>(id);
    Ok(Prepared(query).get_result(conn).await.optional()?)
}

/// Moves points; returns every entry that was written, in no particular order.
///
/// None of the postings may have been posted before, and no two may move the points of one user. The balance of each user
/// whose points move must be locked.
pub async fn post(tx: &mut Tx, postings: &[Posting]) -> Result<Vec<Posted>> {
    let ids: Vec<uuid::Uuid> = postings.iter().map(|posting| posting.id).collect();
    let kinds: Vec<Kind> = postings.iter().map(|posting| posting.movement.kind).collect();
    let users: Vec<AccountId> = postings.iter().map(|posting| posting.user).collect();
    let payments: Vec<Option<PaymentId>> = postings.iter().map(|posting| posting.payment).collect();
    let sources: Vec<&str> = postings.iter().map(|posting| posting.movement.from.name()).collect();
    let targets: Vec<&str> = postings.iter().map(|posting| posting.movement.to.name()).collect();
    let amounts: Vec<i64> = postings.iter().map(|posting| posting.movement.amount).collect();
    let fingerprints: Vec<Option<&[u8]>> = postings.iter().map(|posting| posting.fingerprint.as_deref()).collect();
    let query = sql_query(include_str!("post.sql"))
        .bind::<Array<Uuid>, _>(ids)
        .bind::<Array<Text>, _>(kinds)
        .bind::<Array<Uuid>, _>(users)
        .bind::<Array<Nullable<Uuid>>, _>(payments)
        .bind::<Array<Text>, _>(sources)
        .bind::<Array<Text>, _>(targets)
        .bind::<Array<BigInt>, _>(amounts)
        .bind::<Array<Nullable<Binary>>, _>(fingerprints);
    let posted = Prepared(query).load(tx).await?;
    for posting in postings {
        let kind = posting.movement.kind.name().to_lowercase();
        metrics::counter!("stampede_points_total", "kind" => kind).increment(posting.movement.amount as u64);
    }
    Ok(posted)
}

/// Whether the outcome of `attempt` is not recorded yet. It stays so until this transaction ends.
pub async fn lock_open_attempt(tx: &mut Tx, attempt: PaymentAttemptId) -> Result<bool> {
    let status = payment_attempt::table.find(attempt).select(payment_attempt::status).for_share();
    let status: Option<String> = status.get_result(tx).await.optional()?;
    // An attempt is committed before its provider is asked, so one without a row was never begun.
    Ok(status.is_some_and(|status| ["STARTED", "UNKNOWN"].contains(&status.as_str())))
}
