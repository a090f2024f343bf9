//! Rules of a hold's life: `HELD ⇄ PINNED → CONFIRMED → RETURNED`, or `RELEASED`, or `EXPIRED`; and back from these two
//! when a payment was approved too late.

use chrono::{DateTime, Duration, Utc};
use contract::ids::{AccountId, HoldId, PaymentAttemptId, ProductId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::refused::Refused;

/// Spelt in the database and in JSON as in the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum HoldState {
    Held,
    /// An attempt to pay is under way: it can neither expire nor be taken over.
    Pinned,
    /// Sold.
    Confirmed,
    Released,
    Expired,
    /// Sold, and put back on sale by a refund.
    Returned,
}

impl HoldState {
    pub const ALL: [HoldState; 6] = [
        HoldState::Held,
        HoldState::Pinned,
        HoldState::Confirmed,
        HoldState::Released,
        HoldState::Expired,
        HoldState::Returned,
    ];

    pub fn name(self) -> &'static str {
        match self {
            HoldState::Held => "HELD",
            HoldState::Pinned => "PINNED",
            HoldState::Confirmed => "CONFIRMED",
            HoldState::Released => "RELEASED",
            HoldState::Expired => "EXPIRED",
            HoldState::Returned => "RETURNED",
        }
    }

    pub fn parse(name: &str) -> Option<HoldState> {
        Self::ALL.into_iter().find(|state| state.name() == name)
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
    /// All attempts that ended without having paid: should a pin of theirs come only now, it comes too late.
    pub unpinned_by: Vec<PaymentAttemptId>,
    /// Of the order whose sale it is; None before that.
    pub order_version: Option<i64>,
    pub lines: Vec<HoldLine>,
}

/// What a pinned hold waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    pub attempt: PaymentAttemptId,
    /// The money was there first, and the hold's time may have been up. News that the order has ended is older than that.
    pub late: bool,
}

/// Immutable: the price at which the hold was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldLine {
    pub product: ProductId,
    pub quantity: i32,
    pub unit_price: i64,
    pub currency: String,
    pub sku: String,
    pub name: String,
}

impl Hold {
    /// A hold whose time is up has expired, whether or not the sweeper has come.
    pub fn is_due(&self, now: DateTime<Utc>) -> bool {
        self.state == HoldState::Held && self.expires_at <= now
    }

    /// As readers see it at `now`.
    pub fn state_at(&self, now: DateTime<Utc>) -> HoldState {
        if self.is_due(now) { HoldState::Expired } else { self.state }
    }

    fn is_pinned_by(&self, attempt: PaymentAttemptId) -> bool {
        self.pin.is_some_and(|pin| pin.attempt == attempt)
    }

    /// Whether it became the sale of its order after the order had `version`.
    fn is_sold_since(&self, version: i64) -> bool {
        self.order_version.is_some_and(|sold| sold > version)
    }
}

/// Whether a repeated Hold is answered with the hold that is there. Someone else's hold is not shown.
pub fn known_to_be(hold: &Hold, user: AccountId, now: DateTime<Utc>) -> Result<(), Refused> {
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
    /// With `retake` the money is there already: whatever has become of the hold, take its units again.
    Pin {
        attempt: PaymentAttemptId,
        retake: bool,
    },
    /// `lives_min` is the least that is left of the hold then, so that the buyer can try again.
    Unpin {
        attempt: PaymentAttemptId,
        lives_min: Duration,
    },
    /// `order_version` of the order that ended, if it is known.
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
    /// The order was paid and its money has gone back: proof of a sale, even if the news of that is still on its way.
    Refund {
        order_version: i64,
    },
}

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The units, which are held, wait for a payment.
    Pin,
    /// The units, which went back on sale, are taken out of it again for a payment.
    Retake,
    Unpin,
    /// The attempt, which pins nothing, cannot pin any more: its request may be on its way.
    Bar,
    /// The units go back on sale.
    Release,
    /// The units leave the stock.
    Confirm,
    /// The sold units come back into the stock.
    Return,
    /// A sale and its return in one: the units were held until now.
    ConfirmAndReturn,
    /// It had been done before, or is not for this caller to do.
    Nothing,
    /// Nobody knows this hold: whoever comes with its id later comes too late.
    Tombstone,
}

impl Effect {
    /// Whether it changes a row of stock, which must be locked for that.
    pub fn moves_stock(self) -> bool {
        match self {
            Effect::Retake | Effect::Release | Effect::Confirm | Effect::Return | Effect::ConfirmAndReturn => true,
            Effect::Pin | Effect::Unpin | Effect::Bar | Effect::Nothing | Effect::Tombstone => false,
        }
    }
}

/// What `step` comes to: a repeat is a success, and whatever contradicts what has happened has its own refusal.
pub fn effect_of(step: &Step, id: HoldId, hold: Option<&Hold>, now: DateTime<Utc>) -> Result<Effect, Refused> {
    use HoldState as State;
    let Some(hold) = hold else { return effect_on_unknown(step, id) };
    match (step, hold.state) {
        (Step::Pin { attempt, retake }, _) => pin(hold, *attempt, *retake, now),
        (Step::Unpin { attempt, .. }, _) => Ok(unpin(hold, *attempt, now)),

        // The end of the order is older than the payment that came late: that decides, and unpins or confirms.
        (Step::Release { .. }, State::Pinned) if hold.pin.is_some_and(|pin| pin.late) => Ok(Effect::Nothing),
        // Its units are still counted as held, so they are given back here even if its time is up.
        (Step::Release { .. }, State::Held | State::Pinned) => Ok(Effect::Release),
        (Step::Release { .. }, State::Released | State::Expired | State::Returned) => Ok(Effect::Nothing),
        // The news of the sale has overtaken that of an end which a late payment has undone.
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
        // What was pinned in good time is now known to be paid.
        State::Pinned if retake && hold.pin.is_some_and(|pin| !pin.late) => Ok(Effect::Pin),
        State::Pinned => Ok(Effect::Nothing),
        State::Held | State::Released | State::Expired if hold.unpinned_by.contains(&attempt) => {
            Err(Refused::PaymentInProgress(hold.id))
        }
        State::Held if hold.is_due(now) && !retake => Err(Refused::HoldExpired(hold.id)),
        State::Held => Ok(Effect::Pin),
        // Nobody knows what a tombstone would have held.
        State::Released | State::Expired if retake && hold.lines.is_empty() => {
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
    // Not while another attempt pins: attempts follow one another, so this one has ended before that.
    let may_be_pinned = matches!(hold.state, State::Held | State::Released | State::Expired) && !hold.lines.is_empty();
    if hold.pin.is_some_and(|pin| pin.attempt == attempt && pin.late) && hold.expires_at <= now {
        // Its time was up before the money came, which has not paid it: there is nobody to hold it for.
        Effect::Release
    } else if hold.is_pinned_by(attempt) {
        Effect::Unpin
    } else if may_be_pinned && !hold.unpinned_by.contains(&attempt) {
        Effect::Bar
    } else {
        Effect::Nothing
    }
}

/// Makes `hold` what `effect` leaves of it.
pub fn apply(effect: Effect, step: &Step, hold: &mut Hold, now: DateTime<Utc>) {
    hold.state = match effect {
        Effect::Nothing | Effect::Tombstone => return,
        Effect::Bar => hold.state,
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
                // It had ended, however early.
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
