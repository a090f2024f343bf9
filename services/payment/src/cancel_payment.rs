//! `POST /payments/{paymentId}/cancel`: a payment that nothing was taken for ends; of a paid one, the money goes back.

use std::sync::Arc;

use actix_web::{HttpResponse, post};
use chrono::TimeDelta;
use common::auth::{Caller, Role};
use common::db::Tx;
use common::http::{Data, Json, Path, Problem, detach};
use common::idempotency::{IdempotencyKey, REPLAYED_HEADER, fingerprint};
use common::sql::clock_timestamp;
use common::telemetry::carried;
use common::text::Text;
use common::{Error, Result};
use contract::ids::{AccountId, PaymentId, RefundId};
use contract::money::Money;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::App;
use crate::payment::{self, CancelDecision, Payment, Refused, Status, Step, Wanted};
use crate::pending_steps::{Note, read_steps, take_steps};
use crate::read_payments::{PaymentView, view};
use crate::refunds::{NewRefund, RefundStatus, RequestedRefund, request_refund};
use crate::rows;
use crate::schema::payments;
use crate::send_refunds::send_refund;

/// Of the request's shape; see [`fingerprint`].
const FINGERPRINT_VERSION: u8 = 1;

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CancelPayment {
    /// All that is left, unless told. Administrators may give a part of it back; a buyer's amount must be all of it.
    #[serde(default, deserialize_with = "common::object::optional")]
    amount: Option<Money>,
    #[schema(value_type = String)]
    reason: Text<1, 200>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct CancelledPayment {
    #[serde(flatten)]
    payment: PaymentView,
    /// Absent when nothing had been taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    refund: Option<RefundView>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RefundView {
    #[schema(value_type = String, format = Uuid)]
    refund_id: RefundId,
    /// `PENDING`, `SUCCEEDED` or `FAILED`
    #[schema(value_type = String)]
    status: RefundStatus,
    amount: Money,
    reason: String,
}

/// Cancel a payment: give its money back.
///
/// A payment that nothing has been taken for is `CANCELLED`. Of a paid one, all that is left goes back, and its order is
/// `REFUNDED` then; administrators may give a part back, which the order does not notice. The same key and body give the
/// same refund.
#[utoipa::path(
    tag = "payments",
    params(
        ("paymentId" = String, Path),
        ("Idempotency-Key" = String, Header, description = "1 to 255 visible ASCII characters, chosen by the client for this intent"),
    ),
    request_body = CancelPayment,
    responses(
        (status = 200, body = CancelledPayment, description = "Done"),
        (status = 202, body = CancelledPayment, description = "The provider has not confirmed yet; it is asked until it does"),
        (status = 400, body = Problem, description = "VALIDATION_ERROR, IDEMPOTENCY_KEY_REQUIRED"),
        (status = 403, body = Problem, description = "FORBIDDEN: only administrators give a part back"),
        (status = 404, body = Problem, description = "PAYMENT_NOT_FOUND"),
        (status = 409, body = Problem, description = "PAYMENT_IN_PROGRESS, PAYMENT_NOT_REFUNDABLE, REFUND_EXCEEDS_CAPTURED"),
        (status = 422, body = Problem, description = "IDEMPOTENCY_KEY_REUSED"),
        (status = 502, body = Problem, description = "PG_ERROR: the provider refuses"),
    ),
    security(("bearer" = []))
)]
#[post("/payments/{paymentId}/cancel")]
pub async fn cancel_payment(
    app: Data<App>,
    caller: Caller,
    id: Path<PaymentId>,
    key: IdempotencyKey,
    Json(body): Json<CancelPayment>,
) -> Result<HttpResponse> {
    let Cancelled { payment, refund } = detach(cancel(app.into_inner(), caller, *id, key, body)).await?;
    let Some(RequestedRefund { refund, is_replay }) = refund else {
        return Ok(HttpResponse::Ok().json(CancelledPayment { payment: view(&payment), refund: None }));
    };
    let mut response = match refund.status {
        RefundStatus::Pending => HttpResponse::Accepted(),
        RefundStatus::Succeeded => HttpResponse::Ok(),
        RefundStatus::Failed => {
            let code = refund.pg_code.unwrap_or_default();
            return Err(Refused::RefundRefused { payment: payment.id, code }.into());
        }
    };
    if is_replay {
        response.insert_header((REPLAYED_HEADER, "true"));
    }
    let refund = RefundView {
        refund_id: refund.id,
        status: refund.status,
        amount: Money::krw(refund.amount),
        reason: refund.reason,
    };
    Ok(response.json(CancelledPayment { payment: view(&payment), refund: Some(refund) }))
}

