//! `GET /payments/{paymentId}`, its attempts, and the payments of an order. Buyers see their own only.

use actix_web::{HttpResponse, get};
use chrono::{DateTime, SecondsFormat, Utc};
use common::Result;
use common::auth::Caller;
use common::http::{Data, NoParameters, Path, Problem, Query};
use contract::ids::{AccountId, OrderId, PaymentAttemptId, PaymentId};
use contract::money::Money;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::Serialize;
use utoipa::ToSchema;

use crate::App;
use crate::payment::{Method, Payment, Status};
use crate::rows;
use crate::schema::{payment_attempt, payments};

/// A payment as its owner sees it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PaymentView {
    #[schema(value_type = String, format = Uuid)]
    payment_id: PaymentId,
    #[schema(value_type = String, format = Uuid)]
    order_id: OrderId,
    method: Method,
    status: Status,
    /// `PAID` in the answer to an approval with which the order is paid; absent elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    order_status: Option<&'static str>,
    amount: Money,
    captured: Money,
    refunded: Money,
    /// Counts the changes of this payment, from 1.
    version: i64,
    /// Until then it can be approved; RFC 3339, UTC.
    expires_at: String,
    created_at: String,
    updated_at: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct PaymentsView {
    items: Vec<PaymentView>,
}

/// One try to take the money.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct AttemptView {
    #[schema(value_type = String, format = Uuid)]
    attempt_id: PaymentAttemptId,
    /// `STARTED`, `SUCCESS`, `DECLINED`, `ERROR` or `UNKNOWN`
    status: String,
    amount: Money,
    pg_payment_id: String,
    /// In the provider's words; absent until it has answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pg_code: Option<String>,
    started_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct AttemptsView {
    items: Vec<AttemptView>,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = payment_attempt, check_for_backend(Pg))]
struct AttemptRow {
    id: PaymentAttemptId,
    status: String,
    amount: i64,
    pg_payment_id: String,
    pg_code: Option<String>,
    started_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
}

/// Attempts of one payment that are shown, the newest.
const ATTEMPTS_MAX: i64 = 100;
/// Payments of one order that are shown, the newest.
const PAYMENTS_MAX: i64 = 100;

/// Read one of one's own payments.
#[utoipa::path(
    tag = "payments",
    params(("paymentId" = String, Path)),
    responses((status = 200, body = PaymentView), (status = 404, body = Problem, description = "PAYMENT_NOT_FOUND")),
    security(("bearer" = []))
)]
#[get("/payments/{paymentId}")]
pub async fn read_payment(app: Data<App>, caller: Caller, id: Path<PaymentId>) -> Result<HttpResponse> {
    let payment = rows::own(&mut *app.db.read().await?, *id, AccountId::from(caller.account)).await?;
    Ok(HttpResponse::Ok().json(view(&payment)))
}

/// List the attempts of one of one's own payments, newest first.
#[utoipa::path(
    tag = "payments",
    params(("paymentId" = String, Path)),
    responses((status = 200, body = AttemptsView), (status = 404, body = Problem, description = "PAYMENT_NOT_FOUND")),
    security(("bearer" = []))
)]
#[get("/payments/{paymentId}/attempts")]
pub async fn list_attempts(
    app: Data<App>,
    caller: Caller,
    id: Path<PaymentId>,
    _: Query<NoParameters>,
) -> Result<HttpResponse> {
    let mut conn = app.db.read().await?;
    let payment = rows::own(&mut conn, *id, AccountId::from(caller.account)).await?;
    let newest = payment_attempt::table
        .filter(payment_attempt::payment_id.eq(payment.id))
        .order(payment_attempt::started_at.desc())
        .limit(ATTEMPTS_MAX)
        .select(AttemptRow::as_select());
    let attempts: Vec<AttemptRow> = newest.load(&mut conn).await?;
    let items = attempts.into_iter().map(|row| AttemptView {
        attempt_id: row.id,
        status: row.status,
        amount: Money::krw(row.amount),
        pg_payment_id: row.pg_payment_id,
        pg_code: row.pg_code,
        started_at: rfc3339(row.started_at),
        ended_at: row.ended_at.map(rfc3339),
    });
    Ok(HttpResponse::Ok().json(AttemptsView { items: items.collect() }))
}

/// List the payments of one of one's own orders, newest first. Empty for an order that nobody has prepared to pay.
#[utoipa::path(
    tag = "payments",
    params(("orderId" = String, Path)),
    responses((status = 200, body = PaymentsView)),
    security(("bearer" = []))
)]
#[get("/orders/{orderId}/payments")]
pub async fn list_payments(
    app: Data<App>,
    caller: Caller,
    id: Path<OrderId>,
    _: Query<NoParameters>,
) -> Result<HttpResponse> {
    // The payments of somebody else's order are not this user's.
    let newest = payments::table
        .filter(payments::order_id.eq(*id))
        .filter(payments::user_id.eq(AccountId::from(caller.account)))
        .order((payments::created_at.desc(), payments::id.desc()))
        .limit(PAYMENTS_MAX)
        .select(Payment::as_select());
    let payments: Vec<Payment> = newest.load(&mut *app.db.read().await?).await?;
    Ok(HttpResponse::Ok().json(PaymentsView { items: payments.iter().map(view).collect() }))
}

/// A payment as the HTTP interface shows it.
pub fn view(payment: &Payment) -> PaymentView {
    PaymentView {
        payment_id: payment.id,
        order_id: payment.order_id,
        method: payment.method,
        status: payment.status,
        order_status: None,
        amount: Money::krw(payment.amount),
        captured: Money::krw(payment.captured),
        refunded: Money::krw(payment.refunded),
        version: payment.version,
        expires_at: rfc3339(payment.expires_at),
        created_at: rfc3339(payment.created_at),
        updated_at: rfc3339(payment.updated_at),
    }
}

/// [`view`] in the answer to an approval: it says whether the order is paid.
pub fn approved_view(payment: &Payment, pays: bool) -> PaymentView {
    PaymentView { order_status: pays.then_some("PAID"), ..view(payment) }
}

pub fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
