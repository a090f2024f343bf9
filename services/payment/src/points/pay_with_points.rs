//! Points as a provider: a capture moves points into escrow, a refund returns them.
//!
//! A payment has one hold, whichever of its attempts makes it: with points, a payment is its own authorisation. Points
//! move under the lock of the payer's balance, so a payment's attempts and refunds come one after another. An attempt takes
//! points under a lock of its own row too: once it is recorded that it has taken nothing, it cannot.

use common::Result;
use common::db::{Db, Tx};
use contract::ids::PaymentId;
use uuid::Uuid;

use crate::points::Points;
use crate::points::ledger::{self, Hold, HoldDecision, Kind, Movement};
use crate::points::rows::{self, Posting, transfer_id};
use crate::provider::{Attempt, CaptureOutcome, Provider, ProviderStatus, RefundOutcome, RefundRequest};

/// The balance is lower than the amount.
const INSUFFICIENT_POINTS: &str = "INSUFFICIENT_POINTS";
/// What was taken for the payment has been refunded in full.
const ALREADY_GIVEN_BACK: &str = "ALREADY_GIVEN_BACK";
/// It was recorded that the attempt has taken nothing, before it could.
const ATTEMPT_ENDED: &str = "ATTEMPT_ENDED";
/// What was taken for the payment is another user's or another amount.
const HOLD_MISMATCH: &str = "HOLD_MISMATCH";
/// Nothing was taken for the payment.
const HOLD_NOT_FOUND: &str = "HOLD_NOT_FOUND";
const REFUND_EXCEEDS_HOLD: &str = "REFUND_EXCEEDS_HOLD";
/// The refund is another payment's or another amount.
const REFUND_MISMATCH: &str = "REFUND_MISMATCH";
/// The database did not say whether it has happened.
const NO_ANSWER: &str = "NO_ANSWER";

impl Provider for Points {
    async fn capture(&self, attempt: &Attempt) -> CaptureOutcome {
        let taken = self.db.tx("take_points", async |tx| take(tx, attempt).await).await;
        match taken {
            Ok(HoldDecision::Take(..) | HoldDecision::AlreadyHeld) => CaptureOutcome::Captured,
            Ok(HoldDecision::Insufficient) => {
                let (code, message) = (INSUFFICIENT_POINTS.to_owned(), "not enough points".to_owned());
                CaptureOutcome::Declined { code, message }
            }
            Ok(HoldDecision::Refunded) => failed(ALREADY_GIVEN_BACK),
            Ok(HoldDecision::AttemptEnded) => failed(ATTEMPT_ENDED),
            Ok(HoldDecision::Mismatch) => {
                tracing::error!(
                    payment.id = %attempt.payment, attempt.id = %attempt.id,
                    "Payment {}: its points are held for another user or in another amount; an operator has to look",
                    attempt.payment
                );
                unknown(HOLD_MISMATCH)
            }
            Err(error) => {
                tracing::warn!(
                    %error, payment.id = %attempt.payment, attempt.id = %attempt.id,
                    "Payment {}: it is not known whether its points were taken ({error}); the resolver looks again",
                    attempt.payment
                );
                unknown(NO_ANSWER)
            }
        }
    }

    async fn query_status(&self, attempt: &Attempt) -> ProviderStatus {
        match find(&self.db, attempt).await {
            Ok(Some(hold)) if !hold.is_of(attempt.user, attempt.amount) => {
                ProviderStatus::Unclear(HOLD_MISMATCH.to_owned())
            }
            Ok(Some(hold)) if hold.left() == 0 => ProviderStatus::Cancelled,
            Ok(Some(_)) => ProviderStatus::Captured,
            Ok(None) => ProviderStatus::Absent,
            Err(error) => {
                tracing::warn!(
                    %error, payment.id = %attempt.payment,
                    "Payment {}: its points cannot be read ({error}); the resolver looks again", attempt.payment
                );
                ProviderStatus::Unclear(NO_ANSWER.to_owned())
            }
        }
    }

    async fn refund(&self, request: &RefundRequest) -> RefundOutcome {
        let refunded = self.db.tx("give_points_back", async |tx| refund(tx, request).await).await;
        refunded.unwrap_or_else(|error| {
            tracing::warn!(
                %error, payment.id = %request.payment, refund.id = %request.id,
                "Refund {} of payment {}: it is not known whether points were returned ({error}); tried again",
                request.id, request.payment
            );
            RefundOutcome::Unknown { code: NO_ANSWER.to_owned() }
        })
    }
}

fn failed(code: &str) -> CaptureOutcome {
    CaptureOutcome::Failed { code: code.to_owned(), message: String::new() }
}

fn unknown(code: &str) -> CaptureOutcome {
    CaptureOutcome::Unknown { code: code.to_owned(), message: String::new() }
}

fn refused(code: &str) -> RefundOutcome {
    RefundOutcome::Refused { code: code.to_owned() }
}

async fn take(tx: &mut Tx, attempt: &Attempt) -> Result<HoldDecision> {
    let is_open = rows::lock_open_attempt(tx, attempt.id).await?;
    let balance = rows::lock_balance(tx, attempt.user).await?;
    // After the lock, in a statement of its own: it sees what another attempt has just committed.
    let hold = rows::lock_hold(tx, attempt.payment).await?;
    let decision = ledger::hold_points(attempt.user, balance, attempt.amount, hold.as_ref(), !is_open);
    if let HoldDecision::Take(hold, movement) = decision {
        let id = transfer_id(Kind::Hold, &[attempt.payment.as_bytes()]);
        move_points(tx, attempt.payment, hold, movement, id).await?;
    }
    Ok(decision)
}

async fn find(db: &Db, attempt: &Attempt) -> Result<Option<Hold>> {
    rows::read_hold(&mut *db.read().await?, attempt.payment).await
}

async fn refund(tx: &mut Tx, request: &RefundRequest) -> Result<RefundOutcome> {
    rows::lock_balance(tx, request.user).await?;
    let id = transfer_id(Kind::Return, &[request.id.as_bytes()]);
    if let Some(known) = rows::transfer(tx, id).await? {
        let is_same = known.payment_id == Some(request.payment) && known.amount == request.amount;
        return Ok(if is_same { RefundOutcome::Refunded } else { refused(REFUND_MISMATCH) });
    }
    let Some(hold) = rows::lock_hold(tx, request.payment).await? else { return Ok(refused(HOLD_NOT_FOUND)) };
    if hold.user != request.user {
        return Ok(refused(HOLD_MISMATCH));
    }
    let Some((hold, movement)) = ledger::refund(&hold, request.amount) else {
        return Ok(refused(REFUND_EXCEEDS_HOLD));
    };
    move_points(tx, request.payment, hold, movement, id).await?;
    Ok(RefundOutcome::Refunded)
}

/// Moves points of the hold's user, and leaves the hold as it is then.
async fn move_points(tx: &mut Tx, payment: PaymentId, hold: Hold, movement: Movement, id: Uuid) -> Result<()> {
    let posting = Posting { id, user: hold.user, payment: Some(payment), movement, fingerprint: None };
    rows::save_holds(tx, &[(payment, hold)]).await?;
    rows::post(tx, &[posting]).await?;
    Ok(())
}
