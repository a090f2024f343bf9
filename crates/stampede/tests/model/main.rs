//! The protocol between orders, holds, coupons, payments and the provider, walked through state by state: every order of events,
//! every crash and every lost, late or doubled message of small worlds, with the services' own rules deciding each step.
//!
//! Nothing is sampled: a world that passes has no counterexample within its bounds. Every mistake that the protocol is
//! built against is made once, to show that the model would see it.

mod actions;
mod coupons;
mod flows;
mod properties;
mod protocol;
mod resolver;
mod rules;
mod servers;
mod state;

use std::time::Instant;

use stateright::{Checker, Expectation, HasDiscoveries, Model, Path};

use crate::actions::Action;
use crate::protocol::{Mutation, Protocol};
use crate::state::{Budget, Click, State};

const THREADS: usize = 2;

/// One payment, approved twice with the same authorisation.
const DOUBLE_CLICK: (&[u8], &[(u8, u8)]) = (&[0], &[(0, 0), (0, 0)]);
/// One payment, approved twice with an authorisation each.
const TWO_AUTHORISATIONS: (&[u8], &[(u8, u8)]) = (&[0], &[(0, 0), (0, 1)]);
/// Two payments of one order.
const TWO_PAYMENTS: (&[u8], &[(u8, u8)]) = (&[0, 0], &[(0, 0), (1, 1)]);
/// Two orders that want the same unit.
const TWO_ORDERS: (&[u8], &[(u8, u8)]) = (&[0, 1], &[(0, 0), (1, 1)]);

/// Two orders that want the same unit, of which one is paid.
const ONE_PAYS: (&[u8], &[(u8, u8)]) = (&[0, 1], &[(0, 0)]);

const DECLINES: Budget = Budget {
    lost_calls: [0; 3],
    late_copies: 0,
    crashes: 0,
    overlaps: 0,
    zombies: 0,
    waits: 0,
    cancellations: 0,
    regrets: 0,
    declines: 1,
    unclear: 0,
    reviews: 0,
};

/// Two may settle what one payment owes: who made it true and the loop, or the loops of two replicas.
fn crowded(world: (&[u8], &[(u8, u8)]), budget: Budget, mutation: Option<Mutation>) -> Protocol {
    Protocol { settlers: 2, ..protocol(world, budget, mutation) }
}

fn protocol(world: (&[u8], &[(u8, u8)]), budget: Budget, mutation: Option<Mutation>) -> Protocol {
    let (payments, clicks) = world;
    let clicks =
        clicks.iter().map(|(payment, authorisation)| Click { payment: *payment, authorisation: *authorisation });
    let (payments, clicks) = (payments.to_vec(), clicks.collect());
    Protocol { payments, clicks, budget, units: 1, has_coupon: false, settlers: 1, mutation }
}

/// All orders want to use one coupon, and there are units for all.
fn with_coupon(world: (&[u8], &[(u8, u8)]), budget: Budget, mutation: Option<Mutation>) -> Protocol {
    Protocol { units: 2, has_coupon: true, ..protocol(world, budget, mutation) }
}

fn describe(name: &str, path: Path<State, Action>) -> String {
    let last = path.last_state().clone();
    let steps: Vec<String> = path.into_actions().iter().map(|action| format!("  {action:?}")).collect();
    format!("{name}\n{}\n{last:#?}", steps.join("\n"))
}

/// Walks through all of it; panics with the way there if a property is broken or one of `reached` is out of reach.
fn holds(name: &str, world: (&[u8], &[(u8, u8)]), budget: Budget, reached: &[&str]) {
    walk(name, protocol(world, budget, None), reached);
}

fn walk(name: &str, protocol: Protocol, reached: &[&str]) {
    let started = Instant::now();
    let checker = protocol.checker().threads(THREADS).finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.spawn_bfs().join();
    let (unique, steps) = (checker.unique_state_count(), checker.state_count());
    println!("{name}: {unique} states, {steps} steps, {:.1} s", started.elapsed().as_secs_f64());
    let discoveries = checker.discoveries();
    for (property, path) in discoveries.clone() {
        let is_failure = checker.model().property(property).expectation == Expectation::Always;
        assert!(!is_failure, "{name}: {}", describe(property, path));
    }
    for property in reached {
        assert!(discoveries.contains_key(property), "{name}: out of reach: {property}");
    }
}

