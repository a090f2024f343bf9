//! Rules: whether the money is right, from what the buyers were told, what we have stored and what the provider's book
//! says.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use uuid::Uuid;

use super::pay::{Ending, Paying};

/// What is known of the money when the system is at rest. Amounts are won.
#[derive(Debug, Clone, Default)]
pub struct Money {
    /// By the provider's book, since the rush began.
    pub captured: i64,
    pub cancelled: i64,
    /// By our payments: captured and not given back.
    pub kept: i64,
    /// Orders that the provider keeps more than one capture for.
    pub double_charges: u64,
    /// Payments of which nobody knows whether their money was taken.
    pub open: u64,
    /// The orders that are PAID.
    pub paid: HashMap<Uuid, Paid>,
}

/// An order that is PAID.
#[derive(Debug, Clone)]
pub struct Paid {
    pub amount: i64,
    pub payment_id: Option<Uuid>,
    /// Its hold is CONFIRMED.
    pub is_sold: bool,
    /// `ORDER_PLACED` events, and receipts that were sent for them.
    pub announced: u64,
    pub receipts: u64,
}

/// What the money comes to. All but `paid`, `captured`, `refunded`, `declined` and the times must be 0.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Orders.
    pub paid: u64,
    /// Won, by the provider's book.
    pub captured: i64,
    pub refunded: i64,
    /// The greatest difference between what the provider keeps, what our payments keep and what PAID orders cost.
    pub money_difference: i64,
    pub double_charges: u64,
    /// Buyers who left after being declined again and again.
    pub declined: u64,
    /// Buyers who were told PAID and do not have it.
    #[serde(skip)]
    pub lost: u64,
    /// Payments, and buyers, without a definite end.
    #[serde(skip)]
    pub unknown: u64,
    /// PAID orders without exactly one `ORDER_PLACED` and one receipt.
    #[serde(skip)]
    pub untold: u64,
    /// Orders that were paid although their buyers left without paying.
    #[serde(skip)]
    pub surprised: u64,
    /// Acknowledged orders that not exactly one buyer began to pay for: where nobody pays, nothing is tried.
    #[serde(skip)]
    pub payerless: u64,
    /// PAID orders that nobody began to pay for.
    #[serde(skip)]
    pub unasked: u64,
    /// By code: how else paying ended.
    #[serde(skip)]
    pub unexpected: BTreeMap<String, u64>,
}

/// Judges. `orders` are those that were acknowledged, and `payings` has everybody who began to pay.
pub fn judge(orders: impl Iterator<Item = Uuid>, payings: &[Paying], money: &Money) -> Verdict {
    let mut payers: HashMap<Uuid, u64> = HashMap::new();
    for paying in payings {
        *payers.entry(paying.order_id).or_default() += 1;
    }
    let costs: i64 = money.paid.values().map(|paid| paid.amount).sum();
    let amounts = [money.captured - money.cancelled, money.kept, costs];
    let [least, most] = [amounts.iter().min(), amounts.iter().max()].map(|amount| amount.copied().unwrap_or(0));
    let mut verdict = Verdict {
        paid: money.paid.len() as u64,
        captured: money.captured,
        refunded: money.cancelled,
        money_difference: most - least,
        double_charges: money.double_charges,
        unknown: money.open,
        untold: money.paid.values().filter(|paid| paid.announced != 1 || paid.receipts != 1).count() as u64,
        payerless: orders.filter(|order| payers.get(order) != Some(&1)).count() as u64,
        unasked: money.paid.keys().filter(|order| !payers.contains_key(order)).count() as u64,
        ..Verdict::default()
    };
    for paying in payings {
        let paid = money.paid.get(&paying.order_id);
        match &paying.ending {
            Ending::Paid => {
                let is_kept = paid.is_some_and(|paid| paid.is_sold && paid.payment_id == paying.payment_id);
                verdict.lost += u64::from(!is_kept);
            }
            Ending::Declined => {
                verdict.declined += 1;
                verdict.surprised += u64::from(paid.is_some());
            }
            Ending::Refused { status, code } => {
                *verdict.unexpected.entry(format!("paying: {status} {code}")).or_default() += 1;
            }
            Ending::Unknown => verdict.unknown += 1,
        }
    }
    verdict
}

