//! Undoing an attempt at the provider: it gave no clear answer for too long, or captured another amount.
//!
//! Korean providers call this a network cancel. What it did shows in the provider's history, which the resolver reads next.

use common::Result;
use contract::ids::RefundId;

use crate::App;
use crate::change_payments::change_payment;
use crate::payment::{Action, Payment};
use crate::provider::{Attempt, RefundRequest};

/// Has the provider refund `amount`, or all that the attempt may have captured.
///
/// It is written down first: from then on a capture of this attempt does not pay the order.
pub async fn undo(app: &App, payment: &Payment, attempt: &Attempt, amount: Option<i64>) -> Result<()> {
    if change_payment(app, payment.id, Action::BeginUndo { attempt: attempt.clone() }).await?.is_empty() {
        return Ok(());
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
