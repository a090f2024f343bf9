//! `GET /admin/products/{productId}/stock-audits`: every movement of units on hand, newest first.

use actix_web::get;
use chrono::{DateTime, Utc};
use common::auth::Admin;
use common::http::{Data, Json, Path, Problem, Query};
use common::{Refused, Result};
use contract::ids::{AccountId, HoldId, ProductId};
use diesel::sql_types::{BigInt, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::App;
use crate::product::time;
use crate::read_products::read_products_by_id;
use crate::refused;

/// More would make one answer too large.
const PAGE_MAX: i64 = 100;
const PAGE: i64 = 50;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct AuditsQuery {
    limit: Option<i64>,
    /// The `nextCursor` of the page before.
    cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditsPage {
    items: Vec<StockAudit>,
    next_cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StockAudit {
    audit_id: String,
    /// `INITIAL`, `ADJUST`, `CONFIRM` or `RETURN`.
    kind: String,
    delta: i64,
    on_hand_after: i64,
    held_after: i64,
    stock_version: i64,
    hold_id: Option<HoldId>,
    adjustment_id: Option<Uuid>,
    reason: Option<String>,
    reference: Option<String>,
    /// The administrator, for an adjustment.
    actor: Option<AccountId>,
    created_at: String,
}

#[utoipa::path(tag = "products", params(("productId" = ProductId, Path), AuditsQuery), responses(
    (status = 200, body = AuditsPage), (status = 403, body = Problem, description = "FORBIDDEN"),
    (status = 404, body = Problem, description = "PRODUCT_NOT_FOUND")
), security(("bearer" = [])))]
#[get("/admin/products/{productId}/stock-audits")]
pub async fn list_audits(
    app: Data<App>,
    _: Admin,
    id: Path<ProductId>,
    query: Query<AuditsQuery>,
) -> Result<Json<AuditsPage>> {
    let (id, limit) = (id.into_inner(), query.limit.unwrap_or(PAGE));
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Refused::invalid("limit", format!("must be 1 to {PAGE_MAX}")).into());
    }
    let before = query.cursor.as_deref().map(str::parse::<i64>).transpose();
    let before = before.map_err(|_| Refused::invalid("cursor", "Not a cursor of this list."))?;
    let mut conn = app.db.read().await?;
    let mut rows: Vec<AuditRow> = sql_query(
        "select id, kind, delta, on_hand_after, held_after, stock_version, hold_id, adjustment_id, reason, reference,
                actor, created_at
           from product_stock_audit
          where product_id = $1
            and ($2 is null or id < $2)
          order by id desc
          limit $3",
    )
    .bind::<SqlUuid, _>(id)
    .bind::<Nullable<BigInt>, _>(before)
    .bind::<BigInt, _>(limit + 1)
    .load(&mut conn)
    .await?;
    if rows.is_empty() && read_products_by_id(&mut conn, &[id]).await?.is_empty() {
        return Err(refused::Refused::ProductNotFound(id).into());
    }
    let more = rows.len() as i64 > limit;
    rows.truncate(limit as usize);
    let next_cursor = if more { rows.last().map(|row| row.id.to_string()) } else { None };
    Ok(Json(AuditsPage { items: rows.into_iter().map(StockAudit::from).collect(), next_cursor }))
}

#[derive(QueryableByName)]
struct AuditRow {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = BigInt)]
    delta: i64,
    #[diesel(sql_type = BigInt)]
    on_hand_after: i64,
    #[diesel(sql_type = BigInt)]
    held_after: i64,
    #[diesel(sql_type = BigInt)]
    stock_version: i64,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    hold_id: Option<HoldId>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    adjustment_id: Option<Uuid>,
    #[diesel(sql_type = Nullable<Text>)]
    reason: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    reference: Option<String>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    actor: Option<AccountId>,
    #[diesel(sql_type = Timestamptz)]
    created_at: DateTime<Utc>,
}

impl From<AuditRow> for StockAudit {
    fn from(row: AuditRow) -> StockAudit {
        StockAudit {
            audit_id: row.id.to_string(),
            kind: row.kind,
            delta: row.delta,
            on_hand_after: row.on_hand_after,
            held_after: row.held_after,
            stock_version: row.stock_version,
            hold_id: row.hold_id,
            adjustment_id: row.adjustment_id,
            reason: row.reason,
            reference: row.reference,
            actor: row.actor,
            created_at: time(row.created_at),
        }
    }
}
