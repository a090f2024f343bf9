//! Rules of a hold: `HELD ⇄ PINNED → CONFIRMED → RETURNED`, or `RELEASED`, or `EXPIRED`. A payment that was captured too
//! late pins a released or expired hold again if its units are still there.

use chrono::{DateTime, Duration, Utc};
use contract::ids::{AccountId, ConcertId, HoldId, PaymentAttemptId, ProductId, SeatId};
use diesel::deserialize::FromSqlRow;
use diesel::expression::AsExpression;
use diesel::sql_types::Text;
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr};
use utoipa::ToSchema;

use crate::refused::Refused;

/// Spelt in the database and in JSON as in the contract.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    IntoStaticStr,
    EnumString,
    AsExpression,
    FromSqlRow,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[diesel(sql_type = Text)]
#[strum(serialize_all = "UPPERCASE")]
#[serde(rename_all = "UPPERCASE")]
pub enum HoldState {
    Held,
    /// An attempt to pay is under way: the hold neither expires nor is taken over.
    Pinned,
    /// Sold.
    Confirmed,
    Released,
    Expired,
    /// Sold, and put back on sale by a refund.
    Returned,
}

impl HoldState {
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Its units are nobody else's, if its time is not up.
    pub fn has_units(self) -> bool {
        match self {
            HoldState::Held | HoldState::Pinned | HoldState::Confirmed => true,
            HoldState::Released | HoldState::Expired | HoldState::Returned => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    pub id: HoldId,
    /// None for a tombstone: released before it was made.
    pub user: Option<AccountId>,
    pub state: HoldState,
    pub expires_at: DateTime<Utc>,
    /// Some if and only if the state is `PINNED`.
    pub pin: Option<Pin>,
    /// All attempts that ended without a payment. A `PinHold` of theirs that arrives now is refused.
    pub unpinned_by: Vec<PaymentAttemptId>,
    /// Of the order, when it was sold or refunded; None before that.
    pub order_version: Option<i64>,
    /// Of a reservation of seats; None for the hold of an order.
    pub concert: Option<ConcertId>,
    /// The order's hold that has the seats of this reservation since.
    pub moved_to: Option<HoldId>,
    pub lines: Vec<HoldLine>,
}

/// What a pinned hold waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    pub attempt: PaymentAttemptId,
    /// The money was captured before the pin, maybe after the hold's time was up. The order may have ended before that:
    /// such an end does not release the hold.
    pub late: bool,
}

/// Immutable: the price at the time of the hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldLine {
    pub product: ProductId,
    pub quantity: i32,
    pub unit_price: i64,
    pub currency: String,
    pub sku: String,
    pub name: String,
    /// One for each unit, if the product is sold by the seat.
    pub seats: Vec<HeldSeat>,
}

/// A seat as it was called when it was held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeldSeat {
    pub seat_id: SeatId,
    pub label: String,
}

impl Hold {
    /// Whether it has expired, although its row still says `HELD`.
    pub fn is_due(&self, now: DateTime<Utc>) -> bool {
        self.state == HoldState::Held && self.expires_at <= now
    }

    /// As readers see it at `now`.
    pub fn state_at(&self, now: DateTime<Utc>) -> HoldState {
        if self.is_due(now) { HoldState::Expired } else { self.state }
    }

    pub fn seats(&self) -> impl Iterator<Item = &HeldSeat> {
        self.lines.iter().flat_map(|line| &line.seats)
    }

    fn is_pinned_by(&self, attempt: PaymentAttemptId) -> bool {
        self.pin.is_some_and(|pin| pin.attempt == attempt)
    }

    fn is_pinned_late(&self) -> bool {
        self.pin.is_some_and(|pin| pin.late)
    }

    /// Whether it was sold after the order had `version`.
    fn is_sold_since(&self, version: i64) -> bool {
        self.order_version.is_some_and(|sold| sold > version)
    }
}

