//! Rules of a batch of reservations and steps: what each does after those before it, and what all of them write together.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use common::Refusal as _;
use contract::events::{CouponRedeemed, CouponRestored};
use contract::ids::{AccountId, CouponId, CouponIssueId, OrderId};

use crate::coupon::Terms;
use crate::discount::{Line, discounts};
use crate::redemption::{Claim, Effect, Redemption, RedemptionState, Step, apply, check_repeat, effect_of};
use crate::refused::Refused;

/// What is asked of the redemption of one order.
#[derive(Debug, Clone)]
pub struct Request {
    pub order: OrderId,
    pub asked: Asked,
}

#[derive(Debug, Clone)]
pub enum Asked {
    Reserve(Wanted),
    Step(Step),
}

/// A reservation.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub issue: CouponIssueId,
    pub user: AccountId,
    pub currency: String,
    pub lines: Vec<Line>,
    pub expires_at: DateTime<Utc>,
}

/// An issued coupon, with its coupon's terms.
#[derive(Debug, Clone)]
pub struct Issue {
    pub id: CouponIssueId,
    pub coupon: CouponId,
    pub user: AccountId,
    /// Of its events.
    pub version: i64,
    pub coupon_expires_at: DateTime<Utc>,
    pub terms: Terms,
}

/// What a batch starts from, its rows locked.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub issues: HashMap<CouponIssueId, Issue>,
    /// Those of the orders asked for, and the living ones of the issues.
    pub redemptions: HashMap<OrderId, Redemption>,
    pub told: HashMap<OrderId, Told>,
}

/// What an order was told of its coupon when it reserved it, beside the discount. A change of the coupon does not count for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    pub restored_on_refund: bool,
}

/// Everything that a batch writes and answers.
#[derive(Debug, Default)]
pub struct Plan {
    /// One for each request: the redemption after it.
    pub outcomes: Vec<Result<Redemption, Refused>>,
    pub effects: Vec<&'static str>,
    pub issues: HashMap<CouponIssueId, Issue>,
    /// All redemptions of the batch after it.
    pub redemptions: HashMap<OrderId, Redemption>,
    pub told: HashMap<OrderId, Told>,
    /// Rows to insert: reservations and tombstones.
    pub created: BTreeSet<OrderId>,
    /// Rows to update.
    pub changed: BTreeSet<OrderId>,
    pub reasons: BTreeMap<OrderId, String>,
    /// Issues whose version has been raised.
    pub raised: BTreeSet<CouponIssueId>,
    pub redeemed: Vec<CouponRedeemed>,
    pub restored: Vec<CouponRestored>,
}

impl Plan {
    pub fn new(requests: &[Request], facts: Facts, now: DateTime<Utc>) -> Plan {
        let Facts { issues, redemptions, told } = facts;
        let mut plan = Plan { issues, redemptions, told, ..Plan::default() };
        for Request { order, asked } in requests {
            let done = match asked {
                Asked::Reserve(wanted) => {
                    plan.reserve(*order, wanted, now).inspect_err(|refused| plan.refuse_for_good(*order, refused, now))
                }
                Asked::Step(step) => plan.take_step(*order, step, now),
            };
            let outcome =
                done.and_then(|()| plan.redemptions.get(order).cloned().ok_or(Refused::RedemptionNotFound(*order)));
            plan.outcomes.push(outcome);
        }
        plan
    }

    fn reserve(&mut self, order: OrderId, wanted: &Wanted, now: DateTime<Utc>) -> Result<(), Refused> {
        if let Some(first) = self.redemptions.get(&order) {
            return check_repeat(first, wanted.issue, wanted.user, now);
        }
        let issue = self.issues.get(&wanted.issue).filter(|issue| issue.user == wanted.user);
        let issue = issue.ok_or(Refused::IssueNotFound(wanted.issue))?;
        if wanted.expires_at <= now {
            return Err(Refused::RedemptionEnded(order));
        }
        if issue.coupon_expires_at <= now {
            return Err(Refused::Expired);
        }
        let lines = discounts(&issue.terms, &wanted.currency, &wanted.lines)?;
        let claim = Claim {
            issue: issue.id,
            coupon: issue.coupon,
            user: issue.user,
            discount: lines.iter().map(|line| line.discount).sum(),
            currency: wanted.currency.clone(),
            lines,
        };
        let told = Told { restored_on_refund: issue.terms.restored_on_refund };
        self.free(wanted.issue, order, now)?;
        let redemption = Redemption {
            order,
            claim: Some(claim),
            state: RedemptionState::Reserved,
            expires_at: wanted.expires_at,
            pin: None,
            unpinned_by: Vec::new(),
            order_version: None,
        };
        self.redemptions.insert(order, redemption);
        self.told.insert(order, told);
        self.created.insert(order);
        self.effects.push("reserved");
        Ok(())
    }

