//! What becomes known about an attempt, by whatever way, is recorded here: one transaction, and the event with it.

use chrono::{DateTime, Utc};
use common::db::{Prepared, Tx};
use common::{Error, Result, outbox};
use contract::codes;
use contract::events::{PaymentApproved, PaymentFailed, PaymentUnknown};
use contract::ids::PaymentId;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Bool, Text, Uuid};
use diesel_async::RunQueryDsl;

use crate::App;
use crate::payment::{Found, Method, Status, settle};
use crate::points::has_taken;
use crate::provider::{Approval, Approved};
use crate::refund_payment::owe_stray;
use crate::rows::{self, Payment};

/// What is known, and in which words of the provider's.
#[derive(Debug, Clone)]
pub struct Finding {
    pub found: Found,
    /// Whether the provider said no, as against having failed.
    pub is_declined: bool,
    /// Whether it is what the provider knows in the end, as against its answer to one of maybe several requests for the
    /// money.
    pub is_proof: bool,
    pub code: String,
    pub message: String,
}

impl From<Approved> for Finding {
    fn from(approved: Approved) -> Finding {
        let finding =
            |found, is_declined, code, message| Finding { found, is_declined, is_proof: false, code, message };
        match approved {
            Approved::Captured => finding(Found::Captured, false, "Success".to_owned(), String::new()),
            Approved::Declined { code, message } => finding(Found::NotCaptured, true, code, message),
            Approved::NotDone { code, message } => finding(Found::NotCaptured, false, code, message),
            Approved::Unknown { code, message } => finding(Found::Unknown, false, code, message),
        }
    }
}

/// Longer texts of a provider's are cut.
const MESSAGE_CHARS_MAX: usize = 300;

/// Records `finding` about `approval` and returns the payment as it is then. Idempotent: only an open payment moves.
pub async fn record_attempt(app: &App, approval: &Approval, finding: &Finding) -> Result<Payment> {
    let recorded = app.db.tx("record_attempt", async |tx| record(app, tx, approval, finding).await).await?;
    app.db.point("payment.after_record").await;
    Ok(recorded)
}

async fn record(app: &App, tx: &mut Tx, approval: &Approval, finding: &Finding) -> Result<Payment> {
    let (payment, now) = locked(tx, approval).await?;
    let unsure;
    let finding = if is_unsure(&payment, finding) {
        unsure = Finding { found: Found::Unknown, ..finding.clone() };
        &unsure
    } else {
        finding
    };
    end_attempt(tx, approval, finding).await?;
    // Points are taken in this very database, so that they were not can be seen, and not only believed.
    let is_points = payment.method() == Method::Points;
    let taken;
    let finding = if is_points && finding.found == Found::NotCaptured && has_taken(tx, payment.id).await? {
        taken = Finding { found: Found::Captured, ..finding.clone() };
        &taken
    } else {
        finding
    };
    let is_current = payment.attempt_id == Some(approval.attempt);
    if is_current && finding.found == Found::Captured && payment.undo_at.is_some() && !payment.status().is_captured() {
        // It was to be undone, and the provider may be at it: the resolver sees to that.
        ask_now(tx, payment.id).await?;
        return Ok(payment);
    }
    if finding.found == Found::Captured && payment.status().is_captured() {
        if payment.pg_payment_id.as_deref() != Some(&approval.pg_payment_id) {
            // The money of another authorisation is there already, so this is taken twice.
            owe_stray(tx, &payment, approval).await?;
        }
        return Ok(payment);
    }
    if !is_current && finding.found != Found::Captured {
        // A later attempt is under way; this one has nothing more to say.
        return Ok(payment);
    }
    // Who is told at once that this card was declined may try another, even if the provider took its time to say so.
    let payable = payment.expires_at > now || finding.is_declined;
    let Some(next) = settle(payment.status(), finding.found, payable) else { return Ok(payment) };
    let payment = move_on(app, tx, approval, next).await?;
    announce(tx, &payment, approval, finding, now).await?;
    tx.point("payment.before_record").await;
    Ok(payment)
}

async fn ask_now(tx: &mut Tx, payment: PaymentId) -> Result<()> {
    let query = sql_query("update payments set ask_at = clock_timestamp() where id = $1");
    Prepared(query.bind::<Uuid, _>(payment)).execute(tx).await?;
    Ok(())
}

/// Once the resolver asks too, the request of one asker that came to nothing says nothing about the other's.
fn is_unsure(payment: &Payment, finding: &Finding) -> bool {
    payment.asked > 0 && finding.found == Found::NotCaptured && !finding.is_declined && !finding.is_proof
}

