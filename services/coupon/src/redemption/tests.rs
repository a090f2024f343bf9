//! Every state of a redemption meets every step, and any sequence of steps keeps what was promised.

use proptest::prelude::*;

use super::*;

const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

fn attempt(n: u128) -> PaymentAttemptId {
    uuid::Uuid::from_u128(n).into()
}

fn redemption(state: RedemptionState, seconds_left: i64) -> Redemption {
    let claim = Claim {
        issue: CouponIssueId::generate(),
        coupon: CouponId::generate(),
        user: AccountId::generate(),
        discount: 1000,
        currency: "KRW".to_owned(),
        lines: Vec::new(),
    };
    let paid = matches!(state, RedemptionState::Confirmed | RedemptionState::Restored);
    Redemption {
        order: OrderId::generate(),
        claim: Some(claim),
        state,
        expires_at: NOW + Duration::seconds(seconds_left),
        pin: None,
        unpinned_by: Vec::new(),
        order_version: paid.then_some(3),
    }
}

fn pinned(by: u128, late: bool) -> Redemption {
    Redemption { pin: Some(Pin { attempt: attempt(by), late }), ..redemption(RedemptionState::Pinned, -1) }
}

fn with_ended(by: u128, redemption: Redemption) -> Redemption {
    Redemption { unpinned_by: vec![attempt(by)], ..redemption }
}

/// What the step does to an unknown redemption, to a tombstone, and to one in every state.
fn row(step: &Step, restores: bool) -> [String; 14] {
    use RedemptionState as State;
    let tombstone = Redemption { claim: None, ..redemption(State::Released, -1) };
    let outcome = |redemption: Option<Redemption>| {
        let order = redemption.as_ref().map_or_else(OrderId::generate, |redemption| redemption.order);
        match effect_of(step, order, redemption.as_ref(), restores, NOW) {
            Ok(effect) => format!("{effect:?}"),
            Err(refused) => common::Refusal::code(&refused).reason.to_string(),
        }
    };
    [
        outcome(None),
        outcome(Some(tombstone)),
        outcome(Some(redemption(State::Reserved, 1))),
        outcome(Some(redemption(State::Reserved, 0))),
        outcome(Some(pinned(1, false))),
        outcome(Some(pinned(1, true))),
        outcome(Some(pinned(2, false))),
        outcome(Some(redemption(State::Released, 1))),
        outcome(Some(redemption(State::Expired, -1))),
        outcome(Some(redemption(State::Confirmed, -1))),
        outcome(Some(redemption(State::Restored, -1))),
        outcome(Some(with_ended(1, redemption(State::Reserved, 1)))),
        outcome(Some(with_ended(1, redemption(State::Expired, -1)))),
        outcome(Some(with_ended(2, redemption(State::Reserved, 1)))),
    ]
}

/// `expected` in the order: unknown, tombstone, RESERVED, RESERVED but due, PINNED by attempt 1, the same but late, PINNED
/// by attempt 2, RELEASED, EXPIRED, CONFIRMED, RESTORED; RESERVED and EXPIRED after attempt 1 has ended, RESERVED after
/// attempt 2.
#[track_caller]
fn check(step: &Step, restores: bool, expected: [&str; 14]) {
    assert_eq!(row(step, restores), expected, "{step:?}");
}

const UNKNOWN: &str = "REDEMPTION_NOT_FOUND";
const ENDED: &str = "REDEMPTION_ENDED";
const PAID: &str = "REDEMPTION_CONFIRMED";
const BUSY: &str = "PAYMENT_IN_PROGRESS";
const NOTHING: &str = "Nothing";

#[test]
fn an_attempt_pins_a_living_redemption_and_retakes_an_ended_one_unless_the_attempt_has_ended() {
    let pin = Step::Pin { attempt: attempt(1), retake: false };
    let (n, p, e) = (NOTHING, "Pin", ENDED);
    check(&pin, true, [UNKNOWN, e, p, e, n, n, BUSY, e, e, e, e, BUSY, BUSY, p]);
    let retake = Step::Pin { attempt: attempt(1), retake: true };
    let r = "Retake";
    check(&retake, true, [UNKNOWN, e, p, p, p, n, BUSY, r, r, e, e, BUSY, BUSY, p]);
}

#[test]
fn only_its_own_attempt_unpins_a_redemption_and_none_pins_after_its_end() {
    let unpin = Step::Unpin { attempt: attempt(1), lives_min: Duration::seconds(60) };
    let (n, b, u, late) = (NOTHING, "BlockAttempt", "Unpin", "Release");
    check(&unpin, true, [UNKNOWN, n, b, b, u, late, n, b, b, n, n, n, n, b]);
}

#[test]
fn the_end_of_an_order_releases_a_redemption_that_is_neither_paid_nor_paid_late() {
    let release = |order_version| Step::Release { reason: String::new(), order_version };
    let (n, r) = (NOTHING, "Release");
    for (order_version, paid) in [(None, PAID), (Some(2), NOTHING), (Some(3), PAID), (Some(4), PAID)] {
        check(&release(order_version), true, ["Tombstone", n, r, r, r, n, r, n, n, paid, n, r, n, r]);
    }
}

