//! `POST /payments/{paymentId}/cancel`, and every other way in which money goes back: a paid order that was cancelled, an
//! approval that came too late, a capture that nobody wanted.
//!
//! A refund is promised in a row first, then asked for under its own id until the provider has said yes or no. So whoever
//! dies on the way has promised once, and the provider gives back once.

use std::sync::Arc;

use actix_web::{HttpResponse, post};
use common::auth::{Caller, Role};
use common::db::{Prepared, Tx};
use common::error::FORBIDDEN;
use common::http::{Data, Json, Path, Problem, detach};
use common::idempotency::{IdempotencyKey, REPLAYED_HEADER, fingerprint, same_request};
use common::text::Text;
use common::{Refused as PublicRefusal, Result};
use contract::ids::{AccountId, PaymentId, RefundId};
use contract::money::Money;
use diesel::sql_types::{BigInt, Binary, Bool, Double, Text as SqlText, Uuid};
use diesel::{OptionalExtension, QueryableByName, sql_query};
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::App;
use crate::payment::{self, Cancel, Refused, Status};
use crate::provider::{Approval, Giveback};
use crate::read_payments::{PaymentView, view};
use crate::rows::{self, Payment, Refund};
use crate::settle_owed::settle_owed;
use crate::settle_refunds::carry_out;

/// Of the request's shape; see [`fingerprint`].
const FINGERPRINT_VERSION: u8 = 1;

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CancelPayment {
    /// All that is left, unless told. A part can be given back by administrators only.
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
    status: String,
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
    let (payment, refund, replayed) = detach(cancel(app.into_inner(), caller, *id, key, body)).await?;
    let mut response = match &refund {
        Some(refund) if refund.is_pending() => HttpResponse::Accepted(),
        Some(refund) if refund.status == "FAILED" => {
            let code = refund.pg_code.clone().unwrap_or_default();
            return Err(Refused::RefundRefused { payment: payment.id, code }.into());
        }
        _ => HttpResponse::Ok(),
    };
    if replayed {
        response.insert_header((REPLAYED_HEADER, "true"));
    }
    let refund = refund.map(|refund| RefundView {
        refund_id: refund.id,
        status: refund.status,
        amount: Money::krw(refund.amount),
        reason: refund.reason,
    });
    Ok(response.json(CancelledPayment { payment: view(&payment), refund }))
}

async fn cancel(
    app: Arc<App>,
    caller: Caller,
    id: PaymentId,
    key: IdempotencyKey,
    body: CancelPayment,
) -> Result<(Payment, Option<Refund>, bool)> {
    let is_admin = caller.roles.contains(&Role::Admin);
    let found = match is_admin {
        true => rows::by_id(&mut *app.db.read().await?, id).await?.ok_or(Refused::NotFound)?,
        false => rows::own(&mut *app.db.read().await?, id, AccountId::from(caller.account)).await?,
    };
    if !is_admin && body.amount.as_ref().is_some_and(|amount| amount.amount != found.amount) {
        return Err(PublicRefusal::new(FORBIDDEN, "Only administrators give a part back.").into());
    }
    if found.owes_order {
        settle_owed(&app, found).await;
    }
    let promise = Promise {
        id: RefundId::derive(&[id.as_bytes(), caller.account.as_bytes(), key.as_bytes()]),
        wanted: body.amount.as_ref().map(|amount| amount.amount),
        reason: body.reason.as_str().to_owned(),
        fingerprint: fingerprint(FINGERPRINT_VERSION, &body),
        // Asked for right here; the loop comes only if that is cut off.
        wait_seconds: app.approve_wait.as_secs_f64() + 2.0,
    };
    let (payment, promised) = app.db.tx("cancel_payment", async |tx| cancel_or_promise(tx, id, &promise).await).await?;
    app.db.point("payment.after_promise").await;
    let Some((refund, replayed)) = promised else { return Ok((payment, None, false)) };
    if !refund.is_pending() {
        return Ok((payment, Some(refund), replayed));
    }
    let asking = tokio::spawn(carry_out(app.clone(), refund.clone()));
    match tokio::time::timeout(app.approve_wait, asking).await {
        Ok(settled) => {
            let (payment, refund) = settled??;
            Ok((payment, Some(refund), replayed))
        }
        Err(_) => Ok((payment, Some(refund), replayed)),
    }
}