fn finds(mutation: Mutation, world: (&[u8], &[(u8, u8)]), budget: Budget) {
    seek(mutation, protocol(world, budget, Some(mutation)));
}

fn seek(mutation: Mutation, protocol: Protocol) {
    let checker = protocol.checker().threads(THREADS);
    let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let mut found: Vec<&str> = checker.discoveries().into_keys().collect();
    found.retain(|name| checker.model().property(name).expectation == Expectation::Always);
    println!("{mutation:?}: {} states, {found:?}", checker.unique_state_count());
    assert!(!found.is_empty(), "{mutation:?} goes unseen");
}

/// A mistake that breaks nothing and makes `reach` impossible.
fn blocks(mutation: Mutation, protocol: Protocol, reach: &str) {
    let checker = protocol.checker().threads(THREADS).spawn_bfs().join();
    println!("{mutation:?}: {} states", checker.unique_state_count());
    assert!(!checker.discoveries().contains_key(reach), "{mutation:?} goes unseen: {reach} is possible");
}

const PAID: &str = "paid in time";
const DECLINED_THEN_PAID: &str = "declined, then paid";
const EXPIRED: &str = "nobody pays in time";

/// The smallest world with each kind of fault; the soak walks through the larger ones.
#[test]
fn a_double_click_pays_once_whatever_is_lost_late_or_killed() {
    let killed = Budget { crashes: 1, waits: 1, ..DECLINES };
    holds("double click, payment killed", DOUBLE_CLICK, killed, &[PAID, EXPIRED, "paid although payment was killed"]);
    let lost = Budget { lost_calls: [1, 1, 1], ..DECLINES };
    let reached = ["paid although order was killed", "paid although inventory was killed"];
    holds("double click, calls lost", DOUBLE_CLICK, lost, &[PAID, EXPIRED, reached[0], reached[1]]);
    holds("double click, messages late", DOUBLE_CLICK, Budget { late_copies: 1, ..DECLINES }, &[PAID, EXPIRED]);
    let regrets = Budget { regrets: 1, ..DECLINES };
    holds("double click, regretted", DOUBLE_CLICK, regrets, &[PAID, EXPIRED, "the buyer cancels the payment"]);
    let cancels = Budget { cancellations: 1, ..DECLINES };
    holds("double click, cancelled", DOUBLE_CLICK, cancels, &[PAID, EXPIRED, "the buyer cancels what is paid"]);
}

const COUPON_GOES: &str = "the coupon goes to the second order";

#[test]
fn one_coupon_is_used_by_one_paid_order() {
    walk("double click with a coupon", with_coupon(DOUBLE_CLICK, DECLINES, None), &[PAID, EXPIRED]);
    let again = with_coupon(TWO_AUTHORISATIONS, DECLINES, None);
    walk("two authorisations with a coupon", again, &[PAID, DECLINED_THEN_PAID]);
    let late = "refunded late, for the coupon is used";
    let given_up = Budget { zombies: 2, declines: 0, ..DECLINES };
    walk("one coupon, given up", with_coupon(ONE_PAYS, given_up, None), &[PAID, EXPIRED, "honoured late", late]);
}

#[test]
#[ignore = "soak: large worlds"]
fn with_one_coupon_for_two_orders() {
    let reached = [PAID, EXPIRED, COUPON_GOES];
    walk("one coupon", with_coupon(TWO_ORDERS, Budget { declines: 0, ..DECLINES }, None), &reached);
    let killed = Budget { crashes: 1, ..DECLINES };
    walk("a coupon, payment killed", with_coupon(DOUBLE_CLICK, killed, None), &[PAID, EXPIRED]);
    let lost = Budget { lost_calls: [1, 1, 1], ..DECLINES };
    walk("a coupon, calls lost", with_coupon(DOUBLE_CLICK, lost, None), &[PAID, EXPIRED]);
    let late = Budget { late_copies: 1, ..DECLINES };
    walk("a coupon, messages late", with_coupon(DOUBLE_CLICK, late, None), &[PAID, EXPIRED]);
    let cancels = Budget { cancellations: 1, regrets: 1, ..DECLINES };
    walk("a coupon, cancelled and regretted", with_coupon(DOUBLE_CLICK, cancels, None), &[PAID, EXPIRED]);
}

