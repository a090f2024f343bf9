//! Takes at the gates: one call of the script for all users who ask for the same coupon meanwhile.

use common::Error;
use common::batch::{Batch, BatchSettings};
use contract::ids::{AccountId, CouponId, CouponIssueId};

use crate::gate::{Answer, Gate};

/// A user who asks for a coupon.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub coupon: CouponId,
    pub user: AccountId,
    pub issue: CouponIssueId,
}

/// Starts the queue in front of the gates.
pub fn start_batch(settings: &BatchSettings, gate: &Gate) -> Batch<Asked, Answer> {
    let gate = gate.clone();
    Batch::start_by(
        "coupon_takes",
        settings,
        |asked: &Asked| asked.coupon,
        move |coupon, asked| {
            let gate = gate.clone();
            async move {
                let users: Vec<_> = asked.iter().map(|asked| (asked.user, asked.issue)).collect();
                let answers = gate.take(coupon, &users).await;
                answers.into_iter().map(|answer| answer.map_err(Error::from)).collect()
            }
        },
    )
}
