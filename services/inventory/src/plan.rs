//! Rules of a batch of steps: what each does after those before it, and what all of them write together.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use contract::ids::{HoldId, ProductId, SeatId};

use crate::gate::{GateUpdate, Mark};
use crate::hold::{Effect, Hold, HoldState, Step, apply, effect_of};
use crate::refused::{Refused, Shortage};
use crate::seat::Seat;
use crate::stock::{Move, Moves, Stock};

/// A step of one hold.
#[derive(Debug, Clone)]
pub struct HoldStep {
    pub hold: HoldId,
    pub step: Step,
}

/// Everything that a batch writes and answers.
#[derive(Debug, Default)]
pub struct Plan {
    /// One for each step: the hold after it.
    pub outcomes: Vec<Result<Hold, Refused>>,
    pub effects: Vec<Effect>,
    /// All holds of the batch after it.
    pub holds: HashMap<HoldId, Hold>,
    /// The holds to write, each with the reason for its new state.
    pub changed: BTreeMap<HoldId, Option<String>>,
    pub tombstones: BTreeMap<HoldId, String>,
    pub moves: Moves,
    pub audits: Vec<Audit>,
    pub gate_updates: Vec<GateUpdate>,
    /// The holds that take units again, and with them their seats.
    pub retaken: BTreeSet<HoldId>,
}

/// A movement of units on hand.
#[derive(Debug)]
pub struct Audit {
    pub product: ProductId,
    pub hold: HoldId,
    pub kind: &'static str,
    pub delta: i64,
    pub reason: Option<String>,
}

/// A step moves stock that the transaction has not locked.
#[derive(Debug)]
pub struct StockNotLocked;

/// The products whose stock `steps` will move if nobody changes the holds first.
pub fn moved_products(steps: &[HoldStep], holds: &HashMap<HoldId, Hold>, now: DateTime<Utc>) -> Vec<ProductId> {
    let moved = steps.iter().filter_map(|HoldStep { hold, step }| {
        let hold = holds.get(hold)?;
        effect_of(step, hold.id, Some(hold), now).is_ok_and(Effect::moves_stock).then_some(hold)
    });
    let mut products: Vec<_> = moved.flat_map(|hold| &hold.lines).map(|line| line.product).collect();
    products.sort();
    products.dedup();
    products
}

impl Plan {
    /// `stocks` are the rows as they were locked, `freed` the units that were taken over from expired holds since, `seats`
    /// those of all holds that may take theirs again.
    pub fn new(
        steps: &[HoldStep],
        holds: HashMap<HoldId, Hold>,
        stocks: &BTreeMap<ProductId, Stock>,
        seats: &HashMap<SeatId, Seat>,
        freed: Moves,
        now: DateTime<Utc>,
    ) -> Result<Plan, StockNotLocked> {
        let mut plan = Plan { holds, moves: freed, ..Plan::default() };
        for HoldStep { hold, step } in steps {
            let effect = match effect_of(step, *hold, plan.holds.get(hold), now) {
                Ok(effect) if effect.moves_stock() && !plan.has_stock_of(*hold, stocks) => return Err(StockNotLocked),
                Ok(Effect::Retake) => plan.check_retake(*hold, stocks, seats).map(|()| Effect::Retake),
                outcome => outcome,
            };
            let outcome = effect.and_then(|effect| {
                plan.add(*hold, step, effect, now);
                plan.holds.get(hold).cloned().ok_or(Refused::HoldNotFound(*hold))
            });
            plan.outcomes.push(outcome);
        }
        Ok(plan)
    }

    fn has_stock_of(&self, hold: HoldId, stocks: &BTreeMap<ProductId, Stock>) -> bool {
        self.holds.get(&hold).is_some_and(|hold| hold.lines.iter().all(|line| stocks.contains_key(&line.product)))
    }

    /// All lines or none, of what the steps before have left. The limit per buyer does not apply: the money is captured.
    fn check_retake(
        &self,
        hold: HoldId,
        stocks: &BTreeMap<ProductId, Stock>,
        seats: &HashMap<SeatId, Seat>,
    ) -> Result<(), Refused> {
        let mut shortages = Vec::new();
        for line in self.holds.get(&hold).into_iter().flat_map(|hold| &hold.lines) {
            let mut available =
                stocks.get(&line.product).map_or(0, |stock| stock.sellable_after(&self.moves, line.product));
            // Another seat is no substitute for its own.
            if line.seats.iter().any(|seat| self.is_taken(hold, seat.seat_id, seats)) {
                available = 0;
            }
            if available < i64::from(line.quantity) {
                let available = available.max(0);
                shortages.push(Shortage { product: line.product, requested: line.quantity, available });
            }
        }
        if shortages.is_empty() { Ok(()) } else { Err(Refused::OutOfStock { shortages }) }
    }

