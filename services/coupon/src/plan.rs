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
        let mut plan = Plan { issues: facts.issues, redemptions: facts.redemptions, ..Plan::default() };
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
        let restores =
            issue.and_then(|issue| self.issues.get(&issue)).is_some_and(|issue| issue.terms.restored_on_refund);
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
mod tests {
    use chrono::Duration;
    use contract::ids::{PaymentAttemptId, ProductId};
    use contract::money::{Currency, KRW};

    use super::*;
    use crate::coupon::{Discount, DiscountKind};

    const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

    fn issue() -> Issue {
        let terms = Terms {
            discount: Discount { kind: DiscountKind::Fixed, value: 1000 },
            currency: Currency::Krw,
            minimum_amount: 2000,
            maximum_discount: None,
            products: Vec::new(),
            restored_on_refund: true,
        };
        let (id, coupon, user) = (CouponIssueId::generate(), CouponId::generate(), AccountId::generate());
        Issue { id, coupon, user, version: 0, coupon_expires_at: NOW + Duration::days(1), terms }
    }

    fn reserve(issue: &Issue, seconds: i64) -> Request {
        let wanted = Wanted {
            issue: issue.id,
            user: issue.user,
            currency: KRW.to_owned(),
            lines: vec![Line { product: ProductId::generate(), amount: 5000 }],
            expires_at: NOW + Duration::seconds(seconds),
        };
        Request { order: OrderId::generate(), asked: Asked::Reserve(wanted) }
    }

    fn codes(plan: &Plan) -> Vec<String> {
        let code = |outcome: &Result<Redemption, Refused>| match outcome {
            Ok(redemption) => redemption.state.name().to_owned(),
            Err(refused) => common::Refusal::code(refused).reason.to_string(),
        };
        plan.outcomes.iter().map(code).collect()
    }

    fn facts(issue: &Issue, plan: Option<Plan>) -> Facts {
        let redemptions = plan.map(|plan| plan.redemptions).unwrap_or_default();
        Facts { issues: HashMap::from([(issue.id, issue.clone())]), redemptions }
    }

    #[test]
    fn of_orders_in_one_batch_the_first_gets_the_coupon() {
        let issue = issue();
        let requests: Vec<Request> = (0..3).map(|_| reserve(&issue, 60)).collect();
        let plan = Plan::new(&requests, facts(&issue, None), NOW);
        assert_eq!(codes(&plan), ["RESERVED", "COUPON_IN_USE", "COUPON_IN_USE"]);
        let claims = |plan: &Plan| plan.redemptions.values().filter(|redemption| redemption.claim.is_some()).count();
        assert_eq!((claims(&plan), plan.created.len()), (1, 3), "the refusals are stored, without the coupon");
        // A repeat has the first answer, even with other lines.
        let mut repeat = requests[0].clone();
        if let Asked::Reserve(wanted) = &mut repeat.asked {
            wanted.lines.clear();
        }
        let first = plan.outcomes[0].clone();
        let again = Plan::new(&[repeat], facts(&issue, Some(plan)), NOW);
        assert_eq!((&again.outcomes[0], again.created.len()), (&first, 0));
    }

    #[test]
    fn a_reservation_whose_time_is_up_is_taken_over_by_the_next_order_and_not_before() {
        let issue = issue();
        let (first, second, third) = (reserve(&issue, 60), reserve(&issue, 120), reserve(&issue, 120));
        let early = reserve(&issue, 120);
        let plan = Plan::new(std::slice::from_ref(&first), facts(&issue, None), NOW);
        let before = NOW + Duration::milliseconds(59_999);
        let refused = Plan::new(std::slice::from_ref(&early), facts(&issue, Some(plan)), before);
        assert_eq!(codes(&refused), ["COUPON_IN_USE"]);
        let taken = Plan::new(&[second, third], facts(&issue, Some(refused)), NOW + Duration::seconds(60));
        assert_eq!(codes(&taken), ["RESERVED", "COUPON_IN_USE"]);
        assert_eq!(Vec::from_iter(taken.changed.clone()), [first.order]);
        assert_eq!(taken.redemptions[&first.order].state, RedemptionState::Expired);
    }

