//! A clean rush passes; each kind of violation, put into it by hand, fails it.

use std::time::Duration;

use super::*;
use crate::rush::pay::Ending;
use crate::rush::record::Call;

const STOCK: u64 = 3;
const BUYERS: u128 = 5;

fn sale(killed: bool) -> Sale {
    Sale { stock: STOCK, quantity: 1, killed }
}

fn call(n: u64, answer: Option<Answer>) -> Call {
    let (sent_at, ended_at) = (Duration::from_millis(10 * n), Duration::from_millis(10 * n + 5));
    Call { sent_at, ended_at, answer, unknown_attempts: 0 }
}

fn placed(order: u128) -> Option<Answer> {
    Some(Answer::Placed { order_id: Uuid::from_u128(order), body: format!("order {order}").into_bytes() })
}

struct Rush {
    buyers: Vec<Uuid>,
    records: Vec<Record>,
    observed: Observed,
}

/// Buyers 1, 2 and 3 own orders 101, 102 and 103, buyer 1 was told twice; buyers 4 and 5 were refused.
fn clean() -> Rush {
    let buyers: Vec<Uuid> = (1..=BUYERS).map(Uuid::from_u128).collect();
    let mut records: Vec<Record> = (101..=103).map(|order| Record { calls: vec![call(0, placed(order))] }).collect();
    records[0].calls.push(call(1, placed(101)));
    records.resize_with(buyers.len(), || Record { calls: vec![call(0, Some(Answer::OutOfStock))] });
    let stored = (0..3).map(|n| Stored { order_id: Uuid::from_u128(101 + n), buyer: Uuid::from_u128(1 + n), units: 1 });
    let notified = (101..=103).map(|order| (Uuid::from_u128(order), Notified { notifications: 1, sent: 1 }));
    let observed = Observed { stored: stored.collect(), notified: notified.collect(), ..Observed::default() };
    Rush { buyers, records, observed }
}

fn judged(killed: bool, change: impl FnOnce(&mut Rush)) -> Verdict {
    let mut rush = clean();
    change(&mut rush);
    judge(sale(killed), &rush.buyers, &rush.records, &rush.observed)
}

/// Asserts that exactly one sentence says what is wrong, so that each rule is seen to work alone.
fn fails(verdict: &Verdict, because: &str) {
    assert!(
        verdict.violations.len() == 1 && verdict.violations[0].contains(because),
        "{because}: {:?}",
        verdict.violations
    );
}

#[test]
fn a_clean_rush_passes() {
    let verdict = judged(false, |_| {});
    assert_eq!(verdict.violations, [""; 0]);
    assert_eq!((verdict.sold, verdict.orders, verdict.replays_checked), (3, 3, 1));
}

#[test]
fn fewer_buyers_than_units_are_all_served() {
    let rush = clean();
    let verdict = judge(Sale { stock: 10, ..sale(false) }, &rush.buyers[..3], &rush.records[..3], &rush.observed);
    assert_eq!(verdict.violations, [""; 0]);
}

#[test]
fn what_is_left_of_a_stock_that_the_quantity_does_not_divide_is_not_missed() {
    assert_eq!(Sale { stock: 7, quantity: 2, killed: false }.expected(100), 6);
    assert_eq!(Sale { stock: 7, quantity: 2, killed: false }.expected(1), 2);
}

#[test]
fn a_unit_too_many_is_oversold_whoever_says_so() {
    let told = judged(true, |rush| {
        rush.records[3] = Record { calls: vec![call(0, placed(104))] };
        rush.observed.notified.insert(Uuid::from_u128(104), Notified { notifications: 1, sent: 1 });
    });
    assert_eq!(told.oversold, 1);
    let stored = judged(false, |rush| rush.observed.stored[0].units = 2);
    assert_eq!(stored.oversold, 1);
    fails(&stored, "do not exist");
}

#[test]
fn an_unsold_unit_fails_unless_a_kill_left_it_held() {
    let refuse = |rush: &mut Rush| {
        rush.records[2] = Record { calls: vec![call(0, Some(Answer::OutOfStock))] };
        rush.observed.stored.pop();
    };
    fails(&judged(false, refuse), "were left");
    fails(&judged(true, refuse), "were left");
    let held = judged(true, |rush| {
        refuse(rush);
        rush.observed.abandoned = 1;
    });
    assert_eq!(held.violations, [""; 0]);
    assert_eq!(held.abandoned, 1);
}

#[test]
fn an_abandoned_hold_fails_when_nothing_was_killed() {
    let verdict = judged(false, |rush| {
        rush.records[2] = Record { calls: vec![call(0, Some(Answer::OutOfStock))] };
        rush.observed.stored.pop();
        rush.observed.abandoned = 1;
    });
    assert!(
        verdict.violations.iter().any(|violation| violation.contains("nothing was killed")),
        "{:?}",
        verdict.violations
    );
}

