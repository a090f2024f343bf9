//! Points as a provider: approving a payment moves its points into escrow, a refund gives them back.
//!
//! There is one hold for a payment, whichever of its attempts makes it: with points, a payment is its own authorisation.
//! Points move under the lock of the payer's balance, so a payment's attempts and refunds come one after another. An
//! attempt takes points under a lock of its own row too: once it is recorded that it has taken nothing, it cannot.

use common::Result;
use common::db::{Db, Tx};
use contract::ids::PaymentId;
use uuid::Uuid;

use crate::points::Points;
use crate::points::books::{self, Posting, transfer_id};
use crate::points::ledger::{self, Hold, Kind, Movement, Take};
use crate::provider::{Approval, Approved, Giveback, GivenBack, Known, Provider};

/// The balance is lower than the amount.
const INSUFFICIENT_POINTS: &str = "INSUFFICIENT_POINTS";
/// What was taken for the payment has been given back in full.
const ALREADY_GIVEN_BACK: &str = "ALREADY_GIVEN_BACK";
/// It was recorded that the attempt has taken nothing, before it could.
const ATTEMPT_ENDED: &str = "ATTEMPT_ENDED";
/// What was taken for the payment is somebody else's or another amount.
const HOLD_MISMATCH: &str = "HOLD_MISMATCH";
/// Nothing was taken for the payment.
const HOLD_NOT_FOUND: &str = "HOLD_NOT_FOUND";
const REFUND_EXCEEDS_HOLD: &str = "REFUND_EXCEEDS_HOLD";
/// The refund is another payment's or another amount.
const REFUND_MISMATCH: &str = "REFUND_MISMATCH";
/// The database did not say whether it has happened.
const NO_ANSWER: &str = "NO_ANSWER";

impl Provider for Points {
    async fn approve(&self, approval: &Approval) -> Approved {
        let taken = self.db.tx("take_points", async |tx| take(tx, approval).await).await;
        match taken {
            Ok(Take::Fresh(..) | Take::Taken) => Approved::Captured,
            Ok(Take::Insufficient) => {
                Approved::Declined { code: INSUFFICIENT_POINTS.to_owned(), message: "not enough points".to_owned() }
            }
            Ok(Take::GivenBack) => not_done(ALREADY_GIVEN_BACK),
            Ok(Take::Ended) => not_done(ATTEMPT_ENDED),
            Ok(Take::Mismatch) => {
                tracing::error!(payment.id = %approval.payment, "Points are held that are not this payment's");
                Approved::Unknown { code: HOLD_MISMATCH.to_owned(), message: String::new() }
            }
            Err(error) => {
                tracing::warn!(%error, payment.id = %approval.payment, "Points gave no answer");
                Approved::Unknown { code: NO_ANSWER.to_owned(), message: String::new() }
            }
        }
    }

    async fn known(&self, approval: &Approval) -> Known {
        match find(&self.db, approval).await {
            Ok(Some(hold)) if !hold.is_of(approval.user, approval.amount) => Known::Unclear(HOLD_MISMATCH.to_owned()),
            Ok(Some(hold)) if hold.left() == 0 => Known::Cancelled,
            Ok(Some(_)) => Known::Captured,
            Ok(None) => Known::Absent,
            Err(error) => {
                tracing::warn!(%error, payment.id = %approval.payment, "Points gave no answer");
                Known::Unclear(NO_ANSWER.to_owned())
            }
        }
    }

    async fn give_back(&self, giveback: &Giveback) -> GivenBack {
        let given_back = self.db.tx("give_points_back", async |tx| give_back(tx, giveback).await).await;
        match given_back {
            Ok(given_back) => given_back,
            Err(error) => {
                tracing::warn!(%error, payment.id = %giveback.payment, "Points gave no answer");
                GivenBack::Unknown { code: NO_ANSWER.to_owned() }
            }
        }
    }
}

fn not_done(code: &str) -> Approved {
    Approved::NotDone { code: code.to_owned(), message: String::new() }
}

fn refused(code: &str) -> GivenBack {
    GivenBack::Refused { code: code.to_owned() }
}

async fn take(tx: &mut Tx, approval: &Approval) -> Result<Take> {
    let is_open = books::lock_open_attempt(tx, approval.attempt).await?;
    let balance = books::lock_balance(tx, approval.user).await?;
    // After the lock: a statement of its own sees what a twin has just committed.
    let hold = books::lock_hold(tx, approval.payment).await?;
    let taken = ledger::take(approval.user, balance, approval.amount, hold.as_ref(), !is_open);
    if let Take::Fresh(hold, movement) = taken {
        let id = transfer_id(Kind::Hold, &[approval.payment.as_bytes()]);
        move_points(tx, approval.payment, hold, movement, id).await?;
    }
    Ok(taken)
}

async fn find(db: &Db, approval: &Approval) -> Result<Option<Hold>> {
    books::read_hold(&mut *db.read().await?, approval.payment).await
}

async fn give_back(tx: &mut Tx, giveback: &Giveback) -> Result<GivenBack> {
    books::lock_balance(tx, giveback.user).await?;
    let id = transfer_id(Kind::Return, &[giveback.refund.as_bytes()]);
    if let Some(known) = books::transfer(tx, id).await? {
        let is_same = known.payment_id == Some(giveback.payment) && known.amount == giveback.amount;
        return Ok(if is_same { GivenBack::Done } else { refused(REFUND_MISMATCH) });
    }
    let Some(hold) = books::lock_hold(tx, giveback.payment).await? else { return Ok(refused(HOLD_NOT_FOUND)) };
    if hold.user != giveback.user {
        return Ok(refused(HOLD_MISMATCH));
    }
    let Some((hold, movement)) = ledger::give_back(&hold, giveback.amount) else {
        return Ok(refused(REFUND_EXCEEDS_HOLD));
    };
    move_points(tx, giveback.payment, hold, movement, id).await?;
    Ok(GivenBack::Done)
}

/// Moves points of the hold's user, and leaves the hold as it is then.
async fn move_points(tx: &mut Tx, payment: PaymentId, hold: Hold, movement: Movement, id: Uuid) -> Result<()> {
    let posting = Posting { id, user: hold.user, payment: Some(payment), movement, fingerprint: None };
    books::save_holds(tx, &[(payment, hold)]).await?;
    books::post(tx, &[posting]).await?;
    Ok(())
}
