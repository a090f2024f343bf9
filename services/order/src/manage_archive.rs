//! `/admin/archive/runs`: administrators ask for a run of the archive, see what it would move, and read what the runs have
//! moved.

use actix_web::{HttpResponse, get, post};
use chrono::{DateTime, SecondsFormat, Utc};
use common::auth::Admin;
use common::db::Prepared;
use common::error::NOT_FOUND;
use common::http::{Data, Path, Problem, Query, detach};
use common::page::{Cursor, Limit, Page, parse_cursor};
use common::{Error, Refused, Result};
use contract::ids::AccountId;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Double, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::App;
use crate::archive_orders::Run;
use crate::schema::archive_runs;

const LIMIT_MAX: i64 = 100;
const LIMIT_DEFAULT: i64 = 50;
/// A run may end between the look for it and the request for another; hardly twice in a row.
const REQUESTS_MAX: usize = 3;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Request {
    /// Only count what a run would move now.
    #[param(default = false)]
    dry_run: Option<bool>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ArchiveRun)]
pub struct RunView {
    /// Absent for a dry run, which is not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    run_id: Option<Uuid>,
    /// REQUESTED, RUNNING, COMPLETED, FAILED or DRY_RUN
    status: String,
    /// Orders are moved that have ended and have not changed since then.
    unchanged_since: String,
    /// Absent: the clock did.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Uuid)]
    requested_by: Option<AccountId>,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<String>,
    /// Moved so far; of a dry run, what would be moved.
    orders: i64,
    /// Lines of these orders.
    items: i64,
    /// Transactions that moved them.
    chunks: i64,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ArchiveRunPage)]
pub struct RunPage {
    items: Vec<RunView>,
    /// Send it as `cursor` to go on; null on the last page.
    next_cursor: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Listing {
    /// 1 to 100; 50 unless told.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
    cursor: Option<String>,
}

/// Archive now what the next daily run would archive, or only count it.
///
/// It runs in the background: read the run until it is `COMPLETED`. There is one at a time: while one is under way, this
/// answers with that one. With `dryRun=true` nothing is moved and no run is kept: the answer counts what would be moved.
#[utoipa::path(
    tag = "orders",
    params(Request),
    responses(
        (status = 202, body = RunView, description = "It begins"),
        (status = 200, body = RunView, description = "Another one is under way: this one. Or the dry run"),
        (status = 400, body = Problem, description = "VALIDATION_ERROR"),
        (status = 403, body = Problem, description = "FORBIDDEN"),
    ),
    security(("bearer" = ["ADMIN"]))
)]
#[post("/admin/archive/runs")]
pub async fn request_archive_run(app: Data<App>, admin: Admin, Query(query): Query<Request>) -> Result<HttpResponse> {
    let app = app.into_inner();
    if query.dry_run.unwrap_or_default() {
        return Ok(HttpResponse::Ok().json(count(&app).await?));
    }
    let by = AccountId::from(admin.0.account);
    let (run, is_new) = detach(async move {
        let requested = request(&app, by).await?;
        app.archive.requested.notify_one();
        Ok(requested)
    })
    .await?;
    let mut response = if is_new { HttpResponse::Accepted() } else { HttpResponse::Ok() };
    response.insert_header(("Location", format!("/api/v1/admin/archive/runs/{}", run.id)));
    Ok(response.json(view(run)))
}

/// The run, and whether it is new.
async fn request(app: &App, by: AccountId) -> Result<(Run, bool)> {
    let days = f64::from(app.archive.after_days);
    for _ in 0..REQUESTS_MAX {
        let made: Option<Run> = app
            .db
            .tx("request_archive_run", async |tx| {
                let make = sql_query(include_str!("manage_archive_request.sql"))
                    .bind::<SqlUuid, _>(Uuid::now_v7())
                    .bind::<SqlUuid, _>(by)
                    .bind::<Double, _>(days);
                Ok(Prepared(make).get_result(tx).await.optional()?)
            })
            .await?;
        if let Some(run) = made {
            return Ok((run, true));
        }
        let live =
            archive_runs::table.filter(archive_runs::status.eq_any(["REQUESTED", "RUNNING"])).select(Run::as_select());
        if let Some(run) = live.first(&mut *app.db.read().await?).await.optional()? {
            return Ok((run, false));
        }
    }
    Err(Error::transient(anyhow::anyhow!("runs of the archive begin and end at every look")))
}