/// Whether a repeated `Hold` is answered with the hold that exists. It is not shown to another user.
pub fn check_repeat(hold: &Hold, user: AccountId, now: DateTime<Utc>) -> Result<(), Refused> {
    match hold.state_at(now) {
        HoldState::Held | HoldState::Pinned | HoldState::Confirmed if hold.user != Some(user) => {
            Err(Refused::HoldNotFound(hold.id))
        }
        HoldState::Held | HoldState::Pinned | HoldState::Confirmed => Ok(()),
        HoldState::Released | HoldState::Returned => Err(Refused::HoldReleased(hold.id)),
        HoldState::Expired => Err(Refused::HoldExpired(hold.id)),
    }
}

/// What is asked of a hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// With `retake` the money is captured already: a hold that has ended takes its units again.
    Pin {
        attempt: PaymentAttemptId,
        retake: bool,
    },
    /// The hold lives for `lives_min` at least from then on, so that the buyer can try again.
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
    Return {
        reason: String,
    },
    /// The order was paid and refunded. This proves a sale, even if `ORDER_PLACED` has not arrived yet.
    Refund {
        order_version: i64,
    },
}

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The held units wait for a payment.
    Pin,
    /// The units, which had gone back on sale, are taken out of it again and wait for a payment.
    Retake,
    Unpin,
    /// The attempt pins nothing, and cannot pin from now on: its `PinHold` may still arrive.
    BlockAttempt,
    /// The units go back on sale.
    Release,
    /// The units leave the stock.
    Confirm,
    /// The sold units come back into the stock.
    Return,
    /// A sale and its return in one step; the units were held until now.
    ConfirmAndReturn,
    /// It was done before, or this step must not change the hold.
    Nothing,
    /// There is no such hold; a `Hold` with this id is refused from now on.
    Tombstone,
}

impl Effect {
    /// Whether it changes rows of stock, which must be locked for that.
    pub fn moves_stock(self) -> bool {
        match self {
            Effect::Retake | Effect::Release | Effect::Confirm | Effect::Return | Effect::ConfirmAndReturn => true,
            Effect::Pin | Effect::Unpin | Effect::BlockAttempt | Effect::Nothing | Effect::Tombstone => false,
        }
    }
}

/// What `step` does to the hold. A repeat is a success; a step that contradicts the state is refused.
pub fn effect_of(step: &Step, id: HoldId, hold: Option<&Hold>, now: DateTime<Utc>) -> Result<Effect, Refused> {
    use HoldState as State;
    let Some(hold) = hold else { return effect_on_unknown(step, id) };
    match (step, hold.state) {
        (Step::Pin { attempt, retake }, _) => pin(hold, *attempt, *retake, now),
        (Step::Unpin { attempt, .. }, _) => Ok(unpin(hold, *attempt, now)),

        // The order ended before it was paid late. The outcome of the payment unpins or confirms the hold.
        (Step::Release { .. }, State::Pinned) if hold.is_pinned_late() => Ok(Effect::Nothing),
        // Even if its time is up: the row of stock still counts the units as held.
        (Step::Release { .. }, State::Held | State::Pinned) => Ok(Effect::Release),
        (Step::Release { .. }, State::Released | State::Expired | State::Returned) => Ok(Effect::Nothing),
        // ORDER_PLACED may arrive before the ORDER_EXPIRED that it supersedes.
        (Step::Release { order_version: Some(ended), .. }, State::Confirmed) if hold.is_sold_since(*ended) => {
            Ok(Effect::Nothing)
        }
        (Step::Release { .. }, State::Confirmed) => Err(Refused::HoldConfirmed(id)),

        (Step::Confirm { .. }, State::Held) if hold.is_due(now) => Err(Refused::HoldExpired(id)),
        (Step::Confirm { .. }, State::Held | State::Pinned) => Ok(Effect::Confirm),
        (Step::Confirm { .. }, State::Confirmed | State::Returned) => Ok(Effect::Nothing),
        (Step::Confirm { .. }, State::Released) => Err(Refused::HoldReleased(id)),
        (Step::Confirm { .. }, State::Expired) => Err(Refused::HoldExpired(id)),

        (Step::Refund { .. }, State::Held) if hold.is_due(now) => Err(Refused::HoldNotConfirmed(id)),
        (Step::Refund { .. }, State::Held | State::Pinned) => Ok(Effect::ConfirmAndReturn),
        (Step::Return { .. } | Step::Refund { .. }, State::Confirmed) => Ok(Effect::Return),
        (Step::Return { .. } | Step::Refund { .. }, State::Returned) => Ok(Effect::Nothing),
        (Step::Return { .. }, State::Held | State::Pinned | State::Released | State::Expired)
        | (Step::Refund { .. }, State::Released | State::Expired) => Err(Refused::HoldNotConfirmed(id)),
    }
}

