//! Rules of a redemption: `RESERVED ⇄ PINNED → CONFIRMED → RESTORED`, or `RELEASED`, or `EXPIRED`. They are those of a hold
//! of stock. A payment that was captured too late pins a released or expired redemption again if no other order has the
//! coupon.

use chrono::{DateTime, Duration, Utc};
use contract::ids::{AccountId, CouponId, CouponIssueId, OrderId, PaymentAttemptId};
use diesel::deserialize::FromSqlRow;
use diesel::expression::AsExpression;
use diesel::sql_types::Text;
use strum::{EnumString, IntoStaticStr};

use crate::discount::LineDiscount;
use crate::refused::Refused;

/// Spelt in the database as in the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, EnumString, AsExpression, FromSqlRow)]
#[diesel(sql_type = Text)]
#[strum(serialize_all = "UPPERCASE")]
pub enum RedemptionState {
    Reserved,
    /// An attempt to pay is under way: the redemption neither expires nor is taken over.
    Pinned,
    /// The order is paid.
    Confirmed,
    Released,
    Expired,
    /// The order was paid and refunded, and the coupon can be used again.
    Restored,
}

impl RedemptionState {
    pub fn name(self) -> &'static str {
        self.into()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redemption {
    pub order: OrderId,
    /// None for a tombstone: released before it was made.
    pub claim: Option<Claim>,
    pub state: RedemptionState,
    pub expires_at: DateTime<Utc>,
    /// Some if and only if the state is `PINNED`.
    pub pin: Option<Pin>,
    /// All attempts that ended without a payment. A `PinRedemption` of theirs that arrives now is refused.
    pub unpinned_by: Vec<PaymentAttemptId>,
    /// Of the order, when it was paid or refunded; None before that.
    pub order_version: Option<i64>,
}

/// What a redemption takes. It never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub issue: CouponIssueId,
    pub coupon: CouponId,
    pub user: AccountId,
    pub discount: i64,
    pub currency: String,
    pub lines: Vec<LineDiscount>,
}

/// What a pinned redemption waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    pub attempt: PaymentAttemptId,
    /// The money was captured before the pin, maybe after the redemption's time was up. The order may have ended before
    /// that: such an end does not release the redemption.
    pub late: bool,
}

impl Redemption {
    /// Whether it has expired, although its row still says `RESERVED`.
    pub fn is_due(&self, now: DateTime<Utc>) -> bool {
        self.state == RedemptionState::Reserved && self.expires_at <= now
    }

    /// As readers see it at `now`.
    pub fn state_at(&self, now: DateTime<Utc>) -> RedemptionState {
        if self.is_due(now) { RedemptionState::Expired } else { self.state }
    }

    /// Whether its row keeps other orders from the coupon. One that is due does so until it is taken over.
    pub fn is_living(&self) -> bool {
        use RedemptionState as State;
        matches!(self.state, State::Reserved | State::Pinned | State::Confirmed)
    }

    fn is_pinned_by(&self, attempt: PaymentAttemptId) -> bool {
        self.pin.is_some_and(|pin| pin.attempt == attempt)
    }

    fn is_pinned_late(&self) -> bool {
        self.pin.is_some_and(|pin| pin.late)
    }

    /// Whether it was confirmed after the order had `version`.
    fn is_confirmed_since(&self, version: i64) -> bool {
        self.order_version.is_some_and(|confirmed| confirmed > version)
    }
}

/// Whether a repeated reservation is answered with the redemption that exists. It is not shown to another user.
pub fn check_repeat(
    redemption: &Redemption,
    issue: CouponIssueId,
    user: AccountId,
    now: DateTime<Utc>,
) -> Result<(), Refused> {
    use RedemptionState as State;
    match redemption.state_at(now) {
        State::Reserved | State::Pinned | State::Confirmed
            if redemption.claim.as_ref().is_none_or(|claim| claim.user != user) =>
        {
            Err(Refused::IssueNotFound(issue))
        }
        State::Reserved | State::Pinned | State::Confirmed => Ok(()),
        State::Released | State::Expired | State::Restored => Err(Refused::RedemptionEnded(redemption.order)),
    }
}

