//! `POST /payments/{paymentId}/approve`: write the attempt down, reserve order, stock and coupon, then ask the provider
//! for the money.
//!
//! In this order: a row names every attempt in whose name something may be reserved or captured, so that a crash leaves
//! nothing behind; and a hold that has expired charges nobody. Without an answer the payment becomes `UNKNOWN`, all of
//! them stay reserved, and `resolve_payments.rs` finds the outcome out.

use std::sync::Arc;
use std::time::Instant;

use actix_web::{HttpResponse, post};
use common::auth::Caller;
use common::http::{Data, Json, Path, Problem, detach};
use common::telemetry::carried;
use common::text::Text;
use common::{Error, Result};
use contract::codes;
use contract::ids::{AccountId, PaymentId};
use contract::money::Money;
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::App;
use crate::change_payments::{Changed, change_payment};
use crate::payment::{
    AFTER_CAPTURE, Action, Approval, AttemptOutcome, AttemptReport, Method, Payment, Refused, Status,
};
use crate::pending_steps::{Note, Taken, read_steps, take_steps};
use crate::provider::Attempt;
use crate::read_payments::{PaymentView, approved_view, view};
use crate::refunds::is_refunded;
use crate::reservations::reserve;

/// When a client that got 202 is to ask again.
const RETRY_AFTER_SECONDS: u64 = 2;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApprovePayment {
    /// What the provider's payment window returned; absent when points pay.
    #[schema(value_type = Option<String>)]
    pg_payment_id: Option<Text<1, 64>>,
    /// Must be the payment's.
    #[serde(deserialize_with = "common::object::one")]
    amount: Money,
}

/// Approve a payment: take the money.
///
/// A payment that is paid already gives the same answer. 202 means that nobody knows yet: the order stays reserved, and
/// this request or `GET /payments/{paymentId}` tells the outcome as soon as there is one. 500 and 503 mean that nobody
/// knows yet either: ask again. With any other error but PAYMENT_IN_PROGRESS nothing is charged.
#[utoipa::path(
    tag = "payments",
    params(("paymentId" = String, Path)),
    request_body = ApprovePayment,
    responses(
        (status = 200, body = PaymentView, description = "PAID"),
        (status = 202, body = PaymentView, description = "UNKNOWN; Retry-After tells when to ask again"),
        (status = 400, body = Problem, description = "VALIDATION_ERROR"),
        (status = 402, body = Problem, description = "PAYMENT_DECLINED"),
        (status = 404, body = Problem, description = "PAYMENT_NOT_FOUND"),
        (status = 409, body = Problem, description = "PAYMENT_IN_PROGRESS, PAYMENT_NOT_APPROVABLE, ORDER_NOT_PAYABLE"),
        (status = 410, body = Problem, description = "HOLD_EXPIRED, REDEMPTION_ENDED: nothing was charged"),
        (status = 422, body = Problem, description = "AMOUNT_MISMATCH, INSUFFICIENT_POINTS"),
        (status = 502, body = Problem, description = "PG_ERROR: nothing was charged"),
    ),
    security(("bearer" = []))
)]
#[post("/payments/{paymentId}/approve")]
pub async fn approve_payment(
    app: Data<App>,
    caller: Caller,
    id: Path<PaymentId>,
    Json(body): Json<ApprovePayment>,
) -> Result<HttpResponse> {
    let approval = Approval {
        user: AccountId::from(caller.account),
        amount: body.amount.amount,
        pg_payment_id: body.pg_payment_id.map(Text::into_string),
    };
    let Approved { payment, pays } = detach(approve(app.into_inner(), *id, approval)).await?;
    if payment.status.is_captured() {
        return Ok(HttpResponse::Ok().json(approved_view(&payment, pays)));
    }
    let mut unknown = HttpResponse::Accepted();
    unknown.insert_header(("Retry-After", RETRY_AFTER_SECONDS));
    unknown.insert_header(("Location", format!("/api/v1/payments/{}", payment.id)));
    Ok(unknown.json(view(&payment)))
}

async fn approve(app: Arc<App>, id: PaymentId, approval: Approval) -> Result<Approved> {
    let changed = change_payment(&app, id, Action::Approve(approval)).await.map_err(|error| {
        // Of two payments of one order the database lets one be open, whoever decides at the same time.
        if is_other_open(&error) { Refused::InProgress.into() } else { error }
    })?;
    let Some(attempt) = changed.begun().cloned() else {
        // If this cannot be read, the answer is silent about the order: the payment is paid all the same.
        let pays = is_order_paid(&app, &changed.payment).await.unwrap_or(false);
        return Ok(Approved { payment: changed.payment, pays });
    };
    app.db.point("payment.after_attempt").await;
    let payment = changed.payment;
    let running = tokio::spawn(carried(run_attempt(app.clone(), payment.clone(), attempt.clone())));
    match tokio::time::timeout(app.approve_wait, running).await {
        Ok(outcome) => outcome?,
        // The attempt goes on. The client is told 202 and asks again.
        Err(_) => Ok(Approved { payment: still_unknown(&app, attempt, payment).await, pays: false }),
    }
}

