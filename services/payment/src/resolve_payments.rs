//! The resolver: finds out what became of payments whose provider did not answer, or whose approver died.
//!
//! It asks the provider, and the rules in `payment.rs` decide by the answer. A missing answer never means that the payment
//! failed. Any number of replicas may run it: a claimed payment is left alone by the others.

use std::sync::Arc;

use actix_web::{HttpResponse, post};
use chrono::{DateTime, TimeDelta, Utc};
use common::auth::Admin;
use common::db::Prepared;
use common::http::{Data, Path, Problem, detach};
use common::{Error, Result};
use contract::ids::PaymentId;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Double, Nullable, Timestamptz, Uuid};
use diesel_async::RunQueryDsl;

use crate::App;
use crate::approve_payment::{capture, record};
use crate::change_payments::change_payment;
use crate::payment::{
    Action, AttemptFacts, AttemptOutcome, AttemptReport, Payment, Refused, ResolverStep, Status, resolve,
    retry_delay_seconds,
};
use crate::provider::{Attempt, ProviderStatus};
use crate::read_payments::{PaymentView, view};
use crate::reservations::reserve;
use crate::rows;
use crate::undo_attempt::undo;

/// Questions that one replica has under way: providers limit how many a merchant may ask.
pub const IN_FLIGHT_MAX: usize = 32;

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
            let id = payment.id;
            let resolving = app.clone();
            let resolve = async move {
                if let Err(error) = resolve_payment(&resolving, payment).await {
                    tracing::warn!(
                        %error, payment.id = %id,
                        "Payment {id}: its outcome could not be found out ({error}); next try in {} s",
                        resolving.claim_time.as_secs()
                    );
                }
            };
            app.resolving.begin(resolve).await?;
        }
        if is_all {
            return Ok(());
        }
    }
}

/// Claims what is due for `claim_time`. If this process dies, another one claims it after that.
async fn claim(app: &App, max: i64) -> Result<Vec<Payment>> {
    #[derive(QueryableByName)]
    struct Claimed {
        #[diesel(sql_type = Uuid)]
        id: PaymentId,
    }
    let claimed: Vec<Payment> = app
        .db
        .tx("claim_payments", async |tx| {
            let query = sql_query(include_str!("resolve_payments.sql")).bind::<BigInt, _>(max);
            let query = query.bind::<Double, _>(app.claim_time.as_secs_f64());
            let claimed: Vec<Claimed> = Prepared(query).load(tx).await?;
            if claimed.is_empty() {
                return Ok(Vec::new());
            }
            rows::by_ids(tx, &claimed.into_iter().map(|claimed| claimed.id).collect::<Vec<_>>()).await
        })
        .await?;
    if !claimed.is_empty() {
        app.db.point("payment.after_claim").await;
    }
    Ok(claimed)
}

async fn resolve_payment(app: &App, payment: Payment) -> Result<()> {
    let Some(attempt) = payment.attempt() else { return Ok(()) };
    let status = app.query_status(payment.method, &attempt).await;
    let now = rows::database_time(&mut *app.db.read().await?).await?;
    let facts = payment.attempt_facts(now);
    let mut step = resolve(&status, facts, app.timeouts);
    tracing::info!(
        payment.id = %payment.id, orderId = %payment.order_id, ?status, ?step,
        "Payment {}: the provider was asked about attempt {}", payment.id, attempt.id
    );
    if step == ResolverStep::Retry
        && let Retry::NotReservable = retry(app, &payment, &attempt).await?
    {
        step = resolve(&status, AttemptFacts { payable: false, ..facts }, app.timeouts);
    }
    let delay = TimeDelta::seconds(retry_delay_seconds(payment.asked).into());
    match step {
        ResolverStep::Record(AttemptOutcome::Overdue) => {
            conclude(app, &attempt, &status, AttemptOutcome::Overdue).await?;
            // The provider may answer after an operator has called it.
            query_again(app, &attempt, delay, None).await
        }
        ResolverStep::Record(outcome) => conclude(app, &attempt, &status, outcome).await,
        ResolverStep::Retry | ResolverStep::Wait { absent: false } => query_again(app, &attempt, delay, None).await,
        ResolverStep::Wait { absent: true } => {
            // The next answer is the one that can prove it.
            let since = payment.absent_since.unwrap_or(now);
            let left = since + TimeDelta::seconds(app.timeouts.absence_seconds) - now;
            query_again(app, &attempt, left.max(TimeDelta::seconds(1)), Some(since)).await
        }
        ResolverStep::Undo { amount } => {
            undo(app, &payment, &attempt, amount).await?;
            query_again(app, &attempt, delay, None).await
        }
    }
}

