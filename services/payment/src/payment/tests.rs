//! Every status with everything that can happen to a payment, and long random histories in which money is conserved.

use common::Refusal;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use strum::VariantArray;
use testkit::properties::{quick, soak};

use super::*;

mod lives;
mod resolving;

#[test]
fn names_are_read_as_they_are_written() {
    for status in Status::VARIANTS.iter().copied() {
        assert_eq!(status.name().parse().ok(), Some(status));
        assert_eq!(serde_json::to_value(status).unwrap(), status.name());
    }
    assert!("paid".parse::<Status>().is_err());
    for method in Method::VARIANTS.iter().copied() {
        assert_eq!(method.name().parse().ok(), Some(method));
        assert_eq!(serde_json::to_value(method).unwrap(), method.name());
    }
}

/// A payment by NaverPay as `prepare_payment.rs` stores it. It expires an hour after `now`.
fn prepared(amount: i64, now: DateTime<Utc>) -> Payment {
    Payment {
        id: PaymentId::generate(),
        order_id: OrderId::generate(),
        user_id: AccountId::generate(),
        method: Method::NaverPay,
        amount,
        currency: "KRW".to_owned(),
        fingerprint: Vec::new(),
        status: Status::Pending,
        version: 1,
        attempt_id: None,
        pg_payment_id: None,
        captured: 0,
        refunded: 0,
        expires_at: now + TimeDelta::hours(1),
        approving_since: None,
        requested_at: None,
        ask_at: None,
        asked: 0,
        absent_since: None,
        undo_at: None,
        created_at: now,
        updated_at: now,
        coupon_issue_id: None,
    }
}

const START: DateTime<Utc> = DateTime::UNIX_EPOCH;
const LIMITS: Limits =
    Limits { attempts_per_order_max: 3, head_start: TimeDelta::seconds(11), retry_time: TimeDelta::seconds(60) };

fn approval(payment: &Payment) -> Approval {
    Approval { user: payment.user_id, amount: payment.amount, pg_payment_id: Some("pg-1".to_owned()) }
}

/// A payment whose first attempt is under way, and the attempt.
fn approving() -> (Payment, Attempt) {
    let mut payment = prepared(AMOUNT, START);
    let changes = payment.decide(&Action::Approve(approval(&payment)), Facts::default(), LIMITS, START).unwrap();
    changes.iter().for_each(|change| payment.apply(change, START));
    let attempt = payment.attempt().unwrap();
    (payment, attempt)
}

/// What becomes of `payment` when `outcome` is reported of `attempt`; None when the payment does not move.
fn reported(payment: &Payment, attempt: &Attempt, report: AttemptReport, now: DateTime<Utc>) -> Option<Status> {
    let action = Action::Report { attempt: attempt.clone(), report };
    let changes = payment.decide(&action, Facts::default(), LIMITS, now).unwrap();
    changes.iter().find_map(|change| match change {
        Change::Move { status, .. } => Some(*status),
        _ => None,
    })
}

fn report(outcome: AttemptOutcome) -> AttemptReport {
    AttemptReport { outcome, ..AttemptReport::unknown("?", "") }
}

/// `payment` in another status, with the sums that belong to it.
fn in_status(payment: &Payment, status: Status) -> Payment {
    let captured = if status.is_captured() { payment.amount } else { 0 };
    Payment { status, captured, ..payment.clone() }
}

#[test]
fn every_status_decides_about_a_request_to_approve() {
    let payment = prepared(AMOUNT, START);
    let outcome = |status| {
        let changes =
            in_status(&payment, status).decide(&Action::Approve(approval(&payment)), Facts::default(), LIMITS, START);
        changes.map(|changes| changes.len()).map_err(|refused| refused.code().reason)
    };
    assert_eq!(outcome(Status::Pending), Ok(1), "an attempt begins");
    for status in [Status::Paid, Status::PartiallyRefunded, Status::Unknown, Status::NeedsReview] {
        assert_eq!(outcome(status), Ok(0), "the status is the answer");
    }
    assert_eq!(outcome(Status::Approving), Err("PAYMENT_IN_PROGRESS".into()));
    assert_eq!(outcome(Status::Expired), Err("HOLD_EXPIRED".into()));
    for status in [Status::Refunded, Status::Failed, Status::Cancelled] {
        assert_eq!(outcome(status), Err("PAYMENT_NOT_APPROVABLE".into()));
    }
}

