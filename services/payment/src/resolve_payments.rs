//! The resolver: finds out what became of payments whose provider did not answer, or whose approver died.
//!
//! It asks the provider, and the rules in `payment.rs` decide by the answer. A missing answer never means that the payment
//! failed. Any number of replicas may run it: a claimed payment is left alone by the others.

use std::sync::Arc;
use std::time::Duration;

use actix_web::{HttpResponse, post};
use chrono::{DateTime, TimeDelta, Utc};
use common::auth::Admin;
use common::db::{Prepared, Tx};
use common::http::{Data, Path, Problem, detach};
use common::{Error, Result};
use contract::ids::PaymentId;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Double, Nullable, Timestamptz, Uuid};
use diesel_async::RunQueryDsl;

use crate::App;
use crate::approve_payment::{capture, reserve};
use crate::payment::{AttemptFacts, AttemptOutcome, Refused, ResolverStep, Status, resolve, retry_delay_seconds};
use crate::provider::{Attempt, ProviderStatus};
use crate::read_payments::{PaymentView, view};
use crate::record_attempt::{AttemptReport, record_attempt};
use crate::rows::{self, Payment};
use crate::schema::payments;
use crate::settle_owed::settle_owed;
use crate::undo_attempt::undo;

/// Questions that one replica has under way: providers limit how many a merchant may ask.
pub const IN_FLIGHT_MAX: usize = 32;

/// The webhook about an approval mostly arrives just before the approval's own answer, and need not cause a question.
const HEAD_START: Duration = Duration::from_secs(1);

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
    let Some(attempt) = payment.attempt() else { return Ok(()) };
    let status = app.query_status(payment.method, &attempt).await;
    let now = rows::database_time(&mut *app.db.read().await?).await?;
    let began = payment.approving_since.unwrap_or(payment.created_at);
    let facts = AttemptFacts {
        // Nobody waits for a payment that has ended: it is not charged again.
        payable: payment.status.is_open() && payment.expires_at > now,
        age: (now - began).num_seconds(),
        requested_ago: (now - payment.requested_at.unwrap_or(began)).num_seconds(),
        absent_for: payment.absent_since.map(|since| (now - since).num_seconds()),
        undone: payment.undo_at.is_some(),
    };
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
            record(app, &attempt, &status, AttemptOutcome::Overdue).await?;
            // The provider may answer after an operator has called it.
            query_again(app, &attempt, delay, None).await
        }
        ResolverStep::Record(outcome) => record(app, &attempt, &status, outcome).await,
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
    if app.db.tx("request_again", async |tx| begin_request(tx, attempt).await).await? == 0 {
        return Ok(Retry::Done);
    }
    app.db.point("payment.before_retry").await;
    let report = capture(app, payment.method, attempt).await;
    app.db.point("payment.after_retry").await;
    let payment = record_attempt(app, attempt, &report).await?;
    settle_owed(app, payment).await;
    Ok(Retry::Done)
}

/// Writes down that the provider is asked from now on, and that what it said before counts no more. Returns the number of
/// rows: 0 when the attempt is not open any more.
async fn begin_request(tx: &mut Tx, attempt: &Attempt) -> Result<usize> {
    let open = payments::table
        .find(attempt.payment)
        .filter(payments::attempt_id.eq(attempt.id))
        .filter(payments::status.eq_any([Status::Approving, Status::Unknown, Status::NeedsReview]))
        .filter(payments::undo_at.is_null());
    let update = diesel::update(open).set((
        payments::requested_at.eq(rows::clock_timestamp().nullable()),
        payments::absent_since.eq(None::<DateTime<Utc>>),
    ));
    Ok(update.execute(tx).await?)
}

async fn record(app: &App, attempt: &Attempt, status: &ProviderStatus, outcome: AttemptOutcome) -> Result<()> {
    let (code, message) = match status {
        ProviderStatus::Captured => ("Success", String::new()),
        ProviderStatus::Cancelled => ("Cancelled", "the provider has given everything back".to_owned()),
        ProviderStatus::Absent => ("Absent", "the provider has never heard of it".to_owned()),
        ProviderStatus::Foreign => ("Foreign", "captured for another payment".to_owned()),
        ProviderStatus::WrongAmount { left } => ("WrongAmount", format!("{left} was captured")),
        ProviderStatus::Unclear(why) => ("Unclear", why.clone()),
    };
    let report = AttemptReport { outcome, is_declined: false, is_proof: true, code: code.to_owned(), message };
    let payment = record_attempt(app, attempt, &report).await?;
    if payment.status == Status::NeedsReview {
        tracing::error!(
            payment.id = %payment.id, orderId = %payment.order_id,
            "Payment {}: the provider gives no clear answer about attempt {}; an operator has to look, and it is asked \
             again every minute", payment.id, attempt.id
        );
    }
    settle_owed(app, payment).await;
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
        .tx("ask_again", async |tx| {
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

/// Has the resolver ask about a payment soon, unless its outcome is known to be a capture.
pub async fn query_soon(tx: &mut Tx, payment: PaymentId) -> Result<QuerySoon> {
    let query = sql_query(include_str!("query_soon.sql"));
    let query = query.bind::<Uuid, _>(payment).bind::<Double, _>(HEAD_START.as_secs_f64());
    let changed = Prepared(query).execute(tx).await?;
    Ok(if changed > 0 { QuerySoon::Scheduled } else { QuerySoon::NothingToAsk })
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
    security(("bearer" = []))
)]
#[post("/admin/payments/{paymentId}/sync")]
pub async fn sync_payment(app: Data<App>, _admin: Admin, id: Path<PaymentId>) -> Result<HttpResponse> {
    let payment = detach(sync(app.into_inner(), *id)).await?;
    Ok(HttpResponse::Accepted().json(view(&payment)))
}

async fn sync(app: Arc<App>, id: PaymentId) -> Result<Payment> {
    if app.db.tx("sync_payment", async |tx| query_soon(tx, id).await).await? == QuerySoon::Scheduled {
        app.unclear.notify_one();
    }
    let payment = rows::by_id(&mut *app.db.read().await?, id).await?;
    Ok(payment.ok_or(Refused::NotFound)?)
}