/// What is asked of a redemption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// With `retake` the money is captured already: a redemption that has ended takes the coupon again.
    Pin {
        attempt: PaymentAttemptId,
        retake: bool,
    },
    /// The redemption lives for `lives_min` at least from then on, so that the buyer can try again.
    Unpin {
        attempt: PaymentAttemptId,
        lives_min: Duration,
    },
    /// `order_version` is that of the order's end; None if the caller does not know it.
    Release {
        reason: String,
        order_version: Option<i64>,
    },
    Confirm {
        order_version: i64,
    },
    /// The order was paid and refunded. This proves a payment, even if `ORDER_PLACED` has not arrived yet.
    Refund {
        order_version: i64,
    },
}

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It waits for a payment.
    Pin,
    /// The coupon, which others could have used meanwhile, is taken again and waits for a payment.
    Retake,
    Unpin,
    /// The attempt pins nothing, and cannot pin from now on: its `PinRedemption` may still arrive.
    BlockAttempt,
    /// The coupon can be used again.
    Release,
    Confirm,
    /// The redeemed coupon can be used again.
    Restore,
    /// Both at once: the refund came first.
    ConfirmAndRestore,
    /// It was done before, or this step must not change the redemption.
    Nothing,
    /// There is no such redemption; one of this order is refused from now on.
    Tombstone,
}

/// What `step` does to the redemption. A repeat is a success; a step that contradicts the state is refused.
///
/// `restores` says whether the coupon is given back by a refund.
pub fn effect_of(
    step: &Step,
    order: OrderId,
    redemption: Option<&Redemption>,
    restores: bool,
    now: DateTime<Utc>,
) -> Result<Effect, Refused> {
    use RedemptionState as State;
    let Some(redemption) = redemption else { return effect_on_unknown(step, order) };
    match (step, redemption.state) {
        (Step::Pin { attempt, retake }, _) => pin(redemption, *attempt, *retake, now),
        (Step::Unpin { attempt, .. }, _) => Ok(unpin(redemption, *attempt, now)),

        // The order ended before it was paid late. The outcome of the payment unpins or confirms the redemption.
        (Step::Release { .. }, State::Pinned) if redemption.is_pinned_late() => Ok(Effect::Nothing),
        (Step::Release { .. }, State::Reserved | State::Pinned) => Ok(Effect::Release),
        (Step::Release { .. }, State::Released | State::Expired | State::Restored) => Ok(Effect::Nothing),
        // ORDER_PLACED may arrive before the ORDER_EXPIRED that it supersedes.
        (Step::Release { order_version: Some(ended), .. }, State::Confirmed)
            if redemption.is_confirmed_since(*ended) =>
        {
            Ok(Effect::Nothing)
        }
        (Step::Release { .. }, State::Confirmed) => Err(Refused::RedemptionConfirmed(order)),

        (Step::Confirm { .. } | Step::Refund { .. }, State::Reserved) if redemption.is_due(now) => {
            Err(Refused::RedemptionEnded(order))
        }
        (Step::Confirm { .. }, State::Reserved | State::Pinned) => Ok(Effect::Confirm),
        (Step::Confirm { .. }, State::Confirmed | State::Restored) => Ok(Effect::Nothing),

        (Step::Refund { .. }, State::Reserved | State::Pinned) if restores => Ok(Effect::ConfirmAndRestore),
        (Step::Refund { .. }, State::Reserved | State::Pinned) => Ok(Effect::Confirm),
        (Step::Refund { .. }, State::Confirmed) if restores => Ok(Effect::Restore),
        (Step::Refund { .. }, State::Confirmed | State::Restored) => Ok(Effect::Nothing),

        (Step::Confirm { .. } | Step::Refund { .. }, State::Released | State::Expired) => {
            Err(Refused::RedemptionEnded(order))
        }
    }
}

