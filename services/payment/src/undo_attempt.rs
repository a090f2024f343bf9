//! Undoing an attempt at the provider: it gave no clear answer for too long, or captured another amount.
//!
//! Korean providers call this a network cancel. What it did shows in the provider's history, which the resolver reads next.

use common::Result;
use common::db::Tx;
use contract::ids::RefundId;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use crate::App;
use crate::provider::{Attempt, RefundRequest};
use crate::rows::{self, Payment};
use crate::schema::payments;

/// Has the provider refund `amount`, or all that the attempt may have captured.
///
/// It is written down first: from then on a capture of this attempt does not pay the order.
pub async fn undo(app: &App, payment: &Payment, attempt: &Attempt, amount: Option<i64>) -> Result<()> {
    match app.db.tx("begin_undo", async |tx| begin_undo(tx, attempt).await).await? {
        Undo::Begun => {}
        Undo::NotWanted => return Ok(()),
    }
    app.db.point("payment.before_undo").await;
    let amount = amount.unwrap_or(attempt.amount);
    let request = RefundRequest {
        // Another key each time: under the same one, a provider that had nothing to undo yet would repeat that answer. It
        // never refunds more than it has captured.
        id: RefundId::derive(&[attempt.id.as_bytes(), b"undo", &amount.to_be_bytes(), &payment.asked.to_be_bytes()]),
        payment: payment.id,
        user: payment.user_id,
        pg_payment_id: attempt.pg_payment_id.clone(),
        amount,
        reason: "the approval is undone".to_owned(),
    };
    let outcome = app.refund(payment.method, &request).await;
    app.db.point("payment.after_undo").await;
    tracing::warn!(
        payment.id = %payment.id, attempt.id = %attempt.id, amount, ?outcome,
        "Payment {}: the provider was told to undo attempt {}; its status is queried again", payment.id, attempt.id
    );
    Ok(())
}

enum Undo {
    Begun,
    /// A later attempt is under way, or somebody has found out more.
    NotWanted,
}

async fn begin_undo(tx: &mut Tx, attempt: &Attempt) -> Result<Undo> {
    let (payment, now) = rows::lock_existing(tx, attempt.payment).await?;
    let is_current = payment.attempt_id == Some(attempt.id) && !payment.status.is_captured();
    if !is_current || !(payment.status.is_open() || payment.undo_at.is_some()) {
        return Ok(Undo::NotWanted);
    }
    let undo_at = payment.undo_at.unwrap_or(now);
    diesel::update(payments::table.find(payment.id)).set(payments::undo_at.eq(undo_at)).execute(tx).await?;
    Ok(Undo::Begun)
}