/// A refund that somebody wants.
struct Promise {
    id: RefundId,
    /// All that is left, unless told.
    wanted: Option<i64>,
    reason: String,
    fingerprint: Vec<u8>,
    /// Before the loop asks for it.
    wait_seconds: f64,
}

async fn cancel_or_promise(tx: &mut Tx, id: PaymentId, promise: &Promise) -> Result<(Payment, Option<(Refund, bool)>)> {
    let Some((payment, _)) = rows::lock(tx, id).await? else { return Err(Refused::NotFound.into()) };
    match payment::cancel(payment.status(), payment.owes_order)? {
        Cancel::End => Ok((end_unpaid(tx, payment.id, Status::Cancelled).await?, None)),
        Cancel::GiveBack => {
            let promised = promise_refund(tx, &payment, promise).await?;
            Ok((payment, Some(promised)))
        }
    }
}

/// Ends a payment that nothing was taken for. One that has ended stays as it is.
async fn end_unpaid(tx: &mut Tx, id: PaymentId, status: Status) -> Result<Payment> {
    let query = sql_query(
        "update payments
         set status = case when status = 'PENDING' then $2 else status end,
             version = payments.version + (status = 'PENDING')::int,
             updated_at = clock_timestamp()
         where id = $1
         returning *",
    );
    Ok(Prepared(query.bind::<Uuid, _>(id).bind::<SqlText, _>(status.name())).get_result(tx).await?)
}

/// Writes the refund down, under the payment's lock. True: it had been before.
async fn promise_refund(tx: &mut Tx, payment: &Payment, promise: &Promise) -> Result<(Refund, bool)> {
    let known = sql_query("select * from refunds where id = $1").bind::<Uuid, _>(promise.id);
    if let Some(refund) = Prepared(known).get_result::<Refund>(tx).await.optional()? {
        same_request(&refund.fingerprint, &promise.fingerprint)?;
        return Ok((refund, true));
    }
    let amount = payment::refund(payment.status(), payment.captured, promised(tx, payment.id).await?, promise.wanted)?;
    let pg_payment_id = payment.pg_payment_id.clone().unwrap_or_default();
    let refund = insert(tx, payment.id, promise, amount, &pg_payment_id, false).await?;
    Ok((refund, false))
}

/// Of a payment's money, what is back or about to be.
async fn promised(tx: &mut Tx, payment: PaymentId) -> Result<i64> {
    #[derive(QueryableByName)]
    struct Sum {
        #[diesel(sql_type = BigInt)]
        sum: i64,
    }
    let query = "select coalesce(sum(amount), 0)::bigint as sum from refunds
                 where payment_id = $1 and status <> 'FAILED' and not stray";
    Ok(Prepared(sql_query(query).bind::<Uuid, _>(payment)).get_result::<Sum>(tx).await?.sum)
}

async fn insert(
    tx: &mut Tx,
    payment: PaymentId,
    promise: &Promise,
    amount: i64,
    pg_payment_id: &str,
    stray: bool,
) -> Result<Refund> {
    let query = sql_query(
        "insert into refunds (id, payment_id, amount, reason, fingerprint, pg_payment_id, stray, ask_at)
         values ($1, $2, $3, $4, $5, $6, $7, clock_timestamp() + $8 * interval '1 second')
         on conflict (id) do update set id = excluded.id
         returning *",
    );
    let query = query.bind::<Uuid, _>(promise.id).bind::<Uuid, _>(payment).bind::<BigInt, _>(amount);
    let query = query.bind::<SqlText, _>(&promise.reason).bind::<Binary, _>(&promise.fingerprint);
    let query = query.bind::<SqlText, _>(pg_payment_id).bind::<Bool, _>(stray).bind::<Double, _>(promise.wait_seconds);
    Ok(Prepared(query).get_result(tx).await?)
}