    /// By another hold than `hold`, after the steps before.
    fn is_taken(&self, hold: HoldId, seat: SeatId, seats: &HashMap<SeatId, Seat>) -> bool {
        let Some(stored) = seats.get(&seat) else { return true };
        let lives = |other: HoldId| self.holds.get(&other).is_none_or(|other| other.state.has_units());
        let again = self.retaken.iter().filter(|other| **other != hold && lives(**other));
        let mut again = again.filter_map(|other| self.holds.get(other)).flat_map(Hold::seats);
        stored.taken.is_some_and(|taken| taken.hold != hold && lives(taken.hold))
            || again.any(|held| held.seat_id == seat)
    }

    fn add(&mut self, id: HoldId, step: &Step, effect: Effect, now: DateTime<Utc>) {
        self.effects.push(effect);
        let reason = match step {
            Step::Release { reason, .. } | Step::Return { reason } => Some(reason.clone()),
            Step::Refund { .. } => Some("order refunded".to_owned()),
            Step::Pin { .. } | Step::Unpin { .. } | Step::Confirm { .. } => None,
        };
        match effect {
            Effect::Nothing => return,
            Effect::Tombstone => {
                self.tombstones.insert(id, reason.unwrap_or_default());
                self.holds.insert(id, tombstone(id, now));
                return;
            }
            _ => {}
        }
        let Some(hold) = self.holds.get_mut(&id) else { return };
        apply(effect, step, hold, now);
        if effect == Effect::Retake {
            self.retaken.insert(id);
        }
        if effect == Effect::BlockAttempt {
            // The state stays, and so does a reason that an earlier step of the batch has given.
            self.changed.entry(id).or_default();
            return;
        }
        let remaining_ms = (hold.expires_at - now).num_milliseconds();
        for line in &hold.lines {
            let (product, quantity) = (line.product, i64::from(line.quantity));
            let (change, mark, audits) = movement(effect, id, quantity, remaining_ms);
            self.gate_updates.push(GateUpdate { product, quantity, mark });
            if effect.moves_stock() {
                let moved = self.moves.entry(product).or_default();
                moved.on_hand += change.on_hand;
                moved.held += change.held;
                moved.restocked += change.restocked;
            }
            for (kind, delta) in audits {
                self.audits.push(Audit { product, hold: id, kind, delta, reason: reason.clone() });
            }
        }
        self.changed.insert(id, reason);
    }
}

fn tombstone(id: HoldId, now: DateTime<Utc>) -> Hold {
    Hold {
        id,
        user: None,
        state: HoldState::Released,
        expires_at: now,
        pin: None,
        unpinned_by: Vec::new(),
        order_version: None,
        concert: None,
        moved_to: None,
        lines: Vec::new(),
    }
}

/// What a line of `quantity` units changes in its stock, in the gate and in the audit.
fn movement(effect: Effect, hold: HoldId, quantity: i64, remaining_ms: i64) -> (Move, Mark, Vec<(&'static str, i64)>) {
    let (sale, back) = (("CONFIRM", -quantity), ("RETURN", quantity));
    let none = Move::default();
    match effect {
        Effect::Pin => (none, Mark::Keep { hold, remaining_ms: None }, vec![]),
        Effect::Retake => (Move { held: quantity, ..none }, Mark::Keep { hold, remaining_ms: None }, vec![]),
        Effect::Unpin => (none, Mark::Keep { hold, remaining_ms: Some(remaining_ms) }, vec![]),
        Effect::Release => (Move { held: -quantity, ..none }, Mark::Back { hold }, vec![]),
        Effect::Confirm => {
            (Move { on_hand: -quantity, held: -quantity, restocked: 0 }, Mark::Sold { hold }, vec![sale])
        }
        Effect::Return => (Move { on_hand: quantity, held: 0, restocked: quantity }, Mark::Units, vec![back]),
        Effect::ConfirmAndReturn => {
            (Move { on_hand: 0, held: -quantity, restocked: quantity }, Mark::Back { hold }, vec![sale, back])
        }
        Effect::BlockAttempt | Effect::Nothing | Effect::Tombstone => (none, Mark::Back { hold }, vec![]),
    }
}

#[cfg(test)]
mod tests;