    #[test]
    fn a_late_payment_takes_the_coupon_again_unless_another_order_has_it() {
        let issue = issue();
        let attempt = PaymentAttemptId::generate();
        let (first, second) = (reserve(&issue, 60), reserve(&issue, 600));
        let late = Request { asked: Asked::Step(Step::Pin { attempt, retake: true }), ..first.clone() };
        let plan = Plan::new(std::slice::from_ref(&first), facts(&issue, None), NOW);
        let later = NOW + Duration::seconds(61);
        let taken = Plan::new(&[second.clone(), late.clone()], facts(&issue, Some(plan)), later);
        assert_eq!(codes(&taken), ["RESERVED", "COUPON_IN_USE"]);
        let release = Step::Release { reason: "order cancelled".to_owned(), order_version: None };
        let requests = [Request { asked: Asked::Step(release), ..second }, late];
        let retaken = Plan::new(&requests, facts(&issue, Some(taken)), later);
        assert_eq!(codes(&retaken), ["RELEASED", "PINNED"]);
    }

    #[test]
    fn a_refund_that_comes_first_tells_of_both() {
        let issue = issue();
        let first = reserve(&issue, 60);
        let step = |step| Request { asked: Asked::Step(step), ..first.clone() };
        let (refund, confirm) = (Step::Refund { order_version: 4 }, Step::Confirm { order_version: 3 });
        let plan = Plan::new(&[first.clone(), step(refund), step(confirm)], facts(&issue, None), NOW);
        assert_eq!(codes(&plan), ["RESERVED", "RESTORED", "RESTORED"]);
        assert_eq!((plan.redeemed[0].version, plan.restored[0].version), (1, 2));
        assert_eq!((plan.redeemed.len(), plan.restored.len(), plan.issues[&issue.id].version), (1, 1, 2));
        let another = Plan::new(&[reserve(&issue, 60)], facts(&issue, Some(plan)), NOW);
        assert_eq!(codes(&another), ["RESERVED"], "it can be used again");
    }

    #[test]
    fn a_coupon_of_another_account_or_past_its_time_is_refused() {
        let issue = issue();
        let mut strangers = reserve(&issue, 60);
        if let Asked::Reserve(wanted) = &mut strangers.asked {
            wanted.user = AccountId::generate();
        }
        let unknown = Issue { id: CouponIssueId::generate(), ..issue.clone() };
        let plan = Plan::new(&[strangers, reserve(&unknown, 60), reserve(&issue, 0)], facts(&issue, None), NOW);
        assert_eq!(codes(&plan), ["COUPON_ISSUE_NOT_FOUND", "COUPON_ISSUE_NOT_FOUND", "REDEMPTION_ENDED"]);
        let over = Plan::new(&[reserve(&issue, 200_000)], facts(&issue, None), issue.coupon_expires_at);
        assert_eq!(codes(&over), ["COUPON_EXPIRED"]);
    }

    #[test]
    fn an_order_that_was_refused_once_is_refused_for_ever() {
        let issue = issue();
        let (first, second) = (reserve(&issue, 60), reserve(&issue, 60));
        let release = Step::Release { reason: "order cancelled".to_owned(), order_version: Some(2) };
        let released = Request { asked: Asked::Step(release), ..first.clone() };
        let plan = Plan::new(&[first, second.clone(), released, second.clone()], facts(&issue, None), NOW);
        assert_eq!(codes(&plan), ["RESERVED", "COUPON_IN_USE", "RELEASED", "REDEMPTION_ENDED"]);
        assert_eq!(plan.reasons[&second.order], "COUPON_IN_USE");
        assert!(plan.created.contains(&second.order), "the refusal is stored");
    }

    #[test]
    fn an_order_that_ended_first_gets_no_coupon() {
        let issue = issue();
        let first = reserve(&issue, 60);
        let release = Step::Release { reason: "order cancelled".to_owned(), order_version: Some(2) };
        let requests = [Request { asked: Asked::Step(release), ..first.clone() }, first];
        let plan = Plan::new(&requests, facts(&issue, None), NOW);
        assert_eq!(codes(&plan), ["RELEASED", "REDEMPTION_ENDED"]);
    }
}