#[test]
#[ignore = "soak: large worlds"]
fn without_faults() {
    let budget = Budget { cancellations: 1, ..DECLINES };
    let cancelled = ["the buyer cancels before it is paid", "the buyer cancels what is paid"];
    holds("double click", DOUBLE_CLICK, budget, &[PAID, EXPIRED, cancelled[0], cancelled[1]]);
    let declined = ["declined, then paid", "declined when the time was up, then paid"];
    let reached = [PAID, EXPIRED, declined[0], declined[1], cancelled[0], cancelled[1]];
    holds("two authorisations", TWO_AUTHORISATIONS, budget, &reached);
    holds("two payments", TWO_PAYMENTS, budget, &[PAID, EXPIRED, declined[0], cancelled[0], cancelled[1]]);
    let second = "the unit goes to the second order";
    holds("two orders", TWO_ORDERS, budget, &[PAID, EXPIRED, second, cancelled[0], cancelled[1]]);
}

#[test]
#[ignore = "soak: large worlds"]
fn with_calls_lost_on_either_side_of_each_server() {
    let budget = Budget { lost_calls: [1, 1, 1], ..DECLINES };
    let reached = [
        PAID,
        EXPIRED,
        "paid although order was killed",
        "paid although inventory was killed",
        "paid although the provider did not answer",
    ];
    holds("double click, calls lost", DOUBLE_CLICK, budget, &reached);
    holds("two authorisations, calls lost", TWO_AUTHORISATIONS, budget, &reached);
    holds("two payments, calls lost", TWO_PAYMENTS, budget, &reached);
    let budget = Budget { lost_calls: [0, 0, 1], ..DECLINES };
    holds("two orders, answers of the provider lost", TWO_ORDERS, budget, &[PAID, EXPIRED, reached[4]]);
}

#[test]
#[ignore = "soak: large worlds"]
fn with_payment_killed() {
    let reached = [PAID, EXPIRED, "paid although payment was killed"];
    let budget = Budget { crashes: 1, waits: 1, ..DECLINES };
    holds("double click, payment killed", DOUBLE_CLICK, budget, &reached);
    holds("two authorisations, payment killed", TWO_AUTHORISATIONS, budget, &reached);
    holds("two payments, payment killed", TWO_PAYMENTS, Budget { waits: 0, ..budget }, &reached);
    holds("two orders, payment killed", TWO_ORDERS, Budget { waits: 0, ..budget }, &reached);
}

#[test]
#[ignore = "soak: large worlds"]
fn with_messages_late_and_doubled() {
    let budget = Budget { late_copies: 1, ..DECLINES };
    let reached = [PAID, EXPIRED];
    holds("double click, messages late", DOUBLE_CLICK, budget, &reached);
    holds("two authorisations, messages late", TWO_AUTHORISATIONS, budget, &reached);
    holds("two payments, messages late", TWO_PAYMENTS, budget, &reached);
    holds("two orders, messages late", TWO_ORDERS, budget, &reached);
}

#[test]
#[ignore = "soak: large worlds"]
fn with_a_provider_that_is_slow_or_does_not_say() {
    let unclear = Budget { unclear: 1, lost_calls: [0, 0, 1], ..DECLINES };
    holds("two payments, unclear", TWO_PAYMENTS, unclear, &[PAID, EXPIRED, "undone"]);
    let given_up = Budget { unclear: 1, zombies: 2, crashes: 1, ..DECLINES };
    holds("double click, undone behind a slow approver", DOUBLE_CLICK, given_up, &[PAID, EXPIRED, "undone"]);
    let undo_is_late = Budget { unclear: 1, late_copies: 1, zombies: 1, ..DECLINES };
    holds("two authorisations, undone late", TWO_AUTHORISATIONS, undo_is_late, &[PAID, EXPIRED]);
    let reviewed = Budget { reviews: 1, unclear: 1, lost_calls: [0, 0, 1], ..DECLINES };
    let looked = "paid after somebody had to look";
    holds("two payments, reviewed", TWO_PAYMENTS, reviewed, &[PAID, EXPIRED, looked]);
    let overlap = Budget { overlaps: 1, waits: 1, lost_calls: [0, 0, 1], ..DECLINES };
    holds("double click, asked twice at once", DOUBLE_CLICK, overlap, &[PAID, EXPIRED]);
    holds("two authorisations, asked twice at once", TWO_AUTHORISATIONS, overlap, &[PAID, EXPIRED]);
}

