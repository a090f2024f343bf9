//! Random batches against the same rules written the slow and obvious way.

use chrono::Duration;
use proptest::prelude::*;

use super::*;

/// Two products, a few buyers and a few ids, so that duplicates, limits and shortages all happen.
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

fn facts(case: &Case) -> Facts {
    let stocks = case.on_hand.iter().enumerate();
    let stocks = stocks.map(|(n, on_hand)| (id(n as u128), stock(*on_hand, 0, case.max_per_user))).collect();
    Facts { stocks, ..Facts::default() }
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
            "duplicate"
        } else if (0..2).filter(wants).any(over_limit) {
            "limit"
        } else if (0..2).filter(wants).any(short) {
            "short"
        } else {
            granted.push((*hold, *user, *quantities));
            "create"
        });
    }
    outcomes
}

proptest! {
    #[test]
    fn decide_agrees_with_the_naive_model(case in cases()) {
        let requests: Vec<_> = case.requests.iter().map(|(hold, user, q)| wanted(*hold, *user, q)).collect();
        let outcomes = decide(&requests, &facts(&case), Utc::now());
        let names: Vec<_> = outcomes.iter().map(|outcome| match outcome {
            Ok(Decision::Create) => "create",
            Ok(Decision::Duplicate) => "duplicate",
            Ok(Decision::Exists) => "exists",
            Err(Refused::LimitExceeded { .. }) => "limit",
            Err(Refused::OutOfStock { .. }) => "short",
            Err(_) => "other",
        }).collect();
        prop_assert_eq!(names, naive(&case));
    }

    #[test]
    fn a_batch_never_gives_more_units_than_are_sellable(case in cases()) {
        let requests: Vec<_> = case.requests.iter().map(|(hold, user, q)| wanted(*hold, *user, q)).collect();
        let outcomes = decide(&requests, &facts(&case), Utc::now());
        for (n, on_hand) in case.on_hand.iter().enumerate() {
            let given: i64 = outcomes.iter().zip(&case.requests)
                .filter(|(outcome, _)| **outcome == Ok(Decision::Create))
                .map(|(_, request)| i64::from(request.2[n]))
                .sum();
            prop_assert!(given <= *on_hand);
        }
    }
}

#[test]
fn a_refused_buyer_is_told_what_is_left_after_the_batch() {
    let facts = Facts { stocks: BTreeMap::from([(id(0), stock(3, 0, None))]), ..Facts::default() };
    let requests = [wanted(1, 1, &[1]), wanted(2, 2, &[3]), wanted(3, 3, &[2])];
    let outcomes = decide(&requests, &facts, Utc::now());
    let short = Shortage { product: id(0), requested: 3, available: 0 };
    assert_eq!(outcomes[1], Err(Refused::OutOfStock { shortages: vec![short] }));
    assert_eq!((&outcomes[0], &outcomes[2]), (&Ok(Decision::Create), &Ok(Decision::Create)));
}

#[test]
fn a_repeat_is_answered_with_the_first_hold_until_it_expires() {
    let now = Utc::now();
    let mut facts = Facts { stocks: BTreeMap::from([(id(0), stock(1, 1, None))]), ..Facts::default() };
    let first = wanted(1, 1, &[1]);
    let hold = new_hold(&first, &facts.stocks, now + Duration::seconds(1));
    facts.holds.insert(hold.id, hold);
    assert_eq!(decide(std::slice::from_ref(&first), &facts, now), [Ok(Decision::Exists)]);
    let later = now + Duration::seconds(1);
    assert_eq!(decide(std::slice::from_ref(&first), &facts, later), [Err(Refused::HoldExpired(first.hold))]);
}

#[test]
fn lines_are_checked_and_put_in_product_order() {
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
fn only_an_adjustment_or_a_return_begins_a_restock_round() {
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
fn an_adjustment_leaves_as_many_units_as_are_held() {
    assert_eq!(adjusted(10, 4, -6).unwrap(), 4);
    assert_eq!(adjusted(10, 4, -7).unwrap_err().reason(), Some("STOCK_BELOW_HELD"));
    assert_eq!(adjusted(10, 4, ON_HAND_MAX).unwrap_err().reason(), Some("VALIDATION_ERROR"));
}