/// What has become of a request to cancel.
struct Cancelled {
    payment: Payment,
    /// None: nothing had been taken.
    refund: Option<RequestedRefund>,
}

async fn cancel(
    app: Arc<App>,
    caller: Caller,
    id: PaymentId,
    key: IdempotencyKey,
    body: CancelPayment,
) -> Result<Cancelled> {
    let is_admin = caller.roles.contains(&Role::Admin);
    let found = match is_admin {
        true => rows::by_id(&mut *app.db.read().await?, id).await?.ok_or(Refused::NotFound)?,
        false => rows::own(&mut *app.db.read().await?, id, AccountId::from(caller.account)).await?,
    };
    // An order that has not heard of the money would be paid with it when it is gone.
    let pending = read_steps(&mut *app.db.read().await?, id).await?;
    if let Some((attempt, steps)) = pending.filter(|(_, steps)| steps.contains(&Step::PayOrder)) {
        take_steps(&app, &found, attempt, &steps, Note::Awaited).await;
    }
    let new = NewRefund {
        id: RefundId::derive(&[id.as_bytes(), caller.account.as_bytes(), key.as_bytes()]),
        wanted: match &body.amount {
            None => Wanted::All,
            Some(amount) if is_admin => Wanted::Part(amount.amount),
            Some(amount) => Wanted::Rest(amount.amount),
        },
        reason: body.reason.as_str().to_owned(),
        fingerprint: fingerprint(FINGERPRINT_VERSION, &body),
        // This request asks the provider itself.
        loop_after: TimeDelta::from_std(app.approve_wait).map_err(Error::fault)? + TimeDelta::seconds(2),
    };
    let cancelled = app.db.tx("cancel_payment", async |tx| end_or_request_refund(tx, id, &new).await).await?;
    app.db.point("payment.after_promise").await;
    let Some(requested) = &cancelled.refund else { return Ok(cancelled) };
    if requested.refund.status != RefundStatus::Pending {
        return Ok(cancelled);
    }
    let is_replay = requested.is_replay;
    let sending = tokio::spawn(carried(send_refund(app.clone(), requested.refund.clone())));
    match tokio::time::timeout(app.approve_wait, sending).await {
        Ok(sent) => {
            let (payment, refund) = sent??;
            Ok(Cancelled { payment, refund: Some(RequestedRefund { refund, is_replay }) })
        }
        // The provider is still being asked; the client is told 202.
        Err(_) => Ok(cancelled),
    }
}

async fn end_or_request_refund(tx: &mut Tx, id: PaymentId, new: &NewRefund) -> Result<Cancelled> {
    let Some((payment, now)) = rows::lock(tx, id).await? else { return Err(Refused::NotFound.into()) };
    let owes_order = read_steps(tx, id).await?.is_some_and(|(_, steps)| steps.contains(&Step::PayOrder));
    match payment::cancel(payment.status, owes_order)? {
        CancelDecision::End => Ok(Cancelled { payment: cancel_unpaid(tx, payment).await?, refund: None }),
        CancelDecision::Refund => {
            let requested = request_refund(tx, (&payment, now), new).await?;
            Ok(Cancelled { payment, refund: Some(requested) })
        }
    }
}

/// Ends a payment that nothing was taken for. One that has ended stays as it is.
async fn cancel_unpaid(tx: &mut Tx, payment: Payment) -> Result<Payment> {
    if payment.status != Status::Pending {
        return Ok(payment);
    }
    let update = diesel::update(payments::table.find(payment.id)).set((
        payments::status.eq(Status::Cancelled),
        payments::version.eq(payments::version + 1),
        payments::updated_at.eq(clock_timestamp()),
    ));
    Ok(update.returning(Payment::as_returning()).get_result(tx).await?)
}
