//! Random batches against the same rules written the slow and obvious way.

use chrono::Duration;
use proptest::prelude::*;

use super::*;
use crate::wanted::{Lives, new_hold};

const LIVES: Lives = Lives { units: Duration::seconds(1), seats: Duration::seconds(2) };

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
    Stock { on_hand, held, version: 1, max_per_user, unit_price: 1000, currency, sku, name, concert: None }
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
            Ok(Decision::Exists | Decision::Same(_)) => "exists",
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
    let hold = new_hold(&first, &facts, LIVES, now);
    facts.holds.insert(hold.id, hold);
    assert_eq!(decide(std::slice::from_ref(&first), &facts, now), [Ok(Decision::Exists)]);
    let later = now + Duration::seconds(1);
    assert_eq!(decide(std::slice::from_ref(&first), &facts, later), [Err(Refused::HoldExpired(first.hold))]);
}

#[test]
fn lines_are_checked_and_put_in_product_order() {
    let line = |product: u128, quantity| WantedLine { product: id(product), quantity };
    let new = |lines: Vec<WantedLine>| Wanted::new(id(1), id(1), lines, 2, 10);
    assert!(new(vec![line(2, 1), line(1, 10)]).is_ok_and(|wanted| wanted.lines()[0].product == id(1)));
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

/// Requests for seats of one concert: seats 0 to 2 are of product 0, the others of product 1.
#[derive(Debug, Clone)]
enum SeatAct {
    Reserve {
        user: u128,
        seats: Vec<u128>,
    },
    /// Orders the reservation of the n-th request.
    Order {
        user: u128,
        request: usize,
    },
}

const SEATS: u128 = 5;

fn product_of(seat: u128) -> ProductId {
    id(u128::from(seat >= 3))
}

fn seat_acts() -> impl Strategy<Value = Vec<SeatAct>> {
    let seats = proptest::sample::subsequence((0..SEATS).collect::<Vec<_>>(), 1..=3);
    let act = prop_oneof![
        3 => (0..3u128, seats).prop_map(|(user, seats)| SeatAct::Reserve { user, seats }),
        1 => (0..3u128, 0..16usize).prop_map(|(user, request)| SeatAct::Order { user, request }),
    ];
    proptest::collection::vec(act, 1..16)
}

fn seat_facts(max: Option<i32>) -> Facts {
    let stock = |units| Stock { concert: Some(id(9)), ..stock(units, 0, None) };
    let seat = |n| Seat {
        concert: id(9),
        product: product_of(n),
        label: format!("A-{n}"),
        queue_manage_required: false,
        taken: None,
    };
    Facts {
        stocks: BTreeMap::from([(id(0), stock(3)), (id(1), stock(2))]),
        seats: (0..SEATS).map(|n| (id(n), seat(n))).collect(),
        seat_limits: max.map(|max| (id(9), max)).into_iter().collect(),
        ..Facts::default()
    }
}

fn seat_wanted(request: usize, act: &SeatAct) -> Wanted {
    let hold = id(1000 + request as u128);
    match act {
        SeatAct::Reserve { user, seats } => {
            let seats = seats.iter().map(|seat| id(*seat)).collect();
            Wanted { hold, user: id(*user), what: What::Seats { concert: id(9), seats } }
        }
        SeatAct::Order { user, request } => {
            let reservation = id(1000 + *request as u128);
            Wanted { hold, user: id(*user), what: What::Reserved(reservation) }
        }
    }
}

/// The same rules, written the slow and obvious way.
fn naive_seats(acts: &[SeatAct], max: Option<i32>) -> Vec<String> {
    // (request, user, seats)
    let mut reserved: Vec<(usize, u128, Vec<u128>)> = Vec::new();
    let mut outcomes = Vec::new();
    for (n, act) in acts.iter().enumerate() {
        outcomes.push(match act {
            SeatAct::Order { .. } => "RESERVATION_NOT_FOUND".to_owned(),
            SeatAct::Reserve { user, seats } => {
                let same = reserved.iter().find(|r| r.1 == *user && r.2 == *seats);
                let is_taken = seats.iter().any(|seat| reserved.iter().any(|r| r.2.contains(seat)));
                let have: usize = reserved.iter().filter(|r| r.1 == *user).map(|r| r.2.len()).sum();
                if let Some(same) = same {
                    format!("same as {}", same.0)
                } else if is_taken {
                    "SEAT_ALREADY_RESERVED".to_owned()
                } else if max.is_some_and(|max| have + seats.len() > max as usize) {
                    "PURCHASE_LIMIT_EXCEEDED".to_owned()
                } else {
                    reserved.push((n, *user, seats.clone()));
                    "new".to_owned()
                }
            }
        });
    }
    outcomes
}

fn seat_outcome(outcome: &Result<Decision, Refused>) -> String {
    match outcome {
        Ok(Decision::Same(hold)) => format!("same as {}", hold.uuid().as_u128() - 1000),
        Ok(_) => "new".to_owned(),
        Err(refused) => common::Refusal::code(refused).reason.to_string(),
    }
}

proptest! {
    /// What was reserved in the batch itself cannot be ordered in it: nobody knows its id before the commit.
    #[test]
    fn seats_agree_with_the_naive_model(acts in seat_acts(), max in proptest::option::of(1..4i32)) {
        let requests: Vec<_> = acts.iter().enumerate().map(|(n, act)| seat_wanted(n, act)).collect();
        let outcomes = decide(&requests, &seat_facts(max), Utc::now());
        prop_assert_eq!(outcomes.iter().map(seat_outcome).collect::<Vec<_>>(), naive_seats(&acts, max));
    }
}

#[test]
fn a_reservation_is_ordered_once_by_its_owner_while_it_lasts() {
    let now = Utc::now();
    let reserve = seat_wanted(0, &SeatAct::Reserve { user: 1, seats: vec![0, 3] });
    let mut facts = seat_facts(None);
    let reservation = new_hold(&reserve, &facts, LIVES, now);
    assert_eq!(reservation.expires_at, now + LIVES.seats);
    assert_eq!(
        reservation.lines.iter().map(|line| (line.product, line.quantity)).collect::<Vec<_>>(),
        [(id(0), 1), (id(1), 1)]
    );
    let order = |user: u128, hold: u128| Wanted { hold: id(hold), user: id(user), what: What::Reserved(reserve.hold) };
    let refused = |facts: &Facts, wanted: Wanted, now| seat_outcome(&decide(&[wanted], facts, now)[0]);
    assert_eq!(refused(&facts, order(1, 5), now), "RESERVATION_NOT_FOUND");
    facts.holds.insert(reserve.hold, reservation.clone());
    assert_eq!(refused(&facts, order(2, 5), now), "RESERVATION_NOT_FOUND", "it is not theirs");
    assert_eq!(refused(&facts, order(1, 5), reservation.expires_at), "RESERVATION_ENDED");

    // The second and the third of one batch come too late; a repeat of the first does not.
    let batch = [order(1, 5), order(1, 6), order(1, 5)];
    let outcomes: Vec<_> = decide(&batch, &facts, now).iter().map(seat_outcome).collect();
    assert_eq!(outcomes, ["new", "RESERVATION_ORDERED", "new"]);
    let ordered = new_hold(&batch[0], &facts, LIVES, now + Duration::seconds(1));
    assert_eq!((ordered.expires_at, &ordered.lines), (reservation.expires_at, &reservation.lines));
    assert_eq!((ordered.concert, ordered.id), (None, id(5)), "it is an order's hold, and ends with the reservation");

    facts.holds.insert(reserve.hold, Hold { state: HoldState::Released, moved_to: Some(id(5)), ..reservation });
    facts.holds.insert(id(5), ordered);
    assert_eq!(refused(&facts, order(1, 6), now), "RESERVATION_ORDERED");
    assert_eq!(refused(&facts, order(1, 5), now), "new");
    let other = Wanted { what: What::Reserved(id(77)), ..order(1, 5) };
    assert_eq!(refused(&facts, other, now), "IDEMPOTENCY_KEY_REUSED", "this hold is of another reservation");
}

#[test]
fn units_of_a_concert_are_sold_by_the_seat_only() {
    let outcome = decide(&[wanted(1, 1, &[1])], &seat_facts(None), Utc::now());
    assert_eq!(outcome, [Err(Refused::SeatsRequired(id(0)))]);
}

#[test]
fn a_seat_whose_hold_has_expired_is_taken_until_that_hold_is_taken_over() {
    let now = Utc::now();
    let mut facts = seat_facts(None);
    let reserve = seat_wanted(0, &SeatAct::Reserve { user: 1, seats: vec![0] });
    let taken = Taken {
        hold: id(55),
        user: Some(id(1)),
        state: HoldState::Held,
        expires_at: now,
        is_reservation: true,
        seats: 1,
    };
    facts.seats.get_mut(&id(0)).unwrap().taken = Some(taken);
    let outcomes = decide(std::slice::from_ref(&reserve), &facts, now);
    assert_eq!(seat_outcome(&outcomes[0]), "SEAT_ALREADY_RESERVED");
    assert_eq!(due_takers(&outcomes, &facts, now), BTreeSet::from([id(55)]));
    let before = now - Duration::milliseconds(1);
    let outcomes = decide(std::slice::from_ref(&reserve), &facts, before);
    assert_eq!(
        (outcomes[0].clone(), due_takers(&outcomes, &facts, before)),
        (Ok(Decision::Same(id(55))), BTreeSet::new())
    );
}
