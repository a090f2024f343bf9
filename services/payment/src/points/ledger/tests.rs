//! The rules one by one, and long random histories against a model that only adds up what was agreed to.

use std::collections::{BTreeMap, BTreeSet};

use common::Refusal;
use contract::ids::AccountId;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use testkit::properties::{quick, soak};

use super::*;

#[test]
fn names_are_read_as_they_are_written() {
    for kind in Kind::VARIANTS.iter().copied() {
        assert_eq!(kind.name().parse().ok(), Some(kind));
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
    }
    for status in HoldStatus::VARIANTS.iter().copied() {
        assert_eq!(status.name().parse().ok(), Some(status));
    }
    assert!("charge".parse::<Kind>().is_err() && "".parse::<HoldStatus>().is_err());
}

#[test]
fn a_charge_is_within_its_limits_or_refused() {
    let outcome = |balance, amount, max| {
        charge(balance, amount, max).map(|movement| movement.amount).map_err(|refused| refused.code().reason)
    };
    assert_eq!(outcome(0, 1, 100), Ok(1));
    assert_eq!(outcome(7, 100, 100), Ok(100));
    for wrong in [0, -1, 101, i64::MIN, i64::MAX] {
        assert_eq!(outcome(0, wrong, 100), Err("VALIDATION_ERROR".into()), "{wrong}");
    }
    assert_eq!(outcome(BALANCE_MAX - 5, 5, 100), Ok(5));
    assert_eq!(outcome(BALANCE_MAX - 5, 6, 100), Err("VALIDATION_ERROR".into()));
    assert_eq!(outcome(0, 1, 0), Err("FORBIDDEN".into()), "switched off");
}

#[test]
fn a_payment_takes_its_points_once() {
    let (user, other) = (AccountId::generate(), AccountId::generate());
    let HoldDecision::Take(hold, movement) = hold_points(user, 10, 10, None, false) else { panic!("enough") };
    assert_eq!((movement.from, movement.to, movement.amount), (Account::User, Account::Escrow, 10));
    assert_eq!(hold_points(user, 0, 10, Some(&hold), false), HoldDecision::AlreadyHeld);
    assert_eq!(hold_points(user, 0, 10, Some(&hold), true), HoldDecision::AlreadyHeld, "what was taken stays taken");
    assert_eq!(hold_points(user, 9, 10, None, false), HoldDecision::Insufficient);
    assert_eq!(hold_points(user, 10, 10, None, true), HoldDecision::AttemptEnded);
    for (user, amount) in [(other, 10), (user, 9)] {
        assert_eq!(hold_points(user, 99, amount, Some(&hold), false), HoldDecision::Mismatch);
    }
    for nothing in [0, -1, i64::MIN] {
        assert_eq!(hold_points(user, 10, nothing, None, false), HoldDecision::Mismatch);
    }
    let (released, _) = refund(&hold, 10).unwrap();
    assert_eq!(hold_points(user, 10, 10, Some(&released), false), HoldDecision::Refunded);
}

#[test]
fn a_refund_before_the_sale_leaves_less_to_sell_for() {
    let hold = Hold { user: AccountId::generate(), status: HoldStatus::Held, amount: 10, refunded: 0 };
    let (rest, movement) = refund(&hold, 4).unwrap();
    assert_eq!((rest.status, movement.from), (HoldStatus::Held, Account::Escrow));
    let (sold, movement) = confirm(&rest).unwrap();
    assert_eq!((sold.status, movement.amount), (HoldStatus::Confirmed, 6));
    assert_eq!(confirm(&sold), None);
    assert_eq!(refund(&sold, 7), None);
    let (returned, movement) = refund(&sold, 6).unwrap();
    assert_eq!((returned.status, returned.left(), movement.from), (HoldStatus::Confirmed, 0, Account::Sales));

    let (released, _) = refund(&hold, 10).unwrap();
    assert_eq!((released.status, confirm(&released), refund(&released, 1)), (HoldStatus::Released, None, None));
    for nothing in [0, -1, i64::MIN] {
        assert_eq!(refund(&hold, nothing), None);
    }
}

/// What can happen to an account, most of it more than once.
#[derive(Debug, Clone, Copy)]
enum Step {
    Charge(i64),
    Take {
        payment: u8,
        attempt: u8,
        amount: i64,
    },
    /// It is recorded that an attempt has taken nothing.
    End {
        payment: u8,
        attempt: u8,
    },
    Confirm(u8),
    Refund {
        payment: u8,
        id: u8,
        amount: i64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (-5..200i64).prop_map(Step::Charge),
        4 => (0..4u8, 0..3u8, prop_oneof![9 => Just(0), 1 => -100..100i64])
            .prop_map(|(payment, attempt, off)| Step::Take { payment, attempt, amount: 40 + 20 * i64::from(payment) + off }),
        1 => (0..4u8, 0..3u8).prop_map(|(payment, attempt)| Step::End { payment, attempt }),
        2 => (0..4u8).prop_map(Step::Confirm),
        3 => (0..4u8, 0..4u8, -5..80i64).prop_map(|(payment, id, amount)| Step::Refund { payment, id, amount }),
    ];
    proptest::collection::vec(step, 1..60)
}

