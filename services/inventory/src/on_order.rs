//! An order's events change its hold: `ORDER_PLACED` confirms it, `ORDER_REFUNDED` returns its units, `ORDER_CANCELLED`
//! and `ORDER_EXPIRED` release it.
//!
//! The topics are read in no particular order, and the rules of a hold bear any: `ORDER_REFUNDED` may come before
//! `ORDER_PLACED`, and `ORDER_EXPIRED` after the late payment that supersedes it. When an order is cancelled, the order
//! service also calls `ReleaseHold` at once; the event is for when that call is lost.

use common::db::Tx;
use common::inbox::{Handler, Received};
use common::{Error, Result};
use contract::events::{OrderCancelled, OrderExpired, OrderPlaced, OrderRefunded};

use crate::App;
use crate::hold::Step;
use crate::plan::HoldStep;
use crate::settle_hold::{Attempt, settle};

impl Handler<OrderCancelled> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<OrderCancelled>]) -> Result<()> {
        let steps = events.iter().map(|Received { event, .. }| {
            let reason = "order cancelled".to_owned();
            hold_step(&event.hold_id, Step::Release { reason, order_version: Some(event.version) })
        });
        self.settle_all(tx, steps.collect::<Result<_>>()?).await
    }
}

impl Handler<OrderExpired> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<OrderExpired>]) -> Result<()> {
        let steps = events.iter().map(|Received { event, .. }| {
            let reason = "order expired".to_owned();
            hold_step(&event.hold_id, Step::Release { reason, order_version: Some(event.version) })
        });
        self.settle_all(tx, steps.collect::<Result<_>>()?).await
    }
}

impl Handler<OrderPlaced> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<OrderPlaced>]) -> Result<()> {
        let steps = events
            .iter()
            .map(|Received { event, .. }| hold_step(&event.hold_id, Step::Confirm { order_version: event.version }));
        self.settle_all(tx, steps.collect::<Result<_>>()?).await
    }
}

impl Handler<OrderRefunded> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<OrderRefunded>]) -> Result<()> {
        let steps = events
            .iter()
            .map(|Received { event, .. }| hold_step(&event.hold_id, Step::Refund { order_version: event.version }));
        self.settle_all(tx, steps.collect::<Result<_>>()?).await
    }
}

fn hold_step(hold: &str, step: Step) -> Result<HoldStep> {
    Ok(HoldStep { hold: hold.parse().map_err(Error::fault)?, step })
}

impl App {
    async fn settle_all(&self, tx: &mut Tx, steps: Vec<HoldStep>) -> Result<()> {
        let Attempt::Settled { outcomes, after_commit } = settle(tx, &self.feed, &steps).await? else {
            return Err(Error::transient(anyhow::anyhow!("a hold changed between the look at it and its lock")));
        };
        for outcome in outcomes {
            // A contradiction, such as a sale of units that are not held: the event is parked.
            outcome?;
        }
        let gate = self.gate.clone();
        tx.after_commit(move || after_commit.run(&gate));
        Ok(())
    }
}
