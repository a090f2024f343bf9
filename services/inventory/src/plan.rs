//! Rules of a batch of steps: what each comes to after those before it, and what all of them write together.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use contract::ids::{HoldId, ProductId};

use crate::gate::{Mark, Settlement};
use crate::hold::{Effect, Hold, HoldState, Step, apply, effect_of};
use crate::refused::{Refused, Shortage};
use crate::stock::{Move, Moves, Stock};

/// One hold and what is asked of it.
#[derive(Debug, Clone)]
pub struct Settle {
    pub hold: HoldId,
    pub step: Step,
}

/// Everything that a batch writes and answers.
#[derive(Debug, Default)]
pub struct Plan {
    /// One for each step: the hold as it is then.
    pub outcomes: Vec<Result<Hold, Refused>>,
    pub effects: Vec<Effect>,
    /// All holds of the batch as it leaves them.
    pub holds: HashMap<HoldId, Hold>,
    /// The headers to write, with the reason that they show if their state is another one.
    pub changed: BTreeMap<HoldId, Option<String>>,
    pub tombstones: BTreeMap<HoldId, String>,
    pub moves: Moves,
    pub audits: Vec<Audit>,
    pub settlements: Vec<Settlement>,
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

/// The products whose stock `asked` is going to move, as far as can be told before anything is locked.
pub fn moved_products(asked: &[Settle], holds: &HashMap<HoldId, Hold>, now: DateTime<Utc>) -> Vec<ProductId> {
    let moved = asked.iter().filter_map(|settle| {
        let hold = holds.get(&settle.hold)?;
        effect_of(&settle.step, hold.id, Some(hold), now).is_ok_and(Effect::moves_stock).then_some(hold)
    });
    let mut products: Vec<_> = moved.flat_map(|hold| &hold.lines).map(|line| line.product).collect();
    products.sort();
    products.dedup();
    products
}

impl Plan {
    /// `stocks` are the rows that are locked and `freed` what is moved in them already. None: a step needs a row that
    /// is not among them.
    pub fn new(
        asked: &[Settle],
        holds: HashMap<HoldId, Hold>,
        stocks: &BTreeMap<ProductId, Stock>,
        freed: Moves,
        now: DateTime<Utc>,
    ) -> Option<Plan> {
        let mut plan = Plan { holds, moves: freed, ..Plan::default() };
        for settle in asked {
            let outcome = effect_of(&settle.step, settle.hold, plan.holds.get(&settle.hold), now);
            let outcome = match outcome {
                Ok(effect) if effect.moves_stock() && !plan.has_stock_of(settle.hold, stocks) => return None,
                Ok(Effect::Retake) => plan.may_retake(settle.hold, stocks).map(|()| Effect::Retake),
                outcome => outcome,
            };
            let outcome = outcome.and_then(|effect| {
                plan.take(settle, effect, now);
                plan.holds.get(&settle.hold).cloned().ok_or(Refused::HoldNotFound(settle.hold))
            });
            plan.outcomes.push(outcome);
        }
        Some(plan)
    }

    /// The products that a payment was refused for want of units.
    pub fn short_products(&self) -> Vec<ProductId> {
        let mut short = Vec::new();
        for outcome in &self.outcomes {
            if let Err(Refused::OutOfStock { shortages }) = outcome {
                short.extend(shortages.iter().map(|shortage| shortage.product));
            }
        }
        short.sort();
        short.dedup();
        short
    }

    fn has_stock_of(&self, hold: HoldId, stocks: &BTreeMap<ProductId, Stock>) -> bool {
        self.holds.get(&hold).is_some_and(|hold| hold.lines.iter().all(|line| stocks.contains_key(&line.product)))
    }

    /// All lines or none, from what the steps before have left. A payment that was made is not judged by limits again.
    fn may_retake(&self, hold: HoldId, stocks: &BTreeMap<ProductId, Stock>) -> Result<(), Refused> {
        let mut shortages = Vec::new();
        for line in self.holds.get(&hold).into_iter().flat_map(|hold| &hold.lines) {
            let change = self.moves.get(&line.product).copied().unwrap_or_default();
            let sellable = stocks.get(&line.product).map_or(0, Stock::sellable);
            let available = sellable + change.on_hand - change.held;
            if available < i64::from(line.quantity) {
                let available = available.max(0);
                shortages.push(Shortage { product: line.product, requested: line.quantity, available });
            }
        }
        if shortages.is_empty() { Ok(()) } else { Err(Refused::OutOfStock { shortages }) }
    }

    fn take(&mut self, settle: &Settle, effect: Effect, now: DateTime<Utc>) {
        self.effects.push(effect);
        let id = settle.hold;
        let reason = match &settle.step {
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
        apply(effect, &settle.step, hold, now);
        if effect == Effect::Bar {
            // Its state, and the reason for that, are what an earlier step has made them.
            self.changed.entry(id).or_default();
            return;
        }
        let remaining_ms = (hold.expires_at - now).num_milliseconds();
        for line in &hold.lines {
            let (product, quantity) = (line.product, i64::from(line.quantity));
            let (change, mark, audits) = movement(effect, quantity, remaining_ms);
            self.settlements.push(Settlement { product, hold: id, quantity, mark });
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
    let (state, lines) = (HoldState::Released, Vec::new());
    Hold { id, user: None, state, expires_at: now, pin: None, unpinned_by: Vec::new(), order_version: None, lines }
}

/// What one line of a hold is to its stock, to the gate and to the audit.
fn movement(effect: Effect, quantity: i64, remaining_ms: i64) -> (Move, Mark, Vec<(&'static str, i64)>) {
    let (sale, back) = (("CONFIRM", -quantity), ("RETURN", quantity));
    let none = Move::default();
    match effect {
        Effect::Pin => (none, Mark::Keep { remaining_ms: None }, vec![]),
        Effect::Retake => (Move { held: quantity, ..none }, Mark::Keep { remaining_ms: None }, vec![]),
        Effect::Unpin => (none, Mark::Keep { remaining_ms: Some(remaining_ms) }, vec![]),
        Effect::Release => (Move { held: -quantity, ..none }, Mark::Back, vec![]),
        Effect::Confirm => (Move { on_hand: -quantity, held: -quantity, restocked: 0 }, Mark::Sold, vec![sale]),
        Effect::Return => (Move { on_hand: quantity, held: 0, restocked: quantity }, Mark::Units, vec![back]),
        Effect::ConfirmAndReturn => {
            (Move { on_hand: 0, held: -quantity, restocked: quantity }, Mark::Back, vec![sale, back])
        }
        Effect::Bar | Effect::Nothing | Effect::Tombstone => (none, Mark::Back, vec![]),
    }
}

#[cfg(test)]
mod tests;