/// A refund that the system itself wants, of all that is left; `cause` makes it one however often it is wanted.
fn own_promise(payment: PaymentId, cause: &str, reason: &str) -> Promise {
    Promise {
        id: RefundId::derive(&[payment.as_bytes(), cause.as_bytes()]),
        wanted: None,
        reason: reason.to_owned(),
        fingerprint: Vec::new(),
        wait_seconds: 0.0,
    }
}

/// Promises all that is left of a payment, if anything is, in the transaction of whoever has the reason for it.
pub async fn owe_refund_in(tx: &mut Tx, id: PaymentId, cause: &str, reason: &str) -> Result<()> {
    let Some((payment, _)) = rows::lock(tx, id).await? else {
        return Err(common::Error::fault(anyhow::anyhow!("there is no payment {id} to give back")));
    };
    match promise_refund(tx, &payment, &own_promise(id, cause, reason)).await {
        Ok(_) => Ok(()),
        // All of it is back or on its way.
        Err(error) if error.reason() == Some(&contract::codes::REFUND_EXCEEDS_CAPTURED.reason) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Promises a capture that came beside the payment's own. The payment's sums do not contain it.
pub async fn owe_stray(tx: &mut Tx, payment: &Payment, approval: &Approval) -> Result<()> {
    tracing::error!(payment.id = %payment.id, "A payment was captured twice; the second capture goes back");
    metrics::counter!("stampede_payments_stray_total").increment(1);
    let promise =
        own_promise(payment.id, &format!("stray {}", approval.pg_payment_id), "captured beside the payment's own");
    insert(tx, payment.id, &promise, approval.amount, &approval.pg_payment_id, true).await?;
    Ok(())
}

/// Has the provider undo an attempt that it tells nothing about, or that took another amount: Korea's "network cancel".
/// What it did shows in its history, which is asked again.
///
/// Written down first, and only while nobody has found out more: from then on a capture of this attempt pays nothing.
pub async fn undo(app: &App, payment: &Payment, approval: &Approval, amount: Option<i64>) -> Result<()> {
    let is_wanted = app.db.tx("begin_undo", async |tx| begin_undo(tx, approval).await).await?;
    if !is_wanted {
        return Ok(());
    }
    app.db.point("payment.before_undo").await;
    let amount = amount.unwrap_or(approval.amount);
    let giveback = Giveback {
        // Another key each time: a provider that had nothing to undo yet would repeat that. More than there is it never gives.
        refund: RefundId::derive(&[
            approval.attempt.as_bytes(),
            b"undo",
            &amount.to_be_bytes(),
            &payment.asked.to_be_bytes(),
        ]),
        payment: payment.id,
        user: payment.user_id,
        pg_payment_id: approval.pg_payment_id.clone(),
        amount,
        reason: "the approval is undone".to_owned(),
    };
    let given_back = app.give_back(payment.method(), &giveback).await;
    app.db.point("payment.after_undo").await;
    tracing::warn!(payment.id = %payment.id, amount, ?given_back, "The provider was told to undo an approval");
    Ok(())
}

async fn begin_undo(tx: &mut Tx, approval: &Approval) -> Result<bool> {
    let Some((payment, _)) = rows::lock(tx, approval.payment).await? else { return Ok(false) };
    let is_current = payment.attempt_id == Some(approval.attempt) && !payment.status().is_captured();
    if !is_current || !(payment.status().is_open() || payment.undo_at.is_some()) {
        return Ok(false);
    }
    let query = sql_query("update payments set undo_at = coalesce(undo_at, clock_timestamp()) where id = $1");
    Prepared(query.bind::<Uuid, _>(payment.id)).execute(tx).await?;
    Ok(true)
}
