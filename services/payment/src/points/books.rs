//! Points as rows: locking a balance, reading holds and transfers, and the one statement that moves points.

use chrono::{DateTime, Utc};
use common::db::{Prepared, Tx};
use common::id::derive_uuid;
use common::{Error, Result};
use contract::ids::{AccountId, PaymentAttemptId, PaymentId};
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::pg::{Pg, PgValue};
use diesel::sql_types::{Array, BigInt, Binary, Bool, Nullable, Text, Timestamptz, Uuid};
use diesel::{OptionalExtension, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::points::ledger::{Hold, HoldStatus, Kind, Movement};

#[derive(Debug, Clone, Copy, FromSqlRow)]
struct HoldStatusColumn(HoldStatus);

impl FromSql<Text, Pg> for HoldStatusColumn {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let name = <String as FromSql<Text, Pg>>::from_sql(value)?;
        Ok(Self(HoldStatus::parse(&name).ok_or_else(|| format!("unknown status {name:?}"))?))
    }
}

/// [`Kind`] in a column.
#[derive(Debug, Clone, Copy, FromSqlRow)]
pub struct KindColumn(pub Kind);

impl FromSql<Text, Pg> for KindColumn {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let name = <String as FromSql<Text, Pg>>::from_sql(value)?;
        Ok(Self(Kind::parse(&name).ok_or_else(|| format!("unknown kind {name:?}"))?))
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
    /// The user's, after it; None where it moved none.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub balance: Option<i64>,
    #[diesel(sql_type = Timestamptz)]
    pub created_at: DateTime<Utc>,
}

/// A movement about to happen.
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

/// What a posting has led to.
#[derive(Debug, Clone, Copy, QueryableByName)]
pub struct Posted {
    /// The user's, after it; None for a side of the shop's.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub balance: Option<i64>,
    #[diesel(sql_type = Timestamptz)]
    pub created_at: DateTime<Utc>,
}

/// The id of the transfer that `cause` leads to. `cause` is one thing's id, or several in a fixed order.
pub fn transfer_id(kind: Kind, cause: &[&[u8]]) -> uuid::Uuid {
    let mut parts = vec![kind.name().as_bytes()];
    parts.extend_from_slice(cause);
    derive_uuid("point transfer", &parts)
}

/// The balance of `user`, whose row is locked, and made first if it is missing.
pub async fn lock_balance(tx: &mut Tx, user: AccountId) -> Result<i64> {
    if let Some(balance) = try_lock_balance(tx, user).await? {
        return Ok(balance);
    }
    let make = sql_query("insert into point (account_id, balance) values ($1, 0) on conflict do nothing");
    Prepared(make.bind::<Uuid, _>(user)).execute(tx).await?;
    let made = try_lock_balance(tx, user).await?;
    made.ok_or_else(|| Error::fault(anyhow::anyhow!("the points of {user} cannot be locked")))
}

async fn try_lock_balance(tx: &mut Tx, user: AccountId) -> Result<Option<i64>> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        balance: i64,
    }
    let query = sql_query("select balance from point where account_id = $1 for update").bind::<Uuid, _>(user);
    let row: Option<Row> = Prepared(query).get_result(tx).await.optional()?;
    Ok(row.map(|row| row.balance))
}

#[derive(QueryableByName)]
struct HoldRow {
    #[diesel(sql_type = Uuid)]
    payment_id: PaymentId,
    #[diesel(sql_type = Uuid)]
    user_id: AccountId,
    #[diesel(sql_type = Text)]
    status: HoldStatusColumn,
    #[diesel(sql_type = BigInt)]
    amount: i64,
    #[diesel(sql_type = BigInt)]
    given_back: i64,
}

impl HoldRow {
    fn into_entry(self) -> (PaymentId, Hold) {
        let HoldRow { payment_id, user_id, status, amount, given_back } = self;
        (payment_id, Hold { user: user_id, status: status.0, amount, given_back })
    }
}

/// The hold of `payment` as it is at this moment.
pub async fn read_hold(conn: &mut AsyncPgConnection, payment: PaymentId) -> Result<Option<Hold>> {
    let query =
        sql_query("select payment_id, user_id, status, amount, given_back from point_holds where payment_id = $1");
    let row: Option<HoldRow> = Prepared(query.bind::<Uuid, _>(payment)).get_result(conn).await.optional()?;
    Ok(row.map(|row| row.into_entry().1))
}

/// The holds that there are of `payments`, locked in the order of their payments' ids.
pub async fn lock_holds(tx: &mut Tx, payments: &[PaymentId]) -> Result<Vec<(PaymentId, Hold)>> {
    let query = sql_query(
        "select payment_id, user_id, status, amount, given_back
         from point_holds
         where payment_id = any($1)
         order by payment_id
         for update",
    );
    let rows: Vec<HoldRow> = Prepared(query.bind::<Array<Uuid>, _>(payments)).load(tx).await?;
    Ok(rows.into_iter().map(HoldRow::into_entry).collect())
}