#[derive(QueryableByName)]
struct Counted {
    #[diesel(sql_type = Timestamptz)]
    now: DateTime<Utc>,
    #[diesel(sql_type = Timestamptz)]
    unchanged_since: DateTime<Utc>,
    #[diesel(sql_type = BigInt)]
    orders: i64,
    #[diesel(sql_type = BigInt)]
    items: i64,
}

async fn count(app: &App) -> Result<RunView> {
    let count =
        sql_query(include_str!("manage_archive_count.sql")).bind::<Double, _>(f64::from(app.archive.after_days));
    let counted: Counted = Prepared(count).get_result(&mut *app.db.read().await?).await?;
    Ok(RunView {
        run_id: None,
        status: "DRY_RUN".to_owned(),
        unchanged_since: time(counted.unchanged_since),
        requested_by: None,
        created_at: time(counted.now),
        started_at: None,
        ended_at: None,
        orders: counted.orders,
        items: counted.items,
        chunks: counted.orders.unsigned_abs().div_ceil(app.archive.chunk.unsigned_abs()).cast_signed(),
        error: None,
    })
}

/// List the runs of the archive, newest first.
#[utoipa::path(
    tag = "orders",
    params(Listing),
    responses(
        (status = 200, body = RunPage),
        (status = 400, body = Problem, description = "VALIDATION_ERROR"),
        (status = 403, body = Problem, description = "FORBIDDEN"),
    ),
    security(("bearer" = ["ADMIN"]))
)]
#[get("/admin/archive/runs")]
pub async fn list_archive_runs(app: Data<App>, _: Admin, Query(listing): Query<Listing>) -> Result<HttpResponse> {
    let limit = Limit::parse(listing.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let mut newest = archive_runs::table
        .order((archive_runs::created_at.desc(), archive_runs::id.desc()))
        .limit(limit.rows())
        .select(Run::as_select())
        .into_boxed();
    if let Some(Cursor { at, id }) = parse_cursor(listing.cursor.as_deref())? {
        let is_older = archive_runs::created_at.lt(at);
        newest = newest.filter(is_older.or(archive_runs::created_at.eq(at).and(archive_runs::id.lt(id))));
    }
    let found: Vec<Run> = newest.load(&mut *app.db.read().await?).await?;
    let page = Page::new(found, limit, |run| Cursor { at: run.created_at, id: run.id }).map(view);
    Ok(HttpResponse::Ok().json(RunPage { items: page.items, next_cursor: page.next_cursor }))
}

/// Read a run of the archive.
#[utoipa::path(
    tag = "orders",
    params(("runId" = Uuid, Path)),
    responses(
        (status = 200, body = RunView),
        (status = 403, body = Problem, description = "FORBIDDEN"),
        (status = 404, body = Problem, description = "NOT_FOUND"),
    ),
    security(("bearer" = ["ADMIN"]))
)]
#[get("/admin/archive/runs/{runId}")]
pub async fn read_archive_run(app: Data<App>, _: Admin, id: Path<Uuid>) -> Result<HttpResponse> {
    let run = archive_runs::table.find(*id).select(Run::as_select());
    let run: Option<Run> = run.first(&mut *app.db.read().await?).await.optional()?;
    let run = run.ok_or_else(|| Refused::new(NOT_FOUND, "There is no such run."))?;
    Ok(HttpResponse::Ok().json(view(run)))
}

fn view(run: Run) -> RunView {
    RunView {
        run_id: Some(run.id),
        status: run.status,
        unchanged_since: time(run.unchanged_since),
        requested_by: run.requested_by,
        created_at: time(run.created_at),
        started_at: run.started_at.map(time),
        ended_at: run.ended_at.map(time),
        orders: run.orders,
        items: run.items,
        chunks: run.chunks,
        error: run.error,
    }
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
