//! Random lives of a few holds, against the same rules written the slow and obvious way.

mod naive;

use std::collections::BTreeSet;

use chrono::Duration;
use contract::ids::PaymentAttemptId;
use proptest::prelude::*;

use self::naive::Naive;
use super::*;
use crate::hold::{HeldSeat, HoldLine};
use crate::seat::{Seat, Taken};
use crate::stock::{Decision, Facts, decide, short_products};
use crate::wanted::{Lives, Wanted, WantedLine, new_hold};

const TTL_SECONDS: i64 = 10;
const LIVES_MIN_SECONDS: i64 = 3;
const PRODUCTS: usize = 2;
/// The versions of every order: it ends, is paid late, and is refunded.
const ENDED: i64 = 2;
const PLACED: i64 = 3;
const REFUNDED: i64 = 4;

#[derive(Debug, Clone)]
enum Act {
    Hold {
        quantities: [i32; PRODUCTS],
    },
    Pin {
        attempt: u128,
        retake: bool,
    },
    Unpin {
        attempt: u128,
    },
    Release {
        known_version: bool,
    },
    Confirm,
    Return,
    Refund,
    /// The sweeper comes: of this, nobody may notice anything.
    Sweep,
    Wait {
        seconds: i64,
    },
}

fn acts() -> impl Strategy<Value = Vec<(u128, Act)>> {
    let act = prop_oneof![
        4 => [0..4i32, 0..3i32].prop_map(|quantities| Act::Hold { quantities }),
        4 => (1..4u128, any::<bool>()).prop_map(|(attempt, retake)| Act::Pin { attempt, retake }),
        2 => (1..4u128).prop_map(|attempt| Act::Unpin { attempt }),
        2 => any::<bool>().prop_map(|known_version| Act::Release { known_version }),
        2 => Just(Act::Confirm),
        1 => Just(Act::Return),
        1 => Just(Act::Refund),
        1 => Just(Act::Sweep),
        2 => (1..8i64).prop_map(|seconds| Act::Wait { seconds }),
    ];
    proptest::collection::vec((0..4u128, act), 1..40)
}

fn id<K>(n: u128) -> common::Id<K> {
    uuid::Uuid::from_u128(n).into()
}

fn step(act: &Act) -> Option<Step> {
    let attempt = |n: &u128| -> PaymentAttemptId { id(*n) };
    Some(match act {
        Act::Pin { attempt: by, retake } => Step::Pin { attempt: attempt(by), retake: *retake },
        Act::Unpin { attempt: by } => {
            Step::Unpin { attempt: attempt(by), lives_min: Duration::seconds(LIVES_MIN_SECONDS) }
        }
        Act::Release { known_version } => {
            Step::Release { reason: String::new(), order_version: known_version.then_some(ENDED) }
        }
        Act::Confirm => Step::Confirm { order_version: PLACED },
        Act::Return => Step::Return { reason: String::new() },
        Act::Refund => Step::Refund { order_version: REFUNDED },
        Act::Hold { .. } | Act::Sweep | Act::Wait { .. } => return None,
    })
}

/// What the flows make of the rules, with maps for tables.
struct World {
    now: DateTime<Utc>,
    stocks: BTreeMap<ProductId, Stock>,
    holds: HashMap<HoldId, Hold>,
    audited: BTreeMap<ProductId, i64>,
}

impl World {
    fn new(on_hand: [i64; PRODUCTS]) -> World {
        let stock = |on_hand| {
            let (currency, sku, name) = ("KRW".to_owned(), "SKU".to_owned(), "name".to_owned());
            Stock {
                on_hand,
                held: 0,
                version: 1,
                max_per_user: None,
                unit_price: 1000,
                currency,
                sku,
                name,
                concert: None,
            }
        };
        let rows = || on_hand.iter().enumerate().map(|(n, on_hand)| (id(n as u128), *on_hand));
        World {
            now: DateTime::UNIX_EPOCH,
            stocks: rows().map(|(id, on_hand)| (id, stock(on_hand))).collect(),
            holds: HashMap::new(),
            audited: rows().collect(),
        }
    }

