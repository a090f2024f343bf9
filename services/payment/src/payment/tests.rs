//! Every status meets everything that can happen to a payment; and long random lives in which money is conserved.

use proptest::prelude::*;

use super::*;

mod lives;

#[test]
fn names_are_read_as_they_are_written() {
    for status in Status::ALL {
        assert_eq!(Status::parse(status.name()), Some(status));
        assert_eq!(serde_json::to_value(status).unwrap(), status.name());
    }
    assert_eq!(Status::parse("paid"), None);
    for method in Method::ALL {
        assert_eq!(Method::parse(method.name()), Some(method));
        assert_eq!(serde_json::to_value(method).unwrap(), method.name());
    }
}

#[test]
fn every_status_meets_a_request_to_approve() {
    let outcome = |status| approve(status).map_err(|refused| refused.code().reason);
    assert_eq!(outcome(Status::Pending), Ok(Approve::Ask));
    for status in [Status::Paid, Status::PartiallyRefunded] {
        assert_eq!(outcome(status), Ok(Approve::AlreadyPaid));
    }
    for status in [Status::Unknown, Status::NeedsReview] {
        assert_eq!(outcome(status), Ok(Approve::StillUnknown));
    }
    assert_eq!(outcome(Status::Approving), Err("PAYMENT_IN_PROGRESS".into()));
    assert_eq!(outcome(Status::Expired), Err("HOLD_EXPIRED".into()));
    for status in [Status::Refunded, Status::Failed, Status::Cancelled] {
        assert_eq!(outcome(status), Err("PAYMENT_NOT_APPROVABLE".into()));
    }
}

#[test]
fn every_status_meets_a_request_for_the_money_back() {
    for status in Status::ALL {
        let outcome = |owes_order| cancel(status, owes_order).map_err(|refused| refused.code().reason);
        let expected = match status {
            Status::Pending | Status::Cancelled => Ok(Cancel::End),
            Status::Approving | Status::Unknown | Status::NeedsReview => Err("PAYMENT_IN_PROGRESS".into()),
            Status::Paid | Status::PartiallyRefunded | Status::Refunded => Ok(Cancel::GiveBack),
            Status::Failed | Status::Expired => Err("PAYMENT_NOT_REFUNDABLE".into()),
        };
        assert_eq!(outcome(false), expected, "{status:?}");
        if status.is_captured() {
            assert_eq!(outcome(true), Err("PAYMENT_IN_PROGRESS".into()), "{status:?}: its order comes first");
        }
    }
}

#[test]
fn what_was_captured_is_paid_wherever_the_payment_stood() {
    for status in Status::ALL {
        let expected = (!status.is_captured()).then_some(Status::Paid);
        assert_eq!(settle(status, Found::Captured, false), expected, "{status:?}");
    }
}

#[test]
fn only_open_payments_move_without_money() {
    for found in [Found::NotCaptured, Found::Unknown, Found::Overdue] {
        for status in Status::ALL.into_iter().filter(|status| !status.is_open()) {
            assert_eq!(settle(status, found, true), None, "{status:?} {found:?}");
        }
    }
    assert_eq!(settle(Status::Approving, Found::NotCaptured, true), Some(Status::Pending));
    assert_eq!(settle(Status::NeedsReview, Found::NotCaptured, false), Some(Status::Failed));
    assert_eq!(settle(Status::Approving, Found::Unknown, true), Some(Status::Unknown));
    assert_eq!(settle(Status::Unknown, Found::Unknown, true), None);
    assert_eq!(settle(Status::Unknown, Found::Overdue, true), Some(Status::NeedsReview));
    assert_eq!(settle(Status::NeedsReview, Found::Unknown, true), None);
}

const PATIENCE: Patience =
    Patience { provider_seconds: 60, absence_seconds: 30, undo_after_seconds: 600, review_after_seconds: 86_400 };

