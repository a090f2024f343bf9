//! `POST /payments/prepare`: a payment for an order, before any money moves.

use std::sync::Arc;

use actix_web::{HttpResponse, post};
use anyhow::Context as _;
use chrono::{DateTime, Utc};
use common::auth::Caller;
use common::db::Prepared;
use common::http::{Data, Json, Problem, detach};
use common::idempotency::{IdempotencyKey, REPLAYED_HEADER, fingerprint, same_request};
use common::{Error, Result, rpc};
use contract::ids::{AccountId, OrderId, PaymentId};
use contract::money::{KRW, Money};
use contract::order::BeginPaymentRequest;
use diesel::sql_types::{BigInt, Binary, Text, Timestamptz, Uuid};
use diesel::{OptionalExtension, QueryableByName, sql_query};
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::App;
use crate::naverpay;
use crate::payment::{Method, Refused, Status};
use crate::read_payments::rfc3339;
use crate::rows::{self, Payment};

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
    let user = AccountId::from(caller.account);
    let app = app.into_inner();
    let (payment, replayed) = detach(prepare(app.clone(), user, key, body)).await?;
    let mut response = HttpResponse::Created();
    response.insert_header(("Location", format!("/api/v1/payments/{}", payment.id)));
    if replayed {
        response.insert_header((REPLAYED_HEADER, "true"));
    }
    // Rendered from what never changes, so a replay is equal to the first answer to the byte.
    Ok(response.json(PreparedPayment {
        payment_id: payment.id,
        order_id: payment.order_id,
        status: Status::Pending,
        order_status: "PENDING_PAYMENT",
        amount: Money::krw(payment.amount),
        pg: (payment.method() == Method::NaverPay).then(|| Checkout {
            provider: naverpay::NAME,
            redirect_url: app.naverpay.checkout(payment.id, payment.amount),
            client_token: payment.id.to_string(),
        }),
        expires_at: rfc3339(payment.expires_at),
    }))
}

async fn prepare(app: Arc<App>, user: AccountId, key: IdempotencyKey, body: PreparePayment) -> Result<(Payment, bool)> {
    let id = PaymentId::derive(&[user.as_bytes(), b"payment", key.as_bytes()]);
    let fingerprint = fingerprint(FINGERPRINT_VERSION, &body);
    if let Some(known) = rows::by_id(&mut *app.db.read().await?, id).await? {
        same_request(&known.fingerprint, &fingerprint)?;
        return Ok((known, true));
    }
    let expires_at = begin(&app, id, user, &body).await?;
    check_payments(&app, &body).await?;
    let payment = insert(&app, id, user, &key, &fingerprint, &body, expires_at).await?;
    let Some(payment) = payment else {
        // A twin was faster.
        let known = rows::by_id(&mut *app.db.read().await?, id).await?;
        let known = known.ok_or_else(|| Error::transient(anyhow::anyhow!("payment {id} vanished")))?;
        same_request(&known.fingerprint, &fingerprint)?;
        return Ok((known, true));
    };
    Ok((payment, false))
}

/// An order is paid once; more than a few payments of it are nobody's wish.
async fn check_payments(app: &App, body: &PreparePayment) -> Result<()> {
    #[derive(QueryableByName)]
    struct Count {
        #[diesel(sql_type = BigInt)]
        count: i64,
    }
    let query = sql_query("select count(*) as count from payments where order_id = $1");
    let Count { count } = Prepared(query.bind::<Uuid, _>(body.order_id)).get_result(&mut *app.db.read().await?).await?;
    if count >= app.payments_per_order_max { Err(Refused::TooManyPayments(count).into()) } else { Ok(()) }
}

/// Has the order check the payer and the amount and move; returns when its time is up.
async fn begin(app: &App, id: PaymentId, user: AccountId, body: &PreparePayment) -> Result<DateTime<Utc>> {
    let begin = BeginPaymentRequest {
        order_id: body.order_id.to_string(),
        payment_id: id.to_string(),
        user_id: user.to_string(),
        amount: body.amount.amount,
        currency: KRW.to_owned(),
    };
    let begun = rpc::retrying(|| {
        let (mut order, begin) = (app.order.clone(), begin.clone());
        async move { order.begin_payment(begin).await }
    });
    let order = begun.await?.order.context("order answered without an order")?;
    let expires_at = order.hold_expires_at.context("an order without an end")?;
    DateTime::try_from(expires_at).map_err(|_| Error::fault(anyhow::anyhow!("the order's end")))
}

async fn insert(
    app: &App,
    id: PaymentId,
    user: AccountId,
    key: &IdempotencyKey,
    fingerprint: &[u8],
    body: &PreparePayment,
    expires_at: DateTime<Utc>,
) -> Result<Option<Payment>> {
    app.db
        .tx("prepare_payment", async |tx| {
            let query = sql_query(
                "insert into payments
                     (id, order_id, user_id, method, amount, currency, idempotency_key, fingerprint, expires_at)
                 values ($1, $2, $3, $9, $4, $5, $6, $7, $8)
                 on conflict (id) do nothing
                 returning *",
            )
            .bind::<Uuid, _>(id)
            .bind::<Uuid, _>(body.order_id)
            .bind::<Uuid, _>(user)
            .bind::<BigInt, _>(body.amount.amount)
            .bind::<Text, _>(KRW)
            .bind::<Text, _>(key.as_str())
            .bind::<Binary, _>(fingerprint)
            .bind::<Timestamptz, _>(expires_at)
            .bind::<Text, _>(body.method.name());
            Ok(Prepared(query).get_result(tx).await.optional()?)
        })
        .await
}
