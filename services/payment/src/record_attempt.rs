//! Recording the outcome of an attempt, whoever learnt it: one transaction, with the event in it.

use chrono::{DateTime, Utc};
use common::db::{Prepared, Tx};
use common::{Error, Result, outbox};
use contract::codes;
use contract::events::{PaymentApproved, PaymentFailed, PaymentUnknown};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Bool, Text, Uuid};
use diesel_async::RunQueryDsl;

use crate::App;
use crate::payment::{AttemptOutcome, Method, Status, after_attempt};
use crate::points::are_points_held;
use crate::provider::{Attempt, CaptureOutcome};
use crate::refunds::refund_duplicate_capture;
use crate::rows::{self, Payment};
use crate::schema::payments;

/// What somebody has learnt about an attempt.
#[derive(Debug, Clone)]
pub struct AttemptReport {
    pub outcome: AttemptOutcome,
    /// The provider refused, as against having failed.
    pub is_declined: bool,
    /// It comes from the provider's history. Without it, it is the answer to one of maybe several requests for the money.
    pub is_proof: bool,
    /// In the provider's words.
    pub code: String,
    pub message: String,
}

impl AttemptReport {
    /// Nobody knows yet whether the money was taken.
    pub fn unknown(code: &str, message: &str) -> AttemptReport {
        AttemptReport::answer(AttemptOutcome::Unknown, code.to_owned(), message.to_owned())
    }

    fn answer(outcome: AttemptOutcome, code: String, message: String) -> AttemptReport {
        AttemptReport { outcome, is_declined: false, is_proof: false, code, message }
    }
}

impl From<CaptureOutcome> for AttemptReport {
    fn from(outcome: CaptureOutcome) -> AttemptReport {
        let answer = AttemptReport::answer;
        match outcome {
            CaptureOutcome::Captured => answer(AttemptOutcome::Captured, "Success".to_owned(), String::new()),
            CaptureOutcome::Declined { code, message } => {
                AttemptReport { is_declined: true, ..answer(AttemptOutcome::NotCaptured, code, message) }
            }
            CaptureOutcome::Failed { code, message } => answer(AttemptOutcome::NotCaptured, code, message),
            CaptureOutcome::Unknown { code, message } => answer(AttemptOutcome::Unknown, code, message),
        }
    }
}

/// Longer texts of a provider are cut.
const MESSAGE_CHARS_MAX: usize = 300;

/// Records `report` about `attempt` and returns the payment as it is then. Idempotent: only an open payment moves.
pub async fn record_attempt(app: &App, attempt: &Attempt, report: &AttemptReport) -> Result<Payment> {
    let recorded = app.db.tx("record_attempt", async |tx| record(app, tx, attempt, report).await).await?;
    app.db.point("payment.after_record").await;
    Ok(recorded)
}

async fn record(app: &App, tx: &mut Tx, attempt: &Attempt, report: &AttemptReport) -> Result<Payment> {
    let (payment, now) = rows::lock_existing(tx, attempt.payment).await?;
    let mut report = report.clone();
    if is_doubtful(&payment, &report) {
        report.outcome = AttemptOutcome::Unknown;
    }
    end_attempt(tx, attempt, &report).await?;
    // The points are in this database: whether they were taken is looked up instead of believed.
    let is_points = payment.method == Method::Points;
    if is_points && report.outcome == AttemptOutcome::NotCaptured && are_points_held(tx, payment.id).await? {
        report.outcome = AttemptOutcome::Captured;
    }
    let is_current = payment.attempt_id == Some(attempt.id);
    if report.outcome == AttemptOutcome::Captured {
        if payment.status.is_captured() {
            if payment.pg_payment_id.as_deref() != Some(&attempt.pg_payment_id) {
                refund_duplicate_capture(tx, (&payment, now), attempt).await?;
            }
            return Ok(payment);
        }
        if is_current && payment.undo_at.is_some() {
            // The provider was told to undo it, or is being told: the resolver decides.
            query_status_now(tx, &payment, now).await?;
            return Ok(payment);
        }
    } else if !is_current {
        // A later attempt is under way.
        return Ok(payment);
    }
    // A buyer whose card was declined may try another one, even if the order expired while the provider was asked.
    let payable = payment.expires_at > now || report.is_declined;
    let Some(next) = after_attempt(payment.status, report.outcome, payable) else { return Ok(payment) };
    let payment = move_to(app, tx, attempt, next).await?;
    announce(tx, &payment, attempt, &report, now).await?;
    tx.point("payment.before_record").await;
    Ok(payment)
}

/// Once the resolver asks for the money too, the failure of one request says nothing about the other.
fn is_doubtful(payment: &Payment, report: &AttemptReport) -> bool {
    payment.asked > 0 && report.outcome == AttemptOutcome::NotCaptured && !report.is_declined && !report.is_proof
}

async fn query_status_now(tx: &mut Tx, payment: &Payment, now: DateTime<Utc>) -> Result<()> {
    diesel::update(payments::table.find(payment.id)).set(payments::ask_at.eq(now)).execute(tx).await?;
    Ok(())
}