#[test]
fn a_request_to_approve_must_be_the_buyers_and_right_and_the_only_one() {
    let payment = prepared(AMOUNT, START);
    let refusal = |approval: Approval, facts: Facts| {
        payment.decide(&Action::Approve(approval), facts, LIMITS, START).map_err(|refused| refused.code().reason)
    };
    let right = || approval(&payment);
    let free = Facts { attempts: 2, ..Facts::default() };
    assert!(refusal(right(), free).is_ok());
    let another = Approval { user: AccountId::generate(), ..right() };
    assert_eq!(refusal(another, free), Err("PAYMENT_NOT_FOUND".into()));
    assert_eq!(refusal(Approval { amount: AMOUNT + 1, ..right() }, free), Err("AMOUNT_MISMATCH".into()));
    assert_eq!(refusal(Approval { pg_payment_id: None, ..right() }, free), Err("VALIDATION_ERROR".into()));
    assert_eq!(refusal(right(), Facts { has_steps: true, ..free }), Err("PAYMENT_IN_PROGRESS".into()));
    assert_eq!(refusal(right(), Facts { is_other_open: true, ..free }), Err("PAYMENT_IN_PROGRESS".into()));
    assert_eq!(refusal(right(), Facts { attempts: 3, ..free }), Err("PAYMENT_NOT_APPROVABLE".into()));
    let points = Payment { method: Method::Points, ..payment.clone() };
    let by_points = |pg_payment_id| {
        let approval = Approval { pg_payment_id, ..right() };
        points.decide(&Action::Approve(approval), free, LIMITS, START).map_err(|refused| refused.code().reason)
    };
    assert!(by_points(None).is_ok());
    assert_eq!(by_points(Some("pg-1".to_owned())), Err("VALIDATION_ERROR".into()));
}

#[test]
fn every_status_decides_about_a_request_to_cancel() {
    for status in Status::VARIANTS.iter().copied() {
        let outcome = |owes_order| cancel(status, owes_order).map_err(|refused| refused.code().reason);
        let expected = match status {
            Status::Pending | Status::Cancelled => Ok(CancelDecision::End),
            Status::Approving | Status::Unknown | Status::NeedsReview => Err("PAYMENT_IN_PROGRESS".into()),
            Status::Paid | Status::PartiallyRefunded | Status::Refunded => Ok(CancelDecision::Refund),
            Status::Failed | Status::Expired => Err("PAYMENT_NOT_REFUNDABLE".into()),
        };
        assert_eq!(outcome(false), expected, "{status:?}");
        if status.is_captured() {
            assert_eq!(outcome(true), Err("PAYMENT_IN_PROGRESS".into()), "{status:?}: the order is told first");
        }
    }
}

#[test]
fn a_capture_makes_every_payment_paid() {
    let (payment, attempt) = approving();
    for status in Status::VARIANTS.iter().copied() {
        let expected = (!status.is_captured()).then_some(Status::Paid);
        let captured = report(AttemptOutcome::Captured);
        assert_eq!(reported(&in_status(&payment, status), &attempt, captured, START), expected, "{status:?}");
    }
}

#[test]
fn without_a_capture_only_open_payments_move() {
    let (payment, attempt) = approving();
    for outcome in [AttemptOutcome::NotCaptured, AttemptOutcome::Unknown, AttemptOutcome::Overdue] {
        for status in Status::VARIANTS.iter().copied().filter(|status| !status.is_open()) {
            let moved = reported(&in_status(&payment, status), &attempt, report(outcome), START);
            assert_eq!(moved, None, "{status:?} {outcome:?}");
        }
    }
    let late = payment.expires_at;
    let moved = |status, outcome, now| reported(&in_status(&payment, status), &attempt, report(outcome), now);
    assert_eq!(moved(Status::Approving, AttemptOutcome::NotCaptured, START), Some(Status::Pending));
    assert_eq!(moved(Status::NeedsReview, AttemptOutcome::NotCaptured, late), Some(Status::Failed));
    assert_eq!(moved(Status::Approving, AttemptOutcome::Unknown, START), Some(Status::Unknown));
    assert_eq!(moved(Status::Unknown, AttemptOutcome::Unknown, START), None);
    assert_eq!(moved(Status::Unknown, AttemptOutcome::Overdue, START), Some(Status::NeedsReview));
    assert_eq!(moved(Status::NeedsReview, AttemptOutcome::Unknown, START), None);
    let declined = AttemptReport { is_declined: true, ..report(AttemptOutcome::NotCaptured) };
    assert_eq!(reported(&payment, &attempt, declined, late), Some(Status::Pending), "another card may be tried");
}

