//! Rules of stock: who gets units, what a batch leaves, when a product sells out and when it is back.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use contract::ids::{AccountId, HoldId, ProductId};

use crate::hold::{Hold, HoldLine, HoldState, known_to_be};
use crate::refused::{Refused, Shortage};

/// More units than this of one product are a typing error. It also keeps every sum exact in a Lua number.
pub const ON_HAND_MAX: i64 = 1_000_000_000;

/// What one buyer wants, all of it or nothing. Made by [`Wanted::new`], so the lines are distinct and in product order.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub hold: HoldId,
    pub user: AccountId,
    pub lines: Vec<WantedLine>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WantedLine {
    pub product: ProductId,
    pub quantity: i32,
}

impl Wanted {
    /// Refuses with `VALIDATION_ERROR`.
    pub fn new(
        hold: HoldId,
        user: AccountId,
        mut lines: Vec<WantedLine>,
        lines_max: usize,
        quantity_max: i32,
    ) -> Result<Wanted, common::Refused> {
        if lines.is_empty() || lines.len() > lines_max {
            return Err(common::Refused::invalid("lines", format!("must have 1 to {lines_max} lines")));
        }
        if let Some(index) = lines.iter().position(|line| !(1..=quantity_max).contains(&line.quantity)) {
            let field = format!("lines[{index}].quantity");
            return Err(common::Refused::invalid(&field, format!("must be 1 to {quantity_max}")));
        }
        // The one order in which stock is ever locked.
        lines.sort_by_key(|line| line.product);
        if lines.windows(2).any(|pair| pair[0].product == pair[1].product) {
            return Err(common::Refused::invalid("lines", "must name each product once"));
        }
        Ok(Wanted { hold, user, lines })
    }
}

/// One row of stock and what its product says, as seen under the row's lock.
#[derive(Debug, Clone)]
pub struct Stock {
    pub on_hand: i64,
    pub held: i64,
    pub version: i64,
    pub max_per_user: Option<i32>,
    pub unit_price: i64,
    pub currency: String,
    pub sku: String,
    pub name: String,
}

impl Stock {
    /// Units that may be held now.
    pub fn sellable(&self) -> i64 {
        self.on_hand - self.held
    }
}

/// What one request of a batch comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// A new hold.
    Take,
    /// This id had been held before the batch.
    Exists,
    /// The same id as an earlier request of this batch, which took.
    Twin { first: usize },
}

/// What a batch may know: all of it read after the rows of `stocks` were locked.
#[derive(Debug, Default)]
pub struct Scene {
    pub stocks: BTreeMap<ProductId, Stock>,
    pub holds: HashMap<HoldId, Hold>,
    /// Units that a user holds or owns, for products with a limit.
    pub owned: HashMap<(AccountId, ProductId), i64>,
}

/// Serves `requests` in arrival order, each wholly or not at all; the sum of what it gives never exceeds what is
/// sellable. `now` is the database's clock.
pub fn decide(requests: &[Wanted], scene: &Scene, now: DateTime<Utc>) -> Vec<Result<Decision, Refused>> {
    let mut left: HashMap<ProductId, i64> = scene.stocks.iter().map(|(id, stock)| (*id, stock.sellable())).collect();
    let mut owned = scene.owned.clone();
    let mut taken: HashMap<HoldId, usize> = HashMap::new();
    let mut outcomes = Vec::with_capacity(requests.len());
    for (index, wanted) in requests.iter().enumerate() {
        let outcome = if let Some(first) = taken.get(&wanted.hold) {
            Ok(Decision::Twin { first: *first })
        } else if let Some(hold) = scene.holds.get(&wanted.hold) {
            known_to_be(hold, wanted.user, now).map(|()| Decision::Exists)
        } else {
            may_take(wanted, &scene.stocks, &left, &owned).map(|()| Decision::Take)
        };
        if outcome == Ok(Decision::Take) {
            taken.insert(wanted.hold, index);
            for line in &wanted.lines {
                *left.entry(line.product).or_default() -= i64::from(line.quantity);
                *owned.entry((wanted.user, line.product)).or_default() += i64::from(line.quantity);
            }
        }
        outcomes.push(outcome);
    }
    // A refused buyer is told what the batch has left, not what was there in the middle of it.
    for shortage in outcomes.iter_mut().filter_map(shortages).flatten() {
        shortage.available = left.get(&shortage.product).copied().unwrap_or(0).max(0);
    }
    outcomes
}

