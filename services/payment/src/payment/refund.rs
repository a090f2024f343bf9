//! Whether a payment can be cancelled, and how much of it can be refunded.

use super::{Refused, Status};

/// What to do about a request to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelDecision {
    /// Nothing was taken: the payment ends, or has ended.
    End,
    /// Refund all that is left, or the part that was asked for.
    Refund,
}

/// Whether a buyer or an operator may cancel a payment now. `owes_order`: [`PayOrder`](super::Step::PayOrder) is still to be done.
///
/// The order must be told first. An order that is not paid yet ignores the refund of a payment, and would then be paid
/// with money that is gone.
pub fn cancel(status: Status, owes_order: bool) -> Result<CancelDecision, Refused> {
    match status {
        Status::Pending | Status::Cancelled => Ok(CancelDecision::End),
        status if status.is_open() || owes_order => Err(Refused::InProgress),
        status if status.is_captured() => Ok(CancelDecision::Refund),
        _ => Err(Refused::NotRefundable(status)),
    }
}

/// How much is to go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// All that is left.
    All,
    /// So much, which must be all that is left: a buyer gives no part back.
    Rest(i64),
    /// So much, of what is left.
    Part(i64),
}

/// The amount of a refund. `earlier`: the sum of the refunds that are done or pending. What is left is the measure, and not
/// what was paid once.
pub fn refund_amount(status: Status, captured: i64, earlier: i64, wanted: Wanted) -> Result<i64, Refused> {
    if !status.is_captured() {
        return Err(Refused::NotRefundable(status));
    }
    let left = captured - earlier;
    let amount = match wanted {
        Wanted::All => left,
        Wanted::Rest(amount) | Wanted::Part(amount) => amount,
    };
    if amount <= 0 || amount > left {
        return Err(Refused::ExceedsCaptured { wanted: amount, left });
    }
    match wanted {
        Wanted::Rest(amount) if amount < left => Err(Refused::OnlyAPart { wanted: amount, left }),
        _ => Ok(amount),
    }
}

/// The status of a captured payment of which `refunded` was given back.
pub fn after_refund(captured: i64, refunded: i64) -> Status {
    match refunded {
        0 => Status::Paid,
        all if all >= captured => Status::Refunded,
        _ => Status::PartiallyRefunded,
    }
}
