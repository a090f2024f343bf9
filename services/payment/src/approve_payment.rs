//! `POST /payments/{paymentId}/approve`: write the attempt down, reserve order and stock, then ask for the money.
//!
//! In this order: whatever is reserved or taken, a row says in whose name, so nothing is left behind by whoever dies on
//! the way; and a hold that is gone costs nobody anything. An answer that never comes is not an answer: the payment is
//! then `UNKNOWN`, order and stock stay reserved, and `resolve_payments.rs` finds out.

use std::sync::Arc;

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
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel::sql_types::{BigInt, Double, Text as SqlText, Uuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::App;
use crate::payment::{self, Approve, Found, Method, Refused};
use crate::provider::Approval;
use crate::read_payments::{PaymentView, approved_view, view};
use crate::record_attempt::{Finding, record_attempt, withdraw_attempt};
use crate::rows::{self, Payment};
use crate::settle_owed::settle_owed;

/// When a client that was told to come back should.
const COME_BACK_SECONDS: u64 = 2;

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
    if payment.status().is_captured() {
        // Paid is paid: who cannot be told about the order now is told about the money.
        let is_given_back = is_given_back(&app, payment.id).await.unwrap_or(true);
        return Ok(HttpResponse::Ok().json(approved_view(&payment, is_given_back)));
    }
    let mut unknown = HttpResponse::Accepted();
    unknown.insert_header(("Retry-After", COME_BACK_SECONDS));
    unknown.insert_header(("Location", format!("/api/v1/payments/{}", payment.id)));
    Ok(unknown.json(view(&payment)))
}

async fn is_given_back(app: &App, id: PaymentId) -> Result<bool> {
    rows::is_given_back(&mut *app.db.read().await?, id).await
}

async fn approve(app: Arc<App>, id: PaymentId, user: AccountId, body: ApprovePayment) -> Result<Payment> {
    let payment = rows::own(&mut *app.db.read().await?, id, user).await?;
    if body.amount.amount != payment.amount {
        return Err(Refused::AmountMismatch { expected: payment.amount }.into());
    }
    match payment::approve(payment.status())? {
        Approve::AlreadyPaid | Approve::StillUnknown => return Ok(payment),
        Approve::Ask => {}
    }
    let pg_payment_id = authorised(payment.method(), id, body.pg_payment_id)?;
    let (payment, approval) = begin_attempt(&app, id, pg_payment_id).await?;
    app.db.point("payment.after_attempt").await;
    let asking = tokio::spawn(ask(app.clone(), payment.clone(), approval.clone()));
    match tokio::time::timeout(app.approve_wait, asking).await {
        Ok(outcome) => outcome?,
        // It goes on; whoever asks again learns what came of it.
        Err(_) => still_unknown(&app, &approval, payment).await,
    }
}

/// The provider's name for what the buyer has authorised. Points need no window, so a payment is its own authorisation.
fn authorised(method: Method, id: PaymentId, given: Option<Text<1, 64>>) -> Result<String> {
    match (method, given) {
        (Method::NaverPay, Some(given)) => Ok(given.into_string()),
        (Method::NaverPay, None) => Err(PublicRefusal::invalid("pgPaymentId", "Must be given for this method.").into()),
        (Method::Points, None) => Ok(id.to_string()),
        (Method::Points, Some(_)) => {
            Err(PublicRefusal::invalid("pgPaymentId", "Must be absent for this method.").into())
        }
    }
}

/// Commits the attempt. From here on something may be reserved, or taken, in its name.
async fn begin_attempt(app: &App, id: PaymentId, pg_payment_id: String) -> Result<(Payment, Approval)> {
    let begun = app.db.tx("begin_attempt", async |tx| begin(app, tx, id, pg_payment_id.clone()).await).await;
    begun.map_err(|error| if is_taken(&error) { Refused::InProgress.into() } else { error })
}