    fn hold(&mut self, hold: u128, quantities: &[i32]) -> Result<(), Refused> {
        let lines = quantities.iter().enumerate().filter(|(_, quantity)| **quantity > 0);
        let lines = lines.map(|(n, quantity)| WantedLine { product: id(n as u128), quantity: *quantity }).collect();
        let Ok(wanted) = Wanted::new(id(hold), id(hold), lines, 50, 100) else { return Ok(()) };
        let asked = std::slice::from_ref(&wanted);
        let decision = |world: &World| {
            let facts = Facts { stocks: world.stocks.clone(), holds: world.holds.clone(), ..Facts::default() };
            decide(asked, &facts, world.now).remove(0)
        };
        let mut outcome = decision(self);
        if matches!(outcome, Err(Refused::OutOfStock { .. })) {
            self.expire_all_but(&[]);
            outcome = decision(self);
        }
        if outcome? == Decision::Create {
            let facts = Facts { stocks: self.stocks.clone(), ..Facts::default() };
            let lives = Lives { units: Duration::seconds(TTL_SECONDS), seats: Duration::zero() };
            let hold = new_hold(&wanted, &facts, lives, self.now);
            for line in &hold.lines {
                self.stocks.get_mut(&line.product).unwrap().held += i64::from(line.quantity);
            }
            self.holds.insert(hold.id, hold);
        }
        Ok(())
    }

    fn settle(&mut self, steps: &[HoldStep]) -> Vec<Result<(), Refused>> {
        let products = moved_products(steps, &self.holds, self.now);
        let locked = |world: &World| -> BTreeMap<_, _> {
            world
                .stocks
                .iter()
                .filter(|(id, _)| products.contains(id))
                .map(|(id, stock)| (*id, stock.clone()))
                .collect()
        };
        // A step on what an earlier one of the batch has changed may need stock that nobody foresaw.
        let plan = |world: &World, stocks: &_| {
            Plan::new(steps, world.holds.clone(), stocks, &HashMap::new(), Moves::new(), world.now)
        };
        let Ok(mut planned) = plan(self, &locked(self)) else {
            return steps.iter().flat_map(|step| self.settle(std::slice::from_ref(step))).collect();
        };
        if !short_products(&planned.outcomes).is_empty() {
            let ids: Vec<_> = steps.iter().map(|step| step.hold).collect();
            self.expire_all_but(&ids);
            planned = plan(self, &locked(self)).unwrap();
        }
        for (product, change) in &planned.moves {
            let stock = self.stocks.get_mut(product).unwrap();
            stock.on_hand += change.on_hand;
            stock.held += change.held;
        }
        for audit in &planned.audits {
            *self.audited.get_mut(&audit.product).unwrap() += audit.delta;
        }
        let written = |id: &HoldId| planned.changed.contains_key(id) || planned.tombstones.contains_key(id);
        for (id, hold) in planned.holds.into_iter().filter(|(id, _)| written(id)) {
            self.holds.insert(id, hold);
        }
        planned.outcomes.into_iter().map(|outcome| outcome.map(drop)).collect()
    }

    fn expire_all_but(&mut self, except: &[HoldId]) {
        for hold in self.holds.values_mut().filter(|hold| hold.is_due(self.now) && !except.contains(&hold.id)) {
            hold.state = HoldState::Expired;
            for line in &hold.lines {
                self.stocks.get_mut(&line.product).unwrap().held -= i64::from(line.quantity);
            }
        }
    }

    /// Units conserve: what is held is what living holds have, what is on hand is what the audit says.
    fn check(&self) -> Result<(), TestCaseError> {
        for (product, stock) in &self.stocks {
            let alive = self.holds.values().filter(|hold| matches!(hold.state, HoldState::Held | HoldState::Pinned));
            let lines = alive.flat_map(|hold| &hold.lines).filter(|line| line.product == *product);
            prop_assert_eq!(stock.held, lines.map(|line| i64::from(line.quantity)).sum::<i64>());
            prop_assert!((0..=stock.on_hand).contains(&stock.held), "{} of {} are held", stock.held, stock.on_hand);
            prop_assert_eq!(stock.on_hand, self.audited[product]);
        }
        for hold in self.holds.values() {
            prop_assert_eq!(hold.pin.is_some(), hold.state == HoldState::Pinned);
        }
        Ok(())
    }
}

