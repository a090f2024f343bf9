//! `GET /payments/{paymentId}`, its attempts, and the payments of an order: one's own, as far as anybody knows.

use actix_web::{HttpResponse, get};
use chrono::{DateTime, SecondsFormat, Utc};
use common::Result;
use common::auth::Caller;
use common::http::{Data, Path, Problem};
use contract::ids::{AccountId, OrderId, PaymentAttemptId, PaymentId};
use contract::money::Money;
use diesel::sql_types::{BigInt, Nullable, Text, Timestamptz, Uuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;
use serde::Serialize;
use utoipa::ToSchema;

use crate::App;
use crate::payment::{Method, Status};
use crate::rows::{self, Payment};

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

#[derive(QueryableByName)]
struct AttemptRow {
    #[diesel(sql_type = Uuid)]
    id: PaymentAttemptId,
    #[diesel(sql_type = Text)]
    status: String,
    #[diesel(sql_type = BigInt)]
    amount: i64,
    #[diesel(sql_type = Text)]
    pg_payment_id: String,
    #[diesel(sql_type = Nullable<Text>)]
    pg_code: Option<String>,
    #[diesel(sql_type = Timestamptz)]
    started_at: DateTime<Utc>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
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
pub async fn list_attempts(app: Data<App>, caller: Caller, id: Path<PaymentId>) -> Result<HttpResponse> {
    let mut conn = app.db.read().await?;
    let payment = rows::own(&mut conn, *id, AccountId::from(caller.account)).await?;
    let query = sql_query("select * from payment_attempt where payment_id = $1 order by started_at desc limit $2");
    let attempts: Vec<AttemptRow> =
        query.bind::<Uuid, _>(payment.id).bind::<BigInt, _>(ATTEMPTS_MAX).load(&mut conn).await?;
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
pub async fn list_payments(app: Data<App>, caller: Caller, id: Path<OrderId>) -> Result<HttpResponse> {
    // Somebody else's order has no payments of one's own.
    let query = sql_query(
        "select * from payments where order_id = $1 and user_id = $2 order by created_at desc, id desc limit $3",
    );
    let query = query.bind::<Uuid, _>(*id).bind::<Uuid, _>(AccountId::from(caller.account));
    let payments: Vec<Payment> = query.bind::<BigInt, _>(PAYMENTS_MAX).load(&mut *app.db.read().await?).await?;
    Ok(HttpResponse::Ok().json(PaymentsView { items: payments.iter().map(view).collect() }))
}

/// A payment in the words of the HTTP interface.
pub fn view(payment: &Payment) -> PaymentView {
    PaymentView {
        payment_id: payment.id,
        order_id: payment.order_id,
        method: payment.method(),
        status: payment.status(),
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

/// The same for whoever has approved it, with what has become of its order by that. Money on its way back pays no order.
pub fn approved_view(payment: &Payment, is_given_back: bool) -> PaymentView {
    let pays = payment.status() == Status::Paid && !payment.owes_order && !is_given_back;
    PaymentView { order_status: pays.then_some("PAID"), ..view(payment) }
}

pub fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
