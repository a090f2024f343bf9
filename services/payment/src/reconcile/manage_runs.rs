//! `/admin/reconciliation/runs`: operators request a run, and read what the runs have found.

use actix_web::{HttpResponse, get, post};
use chrono::{DateTime, TimeDelta, Utc};
use common::auth::Admin;
use common::error::NOT_FOUND;
use common::http::{Data, OptionalJson, Path, Problem, Query, detach};
use common::page::{Cursor, is_storable, parse_cursor};
use common::{Refused, Result};
use contract::ids::{AccountId, OrderId, PaymentId};
use contract::money::Money;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::runs::{RANGE_MAX, Requested, Run, past, request};
use crate::App;
use crate::naverpay;
use crate::read_payments::rfc3339;
use crate::schema::{reconciliation_findings, reconciliation_runs};

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestRun {
    /// A day before `to` unless told.
    from: Option<DateTime<Utc>>,
    /// As late as can be judged unless told.
    to: Option<DateTime<Utc>>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunView {
    run_id: Uuid,
    provider: &'static str,
    /// REQUESTED, RUNNING, COMPLETED or FAILED
    status: String,
    from: String,
    to: String,
    /// Absent: the clock did.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Uuid)]
    requested_by: Option<AccountId>,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<String>,
    /// By the provider's book, in this time.
    captured: Money,
    /// By the provider's book, in this time.
    cancelled: Money,
    /// What our payments that were prepared in this time have.
    paid: Money,
    /// What the provider's book has above our payments, by the findings; 0 when both agree.
    difference: Money,
    book_entries: i64,
    payments: i64,
    findings_count: i64,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunPage {
    items: Vec<RunView>,
    /// Send it as `cursor` to go on; null on the last page.
    next_cursor: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunDetail {
    #[serde(flatten)]
    run: RunView,
    findings: Vec<FindingView>,
    /// Send it as `cursor` to go on with the findings; null on the last page.
    next_cursor: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FindingView {
    /// STRAY_CAPTURE, MISSING_CAPTURE, AMOUNT_MISMATCH, DOUBLE_CAPTURE, REFUND_MISMATCH or ORDER_MISMATCH
    kind: String,
    /// Our name for the payment as the provider has it, which may be none of ours.
    merchant_pay_key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Uuid)]
    payment_id: Option<PaymentId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Uuid)]
    order_id: Option<OrderId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pg_payment_id: Option<String>,
    /// What the shop should have by our payments.
    expected: Money,
    /// What it has by the provider's book.
    found: Money,
    /// REPORTED, ASKED (the resolver asks the provider), CANCELLED (given back) or CANCEL_FAILED
    action: String,
    detail: String,
    found_at: String,
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

const LIMIT_MAX: i64 = 100;
const LIMIT_DEFAULT: i64 = 50;

impl Listing {
    fn limit(&self) -> Result<i64> {
        let limit = self.limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(Refused::invalid("limit", format!("Must be 1 to {LIMIT_MAX}.")).into());
        }
        Ok(limit)
    }
}

/// Have the provider's book compared with our payments.
///
/// It runs in the background: read the run until it is `COMPLETED`. There is one at a time: while one is under way, this
/// answers with that one. The last minutes, which both sides may still disagree about, are left out.
#[utoipa::path(
    tag = "payments",
    request_body(content = Option<RequestRun>),
    responses(
        (status = 202, body = RunView, description = "It begins"),
        (status = 200, body = RunView, description = "Another one is under way: this one"),
        (status = 400, body = Problem, description = "VALIDATION_ERROR"),
    ),
    security(("bearer" = ["ADMIN"]))
)]
#[post("/admin/reconciliation/runs")]
pub async fn request_run(app: Data<App>, admin: Admin, body: OptionalJson<RequestRun>) -> Result<HttpResponse> {
    let RequestRun { from, to } = body.0.unwrap_or_default();
    let by = AccountId::from(admin.0.account);
    let app = app.into_inner();
    let Requested { run, is_new } = detach(async move {
        let latest = past(&app).await?.now - app.reconciliation.grace();
        let (from, to) = range(from, to, latest)?;
        let requested = request(&app, from, to, Some(by)).await?;
        app.reconcile_now.notify_one();
        Ok(requested)
    })
    .await?;
    let mut response = if is_new { HttpResponse::Accepted() } else { HttpResponse::Ok() };
    response.insert_header(("Location", format!("/api/v1/admin/reconciliation/runs/{}", run.id)));
    Ok(response.json(view(run)))
}

fn range(
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
    latest: DateTime<Utc>,
) -> Result<(DateTime<Utc>, DateTime<Utc>), Refused> {
    for (field, at) in [("from", &from), ("to", &to)] {
        if at.as_ref().is_some_and(|at| !is_storable(at)) {
            return Err(Refused::invalid(field, "Must be in the years 1 to 9999."));
        }
    }
    let to = to.unwrap_or(latest).min(latest);
    let from = from.unwrap_or(to - TimeDelta::days(1));
    // The provider knows whole seconds only.
    if to - from < TimeDelta::seconds(1) {
        let text = format!("Must be a second before `to`, which is {} at the latest.", rfc3339(latest));
        return Err(Refused::invalid("from", text));
    }
    if to - from > RANGE_MAX {
        return Err(Refused::invalid("from", format!("Must be within {} days of `to`.", RANGE_MAX.num_days())));
    }
    Ok((from, to))
}

