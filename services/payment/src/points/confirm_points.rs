//! `ORDER_PLACED`: what is in escrow for the order's payment has been sold for.

use common::Result;
use common::db::Tx;
use contract::ids::PaymentId;

use crate::points::books::{self, Posting, transfer_id};
use crate::points::ledger::{self, Kind};

/// Moves what is left of each payment from escrow to sales, once, in the transaction that marks the events as seen.
///
/// Payments that points know nothing of were made in other ways: an order is placed after its payment was approved, so
/// points that it was paid with are held by now. A refund may come before, and leaves less to move or nothing. The
/// caller must not hold the lock of any row of points.
pub async fn confirm_points(tx: &mut Tx, payments: &[PaymentId]) -> Result<()> {
    let holds = books::lock_holds(tx, payments).await?;
    let (mut confirmed, mut postings) = (Vec::new(), Vec::new());
    for (payment, hold) in holds {
        let Some((hold, movement)) = ledger::confirm(&hold) else { continue };
        let id = transfer_id(Kind::Confirm, &[payment.as_bytes()]);
        postings.push(Posting { id, user: hold.user, payment: Some(payment), movement, fingerprint: None });
        confirmed.push((payment, hold));
    }
    if postings.is_empty() {
        return Ok(());
    }
    // No balance of a user's moves and the shop's accounts have no rows, so these wait for nobody else's payments.
    books::save_holds(tx, &confirmed).await?;
    books::post(tx, &postings).await?;
    Ok(())
}