/// Somebody asks the provider after the resolver has heard twice that it knows nothing.
#[test]
#[ignore = "soak: large worlds"]
fn with_an_approver_that_was_given_up() {
    let budget = Budget { zombies: 2, ..DECLINES };
    holds("two authorisations, given up", TWO_AUTHORISATIONS, budget, &[PAID, EXPIRED]);
    holds("two payments, given up", TWO_PAYMENTS, budget, &[PAID, EXPIRED, "honoured late"]);
    holds("two orders, given up", TWO_ORDERS, budget, &[PAID, EXPIRED, "honoured late", "refunded late"]);
}

#[test]
#[ignore = "soak: large worlds"]
fn with_two_who_settle_what_one_payment_owes() {
    let given_up = Budget { zombies: 2, declines: 0, ..DECLINES };
    walk("two orders, settled twice", crowded(ONE_PAYS, given_up, None), &[PAID, EXPIRED, "refunded late"]);
    let killed = Budget { crashes: 1, ..given_up };
    walk("two orders, given up and killed", protocol(ONE_PAYS, killed, None), &[PAID, EXPIRED, "refunded late"]);
}

#[test]
#[ignore = "soak: large worlds"]
fn with_buyers_who_want_their_money_back() {
    let back = "the buyer cancels the payment";
    let regrets = Budget { regrets: 1, ..DECLINES };
    holds("double click, regretted", DOUBLE_CLICK, regrets, &[PAID, EXPIRED, back]);
    let both = Budget { cancellations: 1, ..regrets };
    holds("two payments, regretted twice", TWO_PAYMENTS, both, &[PAID, EXPIRED, back]);
    let killed = Budget { crashes: 1, lost_calls: [1, 0, 1], ..regrets };
    holds("double click, regretted, payment killed", DOUBLE_CLICK, killed, &[PAID, EXPIRED, back]);
    let given_up = Budget { zombies: 2, ..regrets };
    holds("two payments, given up and regretted", TWO_PAYMENTS, given_up, &[PAID, EXPIRED, "honoured late", back]);
}

#[test]
fn every_mistake_is_found() {
    let cancels = Budget { cancellations: 1, ..DECLINES };
    let late = Budget { late_copies: 1, ..DECLINES };
    let lost = Budget { lost_calls: [0, 0, 1], ..DECLINES };
    finds(Mutation::ApproveWithoutReservation, DOUBLE_CLICK, DECLINES);
    finds(Mutation::ReleaseWithoutAttemptFence, TWO_AUTHORISATIONS, late);
    finds(Mutation::TimeoutIsAFailure, DOUBLE_CLICK, lost);
    finds(Mutation::ExpiryIgnoresThePin, DOUBLE_CLICK, DECLINES);
    finds(Mutation::ConfirmWithoutStateCheck, DOUBLE_CLICK, cancels);
    finds(Mutation::UndoWhileItCanBePaid, DOUBLE_CLICK, Budget { unclear: 1, ..lost });
    let undone = Budget { unclear: 1, zombies: 2, ..DECLINES };
    finds(Mutation::UndoIsNotWrittenDown, DOUBLE_CLICK, undone);
    finds(Mutation::OnlyTheLastEndIsRemembered, TWO_AUTHORISATIONS, late);
    finds(Mutation::HoldIsUnpinnedFirst, TWO_AUTHORISATIONS, Budget { zombies: 2, ..DECLINES });
    finds(Mutation::OneOfTwoIsBelieved, DOUBLE_CLICK, Budget { overlaps: 1, ..lost });
    let given_up = Budget { zombies: 2, cancellations: 1, declines: 0, ..DECLINES };
    seek(Mutation::ReturnIsForgotten, crowded(ONE_PAYS, given_up, Some(Mutation::ReturnIsForgotten)));
    seek(Mutation::CouponIsNotPinned, with_coupon(DOUBLE_CLICK, DECLINES, Some(Mutation::CouponIsNotPinned)));
    // The end of the order releases the pin, but until then nobody can pay: the same world without the mistake is above.
    let not_freed = with_coupon(TWO_AUTHORISATIONS, DECLINES, Some(Mutation::CouponIsNotFreed));
    blocks(Mutation::CouponIsNotFreed, not_freed, DECLINED_THEN_PAID);
    let taken = Some(Mutation::CouponIsTakenFromAnother);
    let late = Budget { zombies: 2, declines: 0, ..DECLINES };
    seek(Mutation::CouponIsTakenFromAnother, with_coupon(ONE_PAYS, late, taken));
    finds(Mutation::MoneyGoesBackFirst, TWO_PAYMENTS, Budget { zombies: 2, regrets: 1, ..DECLINES });
}