/// A payment after a request to approve.
struct Approved {
    payment: Payment,
    /// The order is paid with it.
    pays: bool,
}

/// Whether the order is paid with this payment, which it is told first if need be.
async fn is_order_paid(app: &App, payment: &Payment) -> Result<bool> {
    if payment.status != Status::Paid {
        return Ok(false);
    }
    let pending = read_steps(&mut *app.db.read().await?, payment.id).await?;
    let taken = match pending {
        Some((attempt, steps)) => take_steps(app, payment, attempt, &steps, Note::Awaited).await,
        None => Taken::Done,
    };
    Ok(taken == Taken::Done && !is_refunded(&mut *app.db.read().await?, payment.id).await?)
}

/// Whether another payment of the order is open, and may get the money.
fn is_other_open(error: &Error) -> bool {
    const ONE_OPEN_PER_ORDER: &str = "payments_one_per_order";
    let Error::Fault(fault) = error else { return false };
    match fault.cause.downcast_ref() {
        Some(DieselError::DatabaseError(DatabaseErrorKind::UniqueViolation, details)) => {
            details.constraint_name() == Some(ONE_OPEN_PER_ORDER)
        }
        _ => false,
    }
}

/// Reserves order, stock and coupon, asks the provider, records its answer, and tells the order.
async fn run_attempt(app: Arc<App>, payment: Payment, attempt: Attempt) -> Result<Approved> {
    if let Err(error) = reserve(&app, &payment, &attempt).await {
        let reason = error.reason().unwrap_or("UNAVAILABLE").to_owned();
        change_and_follow(&app, payment.id, Action::Withdraw { attempt, reason }).await?;
        return Err(error);
    }
    app.db.point("payment.after_pin").await;
    let report = capture(&app, payment.method, &attempt).await;
    app.db.point("payment.after_answer").await;
    let (payment, taken) = record(&app, attempt, report.clone()).await?;
    // The resolver may have learnt the outcome first.
    if payment.status.is_captured() {
        let pays = match taken {
            Some(taken) => taken == Taken::Done,
            None => is_order_paid(&app, &payment).await.unwrap_or(false),
        };
        return Ok(Approved { payment, pays });
    }
    if payment.status.is_open() {
        app.unclear.notify_one();
        return Ok(Approved { payment, pays: false });
    }
    let (id, code) = (payment.id, report.code);
    match report.outcome {
        AttemptOutcome::NotCaptured if code == codes::INSUFFICIENT_POINTS.reason => {
            Err(Refused::InsufficientPoints.into())
        }
        AttemptOutcome::NotCaptured if report.is_declined => Err(Refused::Declined { payment: id, code }.into()),
        AttemptOutcome::NotCaptured => Err(Refused::ProviderFailed { payment: id, code }.into()),
        AttemptOutcome::Captured | AttemptOutcome::Unknown | AttemptOutcome::Overdue => {
            Ok(Approved { payment, pays: false })
        }
    }
}

/// Records what was learnt about an attempt, whoever learnt it, and does what follows from it. Idempotent.
pub async fn record(app: &App, attempt: Attempt, report: AttemptReport) -> Result<(Payment, Option<Taken>)> {
    change_and_follow(app, attempt.payment, Action::Report { attempt, report }).await
}

/// Changes a payment, then does at other services what follows from that. Returns what became of that, if anything did.
async fn change_and_follow(app: &App, id: PaymentId, action: Action) -> Result<(Payment, Option<Taken>)> {
    let changed = change_payment(app, id, action).await?;
    app.db.point("payment.after_record").await;
    let Changed { payment, .. } = &changed;
    let taken = match changed.steps() {
        Some((attempt, steps)) => {
            // Whoever hears that an attempt has failed may begin another one at once, and none begins before the note.
            let note = if steps == AFTER_CAPTURE { Note::InBackground } else { Note::Awaited };
            Some(take_steps(app, payment, attempt, steps, note).await)
        }
        None => None,
    };
    Ok((changed.payment, taken))
}

/// Asks the provider for the money. Idempotent by the attempt's key.
pub async fn capture(app: &App, method: Method, attempt: &Attempt) -> AttemptReport {
    let started = Instant::now();
    let report = AttemptReport::from(app.capture(method, attempt).await);
    let outcome = match report.outcome {
        AttemptOutcome::Captured => "captured",
        AttemptOutcome::NotCaptured if report.is_declined => "declined",
        AttemptOutcome::NotCaptured => "not_done",
        AttemptOutcome::Unknown | AttemptOutcome::Overdue => "unknown",
    };
    let labels = [("method", method.name()), ("outcome", outcome)];
    metrics::histogram!("stampede_payment_approve_seconds", &labels).record(started.elapsed());
    report
}

/// The client has waited for `approve_wait`: the payment is unknown until the attempt has an answer.
async fn still_unknown(app: &App, attempt: Attempt, begun: Payment) -> Payment {
    let report = AttemptReport::unknown("SLOW", "no answer yet");
    let recorded = record(app, attempt, report).await;
    app.unclear.notify_one();
    recorded.map_or(begun, |(payment, _)| payment)
}
