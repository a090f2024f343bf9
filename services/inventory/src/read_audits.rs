//! `GET /admin/products/{productId}/stock-audits`: every movement of units on hand, newest first.

use actix_web::get;
use chrono::{DateTime, Utc};
use common::auth::Admin;
use common::http::{Data, Json, Path, Problem, Query};
use common::page::parse_cursor;
use common::{Refused, Result};
use contract::ids::{AccountId, HoldId, ProductId};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::App;
use crate::product::time;
use crate::read_products::read_products_by_id;
use crate::refused;
use crate::schema::product_stock_audit;

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
), security(("bearer" = ["ADMIN"])))]
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
    let before: Option<i64> = parse_cursor(query.cursor.as_deref())?;
    let mut conn = app.db.read().await?;
    let mut rows: Vec<AuditRow> = product_stock_audit::table
        .filter(product_stock_audit::product_id.eq(id))
        .filter(product_stock_audit::id.lt(before.unwrap_or(i64::MAX)))
        .order(product_stock_audit::id.desc())
        .limit(limit + 1)
        .select(AuditRow::as_select())
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

#[derive(Queryable, Selectable)]
#[diesel(table_name = product_stock_audit)]
struct AuditRow {
    id: i64,
    kind: String,
    delta: i64,
    on_hand_after: i64,
    held_after: i64,
    stock_version: i64,
    hold_id: Option<HoldId>,
    adjustment_id: Option<Uuid>,
    reason: Option<String>,
    reference: Option<String>,
    actor: Option<AccountId>,
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
