//! `GET /points/me` and `GET /points/me/entries`: the caller's balance, and every movement of it, newest first.

use actix_web::get;
use chrono::{DateTime, Utc};
use common::auth::Caller;
use common::db::Prepared;
use common::http::{Data, Json, Problem, Query};
use common::page::parse_cursor;
use common::{Refused, Result};
use contract::ids::{AccountId, PaymentId};
use contract::money::Money;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Nullable, Text, Timestamptz, Uuid};
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::points::Points;
use crate::points::ledger::Kind;
use crate::read_payments::rfc3339;
use crate::schema::point;

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PointBalance {
    /// What can be paid with. One point is one won.
    balance: Money,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PointEntries {
    items: Vec<PointEntry>,
    /// Send it as `cursor` to go on; null on the last page.
    next_cursor: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct PointEntry {
    entry_id: String,
    /// `CHARGE`, `HOLD` (for a payment) or `RETURN` (a refund).
    kind: Kind,
    /// Below zero where the balance fell.
    amount: Money,
    /// After this entry.
    balance: Money,
    /// Absent for a charge.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Uuid)]
    payment_id: Option<PaymentId>,
    created_at: String,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EntriesQuery {
    /// 1 to 100; 50 unless told.
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<i64>,
    /// The `nextCursor` of the page before.
    pub cursor: Option<String>,
}

const LIMIT_MAX: i64 = 100;
const LIMIT_DEFAULT: i64 = 50;

/// Read one's points.
#[utoipa::path(tag = "points", responses((status = 200, body = PointBalance)), security(("bearer" = [])))]
#[get("/points/me")]
pub async fn read_points(points: Data<Points>, caller: Caller) -> Result<Json<PointBalance>> {
    let balance = point::table.find(AccountId::from(caller.account)).select(point::balance);
    let balance: Option<i64> = balance.get_result(&mut *points.db.read().await?).await.optional()?;
    // Who has never had points has no row.
    Ok(Json(PointBalance { balance: Money::krw(balance.unwrap_or(0)) }))
}

#[derive(QueryableByName)]
struct EntryRow {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Text)]
    kind: Kind,
    #[diesel(sql_type = BigInt)]
    amount: i64,
    #[diesel(sql_type = BigInt)]
    balance: i64,
    #[diesel(sql_type = Nullable<Uuid>)]
    payment_id: Option<PaymentId>,
    #[diesel(sql_type = Timestamptz)]
    created_at: DateTime<Utc>,
}

/// List what has moved one's points, newest first.
#[utoipa::path(
    tag = "points",
    params(EntriesQuery),
    responses((status = 200, body = PointEntries), (status = 400, body = Problem, description = "VALIDATION_ERROR")),
    security(("bearer" = []))
)]
#[get("/points/me/entries")]
pub async fn list_entries(
    points: Data<Points>,
    caller: Caller,
    Query(query): Query<EntriesQuery>,
) -> Result<Json<PointEntries>> {
    Ok(Json(entries(&points, AccountId::from(caller.account), &query).await?))
}

pub async fn entries(points: &Points, user: AccountId, query: &EntriesQuery) -> Result<PointEntries> {
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Refused::invalid("limit", format!("Must be 1 to {LIMIT_MAX}.")).into());
    }
    let before: Option<i64> = parse_cursor(query.cursor.as_deref())?;
    let list = sql_query(include_str!("read_points.sql"))
        .bind::<Uuid, _>(user)
        .bind::<BigInt, _>(before.unwrap_or(i64::MAX))
        .bind::<BigInt, _>(limit + 1);
    let mut rows: Vec<EntryRow> = Prepared(list).load(&mut *points.db.read().await?).await?;
    let more = rows.len() as i64 > limit;
    rows.truncate(limit as usize);
    let next_cursor = rows.last().filter(|_| more).map(|row| row.id.to_string());
    let entry = |row: EntryRow| PointEntry {
        entry_id: row.id.to_string(),
        kind: row.kind,
        amount: Money::krw(row.amount),
        balance: Money::krw(row.balance),
        payment_id: row.payment_id,
        created_at: rfc3339(row.created_at),
    };
    Ok(PointEntries { items: rows.into_iter().map(entry).collect(), next_cursor })
}