fn short(outcome: Result<(), Refused>) -> String {
    let code = outcome.map_or_else(|refused| common::Refusal::code(&refused).reason.to_string(), |()| "ok".to_owned());
    if ["HOLD_EXPIRED", "HOLD_ALREADY_RELEASED"].contains(&code.as_str()) { "GONE".to_owned() } else { code }
}

fn check_lives(on_hand: [i64; PRODUCTS], acts: &[(u128, Act)]) -> Result<(), TestCaseError> {
    let mut world = World::new(on_hand);
    let mut naive = Naive { now: world.now, on_hand, holds: BTreeMap::new(), ended: BTreeSet::new() };
    for (hold, act) in acts {
        let outcome = match (act, step(act)) {
            (_, Some(step)) => world.settle(&[HoldStep { hold: id(*hold), step }]).remove(0),
            (Act::Hold { quantities }, _) => world.hold(*hold, quantities),
            (Act::Wait { seconds }, _) => {
                world.now += Duration::seconds(*seconds);
                Ok(())
            }
            _ => {
                world.expire_all_but(&[]);
                Ok(())
            }
        };
        prop_assert_eq!(short(outcome), naive.act(*hold, act), "{:?} of {}", act, hold);
        world.check()?;
        for hold in 0..4 {
            let state = world.holds.get(&id(hold)).map(|hold| match hold.state_at(world.now) {
                HoldState::Released | HoldState::Expired => "GONE",
                state => state.name(),
            });
            prop_assert_eq!(state, naive.expected(hold), "hold {} after {:?}", hold, act);
        }
        for (n, stock) in world.stocks.values().enumerate() {
            prop_assert_eq!(stock.on_hand, naive.on_hand[n]);
        }
    }
    Ok(())
}

fn check_batches(on_hand: [i64; PRODUCTS], acts: &[(u128, Act)]) -> Result<(), TestCaseError> {
    let mut world = World::new(on_hand);
    for chunk in acts.chunks(5) {
        for (hold, act) in chunk {
            if let Act::Hold { quantities } = act {
                drop(world.hold(*hold, quantities));
            }
        }
        let steps: Vec<_> =
            chunk.iter().filter_map(|(hold, act)| Some(HoldStep { hold: id(*hold), step: step(act)? })).collect();
        let outcomes = world.settle(&steps);
        prop_assert_eq!(outcomes.len(), steps.len());
        world.check()?;
        // Each last step that succeeded once more. One that was refused may succeed now: there may be units again.
        if let (Some(last), Some(Ok(()))) = (steps.last(), outcomes.last()) {
            let stocks: Vec<_> = world.stocks.values().map(|stock| (stock.on_hand, stock.held)).collect();
            world.settle(std::slice::from_ref(last));
            let after: Vec<_> = world.stocks.values().map(|stock| (stock.on_hand, stock.held)).collect();
            prop_assert_eq!(stocks, after, "{:?}", last);
        }
        world.now += Duration::seconds(4);
    }
    Ok(())
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(1_000))]

    #[test]
    fn holds_change_as_in_the_naive_model(on_hand in [0..8i64, 0..6i64], acts in acts()) {
        check_lives(on_hand, &acts)?;
    }

    #[test]
    fn a_batch_conserves_units_and_repeating_it_moves_none(on_hand in [0..8i64, 0..6i64], acts in acts()) {
        check_batches(on_hand, &acts)?;
    }
}