/// Ends an attempt that was refused before the provider was asked, and returns the payment as it is then. No event tells of
/// it: only the buyer is concerned, who gets the refusal as an answer.
pub async fn withdraw_attempt(app: &App, attempt: &Attempt, refused: &Error) -> Result<Payment> {
    let reason = refused.reason().unwrap_or("UNAVAILABLE");
    app.db.tx("withdraw_attempt", async |tx| withdraw(app, tx, attempt, reason).await).await
}

async fn withdraw(app: &App, tx: &mut Tx, attempt: &Attempt, reason: &str) -> Result<Payment> {
    let (payment, now) = rows::lock_existing(tx, attempt.payment).await?;
    // Once the resolver has taken the attempt up, it may get the reservation that was refused here.
    let is_mine = payment.attempt_id == Some(attempt.id) && payment.asked == 0;
    if !is_mine || payment.status != Status::Approving {
        return Ok(payment);
    }
    let message = "the provider was not asked".to_owned();
    end_attempt(tx, attempt, &AttemptReport::answer(AttemptOutcome::NotCaptured, reason.to_owned(), message)).await?;
    let next = match reason {
        _ if reason == codes::HOLD_EXPIRED.reason => Status::Expired,
        _ if reason == codes::ORDER_NOT_PAYABLE.reason || payment.expires_at <= now => Status::Failed,
        _ => Status::Pending,
    };
    move_to(app, tx, attempt, next).await
}

/// An attempt that has ended stays as it is, unless it turns out that the money was captured.
async fn end_attempt(tx: &mut Tx, attempt: &Attempt, report: &AttemptReport) -> Result<()> {
    let status = match report.outcome {
        AttemptOutcome::Captured => "SUCCESS",
        AttemptOutcome::NotCaptured if report.is_declined => "DECLINED",
        AttemptOutcome::NotCaptured => "ERROR",
        AttemptOutcome::Unknown | AttemptOutcome::Overdue => "UNKNOWN",
    };
    let message: String = report.message.chars().take(MESSAGE_CHARS_MAX).collect();
    let query = sql_query(include_str!("end_attempt.sql"))
        .bind::<Uuid, _>(attempt.id)
        .bind::<Text, _>(status)
        .bind::<Text, _>(&report.code)
        .bind::<Text, _>(message);
    Prepared(query).execute(tx).await?;
    Ok(())
}

/// Moves the payment to `next`, with everything in its row that follows from that.
async fn move_to(app: &App, tx: &mut Tx, attempt: &Attempt, next: Status) -> Result<Payment> {
    let captured = if next == Status::Paid { attempt.amount } else { 0 };
    let is_over = !next.is_open() && next != Status::Paid;
    let query = sql_query(include_str!("record_attempt.sql"))
        .bind::<Uuid, _>(attempt.payment)
        .bind::<Text, _>(next)
        .bind::<Uuid, _>(attempt.id)
        .bind::<Text, _>(&attempt.pg_payment_id)
        .bind::<BigInt, _>(captured)
        .bind::<Bool, _>(next.is_open())
        .bind::<BigInt, _>(app.retry_time.num_seconds())
        .bind::<Bool, _>(is_over)
        .bind::<Bool, _>(next == Status::Paid);
    let payment = Prepared(query).get_result(tx).await?;
    metrics::counter!("stampede_payments_total", "status" => next.name()).increment(1);
    Ok(payment)
}

async fn announce(
    tx: &mut Tx,
    payment: &Payment,
    attempt: &Attempt,
    report: &AttemptReport,
    now: DateTime<Utc>,
) -> Result<()> {
    let (payment_id, order_id, user_id) =
        (payment.id.to_string(), payment.order_id.to_string(), payment.user_id.to_string());
    let (attempt_id, provider) = (attempt.id.to_string(), payment.method.provider().to_owned());
    let (version, amount, currency) = (payment.version, payment.amount, payment.currency.clone());
    match payment.status {
        Status::Paid => {
            let pg_payment_id = attempt.pg_payment_id.clone();
            let approved_at = Some(now.into());
            let event = PaymentApproved {
                payment_id,
                order_id,
                user_id,
                version,
                attempt_id,
                amount,
                currency,
                provider,
                pg_payment_id,
                approved_at,
            };
            outbox::publish(tx, &event).await
        }
        status @ (Status::Unknown | Status::NeedsReview) => {
            let since = Some(payment.approving_since.unwrap_or(now).into());
            let needs_review = status == Status::NeedsReview;
            let event = PaymentUnknown {
                payment_id,
                order_id,
                user_id,
                version,
                attempt_id,
                amount,
                currency,
                provider,
                needs_review,
                since,
            };
            outbox::publish(tx, &event).await
        }
        _ => {
            let code = if report.is_declined { codes::PAYMENT_DECLINED } else { codes::PG_ERROR };
            let (code, pg_code) = (code.reason.into_owned(), report.code.clone());
            let failed_at = Some(now.into());
            let event = PaymentFailed {
                payment_id,
                order_id,
                user_id,
                version,
                attempt_id,
                amount,
                currency,
                provider,
                code,
                pg_code,
                failed_at,
            };
            outbox::publish(tx, &event).await
        }
    }
}