#[test]
fn two_orders_for_one_key_are_duplicates_whoever_says_so() {
    let told = judged(false, |rush| rush.records[0].calls[1].answer = placed(109));
    assert_eq!(told.duplicate_orders, 1);
    assert!(!told.violations.is_empty());
    let stored = judged(true, |rush| {
        rush.observed.stored[1].buyer = Uuid::from_u128(1);
        rush.records[0].calls[0].unknown_attempts = 1;
    });
    assert_eq!(stored.duplicate_orders, 1);
    fails(&stored, "second order");
}

#[test]
fn one_order_promised_to_two_buyers_is_a_duplicate() {
    assert_eq!(judged(false, |rush| rush.records[1].calls[0].answer = placed(101)).duplicate_orders, 1);
}

#[test]
fn an_order_that_cannot_be_read_back_is_lost() {
    let verdict = judged(false, |rush| rush.observed.lost.push(Uuid::from_u128(102)));
    assert_eq!(verdict.lost_acknowledged, 1);
    fails(&verdict, "read back");
}

#[test]
fn a_replay_in_other_words_fails() {
    let other_words = Some(Answer::Placed { order_id: Uuid::from_u128(101), body: b"Order 101".to_vec() });
    fails(&judged(false, |rush| rush.records[0].calls[1].answer = other_words), "contradict");
    fails(&judged(false, |rush| rush.records[0].calls[1].answer = Some(Answer::OutOfStock)), "contradict");
}

#[test]
fn an_order_of_a_refused_buyer_fails_unless_one_of_the_attempts_is_uncertain() {
    let give_away = |rush: &mut Rush| {
        rush.observed.stored[2].buyer = Uuid::from_u128(4);
    };
    fails(&judged(false, give_away), "not told of");
    let uncertain = judged(true, |rush| {
        give_away(rush);
        rush.records[3].calls[0].unknown_attempts = 1;
    });
    assert_eq!(uncertain.unacknowledged_orders, 0);
}

#[test]
fn a_notification_must_exist_and_be_sent_exactly_once() {
    for wrong in [None, Some((0, 0)), Some((1, 0)), Some((2, 2)), Some((2, 1))] {
        let verdict = judged(false, |rush| {
            let order = Uuid::from_u128(101);
            match wrong {
                None => rush.observed.notified.remove(&order),
                Some((notifications, sent)) => rush.observed.notified.insert(order, Notified { notifications, sent }),
            };
        });
        assert_eq!(verdict.notifications_missing, 1, "{wrong:?}");
        fails(&verdict, "notified");
    }
}

#[test]
fn what_is_left_undone_fails() {
    fails(&judged(false, |rush| rush.observed.outbox_pending = 2), "outbox");
    fails(&judged(false, |rush| rush.observed.audit = vec!["I2".to_owned()]), "I2");
    fails(&judged(true, |rush| rush.observed.kills_missed = 1), "kills");
    fails(&judged(false, |rush| rush.records[4].calls[0].answer = None), "definite");
    let other = Answer::Other { status: 404, code: "PRODUCT_NOT_FOUND".to_owned() };
    let verdict = judged(false, |rush| rush.records[4].calls[0].answer = Some(other));
    assert_eq!(verdict.unexpected["404 PRODUCT_NOT_FOUND"], 1);
    fails(&verdict, "neither");
}

/// All three orders have a payer: the first one's comes to this `ending`, the others are declined and leave.
fn payments(ending: Ending) -> Vec<PaymentRecord> {
    let endings = [ending, Ending::Declined, Ending::Declined];
    let paying = |(order, ending)| PaymentRecord {
        order_id: Uuid::from_u128(order),
        payment_id: None,
        ending,
        started_at: Duration::ZERO,
        ended_at: Duration::ZERO,
    };
    (101..).zip(endings).map(paying).collect()
}

#[test]
fn wrong_money_fails_and_its_losses_are_counted_with_the_others() {
    let judged = |payments, money| judged(false, |rush| rush.observed.money = Some((payments, money)));
    assert_eq!(judged(payments(Ending::Declined), Money::default()).violations, [""; 0]);
    fails(&judged(Vec::new(), Money::default()), "3 acknowledged orders have not exactly one buyer");
    let taken = Money { captured: 1, ..Money::default() };
    fails(&judged(payments(Ending::Declined), taken), "won are between");
    let lost = judged(payments(Ending::Paid), Money::default());
    assert_eq!(lost.lost_acknowledged, 1);
    fails(&lost, "read back");
    let unknown = judged(payments(Ending::Unknown), Money::default());
    assert_eq!(unknown.unknown_left, 1);
    fails(&unknown, "definite");
    let refused = Ending::Refused { status: 410, code: "HOLD_EXPIRED".to_owned() };
    fails(&judged(payments(refused), Money::default()), "neither");
}
