//! `POST /payments/prepare`: a payment for an order, before any money moves.

use std::collections::HashMap;
use std::sync::Arc;

use actix_web::{HttpResponse, post};
use anyhow::Context as _;
use chrono::{DateTime, Utc};
use common::auth::Caller;
use common::batch::{Batch, BatchSettings};
use common::db::{Db, Prepared};
use common::http::{Data, Json, Problem, detach};
use common::idempotency::{IdempotencyKey, REPLAYED_HEADER, fingerprint, same_request};
use common::{Error, Result, rpc};
use contract::ids::{AccountId, CouponIssueId, OrderId, PaymentId};
use contract::money::{KRW, Money};
use contract::order::BeginPaymentRequest;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, Bytea, Nullable, Text, Timestamptz, Uuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::App;
use crate::naverpay;
use crate::payment::{Method, Payment, Refused, Status};
use crate::read_payments::rfc3339;
use crate::rows;

/// Of the request's shape; see [`fingerprint`].
const FINGERPRINT_VERSION: u8 = 1;

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PreparePayment {
    #[schema(value_type = String, format = Uuid)]
    order_id: OrderId,
    method: Method,
    /// Must be the order's total.
    #[serde(deserialize_with = "common::object::one")]
    amount: Money,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreparedPayment {
    #[schema(value_type = String, format = Uuid)]
    payment_id: PaymentId,
    #[schema(value_type = String, format = Uuid)]
    order_id: OrderId,
    status: Status,
    /// `PENDING_PAYMENT`
    order_status: &'static str,
    amount: Money,
    /// Absent when points pay: then there is nothing to authorise, and the payment can be approved at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pg: Option<Checkout>,
    /// Until then the order's units are reserved.
    expires_at: String,
}

/// Where the buyer goes on.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Checkout {
    provider: &'static str,
    /// The provider's payment window. It sends the buyer back with the provider's payment id.
    redirect_url: String,
    /// Names the payment to the provider's script.
    client_token: String,
}

/// Prepare to pay an order.
///
/// The order becomes `PENDING_PAYMENT`. The same key and body give the same answer. Several payments may be prepared for
/// one order; one of them can be approved.
#[utoipa::path(
    tag = "payments",
    request_body = PreparePayment,
    params(("Idempotency-Key" = String, Header, description = "1 to 255 visible ASCII characters, chosen by the client for this intent")),
    responses(
        (status = 201, body = PreparedPayment),
        (status = 400, body = Problem, description = "VALIDATION_ERROR, IDEMPOTENCY_KEY_REQUIRED"),
        (status = 404, body = Problem, description = "ORDER_NOT_FOUND"),
        (status = 409, body = Problem, description = "ORDER_NOT_PAYABLE"),
        (status = 410, body = Problem, description = "HOLD_EXPIRED"),
        (status = 422, body = Problem, description = "AMOUNT_MISMATCH, IDEMPOTENCY_KEY_REUSED"),
    ),
    security(("bearer" = []))
)]
#[post("/payments/prepare")]
pub async fn prepare_payment(
    app: Data<App>,
    caller: Caller,
    key: IdempotencyKey,
    Json(body): Json<PreparePayment>,
) -> Result<HttpResponse> {
    let app = app.into_inner();
    let request = Request {
        id: PaymentId::derive(&[caller.account.as_bytes(), b"payment", key.as_bytes()]),
        user: AccountId::from(caller.account),
        fingerprint: fingerprint(FINGERPRINT_VERSION, &body),
        key,
        body,
    };
    let PrepareOutcome { payment, is_replay } = detach(prepare(app.clone(), request)).await?;
    let mut response = HttpResponse::Created();
    response.insert_header(("Location", format!("/api/v1/payments/{}", payment.id)));
    if is_replay {
        response.insert_header((REPLAYED_HEADER, "true"));
    }
    // Rendered from what never changes, so that a replay equals the first answer to the byte.
    Ok(response.json(PreparedPayment {
        payment_id: payment.id,
        order_id: payment.order_id,
        status: Status::Pending,
        order_status: "PENDING_PAYMENT",
        amount: Money::krw(payment.amount),
        pg: (payment.method == Method::NaverPay).then(|| Checkout {
            provider: naverpay::NAME,
            redirect_url: app.naverpay.checkout(payment.id, payment.amount),
            client_token: payment.id.to_string(),
        }),
        expires_at: rfc3339(payment.expires_at),
    }))
}

struct Request {
    /// Derived from the account and the key.
    id: PaymentId,
    user: AccountId,
    key: IdempotencyKey,
    fingerprint: Vec<u8>,
    body: PreparePayment,
}

struct PrepareOutcome {
    payment: Payment,
    /// The payment was prepared by an earlier request with the same key.
    is_replay: bool,
}

async fn prepare(app: Arc<App>, request: Request) -> Result<PrepareOutcome> {
    let created = create(&app, &request).await;
    if let Ok(Some(payment)) = created {
        return Ok(PrepareOutcome { payment, is_replay: false });
    }
    // An earlier request with this key may have prepared it, and the order may have ended since: the key's answer stays
    // the same.
    match (prepared_before(&app, &request).await?, created) {
        (Some(payment), _) => Ok(PrepareOutcome { payment, is_replay: true }),
        (None, Err(error)) => Err(error),
        // Only one payment of an order is ever paid, so the number of those prepared is limited.
        (None, Ok(_)) => Err(Refused::TooManyPayments(app.payments_per_order_max).into()),
    }
}