pub async fn lock_hold(tx: &mut Tx, payment: PaymentId) -> Result<Option<Hold>> {
    Ok(lock_holds(tx, &[payment]).await?.pop().map(|(_, hold)| hold))
}

/// Writes holds as they are now. Their payments must be different ones, and their rows locked if they are there.
pub async fn save_holds(tx: &mut Tx, holds: &[(PaymentId, Hold)]) -> Result<()> {
    let payments: Vec<PaymentId> = holds.iter().map(|(payment, _)| *payment).collect();
    let users: Vec<AccountId> = holds.iter().map(|(_, hold)| hold.user).collect();
    let statuses: Vec<&str> = holds.iter().map(|(_, hold)| hold.status.name()).collect();
    let amounts: Vec<i64> = holds.iter().map(|(_, hold)| hold.amount).collect();
    let given_back: Vec<i64> = holds.iter().map(|(_, hold)| hold.given_back).collect();
    let query = sql_query(
        "insert into point_holds (payment_id, user_id, status, amount, given_back)
         select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[], $5::bigint[])
         on conflict (payment_id) do update
         set status = excluded.status, given_back = excluded.given_back, updated_at = clock_timestamp()",
    );
    let query = query.bind::<Array<Uuid>, _>(payments).bind::<Array<Uuid>, _>(users);
    let query = query.bind::<Array<Text>, _>(statuses).bind::<Array<BigInt>, _>(amounts);
    Prepared(query.bind::<Array<BigInt>, _>(given_back)).execute(tx).await?;
    Ok(())
}

pub async fn transfer(conn: &mut AsyncPgConnection, id: uuid::Uuid) -> Result<Option<Transfer>> {
    let query = sql_query(
        "select payment_id, point_transfers.amount, fingerprint, balance, point_transfers.created_at
         from point_transfers
         left join point_entries on transfer_id = point_transfers.id and account = 'USER'
         where point_transfers.id = $1",
    );
    Ok(Prepared(query.bind::<Uuid, _>(id)).get_result(conn).await.optional()?)
}

/// Moves points; returns every entry that was written, in no particular order.
///
/// None of the postings may have been posted before, and no two may concern the balance of one user. Whoever's balance
/// moves, their row must be locked.
pub async fn post(tx: &mut Tx, postings: &[Posting]) -> Result<Vec<Posted>> {
    let ids: Vec<uuid::Uuid> = postings.iter().map(|posting| posting.id).collect();
    let kinds: Vec<&str> = postings.iter().map(|posting| posting.movement.kind.name()).collect();
    let users: Vec<AccountId> = postings.iter().map(|posting| posting.user).collect();
    let payments: Vec<Option<PaymentId>> = postings.iter().map(|posting| posting.payment).collect();
    let sources: Vec<&str> = postings.iter().map(|posting| posting.movement.from.name()).collect();
    let targets: Vec<&str> = postings.iter().map(|posting| posting.movement.to.name()).collect();
    let amounts: Vec<i64> = postings.iter().map(|posting| posting.movement.amount).collect();
    let fingerprints: Vec<Option<&[u8]>> = postings.iter().map(|posting| posting.fingerprint.as_deref()).collect();
    let query = sql_query(include_str!("post.sql"));
    let query = query.bind::<Array<Uuid>, _>(ids).bind::<Array<Text>, _>(kinds).bind::<Array<Uuid>, _>(users);
    let query = query.bind::<Array<Nullable<Uuid>>, _>(payments).bind::<Array<Text>, _>(sources);
    let query = query.bind::<Array<Text>, _>(targets).bind::<Array<BigInt>, _>(amounts);
    let posted = Prepared(query.bind::<Array<Nullable<Binary>>, _>(fingerprints)).load(tx).await?;
    for posting in postings {
        let kind = posting.movement.kind.name().to_lowercase();
        metrics::counter!("stampede_points_total", "kind" => kind).increment(posting.movement.amount as u64);
    }
    Ok(posted)
}

/// Whether nothing has been said yet of what came of `attempt`; it stays so until this transaction ends.
pub async fn lock_open_attempt(tx: &mut Tx, attempt: PaymentAttemptId) -> Result<bool> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Bool)]
        is_open: bool,
    }
    let query =
        sql_query("select status in ('STARTED', 'UNKNOWN') as is_open from payment_attempt where id = $1 for share");
    let row: Option<Row> = Prepared(query.bind::<Uuid, _>(attempt)).get_result(tx).await.optional()?;
    // Attempts are written down before anybody is asked for money, so one that is not there is none.
    Ok(row.is_some_and(|row| row.is_open))
}