/// What became of another request for the money.
enum Retry {
    /// The provider was asked, or somebody has learnt the outcome meanwhile.
    Done,
    /// Order or stock could not be reserved again, so the provider was not asked.
    NotReservable,
}

/// Asks the provider for the money again, under the same key, once order and stock are reserved.
async fn retry(app: &App, payment: &Payment, attempt: &Attempt) -> Result<Retry> {
    match reserve(app, payment, attempt).await {
        Ok(()) => {}
        Err(Error::Refused(refused)) => {
            tracing::info!(
                payment.id = %payment.id, code = %refused.code.reason,
                "Payment {}: attempt {} cannot be repeated", payment.id, attempt.id
            );
            return Ok(Retry::NotReservable);
        }
        Err(error) => return Err(error),
    }
    if change_payment(app, payment.id, Action::RequestAgain { attempt: attempt.clone() }).await?.is_empty() {
        return Ok(Retry::Done);
    }
    app.db.point("payment.before_retry").await;
    let report = capture(app, payment.method, attempt).await;
    app.db.point("payment.after_retry").await;
    record(app, attempt.clone(), report).await?;
    Ok(Retry::Done)
}

async fn conclude(app: &App, attempt: &Attempt, status: &ProviderStatus, outcome: AttemptOutcome) -> Result<()> {
    let (payment, _) = record(app, attempt.clone(), AttemptReport::of_history(status, outcome)).await?;
    if payment.status == Status::NeedsReview {
        tracing::error!(
            payment.id = %payment.id, orderId = %payment.order_id,
            "Payment {}: the provider gives no clear answer about attempt {}; an operator has to look, and it is asked \
             again every minute", payment.id, attempt.id
        );
    }
    Ok(())
}

/// Has an open payment asked about again after `delay`. `absent_since`: since when the provider knows no capture.
async fn query_again(
    app: &App,
    attempt: &Attempt,
    delay: TimeDelta,
    absent_since: Option<DateTime<Utc>>,
) -> Result<()> {
    app.db
        .tx("query_again", async |tx| {
            let query = sql_query(include_str!("query_again.sql"))
                .bind::<Uuid, _>(attempt.payment)
                .bind::<Uuid, _>(attempt.id)
                .bind::<Nullable<Timestamptz>, _>(absent_since)
                .bind::<Double, _>(delay.as_seconds_f64());
            Prepared(query).execute(tx).await?;
            Ok(())
        })
        .await
}

/// Whether the resolver is to ask about a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuerySoon {
    Scheduled,
    /// There is no such payment, it is paid, or nobody ever asked for its money.
    NothingToAsk,
}

/// Has the resolver ask about a payment now, unless its outcome is known to be a capture.
pub async fn query_soon(app: &App, payment: PaymentId) -> Result<QuerySoon> {
    let changed = app
        .db
        .tx("query_soon", async |tx| {
            let query = sql_query(include_str!("query_soon.sql")).bind::<Uuid, _>(payment);
            Ok(Prepared(query).execute(tx).await?)
        })
        .await?;
    if changed == 0 {
        return Ok(QuerySoon::NothingToAsk);
    }
    app.unclear.notify_one();
    Ok(QuerySoon::Scheduled)
}

/// The loop that measures how many payments have an unknown outcome, and for how long.
pub async fn measure_unknown(app: &App) -> Result<()> {
    #[derive(QueryableByName)]
    struct Open {
        #[diesel(sql_type = BigInt)]
        count: i64,
        #[diesel(sql_type = Double)]
        oldest: f64,
    }
    let query = Prepared(sql_query(include_str!("measure_unknown.sql")));
    let open: Open = query.get_result(&mut *app.db.read().await?).await?;
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
    security(("bearer" = ["ADMIN"]))
)]
#[post("/admin/payments/{paymentId}/sync")]
pub async fn sync_payment(app: Data<App>, _admin: Admin, id: Path<PaymentId>) -> Result<HttpResponse> {
    let payment = detach(sync(app.into_inner(), *id)).await?;
    Ok(HttpResponse::Accepted().json(view(&payment)))
}

async fn sync(app: Arc<App>, id: PaymentId) -> Result<Payment> {
    query_soon(&app, id).await?;
    let payment = rows::by_id(&mut *app.db.read().await?, id).await?;
    Ok(payment.ok_or(Refused::NotFound)?)
}