impl Verdict {
    /// What is wrong, a sentence each. What is merged with the verdict on the orders is told there.
    pub fn violations(&self) -> impl Iterator<Item = (u64, &'static str)> {
        [
            (
                self.money_difference.unsigned_abs(),
                "won are between the provider's book, the payments and the PAID orders",
            ),
            (self.double_charges, "orders were charged twice"),
            (self.untold, "PAID orders have not exactly one ORDER_PLACED and one receipt"),
            (self.surprised, "orders were paid although their buyers were declined"),
            (self.payerless, "acknowledged orders have not exactly one buyer who began to pay"),
            (self.unasked, "PAID orders were paid by nobody"),
        ]
        .into_iter()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PRICE: i64 = 100;

    fn id(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    fn paying(order: u128, ending: Ending) -> Paying {
        Paying {
            order_id: id(order),
            payment_id: Some(id(100 + order)),
            ending,
            at: Duration::ZERO,
            until: Duration::ZERO,
        }
    }

    fn paid(order: u128) -> (Uuid, Paid) {
        let payment_id = Some(id(100 + order));
        (id(order), Paid { amount: PRICE, payment_id, is_sold: true, announced: 1, receipts: 1 })
    }

    /// Orders 1 and 2 are paid, the buyer of order 3 was declined, and one capture was given back.
    fn clean() -> (Vec<Paying>, Money) {
        let payings = vec![paying(1, Ending::Paid), paying(2, Ending::Paid), paying(3, Ending::Declined)];
        let money = Money {
            captured: 3 * PRICE,
            cancelled: PRICE,
            kept: 2 * PRICE,
            paid: [paid(1), paid(2)].into_iter().collect(),
            ..Money::default()
        };
        (payings, money)
    }

    fn judged(change: impl FnOnce(&mut Vec<Paying>, &mut Money)) -> Verdict {
        let (mut payings, mut money) = clean();
        change(&mut payings, &mut money);
        judge((1..=3).map(id), &payings, &money)
    }

    fn wrong(verdict: &Verdict) -> Vec<&'static str> {
        verdict.violations().filter(|(count, _)| *count > 0).map(|(_, what)| what).collect()
    }

    #[test]
    fn right_money_passes() {
        let verdict = judged(|_, _| {});
        assert_eq!(wrong(&verdict), [""; 0]);
        assert_eq!((verdict.paid, verdict.captured, verdict.refunded, verdict.declined), (2, 300, 100, 1));
        assert_eq!((verdict.lost, verdict.unknown, verdict.unexpected.len()), (0, 0, 0));
    }

    #[test]
    fn a_won_that_only_one_side_knows_is_a_difference() {
        assert_eq!(judged(|_, money| money.captured += 1).money_difference, 1);
        assert_eq!(judged(|_, money| money.cancelled += 1).money_difference, 1);
        assert_eq!(judged(|_, money| money.kept -= 1).money_difference, 1);
        let verdict = judged(|_, money| money.paid.get_mut(&id(1)).unwrap().amount += 7);
        assert_eq!(verdict.money_difference, 7);
        assert!(wrong(&verdict)[0].contains("won are between"));
    }

    #[test]
    fn who_was_told_paid_has_it_by_that_payment_and_sold() {
        let unsold = judged(|_, money| money.paid.get_mut(&id(1)).unwrap().is_sold = false);
        let by_another = judged(|_, money| money.paid.get_mut(&id(1)).unwrap().payment_id = Some(id(9)));
        let gone = judged(|_, money| money.paid.retain(|order, _| *order != id(1)));
        assert_eq!((unsold.lost, by_another.lost, gone.lost), (1, 1, 1));
    }

    #[test]
    fn news_and_receipt_come_once_each() {
        for (announced, receipts) in [(0, 0), (1, 0), (2, 1), (2, 2), (1, 2)] {
            let verdict = judged(|_, money| {
                let paid = money.paid.get_mut(&id(1)).unwrap();
                (paid.announced, paid.receipts) = (announced, receipts);
            });
            assert_eq!(verdict.untold, 1, "{announced} {receipts}");
            assert_eq!(wrong(&verdict).len(), 1);
        }
    }

    #[test]
    fn every_order_has_one_payer_and_no_other_is_paid() {
        let nobody = judged(|payings, money| {
            payings.clear();
            *money = Money::default();
        });
        assert_eq!(nobody.payerless, 3);
        assert!(wrong(&nobody)[0].contains("exactly one buyer"));
        assert_eq!(judged(|payings, _| payings.truncate(2)).payerless, 1);
        assert_eq!(judged(|payings, _| payings.push(paying(3, Ending::Declined))).payerless, 1);
        let unasked = judged(|_, money| {
            money.paid.extend([paid(4)]);
            (money.captured, money.kept) = (4 * PRICE, 3 * PRICE);
        });
        assert_eq!((unasked.unasked, wrong(&unasked)), (1, vec!["PAID orders were paid by nobody"]));
    }

    #[test]
    fn every_other_end_is_told() {
        let unknown = judged(|payings, _| payings[2].ending = Ending::Unknown);
        assert_eq!(unknown.unknown, 1);
        assert_eq!(judged(|_, money| money.open = 1).unknown, 1);
        let refused = Ending::Refused { status: 410, code: "HOLD_EXPIRED".to_owned() };
        let refused = judged(|payings, _| payings[2].ending = refused);
        assert_eq!(refused.unexpected["paying: 410 HOLD_EXPIRED"], 1);
        assert!(wrong(&judged(|_, money| money.double_charges = 1))[0].contains("charged twice"));
        let surprised = judged(|payings, _| payings[1].ending = Ending::Declined);
        assert!(wrong(&surprised)[0].contains("although their buyers were declined"));
    }
}