/// List the runs, newest first.
#[utoipa::path(
    tag = "payments",
    params(Listing),
    responses((status = 200, body = RunPage), (status = 400, body = Problem, description = "VALIDATION_ERROR")),
    security(("bearer" = ["ADMIN"]))
)]
#[get("/admin/reconciliation/runs")]
pub async fn list_runs(app: Data<App>, _admin: Admin, Query(listing): Query<Listing>) -> Result<HttpResponse> {
    let limit = listing.limit()?;
    // Later than every row.
    let first = Cursor { at: Utc::now() + TimeDelta::days(1), id: Uuid::max() };
    let after = parse_cursor(listing.cursor.as_deref())?.unwrap_or(first);
    let is_before = reconciliation_runs::created_at
        .lt(after.at)
        .or(reconciliation_runs::created_at.eq(after.at).and(reconciliation_runs::id.lt(after.id)));
    let newest = reconciliation_runs::table
        .filter(is_before)
        .order((reconciliation_runs::created_at.desc(), reconciliation_runs::id.desc()))
        .limit(limit + 1)
        .select(Run::as_select());
    let mut found: Vec<Run> = newest.load(&mut *app.db.read().await?).await?;
    let more = found.len() as i64 > limit;
    found.truncate(limit as usize);
    let next_cursor = found.last().filter(|_| more).map(|last| Cursor { at: last.created_at, id: last.id }.to_string());
    Ok(HttpResponse::Ok().json(RunPage { items: found.into_iter().map(view).collect(), next_cursor }))
}

/// Read a run and what it has found.
#[utoipa::path(
    tag = "payments",
    params(("runId" = Uuid, Path), Listing),
    responses(
        (status = 200, body = RunDetail),
        (status = 400, body = Problem, description = "VALIDATION_ERROR"),
        (status = 404, body = Problem, description = "NOT_FOUND"),
    ),
    security(("bearer" = ["ADMIN"]))
)]
#[get("/admin/reconciliation/runs/{runId}")]
pub async fn read_run(
    app: Data<App>,
    _admin: Admin,
    id: Path<Uuid>,
    Query(listing): Query<Listing>,
) -> Result<HttpResponse> {
    let limit = listing.limit()?;
    let after: i64 = parse_cursor(listing.cursor.as_deref())?.unwrap_or_default();
    let mut conn = app.db.read().await?;
    let run = reconciliation_runs::table.find(*id).select(Run::as_select());
    let run: Option<Run> = run.get_result(&mut conn).await.optional()?;
    let run = run.ok_or_else(|| Refused::new(NOT_FOUND, "There is no such run."))?;
    let findings = reconciliation_findings::table
        .filter(reconciliation_findings::run_id.eq(*id))
        .filter(reconciliation_findings::id.gt(after))
        .order(reconciliation_findings::id)
        .limit(limit + 1)
        .select(FindingRow::as_select());
    let mut found: Vec<FindingRow> = findings.load(&mut conn).await?;
    let more = found.len() as i64 > limit;
    found.truncate(limit as usize);
    let next_cursor = found.last().filter(|_| more).map(|last| last.id.to_string());
    let findings = found.into_iter().map(finding_view).collect();
    Ok(HttpResponse::Ok().json(RunDetail { run: view(run), findings, next_cursor }))
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = reconciliation_findings, check_for_backend(Pg))]
struct FindingRow {
    id: i64,
    kind: String,
    merchant_pay_key: String,
    payment_id: Option<PaymentId>,
    order_id: Option<OrderId>,
    pg_payment_id: Option<String>,
    expected: i64,
    found: i64,
    action: String,
    detail: String,
    found_at: DateTime<Utc>,
}

fn finding_view(row: FindingRow) -> FindingView {
    FindingView {
        kind: row.kind,
        merchant_pay_key: row.merchant_pay_key,
        payment_id: row.payment_id,
        order_id: row.order_id,
        pg_payment_id: row.pg_payment_id,
        expected: Money::krw(row.expected),
        found: Money::krw(row.found),
        action: row.action,
        detail: row.detail,
        found_at: rfc3339(row.found_at),
    }
}

fn view(run: Run) -> RunView {
    RunView {
        run_id: run.id,
        provider: naverpay::NAME,
        status: run.status,
        from: rfc3339(run.from_time),
        to: rfc3339(run.to_time),
        requested_by: run.requested_by,
        created_at: rfc3339(run.created_at),
        started_at: run.started_at.map(rfc3339),
        ended_at: run.ended_at.map(rfc3339),
        captured: Money::krw(run.captured),
        cancelled: Money::krw(run.cancelled),
        paid: Money::krw(run.paid),
        difference: Money::krw(run.difference),
        book_entries: run.book_entries,
        payments: run.payments,
        findings_count: run.findings,
        error: run.error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_a_day_by_default_and_ends_before_the_last_minutes() {
        let latest: DateTime<Utc> = "2026-11-21T12:00:00Z".parse().unwrap();
        let day = TimeDelta::days(1);
        assert_eq!(range(None, None, latest), Ok((latest - day, latest)));
        assert_eq!(range(None, Some(latest + day), latest), Ok((latest - day, latest)));
        assert_eq!(range(Some(latest - day * 31), None, latest), Ok((latest - day * 31, latest)));
        for (from, to) in [
            (Some(latest), None),
            (Some(latest + day), Some(latest + day * 2)),
            (Some(latest - day * 32), None),
            (Some(latest), Some(latest - day)),
            (Some(DateTime::<Utc>::MIN_UTC), None),
        ] {
            assert!(range(from, to, latest).is_err(), "{from:?} {to:?}");
        }
    }
}
