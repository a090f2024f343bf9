//! `/admin/deliveries`: operators see the dead letters, and have those that a filter names tried again.

use actix_web::{HttpResponse, get, post};
use chrono::{DateTime, SubsecRound, Utc};
use common::auth::Admin;
use common::db::Tx;
use common::http::{Data, Json, Problem, Query, detach};
use common::page::{Cursor, Limit, Page, is_storable, parse_cursor};
use common::text::Text;
use common::{Refused, Result};
use contract::ids::{AccountId, DeliveryId, NotificationId};
use diesel::sql_types::{BigInt, Nullable, Text as SqlText, Timestamptz};
use diesel::{BoolExpressionMethods, ExpressionMethods, QueryDsl, QueryableByName};
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::App;
use crate::channel::Channel;
use crate::schema::{deliveries, notifications};

/// Dead letters that one transaction makes due: locks are brief.
const REDRIVE_BATCH: i64 = 500;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListDead {
    channel: Option<Channel>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
    /// 1 to 100; 50 unless told.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    delivery_id: DeliveryId,
    notification_id: NotificationId,
    #[serde(rename = "type")]
    kind: String,
    user_id: Option<AccountId>,
    channel: Channel,
    subject: String,
    /// Why the last attempt failed.
    last_error: Option<String>,
    dead_lettered_at: Option<DateTime<Utc>>,
}

type Row =
    (DeliveryId, NotificationId, String, Option<AccountId>, Channel, String, Option<String>, Option<DateTime<Utc>>);

/// List the dead letters, the youngest first: what is tried again only when an operator says so.
#[utoipa::path(
    tag = "notifications",
    params(ListDead),
    responses((status = 200, body = Page<DeadLetter>), (status = 400, body = Problem, description = "VALIDATION_ERROR")),
    security(("bearer" = ["ADMIN"]))
)]
#[get("/admin/deliveries/dead")]
pub async fn list_dead(app: Data<App>, _admin: Admin, query: Query<ListDead>) -> Result<HttpResponse> {
    let limit = Limit::parse(query.limit, app.settings.page_default.into(), app.settings.page_max.into())?;
    let after = parse_cursor::<Cursor>(query.cursor.as_deref())?;
    let mut rows = deliveries::table
        .inner_join(notifications::table)
        .filter(deliveries::dead_lettered_at.is_not_null())
        .order((deliveries::dead_lettered_at.desc(), deliveries::id.desc()))
        .select((
            deliveries::id,
            notifications::id,
            notifications::kind,
            notifications::user_id,
            deliveries::channel,
            deliveries::subject,
            deliveries::last_error,
            deliveries::dead_lettered_at,
        ))
        .limit(limit.rows())
        .into_boxed();
    if let Some(channel) = query.channel {
        rows = rows.filter(deliveries::channel.eq(channel));
    }
    if let Some(Cursor { at, id }) = after {
        // The first condition alone is what the index can use.
        rows = rows.filter(deliveries::dead_lettered_at.le(at));
        rows = rows.filter(deliveries::dead_lettered_at.lt(at).or(deliveries::id.lt(DeliveryId::from(id))));
    }
    let rows: Vec<Row> = rows.load(&mut *app.db.read().await?).await?;
    let page = Page::new(rows, limit, |row| Cursor { at: row.7.unwrap_or_default(), id: row.0.uuid() });
    let page = page.map(|row| DeadLetter {
        delivery_id: row.0,
        notification_id: row.1,
        kind: row.2,
        user_id: row.3,
        channel: row.4,
        subject: row.5,
        last_error: row.6,
        dead_lettered_at: row.7.map(|instant| instant.trunc_subsecs(3)),
    });
    Ok(HttpResponse::Ok().json(page))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Redrive {
    #[serde(deserialize_with = "common::object::one")]
    filter: RedriveFilter,
}

/// Each member narrows it down; without any, it is everything that is dead.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedriveFilter {
    #[serde(default)]
    channel: Option<Channel>,
    #[serde(default, rename = "type")]
    kind: Option<Text<1, 100>>,
    /// E.g. `UNAVAILABLE`.
    #[serde(default)]
    last_error: Option<Text<1, 100>>,
    /// Dead since this instant or shorter.
    #[serde(default)]
    from: Option<DateTime<Utc>>,
    /// Dead since this instant or longer.
    #[serde(default)]
    to: Option<DateTime<Utc>>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Redriven {
    /// Dead letters that are due again.
    redriven: usize,
}

/// Have dead letters tried again at once, as if they were new.
///
/// A repeat finds only what has died since, so asking twice is asking once.
#[utoipa::path(
    tag = "notifications",
    request_body = Redrive,
    responses(
        (status = 202, body = Redriven, description = "They are due now"),
        (status = 400, body = Problem, description = "VALIDATION_ERROR"),
    ),
    security(("bearer" = ["ADMIN"]))
)]
#[post("/admin/deliveries/redrive")]
pub async fn redrive_deliveries(app: Data<App>, _admin: Admin, Json(body): Json<Redrive>) -> Result<HttpResponse> {
    let filter = body.filter;
    for (field, at) in [("filter.from", filter.from), ("filter.to", filter.to)] {
        if at.is_some_and(|at| !is_storable(&at)) {
            return Err(Refused::invalid(field, "Must be in the years 1 to 9999.").into());
        }
    }
    let app = app.into_inner();
    let redriven = detach(async move { redrive(&app, &filter).await }).await?;
    Ok(HttpResponse::Accepted().json(Redriven { redriven }))
}

#[derive(QueryableByName)]
struct Due {
    #[diesel(sql_type = SqlText)]
    channel: Channel,
}

async fn redrive(app: &App, filter: &RedriveFilter) -> Result<usize> {
    let until = filter.to.unwrap_or_else(Utc::now);
    let mut redriven = 0;
    loop {
        let due: Vec<Due> = app.db.tx("redrive_deliveries", async move |tx| make_due(tx, filter, until).await).await?;
        due.iter().for_each(|one| app.due.wake(one.channel));
        redriven += due.len();
        app.db.point("redrive.after_batch").await;
        if due.len() < REDRIVE_BATCH as usize {
            tracing::info!(deliveries = redriven, "An operator has dead letters tried again");
            return Ok(redriven);
        }
    }
}

async fn make_due(tx: &mut Tx, filter: &RedriveFilter, until: DateTime<Utc>) -> Result<Vec<Due>> {
    let due = diesel::sql_query(include_str!("redrive_deliveries.sql"))
        .bind::<Timestamptz, _>(until)
        .bind::<Nullable<SqlText>, _>(filter.channel)
        .bind::<Nullable<SqlText>, _>(filter.kind.as_ref().map(Text::as_str))
        .bind::<Nullable<SqlText>, _>(filter.last_error.as_ref().map(Text::as_str))
        .bind::<Nullable<Timestamptz>, _>(filter.from)
        .bind::<BigInt, _>(REDRIVE_BATCH)
        .load(tx)
        .await?;
    Ok(due)
}
