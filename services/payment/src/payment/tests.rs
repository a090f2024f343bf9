//! Every status with everything that can happen to a payment, and long random histories in which money is conserved.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use testkit::properties::{quick, soak};

use super::*;

mod lives;

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

#[test]
fn every_status_decides_about_a_request_to_approve() {
    let outcome = |status| approve(status).map_err(|refused| refused.code().reason);
    assert_eq!(outcome(Status::Pending), Ok(ApproveDecision::Capture));
    for status in [Status::Paid, Status::PartiallyRefunded] {
        assert_eq!(outcome(status), Ok(ApproveDecision::AlreadyPaid));
    }
    for status in [Status::Unknown, Status::NeedsReview] {
        assert_eq!(outcome(status), Ok(ApproveDecision::StillUnknown));
    }
    assert_eq!(outcome(Status::Approving), Err("PAYMENT_IN_PROGRESS".into()));
    assert_eq!(outcome(Status::Expired), Err("HOLD_EXPIRED".into()));
    for status in [Status::Refunded, Status::Failed, Status::Cancelled] {
        assert_eq!(outcome(status), Err("PAYMENT_NOT_APPROVABLE".into()));
    }
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
    for status in Status::VARIANTS.iter().copied() {
        let expected = (!status.is_captured()).then_some(Status::Paid);
        assert_eq!(after_attempt(status, AttemptOutcome::Captured, false), expected, "{status:?}");
    }
}

#[test]
fn without_a_capture_only_open_payments_move() {
    for outcome in [AttemptOutcome::NotCaptured, AttemptOutcome::Unknown, AttemptOutcome::Overdue] {
        for status in Status::VARIANTS.iter().copied().filter(|status| !status.is_open()) {
            assert_eq!(after_attempt(status, outcome, true), None, "{status:?} {outcome:?}");
        }
    }
    assert_eq!(after_attempt(Status::Approving, AttemptOutcome::NotCaptured, true), Some(Status::Pending));
    assert_eq!(after_attempt(Status::NeedsReview, AttemptOutcome::NotCaptured, false), Some(Status::Failed));
    assert_eq!(after_attempt(Status::Approving, AttemptOutcome::Unknown, true), Some(Status::Unknown));
    assert_eq!(after_attempt(Status::Unknown, AttemptOutcome::Unknown, true), None);
    assert_eq!(after_attempt(Status::Unknown, AttemptOutcome::Overdue, true), Some(Status::NeedsReview));
    assert_eq!(after_attempt(Status::NeedsReview, AttemptOutcome::Unknown, true), None);
}

const TIMEOUTS: Timeouts =
    Timeouts { provider_seconds: 60, absence_seconds: 30, undo_after_seconds: 600, review_after_seconds: 86_400 };

#[test]
fn absence_is_proved_by_two_answers_after_the_providers_own_limit() {
    let facts = |requested_ago, absent_for| AttemptFacts {
        payable: false,
        age: requested_ago + 1_000,
        requested_ago,
        absent_for,
        undone: false,
    };
    let next = |requested_ago, absent_for| resolve(&ProviderStatus::Absent, facts(requested_ago, absent_for), TIMEOUTS);
    assert_eq!(next(59, None), ResolverStep::Wait { absent: false });
    assert_eq!(next(60, None), ResolverStep::Wait { absent: true });
    assert_eq!(next(80, Some(20)), ResolverStep::Wait { absent: true });
    assert_eq!(next(90, Some(30)), ResolverStep::Record(AttemptOutcome::NotCaptured));
    let waiting = AttemptFacts { payable: true, ..facts(90, Some(30)) };
    assert_eq!(resolve(&ProviderStatus::Absent, waiting, TIMEOUTS), ResolverStep::Retry, "the buyer still wants it");
}

#[test]
fn an_attempt_without_a_clear_answer_is_undone_and_then_reviewed() {
    let facts = |age| AttemptFacts { payable: false, age, requested_ago: age, absent_for: None, undone: false };
    let next = |age| resolve(&ProviderStatus::Unclear("?".into()), facts(age), TIMEOUTS);
    assert_eq!(next(599), ResolverStep::Wait { absent: false });
    assert_eq!(next(600), ResolverStep::Undo { amount: None });
    assert_eq!(next(86_399), ResolverStep::Undo { amount: None });
    assert_eq!(next(86_400), ResolverStep::Record(AttemptOutcome::Overdue));
}

#[test]
fn a_wrong_amount_is_never_kept_and_the_money_of_others_never_touched() {
    for payable in [false, true] {
        let facts = |age, undone| AttemptFacts { payable, age, requested_ago: age, absent_for: None, undone };
        let next = |status: ProviderStatus, age, undone| resolve(&status, facts(age, undone), TIMEOUTS);
        for undone in [false, true] {
            assert_eq!(next(ProviderStatus::Foreign, 0, undone), ResolverStep::Record(AttemptOutcome::NotCaptured));
            assert_eq!(
                next(ProviderStatus::WrongAmount { left: 1 }, 0, undone),
                ResolverStep::Undo { amount: Some(1) }
            );
            assert_eq!(
                next(ProviderStatus::WrongAmount { left: 1 }, 86_400, undone),
                ResolverStep::Record(AttemptOutcome::Overdue)
            );
        }
        assert_eq!(next(ProviderStatus::Captured, 0, false), ResolverStep::Record(AttemptOutcome::Captured));
        assert_eq!(
            next(ProviderStatus::Captured, 0, true),
            ResolverStep::Undo { amount: None },
            "it comes back although it was undone"
        );
        assert_eq!(next(ProviderStatus::Captured, 86_400, true), ResolverStep::Record(AttemptOutcome::Overdue));
    }
}

#[test]
fn the_resolver_asks_ever_more_rarely() {
    let pauses: Vec<i32> = (0..9).map(retry_delay_seconds).collect();
    assert_eq!(pauses, [1, 1, 2, 5, 15, 60, 60, 60, 60]);
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
        let (mut status, mut captured, mut promised, mut refunded) = (Status::Pending, 0, 0, 0);
        let mut captures = 0;
        for step in steps {
            match step {
                Step::Approve => match approve(status) {
                    Ok(ApproveDecision::Capture) => {
                        prop_assert_eq!(captured, 0, "nobody is asked for money that was taken");
                        status = Status::Approving;
                    }
                    Ok(ApproveDecision::AlreadyPaid) => prop_assert!(captured > 0),
                    Ok(ApproveDecision::StillUnknown) | Err(_) => {}
                },
                Step::Report(outcome, payable) => {
                    if let Some(next) = after_attempt(status, outcome, payable) {
                        prop_assert!(!status.is_captured(), "what is captured stays captured");
                        if next == Status::Paid {
                            captures += 1;
                            captured = AMOUNT;
                        }
                        status = next;
                    }
                }
                Step::Refund(wanted) => {
                    if let Ok(amount) = refund_amount(status, captured, promised, wanted) {
                        promised += amount;
                    }
                }
                Step::RefundDone => {
                    refunded = promised;
                    if captured > 0 {
                        status = after_refund(captured, refunded);
                    }
                }
            }
            prop_assert!(captures <= 1);
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
