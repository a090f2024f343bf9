//! `POST /admin/coupons/{couponId}/reconcile`: compares the gate with PostgreSQL, and loads it anew.

use std::sync::Arc;

use actix_web::{HttpResponse, post};
use common::Result;
use common::auth::Admin;
use common::http::{Data, Path, Problem, detach};
use contract::ids::CouponId;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::Serialize;
use utoipa::ToSchema;

use crate::App;
use crate::load_gate::load_gate;
use crate::refused::Refused;
use crate::schema::{coupon_issue, coupons};

/// What was found before the gate was loaded anew.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reconciliation {
    coupon_id: CouponId,
    total: i64,
    /// As the coupon counts.
    issued: i64,
    /// Issues that are stored.
    rows: i64,
    /// Null: it was not loaded, or Redis did not answer.
    gate: Option<GateNumbers>,
    /// Whether the gate had what PostgreSQL has. While coupons are issued the two are read one after the other, so a
    /// difference proves nothing then.
    agrees: bool,
    /// Whether the gate is loaded anew.
    loaded: bool,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GateNumbers {
    epoch: i64,
    /// How many may still be taken.
    left: i64,
    /// Who have the coupon, or a take of it.
    users: i64,
    /// Takes that PostgreSQL may not have stored yet.
    pending: i64,
}

/// Compare the gate of a coupon with PostgreSQL, and load it anew.
///
/// Requests wait meanwhile. Takes that are not stored yet are taken again.
#[utoipa::path(tag = "coupons", params(("couponId" = CouponId, Path)), responses(
    (status = 200, body = Reconciliation),
    (status = 403, body = Problem, description = "FORBIDDEN"),
    (status = 404, body = Problem, description = "COUPON_NOT_FOUND")
), security(("bearer" = ["ADMIN"])))]
#[post("/admin/coupons/{couponId}/reconcile")]
pub async fn reconcile_coupon(app: Data<App>, _: Admin, id: Path<CouponId>) -> Result<HttpResponse> {
    let (app, id) = (app.into_inner(), id.into_inner());
    let found = detach(async move { reconcile(&app, id).await }).await?;
    Ok(HttpResponse::Ok().json(found))
}

async fn reconcile(app: &Arc<App>, id: CouponId) -> Result<Reconciliation> {
    let counts = coupons::table.find(id).select((coupons::total, coupons::issued));
    let (counts, rows) = {
        let mut conn = app.db.read().await?;
        let counts: Option<(i64, i64)> = counts.first(&mut *conn).await.optional()?;
        let issues = coupon_issue::table.filter(coupon_issue::coupon_id.eq(id)).count();
        (counts, issues.get_result(&mut *conn).await?)
    };
    let (total, issued) = counts.ok_or(Refused::CouponNotFound(id))?;
    let gate = app.gate.look(id).await;
    let agrees =
        gate.is_none_or(|gate| (gate.left, gate.users, gate.pending) == (total - rows, rows, 0)) && issued == rows;
    let seen = app.gate.epoch(id).max(gate.map_or(0, |gate| gate.epoch));
    let loaded = match load_gate(app, id, seen).await {
        Ok(()) => app.gate.epoch(id) > seen,
        Err(error) => {
            tracing::warn!(coupon.id = %id, %error, "The gate of coupon {id} is not loaded; the next request tries again");
            false
        }
    };
    tracing::info!(coupon.id = %id, total, issued, rows, agrees, loaded, "Reconciled coupon {id}");
    let gate =
        gate.map(|gate| GateNumbers { epoch: gate.epoch, left: gate.left, users: gate.users, pending: gate.pending });
    Ok(Reconciliation { coupon_id: id, total, issued, rows, gate, agrees, loaded })
}
