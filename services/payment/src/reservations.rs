//! What an attempt reserves at other services while the provider is asked: the order, the hold of its units, and the
//! redemption of its coupon if it uses one. Hold and redemption are named by the order's id.
//!
//! Each call may be repeated. [`crate::pending_steps`] does the compensations.

use common::{Error, Result, rpc};
use contract::codes;
use contract::coupon::{PinRedemptionRequest, UnpinRedemptionRequest};
use contract::ids::PaymentAttemptId;
use contract::inventory::{PinHoldRequest, UnpinHoldRequest};
use contract::order::{BeginApprovalRequest, EndApprovalRequest};

use crate::App;
use crate::payment::{Payment, Status};
use crate::provider::Attempt;
use crate::rows;

/// Reserves order, hold and redemption for this attempt, all at once.
///
/// The provider is asked when all are done, and all are freed when one is refused, so their order does not matter.
pub async fn reserve(app: &App, payment: &Payment, attempt: &Attempt) -> Result<()> {
    let (ordered, held, redeemed) = tokio::join!(
        reserve_order(app, payment, attempt),
        pin_hold_in_time(app, payment, attempt),
        pin_coupon(app, payment, attempt.id, Pin::InTime),
    );
    // What order says is said first: it knows why.
    ordered.and(held).and(redeemed)
}

async fn reserve_order(app: &App, payment: &Payment, attempt: &Attempt) -> Result<()> {
    let begin = BeginApprovalRequest {
        order_id: payment.order_id.to_string(),
        payment_id: payment.id.to_string(),
        attempt_id: attempt.id.to_string(),
        amount: payment.amount,
        currency: payment.currency.clone(),
    };
    let begun = rpc::retrying(|| {
        let (mut order, begin) = (app.order.clone(), begin.clone());
        async move { order.begin_approval(begin).await }
    });
    begun.await?;
    app.db.point("payment.after_reservation").await;
    Ok(())
}

async fn pin_hold_in_time(app: &App, payment: &Payment, attempt: &Attempt) -> Result<()> {
    app.db.point("payment.before_pin").await;
    pin_hold(app, payment, attempt.id, Pin::InTime).await
}

/// Whether what is pinned must still be reserved, or is taken again after it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pin {
    InTime,
    Retake,
}

async fn pin_hold(app: &App, payment: &Payment, attempt: PaymentAttemptId, pin: Pin) -> Result<()> {
    let pin = PinHoldRequest {
        hold_id: payment.order_id.to_string(),
        attempt_id: attempt.to_string(),
        retake: pin == Pin::Retake,
    };
    let pinned = rpc::retrying(|| {
        let (mut inventory, pin) = (app.inventory.clone(), pin.clone());
        async move { inventory.pin_hold(pin).await }
    });
    pinned.await?;
    Ok(())
}

/// Nothing, if the order uses no coupon.
async fn pin_coupon(app: &App, payment: &Payment, attempt: PaymentAttemptId, pin: Pin) -> Result<()> {
    if payment.coupon_issue_id.is_none() {
        return Ok(());
    }
    let pin = PinRedemptionRequest {
        order_id: payment.order_id.to_string(),
        attempt_id: attempt.to_string(),
        retake: pin == Pin::Retake,
    };
    let pinned = rpc::retrying(|| {
        let (mut coupon, pin) = (app.coupon.clone(), pin.clone());
        async move { coupon.pin_redemption(pin).await }
    });
    pinned.await?;
    Ok(())
}

/// What could be reserved again for money that came after the order had expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retaken {
    All,
    /// The coupon is used by another order.
    HoldOnly,
    /// The units are sold.
    Nothing,
}

/// Takes the units of an order that has expired again, and its coupon. The order itself follows when it is paid.
pub async fn retake(app: &App, payment: &Payment, attempt: PaymentAttemptId) -> Result<Retaken> {
    match pin_hold(app, payment, attempt, Pin::Retake).await {
        Ok(()) => {}
        Err(Error::Refused(_)) => return Ok(Retaken::Nothing),
        Err(error) => return Err(error),
    }
    match pin_coupon(app, payment, attempt, Pin::Retake).await {
        Ok(()) => Ok(Retaken::All),
        Err(Error::Refused(_)) => Ok(Retaken::HoldOnly),
        Err(error) => Err(error),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreedOrder {
    Freed,
    /// Its units are sold, or about to be.
    IsPaid,
}

/// Ends the order's reservation, if `attempt` has it.
pub async fn free_order(app: &App, payment: &Payment, attempt: PaymentAttemptId) -> Result<FreedOrder> {
    // The order lives on for another attempt only where there can be one.
    let retry_until = match payment.status {
        Status::Pending => Some(rows::database_time(&mut *app.db.read().await?).await? + app.retry_time),
        _ => None,
    };
    let end = EndApprovalRequest {
        order_id: payment.order_id.to_string(),
        attempt_id: attempt.to_string(),
        hold_expires_at: retry_until.map(Into::into),
    };
    let ended = rpc::retrying(|| {
        let (mut order, end) = (app.order.clone(), end.clone());
        async move { order.end_approval(end).await }
    });
    let order = ended.await?.order;
    let is_paid = order.is_some_and(|order| ["PAID", "REFUND_PENDING", "REFUNDED"].contains(&order.status.as_str()));
    Ok(if is_paid { FreedOrder::IsPaid } else { FreedOrder::Freed })
}

/// Unpins the stock, if `attempt` has pinned it.
pub async fn free_hold(app: &App, payment: &Payment, attempt: PaymentAttemptId) -> Result<()> {
    let unpin = UnpinHoldRequest { hold_id: payment.order_id.to_string(), attempt_id: attempt.to_string() };
    let unpinned = rpc::retrying(|| {
        let (mut inventory, unpin) = (app.inventory.clone(), unpin.clone());
        async move { inventory.unpin_hold(unpin).await }
    });
    unless_absent(unpinned.await, &codes::HOLD_NOT_FOUND)
}

/// Unpins the coupon, if the order uses one and `attempt` has pinned it.
pub async fn free_coupon(app: &App, payment: &Payment, attempt: PaymentAttemptId) -> Result<()> {
    if payment.coupon_issue_id.is_none() {
        return Ok(());
    }
    let unpin = UnpinRedemptionRequest { order_id: payment.order_id.to_string(), attempt_id: attempt.to_string() };
    let unpinned = rpc::retrying(|| {
        let (mut coupon, unpin) = (app.coupon.clone(), unpin.clone());
        async move { coupon.unpin_redemption(unpin).await }
    });
    unless_absent(unpinned.await, &codes::REDEMPTION_NOT_FOUND)
}

/// What does not exist is pinned by nobody.
fn unless_absent<T>(unpinned: Result<T>, absent: &common::Code) -> Result<()> {
    match unpinned {
        Ok(_) => Ok(()),
        Err(error) if error.reason() == Some(&absent.reason) => Ok(()),
        Err(error) => Err(error),
    }
}
