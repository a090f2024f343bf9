//! Why the coupon service says no. Callers can act on each of these.

use std::time::Duration;

use common::error::VERSION_CONFLICT;
use common::{Code, Refusal};
use contract::codes;
use contract::ids::{CouponId, CouponIssueId, OrderId};
use serde_json::{Value, json};

use crate::discount::NotApplicable;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("There is no coupon {0}.")]
    CouponNotFound(CouponId),
    #[error("You have this coupon already.")]
    AlreadyIssued(CouponIssueId),
    #[error("This coupon is sold out: all of its copies have been issued.")]
    SoldOut,
    #[error("This coupon cannot be issued yet; come back later.")]
    NotOpen { opens_in_ms: i64 },
    #[error("This coupon is no longer issued.")]
    Ended,
    #[error("You do not have the coupon {0}.")]
    IssueNotFound(CouponIssueId),
    #[error("You do not have this coupon.")]
    NotIssued,
    #[error("This coupon has expired.")]
    Expired,
    #[error("This coupon is used by another order.")]
    InUse(CouponIssueId),
    #[error("{0}")]
    NotApplicable(#[from] NotApplicable),
    #[error("The coupon of order {0} has been given back.")]
    RedemptionEnded(OrderId),
    #[error("The coupon of order {0} is redeemed.")]
    RedemptionConfirmed(OrderId),
    #[error("Order {0} has no coupon.")]
    RedemptionNotFound(OrderId),
    #[error("Another attempt to pay order {0} has its coupon, or this attempt has ended.")]
    PaymentInProgress(OrderId),
    #[error("The coupon has changed since; read it again.")]
    VersionConflict { current: i64 },
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Refused::CouponNotFound(_) => codes::COUPON_NOT_FOUND,
            Refused::AlreadyIssued(_) => codes::COUPON_ALREADY_ISSUED,
            Refused::SoldOut => codes::COUPON_SOLD_OUT,
            Refused::NotOpen { .. } => codes::COUPON_NOT_OPEN,
            Refused::Ended | Refused::Expired => codes::COUPON_EXPIRED,
            Refused::IssueNotFound(_) | Refused::NotIssued => codes::COUPON_ISSUE_NOT_FOUND,
            Refused::InUse(_) => codes::COUPON_IN_USE,
            Refused::NotApplicable(_) => codes::COUPON_NOT_APPLICABLE,
            Refused::RedemptionEnded(_) => codes::REDEMPTION_ENDED,
            Refused::RedemptionConfirmed(_) => codes::REDEMPTION_CONFIRMED,
            Refused::RedemptionNotFound(_) => codes::REDEMPTION_NOT_FOUND,
            Refused::PaymentInProgress(_) => codes::PAYMENT_IN_PROGRESS,
            Refused::VersionConflict { .. } => VERSION_CONFLICT,
        }
    }

    fn details(&self) -> Vec<Value> {
        match self {
            Refused::CouponNotFound(coupon) => vec![json!({ "couponId": coupon })],
            Refused::AlreadyIssued(issue) | Refused::IssueNotFound(issue) | Refused::InUse(issue) => {
                vec![json!({ "issueId": issue })]
            }
            Refused::NotApplicable(NotApplicable::BelowMinimum { minimum, amount }) => {
                vec![json!({ "minimumAmount": minimum, "amount": amount })]
            }
            Refused::VersionConflict { current } => vec![json!({ "version": current })],
            Refused::SoldOut
            | Refused::NotOpen { .. }
            | Refused::Ended
            | Refused::NotIssued
            | Refused::Expired
            | Refused::NotApplicable(_)
            | Refused::RedemptionEnded(_)
            | Refused::RedemptionConfirmed(_)
            | Refused::RedemptionNotFound(_)
            | Refused::PaymentInProgress(_) => Vec::new(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            // Whole seconds travel, and whoever comes early is refused again: rounded up.
            Refused::NotOpen { opens_in_ms } => {
                Some(Duration::from_secs(u64::try_from(*opens_in_ms).unwrap_or_default().div_ceil(1000).max(1)))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_back_when_told_to_finds_it_open() {
        for (opens_in_ms, seconds) in [(1, 1), (1000, 1), (1001, 2), (-5, 1), (3_600_000, 3600)] {
            let delay = Refused::NotOpen { opens_in_ms }.retry_after();
            assert_eq!(delay, Some(Duration::from_secs(seconds)), "{opens_in_ms}");
        }
    }
}