fn effect_on_unknown(step: &Step, id: HoldId) -> Result<Effect, Refused> {
    match step {
        Step::Release { .. } => Ok(Effect::Tombstone),
        Step::Pin { .. } | Step::Unpin { .. } | Step::Confirm { .. } => Err(Refused::HoldNotFound(id)),
        Step::Return { .. } | Step::Refund { .. } => Err(Refused::HoldNotConfirmed(id)),
    }
}

fn pin(hold: &Hold, attempt: PaymentAttemptId, retake: bool, now: DateTime<Utc>) -> Result<Effect, Refused> {
    use HoldState as State;
    match hold.state {
        State::Pinned if !hold.is_pinned_by(attempt) => Err(Refused::PaymentInProgress(hold.id)),
        // It was pinned in time, and now the money is captured.
        State::Pinned if retake && !hold.is_pinned_late() => Ok(Effect::Pin),
        State::Pinned => Ok(Effect::Nothing),
        State::Held | State::Released | State::Expired if hold.unpinned_by.contains(&attempt) => {
            Err(Refused::PaymentInProgress(hold.id))
        }
        State::Held if hold.is_due(now) && !retake => Err(Refused::HoldExpired(hold.id)),
        State::Held => Ok(Effect::Pin),
        // A tombstone has no lines to take, and the seats of a reservation that was ordered are the order's.
        State::Released | State::Expired if retake && (hold.lines.is_empty() || hold.moved_to.is_some()) => {
            Err(Refused::OutOfStock { shortages: Vec::new() })
        }
        State::Released | State::Expired if retake => Ok(Effect::Retake),
        State::Released => Err(Refused::HoldReleased(hold.id)),
        State::Expired => Err(Refused::HoldExpired(hold.id)),
        State::Confirmed | State::Returned => Err(Refused::HoldConfirmed(hold.id)),
    }
}

fn unpin(hold: &Hold, attempt: PaymentAttemptId, now: DateTime<Utc>) -> Effect {
    use HoldState as State;
    // While another attempt pins, this one is blocked already: attempts of one order follow one another.
    let may_be_pinned = matches!(hold.state, State::Held | State::Released | State::Expired) && !hold.lines.is_empty();
    if hold.is_pinned_by(attempt) && hold.is_pinned_late() && hold.expires_at <= now {
        // Its time was up before the pin, and no payment came of it.
        Effect::Release
    } else if hold.is_pinned_by(attempt) {
        Effect::Unpin
    } else if may_be_pinned && !hold.unpinned_by.contains(&attempt) {
        Effect::BlockAttempt
    } else {
        Effect::Nothing
    }
}

/// Changes `hold` by `effect`.
pub fn apply(effect: Effect, step: &Step, hold: &mut Hold, now: DateTime<Utc>) {
    hold.state = match effect {
        Effect::Nothing | Effect::Tombstone => return,
        Effect::BlockAttempt => hold.state,
        Effect::Pin | Effect::Retake => HoldState::Pinned,
        Effect::Unpin => HoldState::Held,
        Effect::Release => HoldState::Released,
        Effect::Confirm => HoldState::Confirmed,
        Effect::Return | Effect::ConfirmAndReturn => HoldState::Returned,
    };
    hold.pin = None;
    match step {
        Step::Pin { attempt, retake } => {
            hold.pin = Some(Pin { attempt: *attempt, late: *retake });
            if effect == Effect::Retake {
                // It had ended, maybe before its time was up: an unpin releases it then.
                hold.expires_at = hold.expires_at.min(now);
            }
        }
        Step::Unpin { attempt, lives_min } => {
            hold.unpinned_by.push(*attempt);
            if effect == Effect::Unpin {
                hold.expires_at = hold.expires_at.max(now + *lives_min);
            }
        }
        Step::Confirm { order_version } | Step::Refund { order_version } => hold.order_version = Some(*order_version),
        Step::Release { .. } | Step::Return { .. } => {}
    }
}

#[cfg(test)]
mod tests;