fn may_take(
    wanted: &Wanted,
    stocks: &BTreeMap<ProductId, Stock>,
    left: &HashMap<ProductId, i64>,
    owned: &HashMap<(AccountId, ProductId), i64>,
) -> Result<(), Refused> {
    let mut shortages = Vec::new();
    for line in &wanted.lines {
        let product = line.product;
        let stock = stocks.get(&product).ok_or(Refused::ProductNotFound(product))?;
        let have = owned.get(&(wanted.user, product)).copied().unwrap_or(0);
        if let Some(max) = stock.max_per_user
            && have + i64::from(line.quantity) > i64::from(max)
        {
            return Err(Refused::LimitExceeded { product, requested: line.quantity, have, max });
        }
        let available = left.get(&product).copied().unwrap_or(0);
        if i64::from(line.quantity) > available {
            shortages.push(Shortage { product, requested: line.quantity, available });
        }
    }
    if shortages.is_empty() { Ok(()) } else { Err(Refused::OutOfStock { shortages }) }
}

fn shortages(outcome: &mut Result<Decision, Refused>) -> Option<&mut Vec<Shortage>> {
    match outcome {
        Err(Refused::OutOfStock { shortages }) => Some(shortages),
        Ok(_) | Err(_) => None,
    }
}

/// The products that somebody was refused for want of units.
pub fn short_products(outcomes: &mut [Result<Decision, Refused>]) -> Vec<ProductId> {
    let mut short: Vec<_> =
        outcomes.iter_mut().filter_map(shortages).flatten().map(|shortage| shortage.product).collect();
    short.sort();
    short.dedup();
    short
}

/// The hold that a request becomes when it takes, at the prices of this moment.
pub fn new_hold(wanted: &Wanted, stocks: &BTreeMap<ProductId, Stock>, expires_at: DateTime<Utc>) -> Hold {
    let line = |line: &WantedLine| {
        let stock = stocks.get(&line.product)?;
        Some(HoldLine {
            product: line.product,
            quantity: line.quantity,
            unit_price: stock.unit_price,
            currency: stock.currency.clone(),
            sku: stock.sku.clone(),
            name: stock.name.clone(),
        })
    };
    Hold {
        id: wanted.hold,
        user: Some(wanted.user),
        state: HoldState::Held,
        expires_at,
        pin: None,
        unpinned_by: Vec::new(),
        order_version: None,
        lines: wanted.lines.iter().filter_map(line).collect(),
    }
}

/// How one row of stock changes in a transaction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Move {
    pub on_hand: i64,
    pub held: i64,
    /// Units that came back by an adjustment or a return: only these can be a restock.
    pub restocked: i64,
}

/// The changes of all rows of one transaction, in product order.
pub type Moves = BTreeMap<ProductId, Move>;

/// What a change means to those who wait for this product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crossing {
    Depleted,
    /// A new restock round begins.
    Replenished,
    Nothing,
}

/// Whether sellable units went to 0 or came back from it. A lapsed or released hold is not a restock.
pub fn crossing(sellable_before: i64, change: Move) -> Crossing {
    let sellable_after = sellable_before + change.on_hand - change.held;
    if sellable_before > 0 && sellable_after <= 0 {
        Crossing::Depleted
    } else if sellable_before <= 0 && sellable_after > 0 && change.restocked > 0 {
        Crossing::Replenished
    } else {
        Crossing::Nothing
    }
}

/// Whether an adjustment may be made to a stock; returns the units on hand afterwards.
pub fn adjusted(on_hand: i64, held: i64, delta: i64) -> Result<i64, common::Error> {
    let after = on_hand + delta;
    if after < held {
        return Err(Refused::BelowHeld { on_hand, held, delta }.into());
    }
    if after > ON_HAND_MAX {
        return Err(common::Refused::invalid("delta", format!("a stock may have {ON_HAND_MAX} units at most")).into());
    }
    Ok(after)
}