#[test]
fn what_follows_from_an_attempt_is_to_be_done_and_nothing_else() {
    let (payment, attempt) = approving();
    let steps = |payment: &Payment, outcome, facts| {
        let action = Action::Report { attempt: attempt.clone(), report: report(outcome) };
        let changes = payment.decide(&action, facts, LIMITS, START).unwrap();
        changes.iter().find_map(|change| match change {
            Change::Follow { attempt: of, steps } => {
                assert_eq!(*of, attempt.id);
                Some(*steps)
            }
            _ => None,
        })
    };
    let no_facts = Facts::default();
    assert_eq!(steps(&payment, AttemptOutcome::Captured, no_facts), Some(AFTER_CAPTURE));
    assert_eq!(steps(&payment, AttemptOutcome::NotCaptured, no_facts), Some(after_failure(false)));
    assert_eq!(steps(&payment, AttemptOutcome::Unknown, no_facts), None, "nobody knows yet what is to be done");
    let held = Facts { are_points_held: true, ..no_facts };
    assert_eq!(steps(&payment, AttemptOutcome::NotCaptured, held), Some(AFTER_CAPTURE), "the points are there");
    let asked = Payment { asked: 1, ..payment.clone() };
    assert_eq!(steps(&asked, AttemptOutcome::NotCaptured, no_facts), None, "another request may have taken the money");
}

#[test]
fn a_capture_beside_the_payments_own_goes_back_and_one_that_is_undone_is_looked_at() {
    let (payment, first) = approving();
    let paid = in_status(&payment, Status::Paid);
    let captured = |payment: &Payment, attempt: Attempt| {
        let action = Action::Report { attempt, report: report(AttemptOutcome::Captured) };
        payment.decide(&action, Facts::default(), LIMITS, START).unwrap()
    };
    assert!(matches!(&captured(&paid, first.clone())[..], [Change::Note { .. }]), "heard twice");
    let second = Attempt { pg_payment_id: "pg-2".to_owned(), ..first.clone() };
    assert!(matches!(&captured(&paid, second)[..], [Change::Note { .. }, Change::ReturnDuplicate { .. }]));
    let undone = Payment { undo_at: Some(START), ..payment };
    assert!(matches!(&captured(&undone, first)[..], [Change::Note { .. }, Change::AskNow]));
}

#[test]
fn an_attempt_is_withdrawn_by_who_began_it_and_by_nobody_else() {
    let (payment, attempt) = approving();
    let withdrawn = |payment: &Payment, reason: &str, now| {
        let action = Action::Withdraw { attempt: attempt.clone(), reason: reason.to_owned() };
        let changes = payment.decide(&action, Facts::default(), LIMITS, now).unwrap();
        assert!(!changes.iter().any(|change| matches!(change, Change::Announce { .. })), "nobody else is concerned");
        changes.iter().find_map(|change| match change {
            Change::Move { status, .. } => Some(*status),
            _ => None,
        })
    };
    assert_eq!(withdrawn(&payment, "HOLD_EXPIRED", START), Some(Status::Expired));
    assert_eq!(withdrawn(&payment, "ORDER_NOT_PAYABLE", START), Some(Status::Failed));
    assert_eq!(withdrawn(&payment, "UNAVAILABLE", START), Some(Status::Pending));
    assert_eq!(withdrawn(&payment, "UNAVAILABLE", payment.expires_at), Some(Status::Failed));
    assert_eq!(withdrawn(&Payment { asked: 1, ..payment.clone() }, "UNAVAILABLE", START), None, "it may be asked for");
    assert_eq!(withdrawn(&in_status(&payment, Status::Unknown), "UNAVAILABLE", START), None);
    let later = Payment { attempt_id: Some(PaymentAttemptId::generate()), ..payment.clone() };
    assert_eq!(withdrawn(&later, "UNAVAILABLE", START), None, "a later attempt is under way");
}

