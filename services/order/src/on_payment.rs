//! Events of payments: a `PAYMENT_REFUNDED` of the whole amount ends an order.
//!
//! No event pays one: the payment service calls `MarkPaid` until it is answered.

use common::db::Tx;
use common::inbox::{Handler, Received};
use common::telemetry::Context;
use common::{Error, Refusal, Result};
use contract::events::PaymentRefunded;
use contract::ids::PaymentId;

use crate::App;
use crate::change_order::{Command, change_all};
use crate::order::Action;

impl Handler<PaymentRefunded> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<PaymentRefunded>]) -> Result<()> {
        // A partial refund does not change the order.
        let whole = events.iter().filter(|received| received.event.refunded_total >= received.event.captured);
        let commands = whole.map(command).collect::<Result<Vec<_>>>()?;
        for (Command { order_id, action, .. }, outcome) in commands.iter().zip(change_all(tx, &commands).await?) {
            // The event is applied all the same: a repeat would be refused again.
            if let Err(refused) = outcome {
                tracing::warn!(
                    orderId = %order_id, code = %refused.code().reason, ?action,
                    "Order {order_id} does not record this refund: {refused} The order stays as it is"
                );
            }
        }
        Ok(())
    }
}

fn command(received: &Received<PaymentRefunded>) -> Result<Command> {
    let PaymentRefunded { order_id, payment_id, .. } = &received.event;
    let payment = payment_id.parse::<PaymentId>().map_err(Error::fault)?;
    let context = Context {
        request_id: received.request_id.clone().unwrap_or_default(),
        traceparent: received.traceparent.clone(),
    };
    let order_id = order_id.parse().map_err(Error::fault)?;
    Ok(Command { order_id, owner: None, action: Action::RecordRefund { payment }, context })
}
