//! Every state of a hold meets every step.

use super::*;

const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

fn attempt(n: u128) -> PaymentAttemptId {
    uuid::Uuid::from_u128(n).into()
}

fn hold(state: HoldState, seconds_left: i64) -> Hold {
    let line = HoldLine {
        product: ProductId::generate(),
        quantity: 1,
        unit_price: 1000,
        currency: "KRW".to_owned(),
        sku: "SKU".to_owned(),
        name: "name".to_owned(),
        seats: Vec::new(),
    };
    let sold = matches!(state, HoldState::Confirmed | HoldState::Returned);
    Hold {
        id: HoldId::generate(),
        user: Some(AccountId::generate()),
        state,
        expires_at: NOW + Duration::seconds(seconds_left),
        pin: None,
        unpinned_by: Vec::new(),
        order_version: sold.then_some(3),
        concert: None,
        moved_to: None,
        lines: vec![line],
    }
}

fn pinned(by: u128, late: bool) -> Hold {
    Hold { pin: Some(Pin { attempt: attempt(by), late }), ..hold(HoldState::Pinned, -1) }
}

fn with_ended(by: u128, hold: Hold) -> Hold {
    Hold { unpinned_by: vec![attempt(by)], ..hold }
}

/// What the step does to an unknown hold, to a tombstone, and to a hold in every state.
fn row(step: &Step) -> [String; 14] {
    let tombstone = Hold { user: None, lines: Vec::new(), ..hold(HoldState::Released, -1) };
    let outcome = |hold: Option<Hold>| {
        let id = hold.as_ref().map_or_else(HoldId::generate, |hold| hold.id);
        match effect_of(step, id, hold.as_ref(), NOW) {
            Ok(effect) => format!("{effect:?}"),
            Err(refused) => common::Refusal::code(&refused).reason.to_string(),
        }
    };
    [
        outcome(None),
        outcome(Some(tombstone)),
        outcome(Some(hold(HoldState::Held, 1))),
        outcome(Some(hold(HoldState::Held, 0))),
        outcome(Some(pinned(1, false))),
        outcome(Some(pinned(1, true))),
        outcome(Some(pinned(2, false))),
        outcome(Some(hold(HoldState::Released, 1))),
        outcome(Some(hold(HoldState::Expired, -1))),
        outcome(Some(hold(HoldState::Confirmed, -1))),
        outcome(Some(hold(HoldState::Returned, -1))),
        outcome(Some(with_ended(1, hold(HoldState::Held, 1)))),
        outcome(Some(with_ended(1, hold(HoldState::Expired, -1)))),
        outcome(Some(with_ended(2, hold(HoldState::Held, 1)))),
    ]
}

/// `expected` in the order: unknown, tombstone, HELD, HELD but due, PINNED by attempt 1, the same but late, PINNED by
/// attempt 2, RELEASED, EXPIRED, CONFIRMED, RETURNED; HELD and EXPIRED after attempt 1 has ended, HELD after attempt 2.
#[track_caller]
fn check(step: &Step, expected: [&str; 14]) {
    assert_eq!(row(step), expected, "{step:?}");
}

const UNKNOWN: &str = "HOLD_NOT_FOUND";
const EXPIRED: &str = "HOLD_EXPIRED";
const RELEASED: &str = "HOLD_ALREADY_RELEASED";
const SOLD: &str = "HOLD_ALREADY_CONFIRMED";
const NOT_SOLD: &str = "HOLD_NOT_CONFIRMED";
const BUSY: &str = "PAYMENT_IN_PROGRESS";
const SHORT: &str = "OUT_OF_STOCK";
const NOTHING: &str = "Nothing";

#[test]
fn an_attempt_pins_a_living_hold_and_retakes_an_ended_one_unless_the_attempt_has_ended() {
    let pin = Step::Pin { attempt: attempt(1), retake: false };
    let (n, p) = (NOTHING, "Pin");
    check(&pin, [UNKNOWN, RELEASED, p, EXPIRED, n, n, BUSY, RELEASED, EXPIRED, SOLD, SOLD, BUSY, BUSY, p]);
    let retake = Step::Pin { attempt: attempt(1), retake: true };
    let r = "Retake";
    check(&retake, [UNKNOWN, SHORT, p, p, p, n, BUSY, r, r, SOLD, SOLD, BUSY, BUSY, p]);
}

