//! Rules of a hold's life: `HELD → PINNED → CONFIRMED → RETURNED`, or `RELEASED`, or `EXPIRED`.

use chrono::{DateTime, Utc};
use contract::ids::{AccountId, HoldId, ProductId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::refused::Refused;

/// Spelt in the database and in JSON as in the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum HoldState {
    Held,
    /// A payment is under way: it can neither expire nor be taken over.
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
    pub lines: Vec<HoldLine>,
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

/// How a hold is to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    Release { reason: String },
    Confirm { order_version: i64 },
    Return { reason: String },
}

/// What an ending does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The units go back on sale.
    Release,
    /// The units leave the stock.
    Confirm,
    /// The sold units come back into the stock.
    Return,
    /// It had ended so before.
    Nothing,
    /// Nobody knows this hold: whoever comes with its id later comes too late.
    Tombstone,
}

/// Ends a hold: at most once in each direction, and a repeat is a success.
pub fn end(id: HoldId, hold: Option<&Hold>, ending: &Ending, now: DateTime<Utc>) -> Result<Effect, Refused> {
    use HoldState as State;
    let Some(hold) = hold else {
        return match ending {
            Ending::Release { .. } => Ok(Effect::Tombstone),
            Ending::Confirm { .. } => Err(Refused::HoldNotFound(id)),
            Ending::Return { .. } => Err(Refused::HoldNotConfirmed(id)),
        };
    };
    match (ending, hold.state) {
        // Its units are still counted as held, so they are given back here even if its time is up.
        (Ending::Release { .. }, State::Held | State::Pinned) => Ok(Effect::Release),
        (Ending::Release { .. }, State::Released | State::Expired | State::Returned) => Ok(Effect::Nothing),
        (Ending::Release { .. }, State::Confirmed) => Err(Refused::HoldConfirmed(id)),

        (Ending::Confirm { .. }, State::Held) if hold.is_due(now) => Err(Refused::HoldExpired(id)),
        (Ending::Confirm { .. }, State::Held | State::Pinned) => Ok(Effect::Confirm),
        (Ending::Confirm { .. }, State::Confirmed | State::Returned) => Ok(Effect::Nothing),
        (Ending::Confirm { .. }, State::Released) => Err(Refused::HoldReleased(id)),
        (Ending::Confirm { .. }, State::Expired) => Err(Refused::HoldExpired(id)),

        (Ending::Return { .. }, State::Confirmed) => Ok(Effect::Return),
        (Ending::Return { .. }, State::Returned) => Ok(Effect::Nothing),
        (Ending::Return { .. }, State::Held | State::Pinned | State::Released | State::Expired) => {
            Err(Refused::HoldNotConfirmed(id))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(state: HoldState, seconds_left: i64) -> (Hold, DateTime<Utc>) {
        let now = DateTime::UNIX_EPOCH + chrono::Duration::days(20_000);
        let expires_at = now + chrono::Duration::seconds(seconds_left);
        (Hold { id: HoldId::generate(), user: Some(AccountId::generate()), state, expires_at, lines: Vec::new() }, now)
    }

    fn check(state: HoldState, seconds_left: i64, ending: &Ending, expected: Result<Effect, &str>) {
        let (hold, now) = hold(state, seconds_left);
        let outcome = end(hold.id, Some(&hold), ending, now);
        let outcome = outcome.map_err(|refused| common::Refusal::code(&refused).reason);
        assert_eq!(
            outcome.as_ref().map_err(|reason| &**reason),
            expected.as_ref().map_err(|r| *r),
            "{state:?} {ending:?}"
        );
    }

    #[test]
    fn every_state_meets_every_ending() {
        use HoldState as State;
        let release = Ending::Release { reason: String::new() };
        let confirm = Ending::Confirm { order_version: 1 };
        let give_back = Ending::Return { reason: String::new() };

        check(State::Held, 1, &release, Ok(Effect::Release));
        check(State::Held, -1, &release, Ok(Effect::Release));
        check(State::Pinned, -1, &release, Ok(Effect::Release));
        check(State::Confirmed, 1, &release, Err("HOLD_ALREADY_CONFIRMED"));
        check(State::Released, 1, &release, Ok(Effect::Nothing));
        check(State::Expired, -1, &release, Ok(Effect::Nothing));

        check(State::Held, 1, &confirm, Ok(Effect::Confirm));
        check(State::Held, 0, &confirm, Err("HOLD_EXPIRED"));
        check(State::Pinned, -1, &confirm, Ok(Effect::Confirm));
        check(State::Confirmed, 1, &confirm, Ok(Effect::Nothing));
        check(State::Released, 1, &confirm, Err("HOLD_ALREADY_RELEASED"));
        check(State::Expired, -1, &confirm, Err("HOLD_EXPIRED"));

        check(State::Confirmed, 1, &give_back, Ok(Effect::Return));
        check(State::Returned, 1, &give_back, Ok(Effect::Nothing));
        check(State::Held, 1, &give_back, Err("HOLD_NOT_CONFIRMED"));
    }

    #[test]
    fn an_unknown_hold_can_only_be_released() {
        let (hold, now) = hold(HoldState::Held, 1);
        let release = Ending::Release { reason: String::new() };
        assert_eq!(end(hold.id, None, &release, now), Ok(Effect::Tombstone));
        let confirm = Ending::Confirm { order_version: 1 };
        assert_eq!(end(hold.id, None, &confirm, now), Err(Refused::HoldNotFound(hold.id)));
    }

    #[test]
    fn a_repeat_is_answered_only_while_the_hold_lives_and_only_to_its_owner() {
        for (state, seconds_left, answered) in [
            (HoldState::Held, 1, true),
            (HoldState::Held, 0, false),
            (HoldState::Pinned, -1, true),
            (HoldState::Confirmed, -1, true),
            (HoldState::Released, 1, false),
            (HoldState::Expired, 1, false),
            (HoldState::Returned, 1, false),
        ] {
            let (hold, now) = hold(state, seconds_left);
            let owner = hold.user.unwrap();
            assert_eq!(known_to_be(&hold, owner, now).is_ok(), answered, "{state:?}");
            assert!(known_to_be(&hold, AccountId::generate(), now).is_err());
        }
    }
}
