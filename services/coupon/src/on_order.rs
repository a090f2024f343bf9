//! What happens to an order happens to the coupon that it uses. The topics are separate and may be read in any order:
//! `ORDER_REFUNDED` before `ORDER_PLACED`, and `ORDER_EXPIRED` after the late payment that supersedes it. Events of orders
//! without a coupon are none of ours.

use common::db::Tx;
use common::inbox::{Handler, Received};
use common::{Error, Result};
use contract::events::{OrderCancelled, OrderExpired, OrderPlaced, OrderRefunded};

use crate::App;
use crate::plan::{Asked, Request};
use crate::redemption::Step;
use crate::settle_redemption::settle;

impl Handler<OrderCancelled> for App {
    fn concerns() -> Option<fn(&OrderCancelled) -> bool> {
        Some(|event| !event.coupon_issue_id.is_empty())
    }

    async fn handle(&self, tx: &mut Tx, events: &[Received<OrderCancelled>]) -> Result<()> {
        let steps = events.iter().map(|Received { event, .. }| {
            let reason = "order cancelled".to_owned();
            let step = Step::Release { reason, order_version: Some(event.version) };
            (event.coupon_issue_id.as_str(), event.order_id.as_str(), step)
        });
        settle_all(tx, steps).await
    }
}

impl Handler<OrderExpired> for App {
    fn concerns() -> Option<fn(&OrderExpired) -> bool> {
        Some(|event| !event.coupon_issue_id.is_empty())
    }

    async fn handle(&self, tx: &mut Tx, events: &[Received<OrderExpired>]) -> Result<()> {
        let steps = events.iter().map(|Received { event, .. }| {
            let reason = "order expired".to_owned();
            let step = Step::Release { reason, order_version: Some(event.version) };
            (event.coupon_issue_id.as_str(), event.order_id.as_str(), step)
        });
        settle_all(tx, steps).await
    }
}

impl Handler<OrderPlaced> for App {
    fn concerns() -> Option<fn(&OrderPlaced) -> bool> {
        Some(|event| !event.coupon_issue_id.is_empty())
    }

    async fn handle(&self, tx: &mut Tx, events: &[Received<OrderPlaced>]) -> Result<()> {
        let steps = events.iter().map(|Received { event, .. }| {
            let step = Step::Confirm { order_version: event.version };
            (event.coupon_issue_id.as_str(), event.order_id.as_str(), step)
        });
        settle_all(tx, steps).await
    }
}

impl Handler<OrderRefunded> for App {
    fn concerns() -> Option<fn(&OrderRefunded) -> bool> {
        Some(|event| !event.coupon_issue_id.is_empty())
    }

    async fn handle(&self, tx: &mut Tx, events: &[Received<OrderRefunded>]) -> Result<()> {
        let steps = events.iter().map(|Received { event, .. }| {
            let step = Step::Refund { order_version: event.version };
            (event.coupon_issue_id.as_str(), event.order_id.as_str(), step)
        });
        settle_all(tx, steps).await
    }
}

/// `steps`: the issue that the order uses, or nothing in a replayed event; the order, and what happened to it.
async fn settle_all<'e>(tx: &mut Tx, steps: impl Iterator<Item = (&'e str, &'e str, Step)>) -> Result<()> {
    let with_coupon = steps.filter(|(issue, ..)| !issue.is_empty());
    let requests = with_coupon
        .map(|(_, order, step)| Ok(Request { order: order.parse().map_err(Error::fault)?, asked: Asked::Step(step) }));
    let requests = requests.collect::<Result<Vec<_>>>()?;
    if requests.is_empty() {
        return Ok(());
    }
    for outcome in settle(tx, &requests).await? {
        // A contradiction, such as a payment of an order that has no coupon any more: the event is parked.
        outcome?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_orders_with_a_coupon_are_of_concern() {
        let concerns = <App as Handler<OrderPlaced>>::concerns().unwrap();
        let with = OrderPlaced { coupon_issue_id: "an issue".to_owned(), ..OrderPlaced::default() };
        assert!(concerns(&with));
        assert!(!concerns(&OrderPlaced::default()));
    }
}
