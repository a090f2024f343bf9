//! What other services are told of a payment.

use chrono::{DateTime, Utc};
use common::Result;
use common::db::Tx;
use common::outbox::{EventWithContext, publish_with_contexts};
use common::telemetry::Context;
use contract::codes;
use contract::events::{PaymentApproved, PaymentFailed, PaymentUnknown};

use crate::payment::{AttemptReport, Change, Payment, Status};
use crate::provider::Attempt;

/// The events of one transaction, until it publishes them.
#[derive(Default)]
pub struct PendingEvents {
    approved: Vec<EventWithContext<PaymentApproved>>,
    unknown: Vec<EventWithContext<PaymentUnknown>>,
    failed: Vec<EventWithContext<PaymentFailed>>,
    /// The statuses that payments have moved to.
    moves: Vec<Status>,
}

impl PendingEvents {
    /// `payment` is as it is after `change`.
    pub fn add(&mut self, change: &Change, payment: &Payment, now: DateTime<Utc>, context: &Context) {
        let context = context.clone();
        match change {
            Change::Move { status, .. } => self.moves.push(*status),
            Change::Announce { attempt, report } => match payment.status {
                Status::Paid => {
                    self.approved.push(EventWithContext { event: approved(payment, attempt, now), context })
                }
                Status::Unknown | Status::NeedsReview => {
                    self.unknown.push(EventWithContext { event: unknown(payment, attempt, now), context })
                }
                _ => self.failed.push(EventWithContext { event: failed(payment, attempt, report, now), context }),
            },
            Change::Begin { .. }
            | Change::Note { .. }
            | Change::Follow { .. }
            | Change::ReturnDuplicate { .. }
            | Change::AskNow
            | Change::Request
            | Change::Undo => {}
        }
    }

    pub async fn publish(self, tx: &mut Tx) -> Result<()> {
        publish_with_contexts(tx, &self.approved).await?;
        publish_with_contexts(tx, &self.unknown).await?;
        publish_with_contexts(tx, &self.failed).await?;
        let moves = self.moves;
        tx.after_commit(move || {
            for status in moves {
                metrics::counter!("stampede_payments_total", "status" => status.name()).increment(1);
            }
        });
        Ok(())
    }
}

fn approved(payment: &Payment, attempt: &Attempt, now: DateTime<Utc>) -> PaymentApproved {
    PaymentApproved {
        payment_id: payment.id.to_string(),
        order_id: payment.order_id.to_string(),
        user_id: payment.user_id.to_string(),
        version: payment.version,
        attempt_id: attempt.id.to_string(),
        amount: payment.amount,
        currency: payment.currency.clone(),
        provider: payment.method.provider().to_owned(),
        pg_payment_id: attempt.pg_payment_id.clone(),
        approved_at: Some(now.into()),
    }
}

fn unknown(payment: &Payment, attempt: &Attempt, now: DateTime<Utc>) -> PaymentUnknown {
    PaymentUnknown {
        payment_id: payment.id.to_string(),
        order_id: payment.order_id.to_string(),
        user_id: payment.user_id.to_string(),
        version: payment.version,
        attempt_id: attempt.id.to_string(),
        amount: payment.amount,
        currency: payment.currency.clone(),
        provider: payment.method.provider().to_owned(),
        needs_review: payment.status == Status::NeedsReview,
        since: Some(payment.approving_since.unwrap_or(now).into()),
    }
}

fn failed(payment: &Payment, attempt: &Attempt, report: &AttemptReport, now: DateTime<Utc>) -> PaymentFailed {
    let code = if report.is_declined { codes::PAYMENT_DECLINED } else { codes::PG_ERROR };
    PaymentFailed {
        payment_id: payment.id.to_string(),
        order_id: payment.order_id.to_string(),
        user_id: payment.user_id.to_string(),
        version: payment.version,
        attempt_id: attempt.id.to_string(),
        amount: payment.amount,
        currency: payment.currency.clone(),
        provider: payment.method.provider().to_owned(),
        code: code.reason.into_owned(),
        pg_code: report.code.clone(),
        failed_at: Some(now.into()),
    }
}
