//! `POST /payments/{paymentId}/approve`: write the attempt down, reserve order and stock, then ask the provider for the money.
//!
//! In this order: a row names every attempt in whose name something may be reserved or captured, so that a crash leaves
//! nothing behind; and a hold that has expired charges nobody. Without an answer the payment becomes `UNKNOWN`, order and
//! stock stay reserved, and `resolve_payments.rs` finds the outcome out.

use std::sync::Arc;
use std::time::Instant;

use actix_web::{HttpResponse, post};
use common::auth::Caller;
use common::db::{Prepared, Tx};
use common::http::{Data, Json, Path, Problem, detach};
use common::text::Text;
use common::{Error, Refused as PublicRefusal, Result, rpc};
use contract::codes;
use contract::ids::{AccountId, PaymentId};
use contract::inventory::PinHoldRequest;
use contract::money::Money;
use contract::order::BeginApprovalRequest;
use diesel::prelude::*;
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel::sql_query;
use diesel::sql_types::{BigInt, Double, Text as SqlText, Uuid};
use diesel_async::RunQueryDsl;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::App;
use crate::payment::{self, ApproveDecision, AttemptOutcome, Method, Refused};
use crate::provider::Attempt;
use crate::read_payments::{PaymentView, approved_view, view};
use crate::record_attempt::{AttemptReport, record_attempt, withdraw_attempt};
use crate::refunds::is_refunded;
use crate::rows::{self, Payment};
use crate::settle_owed::settle_owed;

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
        (status = 410, body = Problem, description = "HOLD_EXPIRED: nothing was charged"),
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
    let user = AccountId::from(caller.account);
    let payment = detach(approve(app.clone().into_inner(), *id, user, body)).await?;
    if payment.status.is_captured() {
        // If this cannot be read, the answer is silent about the order: the payment is paid all the same.
        let is_refunded = is_refunded_now(&app, payment.id).await.unwrap_or(true);
        return Ok(HttpResponse::Ok().json(approved_view(&payment, is_refunded)));
    }
    let mut unknown = HttpResponse::Accepted();
    unknown.insert_header(("Retry-After", RETRY_AFTER_SECONDS));
    unknown.insert_header(("Location", format!("/api/v1/payments/{}", payment.id)));
    Ok(unknown.json(view(&payment)))
}

async fn is_refunded_now(app: &App, id: PaymentId) -> Result<bool> {
    is_refunded(&mut *app.db.read().await?, id).await
}

async fn approve(app: Arc<App>, id: PaymentId, user: AccountId, body: ApprovePayment) -> Result<Payment> {
    let payment = rows::own(&mut *app.db.read().await?, id, user).await?;
    if body.amount.amount != payment.amount {
        return Err(Refused::AmountMismatch { expected: payment.amount }.into());
    }
    match payment::approve(payment.status)? {
        ApproveDecision::AlreadyPaid | ApproveDecision::StillUnknown => return Ok(payment),
        ApproveDecision::Capture => {}
    }
    let pg_payment_id = authorisation(payment.method, id, body.pg_payment_id)?;
    let (payment, attempt) = begin_attempt(&app, id, pg_payment_id).await?;
    app.db.point("payment.after_attempt").await;
    let running = tokio::spawn(run_attempt(app.clone(), payment.clone(), attempt.clone()));
    match tokio::time::timeout(app.approve_wait, running).await {
        Ok(outcome) => outcome?,
        // The attempt goes on. The client is told 202 and asks again.
        Err(_) => still_unknown(&app, &attempt, payment).await,
    }
}

/// The provider's id of what the buyer has authorised. Points need no payment window, so a payment authorises itself.
fn authorisation(method: Method, id: PaymentId, given: Option<Text<1, 64>>) -> Result<String> {
    match (method, given) {
        (Method::NaverPay, Some(given)) => Ok(given.into_string()),
        (Method::NaverPay, None) => Err(PublicRefusal::invalid("pgPaymentId", "Must be given for this method.").into()),
        (Method::Points, None) => Ok(id.to_string()),
        (Method::Points, Some(_)) => {
            Err(PublicRefusal::invalid("pgPaymentId", "Must be absent for this method.").into())
        }
    }
}

/// Commits the attempt. From here on something may be reserved or captured in its name.
async fn begin_attempt(app: &App, id: PaymentId, pg_payment_id: String) -> Result<(Payment, Attempt)> {
    let begun = app.db.tx("begin_attempt", async |tx| begin(app, tx, id, pg_payment_id.clone()).await).await;
    begun.map_err(|error| if is_other_open(&error) { Refused::InProgress.into() } else { error })
}

