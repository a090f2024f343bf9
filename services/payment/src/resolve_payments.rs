//! Finding out what became of payments whose provider did not answer, or whose approver died.
//!
//! The provider is asked; what it says decides, by the rules in `payment.rs`. It is never assumed that a payment failed
//! because nobody answered. Any number of replicas may run this: who takes a payment moves its next question away first.

use std::sync::Arc;

use actix_web::{HttpResponse, post};
use chrono::{DateTime, Utc};
use common::auth::Admin;
use common::db::{Prepared, Tx};
use common::http::{Data, Path, Problem, detach};
use common::{Error, Result};
use contract::ids::PaymentId;
use diesel::sql_types::{BigInt, Double, Integer, Nullable, Timestamptz, Uuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;

use crate::App;
use crate::approve_payment::{ask_provider, reserve};
use crate::payment::{Asked, Found, Next, Refused, Status, pause_seconds, resolve};
use crate::provider::{Approval, Known};
use crate::read_payments::{PaymentView, view};
use crate::record_attempt::{Finding, record_attempt};
use crate::refund_payment::undo;
use crate::rows::{self, Payment};
use crate::settle_owed::settle_owed;
use crate::webhooks::ask_soon;

/// Questions that one replica has on their way: providers bound what a merchant may ask.
pub const AT_ONCE: usize = 32;

/// The loop: asks about every payment that is due.
pub async fn resolve_payments(app: Arc<App>) -> Result<()> {
    loop {
        let room = app.resolving.room();
        if room == 0 {
            return Ok(());
        }
        let due = claim(&app, room as i64).await?;
        let is_all = due.len() < room;
        for payment in due {
            let resolving = app.clone();
            let asking = async move {
                let id = payment.id;
                if let Err(error) = resolve_payment(&resolving, payment).await {
                    tracing::warn!(%error, payment.id = %id, "It could not be found out what became of a payment; later");
                }
            };
            app.resolving.begin(asking).await?;
        }
        if is_all {
            return Ok(());
        }
    }
}

/// Takes what is due and moves it away for a while: whoever dies now has only postponed it.
async fn claim(app: &App, max: i64) -> Result<Vec<Payment>> {
    let claimed: Vec<Payment> = app
        .db
        .tx("claim_payments", async |tx| {
            let query = sql_query(include_str!("resolve_payments.sql")).bind::<BigInt, _>(max);
            Ok(Prepared(query.bind::<Double, _>(app.claim_time.as_secs_f64())).load(tx).await?)
        })
        .await?;
    if !claimed.is_empty() {
        app.db.point("payment.after_claim").await;
    }
    Ok(claimed)
}

async fn resolve_payment(app: &App, payment: Payment) -> Result<()> {
    let Some(approval) = payment.approval() else { return Ok(()) };
    let known = app.known(payment.method(), &approval).await;
    let now = rows::database_time(&mut *app.db.read().await?).await?;
    let began = payment.approving_since.unwrap_or(payment.created_at);
    let asked = Asked {
        // Only who is still waiting is charged; what was given up is left alone.
        payable: payment.status().is_open() && payment.expires_at > now,
        age: (now - began).num_seconds(),
        requested_ago: (now - payment.requested_at.unwrap_or(began)).num_seconds(),
        absent_for: payment.absent_since.map(|since| (now - since).num_seconds()),
        undone: payment.undo_at.is_some(),
    };
    let mut next = resolve(&known, asked, app.patience);
    tracing::info!(payment.id = %payment.id, orderId = %payment.order_id, ?known, ?next, "The provider was asked about a payment");
    if next == Next::Retry && !retry(app, &payment, &approval).await? {
        // It cannot be had any more, so it ends like one whose time is up.
        next = resolve(&known, Asked { payable: false, ..asked }, app.patience);
    }
    let pause = pause_seconds(payment.asked);
    match next {
        Next::Record(Found::Overdue) => {
            record(app, &approval, &known, Found::Overdue).await?;
            // Whoever looks may get the provider to talk.
            ask_again(app, &approval, pause, None).await
        }
        Next::Record(found) => record(app, &approval, &known, found).await,
        Next::Retry => ask_again(app, &approval, pause, None).await,
        Next::Wait { absent: false } => ask_again(app, &approval, pause, None).await,
        // The next answer is the one that can prove it.
        Next::Wait { absent: true } => {
            let since = payment.absent_since.unwrap_or(now);
            let left = app.patience.absence_seconds - (now - since).num_seconds();
            ask_again(app, &approval, i32::try_from(left.max(1)).unwrap_or(pause), Some(since)).await
        }
        Next::Undo { amount } => {
            undo(app, &payment, &approval, amount).await?;
            ask_again(app, &approval, pause, None).await
        }
    }
}

/// The provider has never heard of it: the same question again, under the same key, once order and stock are reserved.
/// False when they cannot be: then the question was never asked, unless somebody slow is about to.
async fn retry(app: &App, payment: &Payment, approval: &Approval) -> Result<bool> {
    match reserve(app, payment, approval).await {
        Ok(()) => {}
        Err(Error::Refused(refused)) => {
            tracing::info!(payment.id = %payment.id, code = %refused.code.reason, "A lost attempt cannot be repeated");
            return Ok(false);
        }
        Err(error) => return Err(error),
    }
    if !app.db.tx("request_again", async |tx| request_again(tx, approval).await).await? {
        // Somebody knows meanwhile.
        return Ok(true);
    }
    app.db.point("payment.before_retry").await;
    let finding = ask_provider(app, payment.method(), approval).await;
    app.db.point("payment.after_retry").await;
    let payment = record_attempt(app, approval, &finding).await?;
    settle_owed(app, payment).await;
    Ok(true)
}

/// Written down first: the provider may take its full time from now on, even if nobody lives to hear of it, and what it
/// said before counts no more. False: there is nothing to ask for any more.
async fn request_again(tx: &mut Tx, approval: &Approval) -> Result<bool> {
    let query = sql_query(
        "update payments
         set requested_at = clock_timestamp(), absent_since = null
         where id = $1
             and attempt_id = $2
             and status in ('APPROVING', 'UNKNOWN', 'NEEDS_REVIEW')
             and undo_at is null",
    );
    let query = query.bind::<Uuid, _>(approval.payment).bind::<Uuid, _>(approval.attempt);
    Ok(Prepared(query).execute(tx).await? > 0)
}

async fn record(app: &App, approval: &Approval, known: &Known, found: Found) -> Result<()> {
    let (code, message) = match known {
        Known::Captured => ("Success", String::new()),
        Known::Cancelled => ("Cancelled", "the provider has given everything back".to_owned()),
        Known::Absent => ("Absent", "the provider has never heard of it".to_owned()),
        Known::Foreign => ("Foreign", "captured for another payment".to_owned()),
        Known::WrongAmount { left } => ("WrongAmount", format!("{left} was captured")),
        Known::Unclear(why) => ("Unclear", why.clone()),
    };
    let finding = Finding { found, is_declined: false, is_proof: true, code: code.to_owned(), message };
    let payment = record_attempt(app, approval, &finding).await?;
    if payment.status() == Status::NeedsReview {
        tracing::error!(payment.id = %payment.id, orderId = %payment.order_id, "Nobody knows what became of a payment; a person has to look");
    }
    settle_owed(app, payment).await;
    Ok(())
}

/// When an open payment is asked about again, and since when the provider has known nothing of it.
async fn ask_again(app: &App, approval: &Approval, pause_seconds: i32, absent: Option<DateTime<Utc>>) -> Result<()> {
    app.db
        .tx("ask_again", async |tx| {
            let query = sql_query(
                "update payments
                 set absent_since = $3, ask_at = least(ask_at, clock_timestamp() + $4 * interval '1 second')
                 where id = $1 and attempt_id = $2 and ask_at is not null",
            );
            let query = query.bind::<Uuid, _>(approval.payment).bind::<Uuid, _>(approval.attempt);
            let query = query.bind::<Nullable<Timestamptz>, _>(absent).bind::<Integer, _>(pause_seconds);
            Prepared(query).execute(tx).await?;
            Ok(())
        })
        .await
}

/// The loop that tells how many payments nobody knows about, and for how long: what an operator is woken for.
pub async fn measure_unknown(app: &App) -> Result<()> {
    #[derive(QueryableByName)]
    struct Open {
        #[diesel(sql_type = BigInt)]
        count: i64,
        #[diesel(sql_type = Double)]
        oldest: f64,
    }
    let query = "select count(*) as count,
                        coalesce(extract(epoch from statement_timestamp() - min(approving_since)), 0)::float8 as oldest
                 from payments
                 where status in ('UNKNOWN', 'NEEDS_REVIEW')";
    let open: Open = Prepared(sql_query(query)).get_result(&mut *app.db.read().await?).await?;
    metrics::gauge!("stampede_payments_unknown").set(open.count as f64);
    metrics::gauge!("stampede_payments_unknown_oldest_seconds").set(open.oldest);
    Ok(())
}

/// Ask the provider about a payment now.
///
/// Changes nothing by itself: what the provider says is recorded as the resolver would record it.
#[utoipa::path(
    tag = "payments",
    params(("paymentId" = String, Path)),
    responses(
        (status = 202, body = PaymentView, description = "As it is now; the provider is being asked"),
        (status = 404, body = Problem, description = "PAYMENT_NOT_FOUND"),
    ),
    security(("bearer" = []))
)]
#[post("/admin/payments/{paymentId}/sync")]
pub async fn sync_payment(app: Data<App>, _admin: Admin, id: Path<PaymentId>) -> Result<HttpResponse> {
    let payment = detach(sync(app.into_inner(), *id)).await?;
    Ok(HttpResponse::Accepted().json(view(&payment)))
}

async fn sync(app: Arc<App>, id: PaymentId) -> Result<Payment> {
    if app.db.tx("sync_payment", async |tx| ask_soon(tx, id).await).await? {
        app.unclear.notify_one();
    }
    let payment = rows::by_id(&mut *app.db.read().await?, id).await?;
    Ok(payment.ok_or(Refused::NotFound)?)
}
