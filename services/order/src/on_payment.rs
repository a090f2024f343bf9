//! What happened to the money: `PAYMENT_APPROVED` pays an order, `PAYMENT_REFUNDED` ends it once all of it is back.
//!
//! The payment service also calls `MarkPaid` at once; this is what happens when that call was lost.

use common::db::Tx;
use common::inbox::{Handler, Received};
use common::telemetry::Context;
use common::{Error, Refusal, Result};
use contract::events::{PaymentApproved, PaymentRefunded};
use contract::ids::{OrderId, PaymentId};

use crate::App;
use crate::change_order::{Ask, change_all};
use crate::order::{Action, Bill};

impl Handler<PaymentApproved> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<PaymentApproved>]) -> Result<()> {
        let asked = events.iter().map(|received| {
            let PaymentApproved { order_id, payment_id, amount, currency, .. } = &received.event;
            let bill = Bill { payment: payment(payment_id)?, amount: *amount, currency: currency.clone() };
            ask(received, order_id, Action::MarkPaid { bill, late: false })
        });
        apply(tx, &asked.collect::<Result<Vec<_>>>()?).await
    }
}

impl Handler<PaymentRefunded> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<PaymentRefunded>]) -> Result<()> {
        // A part of the money is a matter between the payment and the buyer; the order stays what it is.
        let whole = events.iter().filter(|received| received.event.refunded_total >= received.event.captured);
        let asked = whole.map(|received| {
            let PaymentRefunded { order_id, payment_id, .. } = &received.event;
            ask(received, order_id, Action::NoteRefund { payment: payment(payment_id)? })
        });
        apply(tx, &asked.collect::<Result<Vec<_>>>()?).await
    }
}

fn payment(text: &str) -> Result<PaymentId> {
    text.parse().map_err(Error::fault)
}

fn ask<E>(received: &Received<E>, order: &str, action: Action) -> Result<Ask> {
    let order: OrderId = order.parse().map_err(Error::fault)?;
    let context = Context {
        request_id: received.request_id.clone().unwrap_or_default(),
        traceparent: received.traceparent.clone(),
    };
    Ok(Ask { order, user: None, action, context })
}

async fn apply(tx: &mut Tx, asked: &[Ask]) -> Result<()> {
    for (ask, outcome) in asked.iter().zip(change_all(tx, asked).await?) {
        // Nothing that a repeat could change: payment finds money without an order and gives it back.
        if let Err(refused) = outcome {
            tracing::warn!(orderId = %ask.order, code = %refused.code().reason, action = ?ask.action, "Money without an order: {refused}");
        }
    }
    Ok(())
}
