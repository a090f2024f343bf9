//! `POST /coupons/{couponId}/issue`: the gate takes, PostgreSQL stores, and only then the client is told.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::Method;
use actix_web::web::Bytes;
use actix_web::{FromRequest, HttpRequest, HttpResponse, post};
use common::auth::Caller;
use common::backoff::Backoff;
use common::http::{Data, Direct, DirectAnswer, Path, Problem, detach};
use common::telemetry::Context;
use common::{Error, Result};
use contract::ids::{AccountId, CouponId, CouponIssueId};
use futures_util::FutureExt;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::App;
use crate::commit_issues::Outcome;
use crate::coupon::IssueStatus;
use crate::gate::{Answer, Take};
use crate::issue::{Issued, Wanted, issue_id, take_id};
use crate::load_gate::{LOOK_AGAIN, load_in_time, load_later};
use crate::record_failures::Failure;
use crate::refused::Refused;
use crate::take_coupons::Asked;

/// Section `[coupon.writer]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriterSettings {
    pub retries: u32,
    pub retry_first_ms: u64,
    pub retry_max_ms: u64,
    pub give_up_ms: u64,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct IssuedCoupon {
    issue_id: CouponIssueId,
    #[schema(example = "ISSUED")]
    status: IssueStatus,
}

/// Issue a coupon to the caller.
///
/// An account has a coupon once: a repeat is answered `409 COUPON_ALREADY_ISSUED` with the `issueId`, and only when the
/// issue is stored. So is the repeat of a request that was not answered. After `503` nothing is known to be issued: try again.
/// A body is not needed, and not looked at.
#[utoipa::path(tag = "coupons", params(("couponId" = CouponId, Path)), responses(
    (status = 201, body = IssuedCoupon, description = "Stored"),
    (status = 401, body = Problem, description = "UNAUTHORIZED"),
    (status = 404, body = Problem, description = "COUPON_NOT_FOUND"),
    (status = 409, body = Problem, description = "COUPON_ALREADY_ISSUED, COUPON_SOLD_OUT, COUPON_NOT_OPEN with Retry-After"),
    (status = 410, body = Problem, description = "COUPON_EXPIRED"),
    (status = 413, body = Problem, description = "PAYLOAD_TOO_LARGE"),
    (status = 503, body = Problem, description = "SERVICE_UNAVAILABLE"),
), security(("bearer" = [])))]
#[post("/coupons/{couponId}/issue")]
pub async fn issue_coupon(app: Data<App>, caller: Caller, id: Path<CouponId>, _: Bytes) -> Result<HttpResponse> {
    answer(app.into_inner(), &caller, id.into_inner()).await
}

/// The same, without the framework's routing.
pub fn direct(app: &Arc<App>) -> Direct {
    let app = app.clone();
    let respond = move |request: &HttpRequest, parts: &[&str]| -> DirectAnswer {
        let coupon = parts.first()?.parse().ok()?;
        let (app, request) = (app.clone(), request.clone());
        Some(async move { answer(app, &Caller::extract(&request).await?, coupon).await }.boxed_local())
    };
    Direct { method: Method::POST, template: "/api/v1/coupons/{couponId}/issue", answer: Arc::new(respond) }
}

async fn answer(app: Arc<App>, caller: &Caller, coupon: CouponId) -> Result<HttpResponse> {
    let user = AccountId::from(caller.account);
    let issued = if app.gate.has_refused(coupon, user) {
        counted(Err(Refused::SoldOut.into()))
    } else {
        // Detached: what is taken is stored or undone, even if the client disconnects.
        detach(async move { counted(issue(&app, coupon, user).await) }).await
    }?;
    Ok(HttpResponse::Created().json(IssuedCoupon { issue_id: issued.issue, status: IssueStatus::Issued }))
}

fn counted(issued: Result<Issued>) -> Result<Issued> {
    let outcome = match &issued {
        Ok(_) => "issued",
        Err(Error::Refused(refused)) => match &*refused.code.reason {
            "COUPON_SOLD_OUT" => "sold_out",
            "COUPON_ALREADY_ISSUED" => "repeated",
            _ => "refused",
        },
        Err(Error::Fault(_)) => "failed",
    };
    metrics::counter!("stampede_coupons_issued_total", "outcome" => outcome).increment(1);
    issued
}

