//! `GetHold` and `GET /admin/holds`.

use actix_web::get;
use chrono::{DateTime, Utc};
use common::auth::Admin;
use common::http::{Data, Json, Problem, Query};
use common::{Refused, Result};
use contract::ids::{AccountId, HoldId, ProductId};
use diesel::dsl;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::App;
use crate::hold::{Hold, HoldLine, HoldState};
use crate::hold_rows::{HoldsRead, read_holds};
use crate::product::time;
use crate::refused;
use crate::schema::{hold_lines, holds};

/// More would make one answer too large.
const PAGE_MAX: i64 = 100;
const PAGE: i64 = 50;

/// One hold as readers see it now, and what now is. Refuses with `HOLD_NOT_FOUND`.
pub async fn get_hold(app: &App, id: HoldId) -> Result<(Hold, DateTime<Utc>)> {
    let HoldsRead { now, mut holds } = read_holds(&mut *app.db.read().await?, &[id]).await?;
    let hold = holds.remove(&id).ok_or(refused::Refused::HoldNotFound(id))?;
    Ok((hold, now))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HoldsQuery {
    product_id: Option<ProductId>,
    state: Option<HoldState>,
    limit: Option<i64>,
    /// The `nextCursor` of the page before.
    cursor: Option<HoldId>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HoldsPage {
    items: Vec<HoldView>,
    next_cursor: Option<HoldId>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HoldView {
    hold_id: HoldId,
    user_id: Option<AccountId>,
    /// `EXPIRED` from the instant its time is up.
    state: HoldState,
    #[schema(example = "2026-01-01T00:00:00.000Z")]
    expires_at: String,
    lines: Vec<HoldLineView>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HoldLineView {
    product_id: ProductId,
    quantity: i32,
    unit_price: i64,
}

#[utoipa::path(tag = "products", params(HoldsQuery), responses(
    (status = 200, body = HoldsPage), (status = 403, body = Problem, description = "FORBIDDEN")
), security(("bearer" = ["ADMIN"])))]
#[get("/admin/holds")]
pub async fn list_holds(app: Data<App>, _: Admin, query: Query<HoldsQuery>) -> Result<Json<HoldsPage>> {
    let limit = query.limit.unwrap_or(PAGE);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Refused::invalid("limit", format!("must be 1 to {PAGE_MAX}")).into());
    }
    let mut conn = app.db.read().await?;
    let ids = page_of_ids(&mut conn, &query, limit + 1).await?;
    let HoldsRead { now, mut holds } = read_holds(&mut conn, &ids).await?;
    let items = ids.iter().take(limit as usize).filter_map(|id| holds.remove(id)).map(|hold| HoldView::at(hold, now));
    let items: Vec<_> = items.collect();
    let next_cursor = if ids.len() > limit as usize { items.last().map(|hold| hold.hold_id) } else { None };
    Ok(Json(HoldsPage { items, next_cursor }))
}

impl HoldView {
    fn at(hold: Hold, now: DateTime<Utc>) -> HoldView {
        let state = hold.state_at(now);
        let line = |line: HoldLine| HoldLineView {
            product_id: line.product,
            quantity: line.quantity,
            unit_price: line.unit_price,
        };
        let lines = hold.lines.into_iter().map(line).collect();
        HoldView { hold_id: hold.id, user_id: hold.user, state, expires_at: time(hold.expires_at), lines }
    }
}

/// By id: ids are hashes, so the order means nothing, but it stays while holds come and go.
async fn page_of_ids(conn: &mut AsyncPgConnection, query: &HoldsQuery, limit: i64) -> Result<Vec<HoldId>> {
    let mut page = holds::table.select(holds::hold_id).order(holds::hold_id).limit(limit).into_boxed();
    if let Some(cursor) = query.cursor {
        page = page.filter(holds::hold_id.gt(cursor));
    }
    page = match query.state {
        None => page,
        Some(HoldState::Held) => page.filter(holds::state.eq(HoldState::Held).and(holds::expires_at.gt(dsl::now))),
        Some(HoldState::Expired) => {
            let is_due = holds::state.eq(HoldState::Held).and(holds::expires_at.le(dsl::now));
            page.filter(holds::state.eq(HoldState::Expired).or(is_due))
        }
        Some(state) => page.filter(holds::state.eq(state)),
    };
    if let Some(product) = query.product_id {
        let lines =
            hold_lines::table.filter(hold_lines::hold_id.eq(holds::hold_id)).filter(hold_lines::product_id.eq(product));
        page = page.filter(dsl::exists(lines));
    }
    Ok(page.load(conn).await?)
}