fn effect_on_unknown(step: &Step, order: OrderId) -> Result<Effect, Refused> {
    match step {
        Step::Release { .. } => Ok(Effect::Tombstone),
        Step::Pin { .. } | Step::Unpin { .. } | Step::Confirm { .. } | Step::Refund { .. } => {
            Err(Refused::RedemptionNotFound(order))
        }
    }
}

fn pin(
    redemption: &Redemption,
    attempt: PaymentAttemptId,
    retake: bool,
    now: DateTime<Utc>,
) -> Result<Effect, Refused> {
    use RedemptionState as State;
    match redemption.state {
        State::Pinned if !redemption.is_pinned_by(attempt) => Err(Refused::PaymentInProgress(redemption.order)),
        State::Pinned if retake && !redemption.is_pinned_late() => Ok(Effect::Pin),
        State::Pinned => Ok(Effect::Nothing),
        State::Reserved | State::Released | State::Expired if redemption.unpinned_by.contains(&attempt) => {
            Err(Refused::PaymentInProgress(redemption.order))
        }
        State::Reserved if redemption.is_due(now) && !retake => Err(Refused::RedemptionEnded(redemption.order)),
        State::Reserved => Ok(Effect::Pin),
        // A tombstone has no coupon to take.
        State::Released | State::Expired if retake && redemption.claim.is_some() => Ok(Effect::Retake),
        State::Released | State::Expired | State::Confirmed | State::Restored => {
            Err(Refused::RedemptionEnded(redemption.order))
        }
    }
}

fn unpin(redemption: &Redemption, attempt: PaymentAttemptId, now: DateTime<Utc>) -> Effect {
    use RedemptionState as State;
    // While another attempt pins, this one is blocked already: attempts of one order follow one another.
    let may_be_pinned =
        matches!(redemption.state, State::Reserved | State::Released | State::Expired) && redemption.claim.is_some();
    if redemption.is_pinned_by(attempt) && redemption.is_pinned_late() && redemption.expires_at <= now {
        // Its time was up before the pin, and no payment came of it.
        Effect::Release
    } else if redemption.is_pinned_by(attempt) {
        Effect::Unpin
    } else if may_be_pinned && !redemption.unpinned_by.contains(&attempt) {
        Effect::BlockAttempt
    } else {
        Effect::Nothing
    }
}

/// Changes `redemption` by `effect`.
pub fn apply(effect: Effect, step: &Step, redemption: &mut Redemption, now: DateTime<Utc>) {
    redemption.state = match effect {
        Effect::Nothing | Effect::Tombstone => return,
        Effect::BlockAttempt => redemption.state,
        Effect::Pin | Effect::Retake => RedemptionState::Pinned,
        Effect::Unpin => RedemptionState::Reserved,
        Effect::Release => RedemptionState::Released,
        Effect::Confirm => RedemptionState::Confirmed,
        Effect::Restore | Effect::ConfirmAndRestore => RedemptionState::Restored,
    };
    redemption.pin = None;
    match step {
        Step::Pin { attempt, retake } => {
            redemption.pin = Some(Pin { attempt: *attempt, late: *retake });
            if effect == Effect::Retake {
                // It had ended, maybe before its time was up: an unpin releases it then.
                redemption.expires_at = redemption.expires_at.min(now);
            }
        }
        Step::Unpin { attempt, lives_min } => {
            redemption.unpinned_by.push(*attempt);
            if effect == Effect::Unpin {
                redemption.expires_at = redemption.expires_at.max(now + *lives_min);
            }
        }
        Step::Confirm { order_version } | Step::Refund { order_version } => {
            redemption.order_version = Some(*order_version);
        }
        Step::Release { .. } => {}
    }
}

#[cfg(test)]
mod tests;
