//! Reading holds: with their lines, for the flows and `GetHold`; and `GET /admin/holds`.

use std::collections::HashMap;

use actix_web::get;
use chrono::{DateTime, Utc};
use common::auth::Admin;
use common::db::{Prepared, Tx};
use common::http::{Data, Json, Problem, Query};
use common::{Error, Refused, Result};
use contract::ids::{AccountId, HoldId, PaymentAttemptId, ProductId};
use diesel::sql_types::{Array, BigInt, Bool, Integer, Nullable, Text, Timestamptz, Uuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::App;
use crate::hold::{Hold, HoldLine, HoldState, Pin};
use crate::product::time;

/// More would make one answer too large.
const PAGE_MAX: i64 = 100;
const PAGE: i64 = 50;

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
), security(("bearer" = [])))]
#[get("/admin/holds")]
pub async fn list_holds(app: Data<App>, _: Admin, query: Query<HoldsQuery>) -> Result<Json<HoldsPage>> {
    let limit = query.limit.unwrap_or(PAGE);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Refused::invalid("limit", format!("must be 1 to {PAGE_MAX}")).into());
    }
    let mut conn = app.db.read().await?;
    let ids = page_of_ids(&mut conn, &query, limit + 1).await?;
    let Known { now, mut holds } = known_holds(&mut conn, &ids).await?;
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

#[derive(QueryableByName)]
struct IdRow {
    #[diesel(sql_type = Uuid)]
    hold_id: HoldId,
}

async fn page_of_ids(conn: &mut AsyncPgConnection, query: &HoldsQuery, limit: i64) -> Result<Vec<HoldId>> {
    // By id: ids are hashes, so the order means nothing, but it is stable while holds come and go.
    let rows: Vec<IdRow> = sql_query(
        "select holds.hold_id
           from holds
          where ($1 is null or holds.hold_id > $1)
            and ($2 is null or
                 case when holds.state = 'HELD' and holds.expires_at <= clock_timestamp() then 'EXPIRED'
                      else holds.state end = $2)
            and ($3 is null or exists (select from hold_lines
                                        where hold_lines.hold_id = holds.hold_id and hold_lines.product_id = $3))
          order by holds.hold_id
          limit $4",
    )
    .bind::<Nullable<Uuid>, _>(query.cursor)
    .bind::<Nullable<Text>, _>(query.state.map(HoldState::name))
    .bind::<Nullable<Uuid>, _>(query.product_id)
    .bind::<BigInt, _>(limit)
    .load(conn)
    .await?;
    Ok(rows.into_iter().map(|row| row.hold_id).collect())
}

/// One hold as readers see it now. Refuses with `HOLD_NOT_FOUND`.
pub async fn read_hold(app: &App, id: HoldId) -> Result<(Hold, DateTime<Utc>)> {
    let mut conn = app.db.read().await?;
    let Known { now, mut holds } = known_holds(&mut conn, &[id]).await?;
    let hold = holds.remove(&id).ok_or(crate::refused::Refused::HoldNotFound(id))?;
    Ok((hold, now))
}

/// Holds with their lines, and the database's clock when they were read.
pub struct Known {
    pub now: DateTime<Utc>,
    pub holds: HashMap<HoldId, Hold>,
}

#[derive(QueryableByName)]
struct KnownRow {
    #[diesel(sql_type = Timestamptz)]
    now: DateTime<Utc>,
    #[diesel(sql_type = Nullable<Uuid>)]
    hold_id: Option<HoldId>,
    #[diesel(sql_type = Nullable<Uuid>)]
    user_id: Option<AccountId>,
    #[diesel(sql_type = Nullable<Text>)]
    state: Option<String>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    expires_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Uuid>)]
    pinned_by: Option<PaymentAttemptId>,
    #[diesel(sql_type = Nullable<Bool>)]
    pinned_late: Option<bool>,
    #[diesel(sql_type = Nullable<Array<Uuid>>)]
    unpinned_by: Option<Vec<PaymentAttemptId>>,
    #[diesel(sql_type = Nullable<BigInt>)]
    order_version: Option<i64>,
    #[diesel(sql_type = Nullable<Uuid>)]
    product_id: Option<ProductId>,
    #[diesel(sql_type = Nullable<Integer>)]
    quantity: Option<i32>,
    #[diesel(sql_type = Nullable<BigInt>)]
    unit_price: Option<i64>,
    #[diesel(sql_type = Nullable<Text>)]
    currency: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    sku: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    name: Option<String>,
}

/// Reads the holds that exist among `ids`. What it says may be outrun at once.
pub async fn known_holds(conn: &mut AsyncPgConnection, ids: &[HoldId]) -> Result<Known> {
    known(conn, "select * from holds where hold_id = any($1)", ids).await
}

/// The same with the rows of `holds` locked: each as it is after whatever was waited for, and the clock after that.
///
/// Whoever has a header waits for no stock, so the wait ends.
pub async fn lock_holds(tx: &mut Tx, ids: &[HoldId]) -> Result<Known> {
    known(tx, "select * from holds where hold_id = any($1) order by hold_id for update", ids).await
}

async fn known(conn: &mut AsyncPgConnection, holds: &'static str, ids: &[HoldId]) -> Result<Known> {
    // The join begins with one row that is always there, so that the clock is told even when nothing is known.
    let query = format!(
        "select clock_timestamp() as now, holds.hold_id, holds.user_id, holds.state, holds.expires_at, holds.pinned_by,
                holds.pinned_late, holds.unpinned_by, holds.order_version, hold_lines.product_id,
                hold_lines.quantity, hold_lines.unit_price, hold_lines.currency, hold_lines.sku, hold_lines.name
           from (values (0)) as always
           left join ({holds}) as holds on true
           left join hold_lines on hold_lines.hold_id = holds.hold_id
          order by hold_lines.product_id"
    );
    let rows: Vec<KnownRow> = Prepared(sql_query(query).bind::<Array<Uuid>, _>(ids)).load(conn).await?;
    let now =
        rows.iter().map(|row| row.now).max().ok_or_else(|| Error::fault(anyhow::anyhow!("the clock is missing")))?;
    let mut holds = HashMap::new();
    for row in rows {
        let (Some(id), Some(state), Some(expires_at)) = (row.hold_id, row.state, row.expires_at) else { continue };
        let state = HoldState::parse(&state)
            .ok_or_else(|| Error::fault(anyhow::anyhow!("hold {id} is in unknown state {state}")))?;
        let hold = holds.entry(id).or_insert_with(|| Hold {
            id,
            user: row.user_id,
            state,
            expires_at,
            pin: row.pinned_by.map(|attempt| Pin { attempt, late: row.pinned_late == Some(true) }),
            unpinned_by: row.unpinned_by.unwrap_or_default(),
            order_version: row.order_version,
            lines: Vec::new(),
        });
        let (Some(product), Some(quantity), Some(unit_price)) = (row.product_id, row.quantity, row.unit_price) else {
            continue;
        };
        hold.lines.push(HoldLine {
            product,
            quantity,
            unit_price,
            currency: row.currency.unwrap_or_default(),
            sku: row.sku.unwrap_or_default(),
            name: row.name.unwrap_or_default(),
        });
    }
    Ok(Known { now, holds })
}