/// The payment of an earlier request with the same key. Refuses a request that differs from that one.
async fn prepared_before(app: &App, request: &Request) -> Result<Option<Payment>> {
    let found = rows::by_id(&mut *app.db.read().await?, request.id).await?;
    if let Some(payment) = &found {
        same_request(&payment.fingerprint, &request.fingerprint)?;
    }
    Ok(found)
}

/// None: an earlier request with the same key has prepared it, or the order has as many payments as it may have.
async fn create(app: &App, request: &Request) -> Result<Option<Payment>> {
    let Begun { expires_at, coupon } = begin_payment(app, request).await?;
    let new = NewPayment {
        id: request.id,
        order: request.body.order_id,
        user: request.user,
        method: request.body.method,
        amount: request.body.amount.amount,
        key: request.key.as_str().to_owned(),
        fingerprint: request.fingerprint.clone(),
        expires_at,
        coupon,
    };
    app.prepared.submit(new).await
}

/// A payment that is to be stored.
#[derive(Debug, Clone)]
pub struct NewPayment {
    id: PaymentId,
    order: OrderId,
    user: AccountId,
    method: Method,
    amount: i64,
    key: String,
    fingerprint: Vec<u8>,
    expires_at: DateTime<Utc>,
    coupon: Option<CouponIssueId>,
}

/// Starts the queue of payments that are prepared. None: it is stored already, or its order has too many.
pub fn start_batch(db: &Db, settings: &BatchSettings, per_order_max: i64) -> Batch<NewPayment, Option<Payment>> {
    let db = db.clone();
    Batch::start("prepare_payments", settings, move |new: Arc<[NewPayment]>| {
        let db = db.clone();
        async move {
            let stored = db.tx("prepare_payments", async |tx| insert(tx, &new, per_order_max).await);
            let mut stored: HashMap<PaymentId, DateTime<Utc>> =
                stored.await?.into_iter().map(|row| (row.id, row.created_at)).collect();
            let outcome =
                |new: &NewPayment| Ok(stored.remove(&new.id).map(|created_at| new.clone().stored(created_at)));
            Ok(new.iter().map(outcome).collect())
        }
    })
}

#[derive(QueryableByName)]
struct Stored {
    #[diesel(sql_type = Uuid)]
    id: PaymentId,
    #[diesel(sql_type = Timestamptz)]
    created_at: DateTime<Utc>,
}

async fn insert(conn: &mut AsyncPgConnection, new: &[NewPayment], per_order_max: i64) -> Result<Vec<Stored>> {
    let query = sql_query(include_str!("prepare_payment.sql"))
        .bind::<BigInt, _>(per_order_max)
        .bind::<Text, _>(KRW)
        .bind::<Array<Uuid>, _>(new.iter().map(|payment| payment.id).collect::<Vec<_>>())
        .bind::<Array<Uuid>, _>(new.iter().map(|payment| payment.order).collect::<Vec<_>>())
        .bind::<Array<Uuid>, _>(new.iter().map(|payment| payment.user).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(new.iter().map(|payment| payment.method).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(new.iter().map(|payment| payment.amount).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(new.iter().map(|payment| &payment.key).collect::<Vec<_>>())
        .bind::<Array<Bytea>, _>(new.iter().map(|payment| &payment.fingerprint).collect::<Vec<_>>())
        .bind::<Array<Timestamptz>, _>(new.iter().map(|payment| payment.expires_at).collect::<Vec<_>>())
        .bind::<Array<Nullable<Uuid>>, _>(new.iter().map(|payment| payment.coupon).collect::<Vec<_>>());
    Ok(Prepared(query).load(conn).await?)
}

impl NewPayment {
    /// As its row is.
    fn stored(self, created_at: DateTime<Utc>) -> Payment {
        Payment {
            id: self.id,
            order_id: self.order,
            user_id: self.user,
            method: self.method,
            amount: self.amount,
            currency: KRW.to_owned(),
            fingerprint: self.fingerprint,
            status: Status::Pending,
            version: 1,
            attempt_id: None,
            pg_payment_id: None,
            captured: 0,
            refunded: 0,
            expires_at: self.expires_at,
            approving_since: None,
            requested_at: None,
            ask_at: None,
            asked: 0,
            absent_since: None,
            undo_at: None,
            created_at,
            updated_at: created_at,
            coupon_issue_id: self.coupon,
        }
    }
}

/// What a payment has to know of its order.
struct Begun {
    expires_at: DateTime<Utc>,
    coupon: Option<CouponIssueId>,
}

/// Order checks payer and amount, and becomes `PENDING_PAYMENT`.
async fn begin_payment(app: &App, request: &Request) -> Result<Begun> {
    let begin = BeginPaymentRequest {
        order_id: request.body.order_id.to_string(),
        payment_id: request.id.to_string(),
        user_id: request.user.to_string(),
        amount: request.body.amount.amount,
        currency: KRW.to_owned(),
    };
    let begun = rpc::retrying(|| {
        let (mut order, begin) = (app.order.clone(), begin.clone());
        async move { order.begin_payment(begin).await }
    });
    let order = begun.await?.order.context("BeginPayment answered without an order")?;
    let expires_at = order.hold_expires_at.context("BeginPayment answered without hold_expires_at")?;
    let expires_at = DateTime::try_from(expires_at)
        .map_err(|_| Error::fault(anyhow::anyhow!("BeginPayment answered {expires_at:?}")))?;
    let coupon = Some(order.coupon_issue_id).filter(|issue| !issue.is_empty());
    let coupon = coupon.map(|issue| issue.parse()).transpose().map_err(Error::fault)?;
    Ok(Begun { expires_at, coupon })
}