async fn begin(app: &App, tx: &mut Tx, id: PaymentId, pg_payment_id: String) -> Result<(Payment, Approval)> {
    let Some((payment, _)) = rows::lock(tx, id).await? else { return Err(Refused::NotFound.into()) };
    match payment::approve(payment.status())? {
        // Somebody is still letting go of what the last attempt had reserved.
        Approve::Ask if payment.owes_release => return Err(Refused::InProgress.into()),
        Approve::Ask => {}
        Approve::AlreadyPaid | Approve::StillUnknown => return Err(Refused::InProgress.into()),
    }
    check_attempts(app, tx, &payment).await?;
    let approval = payment.next_approval(pg_payment_id);
    // The resolver looks after the client has been told to come back: earlier, it would only ask what is being asked.
    let resolve_after = app.approve_wait.as_millis() as f64;
    let begun = sql_query(include_str!("begin_attempt.sql"))
        .bind::<Uuid, _>(id)
        .bind::<Uuid, _>(approval.attempt)
        .bind::<SqlText, _>(&approval.pg_payment_id)
        .bind::<SqlText, _>(&approval.key)
        .bind::<BigInt, _>(approval.amount)
        .bind::<Double, _>(resolve_after);
    let payment = Prepared(begun).get_result(tx).await?;
    tx.point("payment.before_attempt").await;
    Ok((payment, approval))
}

/// Each attempt keeps the order's units from others for a while, so there is an end to them.
async fn check_attempts(app: &App, tx: &mut Tx, payment: &Payment) -> Result<()> {
    #[derive(QueryableByName)]
    struct Count {
        #[diesel(sql_type = BigInt)]
        count: i64,
    }
    let query = sql_query(
        "select count(*) as count
         from payments
             join payment_attempt on payment_attempt.payment_id = payments.id
         where payments.order_id = $1",
    );
    let Count { count } = Prepared(query.bind::<Uuid, _>(payment.order_id)).get_result(tx).await?;
    if count >= app.attempts_per_order_max { Err(Refused::TooManyAttempts(count).into()) } else { Ok(()) }
}

/// Whether another payment of the order may be getting the money.
fn is_taken(error: &Error) -> bool {
    let Error::Fault(fault) = error else { return false };
    matches!(fault.cause.downcast_ref(), Some(DieselError::DatabaseError(DatabaseErrorKind::UniqueViolation, _)))
}

/// Reserves, asks, records what is said, and does what follows from that.
async fn ask(app: Arc<App>, payment: Payment, approval: Approval) -> Result<Payment> {
    if let Err(error) = reserve(&app, &payment, &approval).await {
        let payment = withdraw_attempt(&app, &approval, &error).await?;
        settle_owed(&app, payment).await;
        return Err(error);
    }
    app.db.point("payment.after_pin").await;
    let finding = ask_provider(&app, payment.method(), &approval).await;
    app.db.point("payment.after_answer").await;
    let payment = record_attempt(&app, &approval, &finding).await?;
    let payment = settle_owed(&app, payment).await;
    let (id, code) = (payment.id, finding.code);
    match finding.found {
        // Somebody else may have found it out meanwhile, or be about to.
        _ if payment.status().is_captured() => Ok(payment),
        _ if payment.status().is_open() => {
            app.unclear.notify_one();
            Ok(payment)
        }
        Found::NotCaptured if code == codes::INSUFFICIENT_POINTS.reason => Err(Refused::InsufficientPoints.into()),
        Found::NotCaptured if finding.is_declined => Err(Refused::Declined { payment: id, code }.into()),
        Found::NotCaptured => Err(Refused::ProviderFailed { payment: id, code }.into()),
        Found::Captured | Found::Unknown | Found::Overdue => Ok(payment),
    }
}

/// The order for this attempt alone, and its stock for as long as it takes. Repeatable.
pub async fn reserve(app: &App, payment: &Payment, approval: &Approval) -> Result<()> {
    let (order_id, attempt_id) = (payment.order_id.to_string(), approval.attempt.to_string());
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

/// Asks for the money. With the same key a provider does nothing twice, so this may be repeated.
pub async fn ask_provider(app: &App, method: Method, approval: &Approval) -> Finding {
    let started = std::time::Instant::now();
    let finding = Finding::from(app.take_money(method, approval).await);
    let outcome = match finding.found {
        Found::Captured => "captured",
        Found::NotCaptured if finding.is_declined => "declined",
        Found::NotCaptured => "not_done",
        Found::Unknown | Found::Overdue => "unknown",
    };
    let labels = [("method", method.name()), ("outcome", outcome)];
    metrics::histogram!("stampede_payment_approve_seconds", &labels).record(started.elapsed());
    finding
}

/// The client has waited long enough.
async fn still_unknown(app: &App, approval: &Approval, begun: Payment) -> Result<Payment> {
    let finding = Finding {
        found: Found::Unknown,
        is_declined: false,
        is_proof: false,
        code: "SLOW".to_owned(),
        message: "no answer yet".to_owned(),
    };
    let payment = record_attempt(app, approval, &finding).await.unwrap_or(begun);
    app.unclear.notify_one();
    Ok(payment)
}