#[test]
fn money_is_asked_for_again_and_undone_only_while_nobody_has_found_out_more() {
    let (payment, attempt) = approving();
    let changes = |payment: &Payment, action: &Action| payment.decide(action, Facts::default(), LIMITS, START).unwrap();
    let (again, undo) = (Action::RequestAgain { attempt: attempt.clone() }, Action::BeginUndo { attempt });
    let later = Payment { attempt_id: Some(PaymentAttemptId::generate()), ..payment.clone() };
    for status in Status::VARIANTS.iter().copied() {
        let payment = in_status(&payment, status);
        let undone = Payment { undo_at: Some(START), ..payment.clone() };
        assert_eq!(changes(&payment, &again) == [Change::Request], status.is_open(), "{status:?}");
        assert_eq!(changes(&undone, &again), [], "{status:?}: its key would be answered as before the undo");
        assert_eq!(changes(&payment, &undo) == [Change::Undo], status.is_open(), "{status:?}");
        assert_eq!(changes(&undone, &undo) == [Change::Undo], !status.is_captured(), "{status:?}");
        let later = in_status(&later, status);
        assert_eq!((changes(&later, &again), changes(&later, &undo)), (vec![], vec![]), "{status:?}");
    }
}

/// What can happen to a payment, and what is asked for.
#[derive(Debug, Clone, Copy)]
enum Step {
    Approve,
    Report(AttemptOutcome, bool),
    Refund(Option<i64>),
    RefundDone,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let outcome = prop_oneof![
        Just(AttemptOutcome::Captured),
        Just(AttemptOutcome::NotCaptured),
        Just(AttemptOutcome::Unknown),
        Just(AttemptOutcome::Overdue)
    ];
    let step = prop_oneof![
        3 => Just(Step::Approve),
        4 => (outcome, any::<bool>()).prop_map(|(outcome, payable)| Step::Report(outcome, payable)),
        2 => proptest::option::of(1..150i64).prop_map(Step::Refund),
        2 => Just(Step::RefundDone),
    ];
    proptest::collection::vec(step, 1..50)
}

/// Whatever happens in whatever order: money is taken once, given back at most once, and the status tells it.
fn walk(config: ProptestConfig) {
    let outcome = TestRunner::new(config).run(&steps(), |steps| {
        let (mut payment, mut promised, mut captures) = (prepared(AMOUNT, START), 0, 0);
        let limits = Limits { attempts_per_order_max: i64::MAX, ..LIMITS };
        for step in steps {
            match step {
                Step::Approve => {
                    let action = Action::Approve(approval(&payment));
                    let changes = payment.decide(&action, Facts::default(), limits, START).unwrap_or_default();
                    prop_assert!(changes.is_empty() || captures == 0, "nobody is asked for money that was taken");
                    changes.iter().for_each(|change| payment.apply(change, START));
                }
                Step::Report(outcome, payable) => {
                    let Some(attempt) = payment.attempt() else { continue };
                    let now = if payable { START } else { payment.expires_at };
                    let action = Action::Report { attempt, report: report(outcome) };
                    let was_captured = payment.status.is_captured();
                    for change in payment.decide(&action, Facts::default(), limits, now).unwrap() {
                        payment.apply(&change, now);
                        if let Change::Move { status, .. } = change {
                            prop_assert!(!was_captured, "what is captured stays captured");
                            captures += i32::from(status == Status::Paid);
                        }
                    }
                }
                Step::Refund(wanted) => {
                    if let Ok(amount) = refund_amount(
                        payment.status,
                        payment.captured,
                        promised,
                        wanted.map_or(Wanted::All, Wanted::Part),
                    ) {
                        promised += amount;
                    }
                }
                Step::RefundDone => {
                    payment.refunded = promised;
                    if payment.captured > 0 {
                        payment.status = after_refund(payment.captured, promised);
                    }
                }
            }
            prop_assert!(captures <= 1);
            let Payment { status, captured, refunded, .. } = payment;
            prop_assert!(refunded <= promised && promised <= captured);
            prop_assert_eq!(status.is_captured(), captured > 0);
            prop_assert_eq!(status == Status::Refunded, captured > 0 && refunded == captured);
        }
        Ok(())
    });
    outcome.unwrap_or_else(|failed| panic!("{failed}"));
}

const AMOUNT: i64 = 100;

#[test]
fn money_is_taken_once_and_refunded_at_most_once() {
    walk(quick(2_000));
}

#[test]
#[ignore = "soak: many random histories"]
fn money_is_taken_once_and_refunded_at_most_once_in_many_histories() {
    walk(soak(20_000));
}