#[test]
fn absence_is_believed_when_it_is_heard_twice_after_the_providers_own_limit() {
    let asked = |requested_ago, absent_for| Asked {
        payable: false,
        age: requested_ago + 1_000,
        requested_ago,
        absent_for,
        undone: false,
    };
    let next = |requested_ago, absent_for| resolve(&Known::Absent, asked(requested_ago, absent_for), PATIENCE);
    assert_eq!(next(59, None), Next::Wait { absent: false });
    assert_eq!(next(60, None), Next::Wait { absent: true });
    assert_eq!(next(80, Some(20)), Next::Wait { absent: true });
    assert_eq!(next(90, Some(30)), Next::Record(Found::NotCaptured));
    let waiting = Asked { payable: true, ..asked(90, Some(30)) };
    assert_eq!(resolve(&Known::Absent, waiting, PATIENCE), Next::Retry, "the buyer still wants it");
}

#[test]
fn what_stays_unclear_is_undone_and_then_somebodys_work() {
    let asked = |age| Asked { payable: false, age, requested_ago: age, absent_for: None, undone: false };
    let next = |age| resolve(&Known::Unclear("?".into()), asked(age), PATIENCE);
    assert_eq!(next(599), Next::Wait { absent: false });
    assert_eq!(next(600), Next::Undo { amount: None });
    assert_eq!(next(86_399), Next::Undo { amount: None });
    assert_eq!(next(86_400), Next::Record(Found::Overdue));
}

#[test]
fn money_that_is_not_what_was_asked_for_is_never_kept_and_that_of_others_never_touched() {
    for payable in [false, true] {
        let asked = |age, undone| Asked { payable, age, requested_ago: age, absent_for: None, undone };
        let next = |known: Known, age, undone| resolve(&known, asked(age, undone), PATIENCE);
        for undone in [false, true] {
            assert_eq!(next(Known::Foreign, 0, undone), Next::Record(Found::NotCaptured));
            assert_eq!(next(Known::WrongAmount { left: 1 }, 0, undone), Next::Undo { amount: Some(1) });
            assert_eq!(next(Known::WrongAmount { left: 1 }, 86_400, undone), Next::Record(Found::Overdue));
        }
        assert_eq!(next(Known::Captured, 0, false), Next::Record(Found::Captured));
        assert_eq!(next(Known::Captured, 0, true), Next::Undo { amount: None }, "it comes back although it was undone");
        assert_eq!(next(Known::Captured, 86_400, true), Next::Record(Found::Overdue));
    }
}

#[test]
fn the_resolver_asks_ever_more_rarely() {
    let pauses: Vec<i32> = (0..9).map(pause_seconds).collect();
    assert_eq!(pauses, [1, 1, 2, 5, 15, 60, 60, 60, 60]);
}

/// What can happen to a payment, and what is asked for.
#[derive(Debug, Clone, Copy)]
enum Step {
    Approve,
    Find(Found, bool),
    Refund(Option<i64>),
    RefundDone,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let found =
        prop_oneof![Just(Found::Captured), Just(Found::NotCaptured), Just(Found::Unknown), Just(Found::Overdue)];
    let step = prop_oneof![
        3 => Just(Step::Approve),
        4 => (found, any::<bool>()).prop_map(|(found, payable)| Step::Find(found, payable)),
        2 => proptest::option::of(1..150i64).prop_map(Step::Refund),
        2 => Just(Step::RefundDone),
    ];
    proptest::collection::vec(step, 1..50)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// Whatever happens in whatever order: money is taken once, given back at most once, and the status tells it.
    #[test]
    fn money_is_taken_once_and_given_back_at_most_once(steps in steps()) {
        const AMOUNT: i64 = 100;
        let (mut status, mut captured, mut promised, mut refunded) = (Status::Pending, 0, 0, 0);
        let mut captures = 0;
        for step in steps {
            match step {
                Step::Approve => match approve(status) {
                    Ok(Approve::Ask) => {
                        prop_assert_eq!(captured, 0, "nobody is asked for money that is there");
                        status = Status::Approving;
                    }
                    Ok(Approve::AlreadyPaid) => prop_assert!(captured > 0),
                    Ok(Approve::StillUnknown) | Err(_) => {}
                },
                Step::Find(found, payable) => if let Some(next) = settle(status, found, payable) {
                    prop_assert!(!status.is_captured(), "what is captured stays captured");
                    if next == Status::Paid {
                        captures += 1;
                        captured = AMOUNT;
                    }
                    status = next;
                },
                Step::Refund(wanted) => if let Ok(amount) = refund(status, captured, promised, wanted) {
                    promised += amount;
                },
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
    }
}
