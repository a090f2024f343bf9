//! Events of payments: `PAYMENT_APPROVED` pays an order, a `PAYMENT_REFUNDED` of the whole amount ends it.
//!
//! The payment service also calls `MarkPaid` directly. The event makes up for a call that was lost.

use common::db::Tx;
use common::inbox::{Handler, Received};
use common::telemetry::Context;
use common::{Error, Refusal, Result};
use contract::events::{PaymentApproved, PaymentRefunded};
use contract::ids::PaymentId;

use crate::App;
use crate::change_order::{Command, change_all};
use crate::order::{Action, Bill};

impl Handler<PaymentApproved> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<PaymentApproved>]) -> Result<()> {
        let commands = events.iter().map(|received| {
            let PaymentApproved { order_id, payment_id, amount, currency, .. } = &received.event;
            let bill = Bill { payment: parse_payment(payment_id)?, amount: *amount, currency: currency.clone() };
            command(received, order_id, Action::MarkPaid { bill, late: false })
        });
        apply(tx, &commands.collect::<Result<Vec<_>>>()?).await
    }
}

impl Handler<PaymentRefunded> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<PaymentRefunded>]) -> Result<()> {
        // A partial refund does not change the order.
        let whole = events.iter().filter(|received| received.event.refunded_total >= received.event.captured);
        let commands = whole.map(|received| {
            let PaymentRefunded { order_id, payment_id, .. } = &received.event;
            command(received, order_id, Action::RecordRefund { payment: parse_payment(payment_id)? })
        });
        apply(tx, &commands.collect::<Result<Vec<_>>>()?).await
    }
}

fn parse_payment(text: &str) -> Result<PaymentId> {
    text.parse().map_err(Error::fault)
}

fn command<E>(received: &Received<E>, order_id: &str, action: Action) -> Result<Command> {
    let context = Context {
        request_id: received.request_id.clone().unwrap_or_default(),
        traceparent: received.traceparent.clone(),
    };
    Ok(Command { order_id: order_id.parse().map_err(Error::fault)?, owner: None, action, context })
}

async fn apply(tx: &mut Tx, commands: &[Command]) -> Result<()> {
    for (Command { order_id, action, .. }, outcome) in commands.iter().zip(change_all(tx, commands).await?) {
        // The event is applied all the same: a repeat would be refused again.
        if let Err(refused) = outcome {
            tracing::warn!(
                orderId = %order_id, code = %refused.code().reason, ?action,
                "Order {order_id} cannot take this payment: {refused} The payment service refunds money without an order"
            );
        }
    }
    Ok(())
}