#[cfg(test)]
mod tests {
    use chrono::Duration;
    use proptest::prelude::*;

    use super::*;

    /// Two products, a few buyers and a few ids, so that twins, limits and shortages all happen.
    #[derive(Debug, Clone)]
    struct Case {
        on_hand: [i64; 2],
        max_per_user: Option<i32>,
        /// (hold, user, quantity of each product)
        requests: Vec<(u128, u128, [i32; 2])>,
    }

    fn cases() -> impl Strategy<Value = Case> {
        let request = (0..12u128, 0..4u128, [0..4i32, 0..4i32]);
        ([0..12i64, 0..12i64], proptest::option::of(1..5i32), proptest::collection::vec(request, 0..24)).prop_map(
            |(on_hand, max_per_user, mut requests)| {
                requests.retain(|(_, _, quantities)| quantities.iter().any(|quantity| *quantity > 0));
                // One id has one owner: it is derived from the account.
                for (hold, user, _) in &mut requests {
                    *user = *hold % 4;
                }
                Case { on_hand, max_per_user, requests }
            },
        )
    }

    fn id<K>(n: u128) -> common::Id<K> {
        uuid::Uuid::from_u128(n).into()
    }

    fn stock(on_hand: i64, held: i64, max_per_user: Option<i32>) -> Stock {
        let (currency, sku, name) = ("KRW".to_owned(), "SKU".to_owned(), "name".to_owned());
        Stock { on_hand, held, version: 1, max_per_user, unit_price: 1000, currency, sku, name }
    }

    fn wanted(hold: u128, user: u128, quantities: &[i32]) -> Wanted {
        let lines = quantities.iter().enumerate().filter(|(_, quantity)| **quantity > 0);
        let lines = lines.map(|(n, quantity)| WantedLine { product: id(n as u128), quantity: *quantity }).collect();
        Wanted::new(id(hold), id(user), lines, 50, 100).unwrap()
    }

    fn scene(case: &Case) -> Scene {
        let stocks = case.on_hand.iter().enumerate();
        let stocks = stocks.map(|(n, on_hand)| (id(n as u128), stock(*on_hand, 0, case.max_per_user))).collect();
        Scene { stocks, ..Scene::default() }
    }