/// Ends an attempt that was refused before the provider was asked, and returns the payment as it is then. Nobody is told:
/// nothing has failed but what the buyer is told at once.
pub async fn withdraw_attempt(app: &App, approval: &Approval, refused: &Error) -> Result<Payment> {
    let reason = refused.reason().unwrap_or("UNAVAILABLE");
    app.db.tx("withdraw_attempt", async |tx| withdraw(app, tx, approval, reason).await).await
}

async fn withdraw(app: &App, tx: &mut Tx, approval: &Approval, reason: &str) -> Result<Payment> {
    let (payment, now) = locked(tx, approval).await?;
    // Where the resolver asks too, it may be about to have what was refused here.
    let is_mine = payment.attempt_id == Some(approval.attempt) && payment.asked == 0;
    if !is_mine || payment.status() != Status::Approving {
        return Ok(payment);
    }
    let finding = Finding {
        found: Found::NotCaptured,
        is_declined: false,
        is_proof: false,
        code: reason.to_owned(),
        message: "the provider was not asked".to_owned(),
    };
    end_attempt(tx, approval, &finding).await?;
    let next = match reason {
        _ if reason == codes::HOLD_EXPIRED.reason => Status::Expired,
        _ if reason == codes::ORDER_NOT_PAYABLE.reason || payment.expires_at <= now => Status::Failed,
        _ => Status::Pending,
    };
    move_on(app, tx, approval, next).await
}

async fn locked(tx: &mut Tx, approval: &Approval) -> Result<(Payment, DateTime<Utc>)> {
    let found = rows::lock(tx, approval.payment).await?;
    found.ok_or_else(|| Error::fault(anyhow::anyhow!("payment {} has an attempt and no row", approval.payment)))
}

async fn end_attempt(tx: &mut Tx, approval: &Approval, finding: &Finding) -> Result<()> {
    let status = match finding.found {
        Found::Captured => "SUCCESS",
        Found::NotCaptured if finding.is_declined => "DECLINED",
        Found::NotCaptured => "ERROR",
        Found::Unknown | Found::Overdue => "UNKNOWN",
    };
    let message: String = finding.message.chars().take(MESSAGE_CHARS_MAX).collect();
    Prepared(
        sql_query(
            "update payment_attempt
             set status = $2, pg_code = $3, pg_message = $4, ended_at = clock_timestamp()
             where id = $1 and (status in ('STARTED', 'UNKNOWN') or ($2 = 'SUCCESS' and status <> 'SUCCESS'))",
        )
        .bind::<Uuid, _>(approval.attempt)
        .bind::<Text, _>(status)
        .bind::<Text, _>(&finding.code)
        .bind::<Text, _>(message),
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// The row as `next` wants it.
async fn move_on(app: &App, tx: &mut Tx, approval: &Approval, next: Status) -> Result<Payment> {
    let captured = if next == Status::Paid { approval.amount } else { 0 };
    let came_to_nothing = !next.is_open() && next != Status::Paid;
    let payment = Prepared(
        sql_query(include_str!("record_attempt.sql"))
            .bind::<Uuid, _>(approval.payment)
            .bind::<Text, _>(next.name())
            .bind::<Uuid, _>(approval.attempt)
            .bind::<Text, _>(&approval.pg_payment_id)
            .bind::<BigInt, _>(captured)
            .bind::<Bool, _>(next.is_open())
            .bind::<Bool, _>(came_to_nothing)
            .bind::<Bool, _>(next == Status::Paid)
            .bind::<BigInt, _>(app.retry_time.num_seconds()),
    )
    .get_result(tx)
    .await?;
    metrics::counter!("stampede_payments_total", "status" => next.name()).increment(1);
    Ok(payment)
}

async fn announce(
    tx: &mut Tx,
    payment: &Payment,
    approval: &Approval,
    finding: &Finding,
    now: DateTime<Utc>,
) -> Result<()> {
    let (payment_id, order_id, user_id) =
        (payment.id.to_string(), payment.order_id.to_string(), payment.user_id.to_string());
    let (attempt_id, provider) = (approval.attempt.to_string(), payment.method().provider().to_owned());
    let (version, amount, currency) = (payment.version, payment.amount, payment.currency.clone());
    match payment.status() {
        Status::Paid => {
            let pg_payment_id = approval.pg_payment_id.clone();
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
            let code = if finding.is_declined { codes::PAYMENT_DECLINED } else { codes::PG_ERROR };
            let (code, pg_code) = (code.reason.into_owned(), finding.code.clone());
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