async fn begin(app: &App, tx: &mut Tx, id: PaymentId, pg_payment_id: String) -> Result<(Payment, Attempt)> {
    let Some((payment, _)) = rows::lock(tx, id).await? else { return Err(Refused::NotFound.into()) };
    match payment::approve(payment.status)? {
        // The reservation of the last attempt is still being released.
        ApproveDecision::Capture if payment.owes_release => return Err(Refused::InProgress.into()),
        ApproveDecision::Capture => {}
        ApproveDecision::AlreadyPaid | ApproveDecision::StillUnknown => return Err(Refused::InProgress.into()),
    }
    check_attempts(app, tx, &payment).await?;
    let attempt = payment.next_attempt(pg_payment_id);
    let query = sql_query(include_str!("begin_attempt.sql"))
        .bind::<Uuid, _>(id)
        .bind::<Uuid, _>(attempt.id)
        .bind::<SqlText, _>(&attempt.pg_payment_id)
        .bind::<SqlText, _>(&attempt.key)
        .bind::<BigInt, _>(attempt.amount)
        .bind::<Double, _>(app.approve_wait.as_millis() as f64);
    let payment = Prepared(query).get_result(tx).await?;
    tx.point("payment.before_attempt").await;
    Ok((payment, attempt))
}

/// Each attempt keeps the order's units from other buyers for a while, so their number is limited.
async fn check_attempts(app: &App, tx: &mut Tx, payment: &Payment) -> Result<()> {
    #[derive(QueryableByName)]
    struct Count {
        #[diesel(sql_type = BigInt)]
        count: i64,
    }
    let query = sql_query(include_str!("check_attempts.sql")).bind::<Uuid, _>(payment.order_id);
    let Count { count } = Prepared(query).get_result(tx).await?;
    if count >= app.attempts_per_order_max { Err(Refused::TooManyAttempts(count).into()) } else { Ok(()) }
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

/// Reserves order and stock, asks the provider, records its answer, and tells the order.
async fn run_attempt(app: Arc<App>, payment: Payment, attempt: Attempt) -> Result<Payment> {
    if let Err(error) = reserve(&app, &payment, &attempt).await {
        let payment = withdraw_attempt(&app, &attempt, &error).await?;
        settle_owed(&app, payment).await;
        return Err(error);
    }
    app.db.point("payment.after_pin").await;
    let report = capture(&app, payment.method, &attempt).await;
    app.db.point("payment.after_answer").await;
    let payment = record_attempt(&app, &attempt, &report).await?;
    let payment = settle_owed(&app, payment).await;
    // The resolver may have learnt the outcome first.
    if payment.status.is_captured() {
        return Ok(payment);
    }
    if payment.status.is_open() {
        app.unclear.notify_one();
        return Ok(payment);
    }
    let (id, code) = (payment.id, report.code);
    match report.outcome {
        AttemptOutcome::NotCaptured if code == codes::INSUFFICIENT_POINTS.reason => {
            Err(Refused::InsufficientPoints.into())
        }
        AttemptOutcome::NotCaptured if report.is_declined => Err(Refused::Declined { payment: id, code }.into()),
        AttemptOutcome::NotCaptured => Err(Refused::ProviderFailed { payment: id, code }.into()),
        AttemptOutcome::Captured | AttemptOutcome::Unknown | AttemptOutcome::Overdue => Ok(payment),
    }
}

/// Reserves the order for this attempt, then pins its stock. Idempotent by the attempt's id.
pub async fn reserve(app: &App, payment: &Payment, attempt: &Attempt) -> Result<()> {
    let (order_id, attempt_id) = (payment.order_id.to_string(), attempt.id.to_string());
    let begin = BeginApprovalRequest {
        order_id: order_id.clone(),
        payment_id: payment.id.to_string(),
        attempt_id: attempt_id.clone(),
        amount: payment.amount,
        currency: payment.currency.clone(),
    };
    let begun = rpc::retrying(|| {
        let (mut order, begin) = (app.order.clone(), begin.clone());
        async move { order.begin_approval(begin).await }
    });
    begun.await?;
    app.db.point("payment.after_reservation").await;
    let pin = PinHoldRequest { hold_id: order_id, attempt_id, retake: false };
    let pinned = rpc::retrying(|| {
        let (mut inventory, pin) = (app.inventory.clone(), pin.clone());
        async move { inventory.pin_hold(pin).await }
    });
    pinned.await?;
    Ok(())
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
async fn still_unknown(app: &App, attempt: &Attempt, begun: Payment) -> Result<Payment> {
    let report = AttemptReport::unknown("SLOW", "no answer yet");
    let payment = record_attempt(app, attempt, &report).await.unwrap_or(begun);
    app.unclear.notify_one();
    Ok(payment)
}
