//! What becomes of an order becomes of its hold: `ORDER_PLACED` makes it a sale, `ORDER_REFUNDED` returns that,
//! `ORDER_CANCELLED` and `ORDER_EXPIRED` give it back.
//!
//! The topics are read in no particular order, so the rules of a hold bear any: a refund may come before its sale, and
//! the end of an order after a late payment has undone it. The order service also calls `ReleaseHold` at once when an
//! order is cancelled; the event is what happens when that call was lost.

use common::db::Tx;
use common::inbox::{Handler, Received};
use common::{Error, Result};
use contract::events::{OrderCancelled, OrderExpired, OrderPlaced, OrderRefunded};

use crate::App;
use crate::hold::Step;
use crate::plan::Settle;
use crate::settle_hold::settle;

impl Handler<OrderCancelled> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<OrderCancelled>]) -> Result<()> {
        let steps = events.iter().map(|Received { event, .. }| {
            let reason = "order cancelled".to_owned();
            settle_by(&event.hold_id, Step::Release { reason, order_version: Some(event.version) })
        });
        self.settle_all(tx, steps.collect::<Result<_>>()?).await
    }
}

impl Handler<OrderExpired> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<OrderExpired>]) -> Result<()> {
        let steps = events.iter().map(|Received { event, .. }| {
            let reason = "order expired".to_owned();
            settle_by(&event.hold_id, Step::Release { reason, order_version: Some(event.version) })
        });
        self.settle_all(tx, steps.collect::<Result<_>>()?).await
    }
}

impl Handler<OrderPlaced> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<OrderPlaced>]) -> Result<()> {
        let steps = events
            .iter()
            .map(|Received { event, .. }| settle_by(&event.hold_id, Step::Confirm { order_version: event.version }));
        self.settle_all(tx, steps.collect::<Result<_>>()?).await
    }
}

impl Handler<OrderRefunded> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<OrderRefunded>]) -> Result<()> {
        let steps = events
            .iter()
            .map(|Received { event, .. }| settle_by(&event.hold_id, Step::Refund { order_version: event.version }));
        self.settle_all(tx, steps.collect::<Result<_>>()?).await
    }
}

fn settle_by(hold: &str, step: Step) -> Result<Settle> {
    Ok(Settle { hold: hold.parse().map_err(Error::fault)?, step })
}

impl App {
    async fn settle_all(&self, tx: &mut Tx, asked: Vec<Settle>) -> Result<()> {
        let Some(settled) = settle(tx, &asked).await? else {
            return Err(Error::transient(anyhow::anyhow!("a hold changed while its rows were locked")));
        };
        for outcome in settled.outcomes {
            // A contradiction, such as a sale of units that are not held: the event is parked, where people see it.
            outcome?;
        }
        let gate = self.gate.clone();
        tx.after_commit(move || settled.done.tell(&gate));
        Ok(())
    }
}
