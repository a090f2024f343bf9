//! The coupon service with the one coupon that all orders want to use, decided by its own rules.

use common::{Code, Refusal};
use contract::codes::COUPON_IN_USE;
use coupon::redemption::{self, Claim, Effect, Redemption, RedemptionState, Step};
use uuid::Uuid;

use crate::protocol::{Mutation, Protocol};
use crate::rules::{Memory, TICK, at, attempt_id, remembered, ticks};
use crate::servers::Reply;
use crate::state::{Attempt, Pin, RedemptionRow, State, Tag};

/// As `POST /orders` leaves it, at the beginning of its clock.
pub fn reserved() -> RedemptionRow {
    let state = Tag(RedemptionState::Reserved);
    RedemptionRow { state, expires: 1, pin: None, ended: Vec::new(), order_version: None }
}

pub fn pin(attempt: Attempt, retake: bool) -> Step {
    Step::Pin { attempt: attempt_id(attempt), retake }
}

pub fn unpin(attempt: Attempt) -> Step {
    Step::Unpin { attempt: attempt_id(attempt), lives_min: TICK }
}

pub fn confirm(version: u8) -> Step {
    Step::Confirm { order_version: version.into() }
}

pub fn release(version: u8) -> Step {
    Step::Release { reason: String::new(), order_version: Some(version.into()) }
}

pub fn refund(version: u8) -> Step {
    Step::Refund { order_version: version.into() }
}

pub fn is_overdue(row: &RedemptionRow, now: u8) -> bool {
    redemption(row).is_due(at(now))
}

/// Whether its deadline is still to come and anything waits for it.
pub fn is_time_of_use(row: &RedemptionRow, now: u8) -> bool {
    (row.state == Tag(RedemptionState::Reserved) || row.pin.is_some()) && row.expires > now
}

/// Whether the coupon is kept from other orders. One whose time is up is taken over.
pub fn is_in_the_way(row: &RedemptionRow, now: u8) -> bool {
    redemption(row).is_living() && !is_overdue(row, now)
}

fn redemption(row: &RedemptionRow) -> Redemption {
    let claim = Claim {
        issue: Uuid::nil().into(),
        coupon: Uuid::nil().into(),
        user: Uuid::nil().into(),
        discount: 1,
        currency: String::new(),
        lines: Vec::new(),
    };
    Redemption {
        order: Uuid::nil().into(),
        claim: Some(claim),
        state: row.state.0,
        expires_at: at(row.expires),
        pin: row.pin.map(|pin| redemption::Pin { attempt: attempt_id(pin.attempt), late: pin.late }),
        unpinned_by: row.ended.iter().copied().map(attempt_id).collect(),
        order_version: row.order_version.map(i64::from),
    }
}

fn effect_of(row: &RedemptionRow, step: &Step, now: u8) -> Result<Effect, Code> {
    let redemption = redemption(row);
    let effect = redemption::effect_of(step, redemption.order, Some(&redemption), true, at(now));
    effect.map_err(|refused| refused.code())
}

fn apply(row: &mut RedemptionRow, effect: Effect, step: &Step, now: u8, memory: Memory) {
    let mut redemption = redemption(row);
    redemption::apply(effect, step, &mut redemption, at(now));
    row.state = Tag(redemption.state);
    row.expires = ticks(redemption.expires_at);
    row.pin = redemption.pin.map(|pin| Pin { attempt: crate::rules::attempt(pin.attempt), late: pin.late });
    row.ended = remembered(&redemption.unpinned_by, memory);
    row.order_version = redemption.order_version.map(|version| u8::try_from(version).expect("few versions"));
}

impl Protocol {
    /// Whether the second order can use the coupon: the first has it no more, or its time is up.
    pub fn is_coupon_free(&self, state: &State) -> bool {
        let first = state.redemptions[0].as_ref();
        !first.is_some_and(|row| is_in_the_way(row, state.now[0]))
    }

    pub fn ask_coupon(&self, state: &mut State, order: usize, step: &Step) -> Reply {
        let now = state.now[order];
        let other = 1 - order;
        let is_used = state.redemptions[other].as_ref().is_some_and(|row| is_in_the_way(row, state.now[other]));
        let row = state.redemptions[order].as_mut().expect("orders have a redemption where there is a coupon");
        let effect = match effect_of(row, step, now) {
            Ok(effect) => effect,
            Err(code) => return Reply::Refused(code),
        };
        let takes = effect == Effect::Retake && self.mutation != Some(Mutation::CouponIsTakenFromAnother);
        if takes && is_used {
            return Reply::Refused(COUPON_IN_USE);
        }
        apply(row, effect, step, now, self.memory());
        let expires = row.expires;
        if effect == Effect::Retake {
            self.expire_coupon(state, other);
        }
        Reply::Hold { expires }
    }

    /// Whoever takes the coupon stores that the reservation before is over.
    pub fn expire_coupon(&self, state: &mut State, order: usize) {
        let now = state.now[order];
        if let Some(row) = state.redemptions[order].as_mut().filter(|row| is_overdue(row, now)) {
            row.state = Tag(RedemptionState::Expired);
        }
    }
}