    /// The same rules, written the slow and obvious way: each request is judged by what was granted before it.
    fn naive(case: &Case) -> Vec<&'static str> {
        let mut granted: Vec<(u128, u128, [i32; 2])> = Vec::new();
        let mut outcomes = Vec::new();
        for (hold, user, quantities) in &case.requests {
            let sum = |n: usize, of: Option<u128>| -> i64 {
                granted.iter().filter(|g| of.is_none_or(|user| g.1 == user)).map(|g| i64::from(g.2[n])).sum()
            };
            let wants = |n: &usize| quantities[*n] > 0;
            let over_limit = |n: usize| {
                case.max_per_user.is_some_and(|max| sum(n, Some(*user)) + i64::from(quantities[n]) > i64::from(max))
            };
            let short = |n: usize| sum(n, None) + i64::from(quantities[n]) > case.on_hand[n];
            outcomes.push(if granted.iter().any(|g| g.0 == *hold) {
                "twin"
            } else if (0..2).filter(wants).any(over_limit) {
                "limit"
            } else if (0..2).filter(wants).any(short) {
                "short"
            } else {
                granted.push((*hold, *user, *quantities));
                "take"
            });
        }
        outcomes
    }

    proptest! {
        #[test]
        fn decide_agrees_with_the_naive_model(case in cases()) {
            let requests: Vec<_> = case.requests.iter().map(|(hold, user, q)| wanted(*hold, *user, q)).collect();
            let outcomes = decide(&requests, &scene(&case), Utc::now());
            let names: Vec<_> = outcomes.iter().map(|outcome| match outcome {
                Ok(Decision::Take) => "take",
                Ok(Decision::Twin { .. }) => "twin",
                Ok(Decision::Exists) => "exists",
                Err(Refused::LimitExceeded { .. }) => "limit",
                Err(Refused::OutOfStock { .. }) => "short",
                Err(_) => "other",
            }).collect();
            prop_assert_eq!(names, naive(&case));
        }

        #[test]
        fn what_is_given_never_exceeds_what_is_there(case in cases()) {
            let requests: Vec<_> = case.requests.iter().map(|(hold, user, q)| wanted(*hold, *user, q)).collect();
            let outcomes = decide(&requests, &scene(&case), Utc::now());
            for (n, on_hand) in case.on_hand.iter().enumerate() {
                let given: i64 = outcomes.iter().zip(&case.requests)
                    .filter(|(outcome, _)| **outcome == Ok(Decision::Take))
                    .map(|(_, request)| i64::from(request.2[n]))
                    .sum();
                prop_assert!(given <= *on_hand);
            }
        }
    }

    #[test]
    fn a_refused_buyer_learns_what_the_batch_has_left() {
        let scene = Scene { stocks: BTreeMap::from([(id(0), stock(3, 0, None))]), ..Scene::default() };
        let requests = [wanted(1, 1, &[1]), wanted(2, 2, &[3]), wanted(3, 3, &[2])];
        let outcomes = decide(&requests, &scene, Utc::now());
        let short = Shortage { product: id(0), requested: 3, available: 0 };
        assert_eq!(outcomes[1], Err(Refused::OutOfStock { shortages: vec![short] }));
        assert_eq!((&outcomes[0], &outcomes[2]), (&Ok(Decision::Take), &Ok(Decision::Take)));
    }

    #[test]
    fn a_hold_that_is_there_costs_nothing_again() {
        let now = Utc::now();
        let mut scene = Scene { stocks: BTreeMap::from([(id(0), stock(1, 1, None))]), ..Scene::default() };
        let first = wanted(1, 1, &[1]);
        let hold = new_hold(&first, &scene.stocks, now + Duration::seconds(1));
        scene.holds.insert(hold.id, hold);
        assert_eq!(decide(std::slice::from_ref(&first), &scene, now), [Ok(Decision::Exists)]);
        let later = now + Duration::seconds(1);
        assert_eq!(decide(std::slice::from_ref(&first), &scene, later), [Err(Refused::HoldExpired(first.hold))]);
    }

    #[test]
    fn form_is_checked_before_anything_is_asked() {
        let line = |product: u128, quantity| WantedLine { product: id(product), quantity };
        let new = |lines: Vec<WantedLine>| Wanted::new(id(1), id(1), lines, 2, 10);
        assert!(new(vec![line(2, 1), line(1, 10)]).is_ok_and(|wanted| wanted.lines[0].product == id(1)));
        let bad: [&[WantedLine]; 5] =
            [&[], &[line(1, 0)], &[line(1, 11)], &[line(1, 1), line(1, 1)], &[line(1, 1), line(2, 1), line(3, 1)]];
        for lines in bad {
            assert!(new(lines.to_vec()).is_err(), "{lines:?}");
        }
    }

    #[test]
    fn only_an_adjustment_or_a_return_begins_a_round() {
        for (before, on_hand, held, restocked, expected) in [
            (1, 0, 1, 0, Crossing::Depleted),
            (5, -5, 0, 0, Crossing::Depleted),
            (0, 0, -1, 0, Crossing::Nothing),
            (0, 1, 0, 1, Crossing::Replenished),
            (1, 1, 0, 1, Crossing::Nothing),
            (0, 1, 1, 1, Crossing::Nothing),
            (2, 0, 1, 0, Crossing::Nothing),
        ] {
            assert_eq!(crossing(before, Move { on_hand, held, restocked }), expected, "{before} {on_hand} {held}");
        }
    }

    #[test]
    fn an_adjustment_never_goes_below_what_is_held() {
        assert_eq!(adjusted(10, 4, -6).unwrap(), 4);
        assert_eq!(adjusted(10, 4, -7).unwrap_err().reason(), Some("STOCK_BELOW_HELD"));
        assert_eq!(adjusted(10, 4, ON_HAND_MAX).unwrap_err().reason(), Some("VALIDATION_ERROR"));
    }
}
