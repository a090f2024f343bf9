//! What a batch of steps makes of the redemptions that it meets.

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
    let Plan { redemptions, told, .. } = plan.unwrap_or_default();
    Facts { issues: HashMap::from([(issue.id, issue.clone())]), redemptions, told }
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
fn an_order_keeps_what_it_was_told_of_a_refund() {
    for told in [true, false] {
        let mut issue = issue();
        issue.terms.restored_on_refund = told;
        let first = reserve(&issue, 60);
        let plan = Plan::new(std::slice::from_ref(&first), facts(&issue, None), NOW);
        issue.terms.restored_on_refund = !told;
        let refund = Request { asked: Asked::Step(Step::Refund { order_version: 4 }), ..first.clone() };
        let mut known = facts(&issue, Some(plan));
        let refunded = Plan::new(std::slice::from_ref(&refund), known.clone(), NOW);
        assert_eq!(codes(&refunded), [if told { "RESTORED" } else { "CONFIRMED" }]);
        // Reserved by a version that did not keep it.
        known.told.clear();
        let refunded = Plan::new(&[refund], known, NOW);
        assert_eq!(codes(&refunded), [if told { "CONFIRMED" } else { "RESTORED" }]);
    }
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