#[test]
fn only_its_own_attempt_unpins_a_hold_and_none_pins_after_its_end() {
    let unpin = Step::Unpin { attempt: attempt(1), lives_min: Duration::seconds(60) };
    let (n, b, u, late) = (NOTHING, "BlockAttempt", "Unpin", "Release");
    check(&unpin, [UNKNOWN, n, b, b, u, late, n, b, b, n, n, n, n, b]);
}

#[test]
fn the_end_of_an_order_releases_a_hold_that_is_neither_sold_nor_paid_late() {
    let release = |order_version| Step::Release { reason: String::new(), order_version };
    let (n, r) = (NOTHING, "Release");
    for (order_version, sold) in [(None, SOLD), (Some(2), NOTHING), (Some(3), SOLD), (Some(4), SOLD)] {
        check(&release(order_version), ["Tombstone", n, r, r, r, n, r, n, n, sold, n, r, n, r]);
    }
}

#[test]
fn only_a_living_hold_is_confirmed() {
    let confirm = Step::Confirm { order_version: 3 };
    let (n, c) = (NOTHING, "Confirm");
    check(&confirm, [UNKNOWN, RELEASED, c, EXPIRED, c, c, c, RELEASED, EXPIRED, n, n, c, EXPIRED, c]);
}

#[test]
fn a_return_needs_a_sale_and_a_refund_proves_one() {
    let (n, no) = (NOTHING, NOT_SOLD);
    let give_back = Step::Return { reason: String::new() };
    check(&give_back, [no, no, no, no, no, no, no, no, no, "Return", n, no, no, no]);
    let (refund, both) = (Step::Refund { order_version: 4 }, "ConfirmAndReturn");
    check(&refund, [no, no, both, no, both, both, both, no, no, "Return", n, both, no, both]);
}

#[test]
fn an_unpinned_hold_lives_as_long_as_before_but_a_minute_at_least() {
    for (seconds_left, expected) in [(300, 300), (60, 60), (59, 60), (-500, 60)] {
        let mut hold = hold(HoldState::Held, seconds_left);
        let pin = Step::Pin { attempt: attempt(1), retake: true };
        apply(Effect::Pin, &pin, &mut hold, NOW);
        assert_eq!(hold.pin, Some(Pin { attempt: attempt(1), late: true }));
        assert!(!hold.is_due(NOW), "a pinned hold never expires");
        let unpin = Step::Unpin { attempt: attempt(1), lives_min: Duration::seconds(60) };
        apply(Effect::Unpin, &unpin, &mut hold, NOW);
        assert_eq!((hold.state, hold.pin), (HoldState::Held, None));
        assert_eq!(hold.expires_at, NOW + Duration::seconds(expected));
        assert_eq!(hold.unpinned_by, [attempt(1)]);
    }
}

#[test]
fn the_end_of_an_attempt_that_never_pinned_changes_no_expiry() {
    for state in [HoldState::Held, HoldState::Released, HoldState::Expired] {
        let before = hold(state, -1);
        let mut after = before.clone();
        let unpin = Step::Unpin { attempt: attempt(1), lives_min: Duration::seconds(60) };
        apply(Effect::BlockAttempt, &unpin, &mut after, NOW);
        assert_eq!(after, with_ended(1, before));
    }
}

#[test]
fn a_repeat_is_answered_while_the_hold_lives_and_only_to_its_owner() {
    for (hold, answered) in [
        (hold(HoldState::Held, 1), true),
        (hold(HoldState::Held, 0), false),
        (pinned(1, false), true),
        (hold(HoldState::Confirmed, -1), true),
        (hold(HoldState::Released, 1), false),
        (hold(HoldState::Expired, 1), false),
        (hold(HoldState::Returned, 1), false),
    ] {
        let owner = hold.user.unwrap();
        assert_eq!(check_repeat(&hold, owner, NOW).is_ok(), answered, "{:?}", hold.state);
        assert!(check_repeat(&hold, AccountId::generate(), NOW).is_err());
    }
}
