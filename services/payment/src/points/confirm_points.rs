//! `ORDER_PLACED`: the points in escrow for the order's payment become sales.

use common::Result;
use common::db::Tx;
use contract::ids::PaymentId;

use crate::points::ledger::{self, Kind};
use crate::points::rows::{self, Posting, transfer_id};

/// Moves what is left of each payment from escrow to sales, once, in the transaction that marks the events as seen.
///
/// Payments without a hold were made by other methods: an order is placed after its payment was approved, so its points
/// are held by now. A refund may come before, and then less or nothing is moved. The caller must not hold the lock of any
/// row of points.
pub async fn confirm_points(tx: &mut Tx, payments: &[PaymentId]) -> Result<()> {
    let holds = rows::lock_holds(tx, payments).await?;
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
    // No balance of a user moves, and the shop's accounts have no rows: this waits for no other payment.
    rows::save_holds(tx, &confirmed).await?;
    rows::post(tx, &postings).await?;
    Ok(())
}