/// What the flows do around the rules, in memory.
#[derive(Default)]
struct Books {
    balances: BTreeMap<Account, i64>,
    holds: BTreeMap<u8, Hold>,
    ended: BTreeSet<(u8, u8)>,
    refunds: BTreeSet<(u8, u8)>,
}

impl Books {
    fn balance(&self, account: Account) -> i64 {
        self.balances.get(&account).copied().unwrap_or(0)
    }

    fn post(&mut self, movement: Movement) {
        *self.balances.entry(movement.from).or_default() -= movement.amount;
        *self.balances.entry(movement.to).or_default() += movement.amount;
    }
}

/// What was agreed to, added up from nothing each time.
#[derive(Default)]
struct Model {
    charged: i64,
    /// payment → (taken, confirmed, refunded before the sale, and after it)
    payments: BTreeMap<u8, (i64, bool, i64, i64)>,
}

impl Model {
    fn expected(&self, account: Account) -> i64 {
        let sum = |each: fn(&(i64, bool, i64, i64)) -> i64| self.payments.values().map(each).sum::<i64>();
        match account {
            Account::Issued => -self.charged,
            Account::User => self.charged + sum(|(taken, _, before, after)| before + after - taken),
            Account::Escrow => sum(|(taken, sold, before, _)| if *sold { 0 } else { taken - before }),
            Account::Sales => sum(|(taken, sold, before, after)| if *sold { taken - before - after } else { 0 }),
        }
    }
}

const CHARGE_MAX: i64 = 150;

fn run(user: AccountId, books: &mut Books, model: &mut Model, step: Step) {
    match step {
        Step::Charge(amount) => {
            if let Ok(movement) = charge(books.balance(Account::User), amount, CHARGE_MAX) {
                books.post(movement);
                model.charged += amount;
            }
        }
        Step::Take { payment, attempt, amount } => {
            let is_ended = books.ended.contains(&(payment, attempt));
            let hold = books.holds.get(&payment);
            if let HoldDecision::Take(hold, movement) =
                hold_points(user, books.balance(Account::User), amount, hold, is_ended)
            {
                assert!(!is_ended, "an attempt that has ended takes nothing");
                books.post(movement);
                books.holds.insert(payment, hold);
                let before = model.payments.insert(payment, (amount, false, 0, 0));
                assert_eq!(before, None, "a payment takes once");
            }
        }
        Step::End { payment, attempt } => {
            books.ended.insert((payment, attempt));
        }
        Step::Confirm(payment) => {
            if let Some((hold, movement)) = books.holds.get(&payment).and_then(confirm) {
                books.post(movement);
                books.holds.insert(payment, hold);
                let known = model.payments.get_mut(&payment).unwrap();
                assert!(!known.1, "a payment is sold for once");
                known.1 = true;
            }
        }
        Step::Refund { payment, id, amount } => {
            if books.refunds.contains(&(payment, id)) {
                return;
            }
            if let Some((hold, movement)) = books.holds.get(&payment).and_then(|hold| refund(hold, amount)) {
                books.post(movement);
                books.holds.insert(payment, hold);
                books.refunds.insert((payment, id));
                let known = model.payments.get_mut(&payment).unwrap();
                if known.1 { known.3 += amount } else { known.2 += amount }
            }
        }
    }
}

/// In every order of events: no point appears or vanishes, no user's balance is below zero, a payment takes its points
/// once, and no more is refunded than was taken.
fn walk(config: ProptestConfig) {
    let outcome = TestRunner::new(config).run(&steps(), |steps| {
        let user = AccountId::generate();
        let (mut books, mut model) = (Books::default(), Model::default());
        for step in steps {
            run(user, &mut books, &mut model, step);
            prop_assert_eq!(books.balances.values().sum::<i64>(), 0);
            for account in [Account::Issued, Account::User, Account::Escrow, Account::Sales] {
                prop_assert_eq!(books.balance(account), model.expected(account), "{:?} after {:?}", account, step);
            }
            for account in [Account::User, Account::Escrow, Account::Sales] {
                prop_assert!(books.balance(account) >= 0, "{:?} after {:?}", account, step);
            }
            for (payment, hold) in &books.holds {
                let (taken, sold, before, after) = model.payments[payment];
                prop_assert_eq!((hold.amount, hold.refunded), (taken, before + after));
                prop_assert!((0..=hold.amount).contains(&hold.refunded));
                let expected = match (sold, hold.left()) {
                    (true, _) => HoldStatus::Confirmed,
                    (false, 0) => HoldStatus::Released,
                    (false, _) => HoldStatus::Held,
                };
                prop_assert_eq!(hold.status, expected);
            }
        }
        Ok(())
    });
    outcome.unwrap_or_else(|failed| panic!("{failed}"));
}

#[test]
fn points_are_conserved() {
    walk(quick(1_000));
}

#[test]
#[ignore = "soak: many random histories"]
fn points_are_conserved_in_many_histories() {
    walk(soak(20_000));
}