async fn issue(app: &Arc<App>, coupon: CouponId, user: AccountId) -> Result<Issued> {
    let issue = issue_id(coupon, user);
    let deadline = Instant::now() + Duration::from_millis(app.gate.settings.wait_ms);
    loop {
        let seen = app.gate.epoch(coupon);
        let (take, is_own) = match app.takes.submit(Asked { coupon, user, issue }).await? {
            Answer::Taken(take) => (Some(take), true),
            // An earlier request of this user waits for PostgreSQL, or its process has died: this one stores it.
            Answer::Pending(take) => (Some(take), false),
            Answer::Stored => return Err(Refused::AlreadyIssued(issue).into()),
            Answer::Away => (None, true),
            Answer::Opening { opens_in_ms } => {
                wait_for_opening(app, opens_in_ms, deadline).await?;
                continue;
            }
            Answer::Cold => {
                load_in_time(app, coupon, seen, deadline).await?;
                continue;
            }
        };
        app.db.point("coupon.after_lua").await;
        let wanted = wanted(coupon, user, take);
        match store(app, &wanted).await? {
            Outcome::Stored(issued) if is_own && issued.take_id == wanted.take_id => return Ok(issued),
            Outcome::Stored(_) => return Err(Refused::AlreadyIssued(issue).into()),
            // The take is void. No gate older than this is believed from here on.
            Outcome::Stale { epoch } => app.gate.note_epoch(coupon, epoch),
        }
    }
}

fn wanted(coupon: CouponId, user: AccountId, take: Option<Take>) -> Wanted {
    Wanted {
        issue: issue_id(coupon, user),
        coupon,
        user,
        take_id: take.as_ref().map_or_else(|| format!("alone:{}", Uuid::now_v7()), take_id),
        take,
        context: Context::outgoing(),
    }
}

/// Waits a little, at most until the coupon has opened. Refuses with `COUPON_NOT_OPEN` when that takes too long.
async fn wait_for_opening(app: &App, opens_in_ms: i64, deadline: Instant) -> Result<()> {
    if Instant::now() >= deadline {
        return Err(Refused::NotOpen { opens_in_ms }.into());
    }
    app.db.point("coupon.before_opening").await;
    let rest = Duration::from_millis(u64::try_from(opens_in_ms).unwrap_or_default());
    // The coupon may be changed meanwhile.
    tokio::time::sleep(rest.min(LOOK_AGAIN)).await;
    Ok(())
}

/// Stores a take, or undoes it. Whoever gets an error has no coupon by this take.
///
/// A take whose outcome is unknown, because PostgreSQL went away while it committed, is undone as well: if it is stored after
/// all, the journal or the record of failures finds it there and tells the gate.
pub async fn store(app: &Arc<App>, wanted: &Wanted) -> Result<Outcome> {
    let outcome = store_with_retries(app, wanted).await;
    let failure = match &outcome {
        Ok(_) => return outcome,
        Err(Error::Refused(refused)) => {
            if refused.code.reason == contract::codes::COUPON_SOLD_OUT.reason && wanted.take.is_some() {
                // The gate has let it through, so it promises more than there is.
                load_later(app, wanted.coupon);
            }
            String::new()
        }
        Err(Error::Fault(_)) => Failure::of(wanted).to_text(),
    };
    if let Some(take) = &wanted.take {
        app.db.point("coupon.before_undo").await;
        app.gate.undo(wanted.coupon, wanted.user, take, &failure).await;
    }
    outcome
}

/// Each try asks again whether the issue is stored, so a try whose answer was lost is found out by the next one.
async fn store_with_retries(app: &App, wanted: &Wanted) -> Result<Outcome> {
    let WriterSettings { retries, retry_first_ms, retry_max_ms, give_up_ms } = app.settings.writer;
    let backoff = Backoff { first: Duration::from_millis(retry_first_ms), max: Duration::from_millis(retry_max_ms) };
    let give_up = Instant::now() + Duration::from_millis(give_up_ms);
    let mut retry = 0;
    loop {
        let late = || Error::transient(anyhow::anyhow!("PostgreSQL has not stored issue {} in time", wanted.issue));
        let outcome = timeout_at(give_up, app.issues.submit(wanted.clone())).await.unwrap_or_else(|_| Err(late()));
        match outcome {
            Err(error) if error.is_transient() && retry < retries && Instant::now() < give_up => {
                retry += 1;
                tracing::debug!(%error, "Issue {} is not stored; retry {retry} of {retries}", wanted.issue);
                tokio::time::sleep(backoff.delay(retry)).await;
            }
            outcome => return outcome,
        }
    }
}