#[test]
fn only_a_living_redemption_is_confirmed() {
    let confirm = Step::Confirm { order_version: 3 };
    let (n, c, e) = (NOTHING, "Confirm", ENDED);
    check(&confirm, true, [UNKNOWN, e, c, e, c, c, c, e, e, n, n, c, e, c]);
}

#[test]
fn a_refund_proves_a_payment_and_gives_the_coupon_back_if_it_says_so() {
    let refund = Step::Refund { order_version: 4 };
    let (n, both, e) = (NOTHING, "ConfirmAndRestore", ENDED);
    check(&refund, true, [UNKNOWN, e, both, e, both, both, both, e, e, "Restore", n, both, e, both]);
    let c = "Confirm";
    check(&refund, false, [UNKNOWN, e, c, e, c, c, c, e, e, n, n, c, e, c]);
}

#[test]
fn an_unpinned_redemption_lives_as_long_as_before_but_a_minute_at_least() {
    for (seconds_left, expected) in [(300, 300), (60, 60), (59, 60), (-500, 60)] {
        let mut redemption = redemption(RedemptionState::Reserved, seconds_left);
        let pin = Step::Pin { attempt: attempt(1), retake: true };
        apply(Effect::Pin, &pin, &mut redemption, NOW);
        assert_eq!(redemption.pin, Some(Pin { attempt: attempt(1), late: true }));
        assert!(!redemption.is_due(NOW), "a pinned redemption never expires");
        let unpin = Step::Unpin { attempt: attempt(1), lives_min: Duration::seconds(60) };
        apply(Effect::Unpin, &unpin, &mut redemption, NOW);
        assert_eq!((redemption.state, redemption.pin), (RedemptionState::Reserved, None));
        assert_eq!(redemption.expires_at, NOW + Duration::seconds(expected));
        assert_eq!(redemption.unpinned_by, [attempt(1)]);
    }
}

#[test]
fn a_repeat_is_answered_while_the_redemption_lives_and_only_to_its_owner() {
    use RedemptionState as State;
    for (redemption, answered) in [
        (redemption(State::Reserved, 1), true),
        (redemption(State::Reserved, 0), false),
        (pinned(1, false), true),
        (redemption(State::Confirmed, -1), true),
        (redemption(State::Released, 1), false),
        (redemption(State::Expired, 1), false),
        (redemption(State::Restored, -1), false),
    ] {
        let claim = redemption.claim.clone().unwrap();
        let repeat = |user| check_repeat(&redemption, claim.issue, user, NOW);
        assert_eq!(repeat(claim.user).is_ok(), answered, "{:?}", redemption.state);
        assert!(repeat(AccountId::generate()).is_err());
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    let attempts = || (1..4_u128).prop_map(attempt);
    prop_oneof![
        (attempts(), any::<bool>()).prop_map(|(attempt, retake)| Step::Pin { attempt, retake }),
        attempts().prop_map(|attempt| Step::Unpin { attempt, lives_min: Duration::seconds(60) }),
        prop::option::of(1..6_i64)
            .prop_map(|order_version| Step::Release { reason: "order ended".to_owned(), order_version }),
        (1..6_i64).prop_map(|order_version| Step::Confirm { order_version }),
        (1..6_i64).prop_map(|order_version| Step::Refund { order_version }),
    ]
}

proptest! {
    #![proptest_config(testkit::properties::quick(2000))]

    #[test]
    fn no_sequence_of_steps_breaks_a_promise(
        steps in prop::collection::vec((any_step(), -2..30_i64), 1..40),
        restores in any::<bool>(),
    ) {
        use RedemptionState as State;
        let mut redemption = redemption(State::Reserved, 20);
        let (order, mut now) = (redemption.order, NOW);
        let mut ended_attempts: Vec<PaymentAttemptId> = Vec::new();
        let mut was_confirmed = false;
        for (step, seconds) in steps {
            now += Duration::seconds(seconds.max(0));
            let before = redemption.clone();
            let Ok(effect) = effect_of(&step, order, Some(&redemption), restores, now) else { continue };
            apply(effect, &step, &mut redemption, now);
            // A repeat is a success that changes nothing.
            let again = effect_of(&step, order, Some(&redemption), restores, now);
            prop_assert!(again == Ok(Effect::Nothing), "{step:?} after {effect:?}: {again:?}");

            prop_assert_eq!(redemption.pin.is_some(), redemption.state == State::Pinned);
            prop_assert_eq!(&redemption.claim, &before.claim);
            if let Step::Unpin { attempt, .. } = &step && effect != Effect::Nothing {
                ended_attempts.push(*attempt);
            }
            if let Some(pin) = redemption.pin {
                prop_assert!(!ended_attempts.contains(&pin.attempt), "an attempt that has ended pins nothing");
            }
            if was_confirmed {
                let stays = matches!(redemption.state, State::Confirmed | State::Restored);
                prop_assert!(stays, "what is paid for is neither released nor reserved again");
            }
            was_confirmed |= matches!(redemption.state, State::Confirmed | State::Restored);
            prop_assert!(restores || redemption.state != State::Restored);
            if before.is_due(now) && !before.state.eq(&redemption.state) {
                let retaken = matches!(step, Step::Pin { retake: true, .. });
                prop_assert!(retaken || redemption.state == State::Released, "{step:?}: time was up");
            }
        }
    }
}