    /// No order of this id gets a coupon from now on: order gives its units back, so nobody else may place it.
    fn refuse_for_good(&mut self, order: OrderId, refused: &Refused, now: DateTime<Utc>) {
        if let Entry::Vacant(free) = self.redemptions.entry(order) {
            free.insert(tombstone(order, now));
            self.created.insert(order);
            self.reasons.insert(order, refused.code().reason.into_owned());
        }
    }

    /// Takes `issue` from an order whose time is up. Refuses if another order lives with it.
    fn free(&mut self, issue: CouponIssueId, order: OrderId, now: DateTime<Utc>) -> Result<(), Refused> {
        let has_it = |redemption: &&mut Redemption| {
            redemption.order != order
                && redemption.is_living()
                && redemption.claim.as_ref().is_some_and(|claim| claim.issue == issue)
        };
        let Some(holder) = self.redemptions.values_mut().find(has_it) else { return Ok(()) };
        if !holder.is_due(now) {
            return Err(Refused::InUse(issue));
        }
        holder.state = RedemptionState::Expired;
        self.changed.insert(holder.order);
        self.effects.push("taken_over");
        Ok(())
    }

    fn take_step(&mut self, order: OrderId, step: &Step, now: DateTime<Utc>) -> Result<(), Refused> {
        let redemption = self.redemptions.get(&order);
        let issue = redemption.and_then(|redemption| Some(redemption.claim.as_ref()?.issue));
        let restores = self.restores(order, issue);
        let effect = effect_of(step, order, redemption, restores, now)?;
        if let (Effect::Retake, Some(issue)) = (effect, issue) {
            self.free(issue, order, now)?;
        }
        if effect == Effect::Tombstone {
            self.redemptions.insert(order, tombstone(order, now));
            self.created.insert(order);
        } else if effect != Effect::Nothing
            && let Some(redemption) = self.redemptions.get_mut(&order)
        {
            apply(effect, step, redemption, now);
            if !self.created.contains(&order) {
                self.changed.insert(order);
            }
        }
        if let (Step::Release { reason, .. }, Effect::Release | Effect::Tombstone) = (step, effect) {
            self.reasons.insert(order, reason.clone());
        }
        if matches!(effect, Effect::Confirm | Effect::ConfirmAndRestore) {
            self.redeem(order, now);
        }
        if matches!(effect, Effect::Restore | Effect::ConfirmAndRestore) {
            self.restore(order, now);
        }
        self.effects.extend(name(effect));
        Ok(())
    }

    /// Whether a refund gives the coupon back. Of an old redemption nobody knows what its order was told.
    fn restores(&self, order: OrderId, issue: Option<CouponIssueId>) -> bool {
        let now = || Some(self.issues.get(&issue?)?.terms.restored_on_refund);
        self.told.get(&order).map(|told| told.restored_on_refund).or_else(now).unwrap_or(false)
    }

    fn redeem(&mut self, order: OrderId, now: DateTime<Utc>) {
        let Some((claim, version)) = self.raise(order) else { return };
        self.redeemed.push(CouponRedeemed {
            issue_id: claim.issue.to_string(),
            coupon_id: claim.coupon.to_string(),
            user_id: claim.user.to_string(),
            version,
            order_id: order.to_string(),
            discount: claim.discount,
            currency: claim.currency,
            redeemed_at: Some(now.into()),
        });
    }

    fn restore(&mut self, order: OrderId, now: DateTime<Utc>) {
        let Some((claim, version)) = self.raise(order) else { return };
        self.restored.push(CouponRestored {
            issue_id: claim.issue.to_string(),
            coupon_id: claim.coupon.to_string(),
            user_id: claim.user.to_string(),
            version,
            order_id: order.to_string(),
            restored_at: Some(now.into()),
        });
    }

    /// What the order has claimed, and the next version of its issue.
    fn raise(&mut self, order: OrderId) -> Option<(Claim, i64)> {
        let claim = self.redemptions.get(&order)?.claim.clone()?;
        let issue = self.issues.get_mut(&claim.issue)?;
        issue.version += 1;
        self.raised.insert(issue.id);
        Some((claim, issue.version))
    }
}

fn tombstone(order: OrderId, now: DateTime<Utc>) -> Redemption {
    let state = RedemptionState::Released;
    Redemption { order, claim: None, state, expires_at: now, pin: None, unpinned_by: Vec::new(), order_version: None }
}

/// Of an effect, in metrics.
fn name(effect: Effect) -> Option<&'static str> {
    match effect {
        Effect::Pin => Some("pinned"),
        Effect::Retake => Some("retaken"),
        Effect::Unpin => Some("unpinned"),
        Effect::Release => Some("released"),
        Effect::Confirm => Some("confirmed"),
        Effect::Restore | Effect::ConfirmAndRestore => Some("restored"),
        Effect::BlockAttempt | Effect::Nothing | Effect::Tombstone => None,
    }
}

#[cfg(test)]
mod tests;