proptest! {
    #![proptest_config(cases(20_000))]

    #[test]
    #[ignore = "soak: 20,000 random lives"]
    fn many_holds_change_as_in_the_naive_model(on_hand in [0..8i64, 0..6i64], acts in acts()) {
        check_lives(on_hand, &acts)?;
    }

    #[test]
    #[ignore = "soak: 20,000 random batches"]
    fn many_batches_conserve_units(on_hand in [0..8i64, 0..6i64], acts in acts()) {
        check_batches(on_hand, &acts)?;
    }
}

/// A hold of one seat of product 0, in `state`.
fn seated(hold: u128, state: HoldState, seat: u128) -> Hold {
    let line = HoldLine {
        product: id(0),
        quantity: 1,
        unit_price: 1000,
        currency: "KRW".to_owned(),
        sku: "SKU".to_owned(),
        name: "name".to_owned(),
        seats: vec![HeldSeat { seat_id: id(seat), label: "A-1".to_owned() }],
    };
    Hold { user: Some(id(hold)), state, lines: vec![line], ..tombstone(id(hold), DateTime::UNIX_EPOCH) }
}

fn seat_of(taken: Option<&Hold>) -> Seat {
    let taken = taken.map(|hold| Taken {
        hold: hold.id,
        user: hold.user,
        state: hold.state,
        expires_at: hold.expires_at,
        is_reservation: false,
        seats: 1,
    });
    Seat { concert: id(0), product: id(0), label: "A-1".to_owned(), queue_manage_required: false, taken }
}

/// What becomes of `steps` on holds of one seat, of which a unit is left.
fn retake(steps: &[(u128, Step)], holds: &[Hold], taken: Option<&Hold>) -> (Vec<String>, BTreeSet<HoldId>) {
    let steps: Vec<_> = steps.iter().map(|(hold, step)| HoldStep { hold: id(*hold), step: step.clone() }).collect();
    let holds: HashMap<_, _> = holds.iter().map(|hold| (hold.id, hold.clone())).collect();
    let stocks = World::new([2, 0]).stocks;
    let seats = HashMap::from([(id(7), seat_of(taken))]);
    let plan = Plan::new(&steps, holds, &stocks, &seats, Moves::new(), DateTime::UNIX_EPOCH).unwrap();
    (plan.outcomes.into_iter().map(|outcome| short(outcome.map(drop))).collect(), plan.retaken)
}

fn late(attempt: u128) -> Step {
    Step::Pin { attempt: id_of_attempt(attempt), retake: true }
}

fn id_of_attempt(n: u128) -> PaymentAttemptId {
    uuid::Uuid::from_u128(n).into()
}

#[test]
fn a_late_payment_takes_its_own_seat_or_none() {
    let (ended, other) = (seated(1, HoldState::Expired, 7), seated(2, HoldState::Held, 7));
    let (outcomes, retaken) = retake(&[(1, late(1))], std::slice::from_ref(&ended), None);
    assert_eq!((outcomes, retaken), (vec!["ok".to_owned()], BTreeSet::from([id(1)])));
    // There is a unit, and it is another seat.
    let (outcomes, retaken) = retake(&[(1, late(1))], std::slice::from_ref(&ended), Some(&other));
    assert_eq!((outcomes, retaken), (vec!["OUT_OF_STOCK".to_owned()], BTreeSet::new()));
}

#[test]
fn of_two_late_payments_in_one_batch_one_takes_the_seat() {
    let holds = [seated(1, HoldState::Expired, 7), seated(2, HoldState::Expired, 7)];
    let (outcomes, retaken) = retake(&[(1, late(1)), (2, late(2))], &holds, None);
    assert_eq!((outcomes, retaken), (vec!["ok".to_owned(), "OUT_OF_STOCK".to_owned()], BTreeSet::from([id(1)])));
}

#[test]
fn a_seat_that_an_earlier_step_gives_back_is_free() {
    let (ended, other) = (seated(1, HoldState::Expired, 7), seated(2, HoldState::Held, 7));
    let release = Step::Release { reason: String::new(), order_version: None };
    let (outcomes, _) = retake(&[(2, release), (1, late(1))], &[ended, other.clone()], Some(&other));
    assert_eq!(outcomes, ["ok", "ok"]);
}
