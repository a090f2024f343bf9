//! Rules: whether the money is right, from what the buyers were told, what we have stored and what the provider's book
//! says.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use uuid::Uuid;

use super::pay::{Ending, PaymentRecord};

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

/// What is known of the money in the end. All but `paid`, `captured`, `refunded`, `declined` and the times must be 0.
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
    pub not_announced_once: u64,
    /// Orders that were paid although their buyers left without paying.
    #[serde(skip)]
    pub paid_after_decline: u64,
    /// Acknowledged orders that not exactly one buyer began to pay for. Where nobody pays, nothing is tested.
    #[serde(skip)]
    pub without_one_payer: u64,
    /// PAID orders that nobody began to pay for.
    #[serde(skip)]
    pub paid_by_nobody: u64,
    /// By code: how else paying ended.
    #[serde(skip)]
    pub unexpected: BTreeMap<String, u64>,
}

/// Judges. `orders` are those that were acknowledged, and `payments` are those of everybody who began to pay.
pub fn judge(orders: impl Iterator<Item = Uuid>, payments: &[PaymentRecord], money: &Money) -> Verdict {
    let mut payers: HashMap<Uuid, u64> = HashMap::new();
    for payment in payments {
        *payers.entry(payment.order_id).or_default() += 1;
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
        not_announced_once: money.paid.values().filter(|paid| paid.announced != 1 || paid.receipts != 1).count() as u64,
        without_one_payer: orders.filter(|order| payers.get(order) != Some(&1)).count() as u64,
        paid_by_nobody: money.paid.keys().filter(|order| !payers.contains_key(order)).count() as u64,
        ..Verdict::default()
    };
    for payment in payments {
        let paid = money.paid.get(&payment.order_id);
        match &payment.ending {
            Ending::Paid => {
                let is_kept = paid.is_some_and(|paid| paid.is_sold && paid.payment_id == payment.payment_id);
                verdict.lost += u64::from(!is_kept);
            }
            Ending::Declined => {
                verdict.declined += 1;
                verdict.paid_after_decline += u64::from(paid.is_some());
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
    /// All that is wrong, where no verdict on orders is merged with it.
    pub fn all_violations(&self) -> Vec<String> {
        let merged = [
            (self.lost, "buyers were told that they have paid, and have not"),
            (self.unknown, "payments never got a definite answer"),
            (self.unexpected.values().sum(), "payments were refused that should not be"),
        ];
        let wrong = self.violations().chain(merged).filter(|(count, _)| *count > 0);
        wrong.map(|(count, what)| format!("{count} {what}")).collect()
    }

    /// What is wrong, a sentence each. What is merged with the verdict on the orders is told there.
    pub fn violations(&self) -> impl Iterator<Item = (u64, &'static str)> {
        [
            (
                self.money_difference.unsigned_abs(),
                "won are between the provider's book, the payments and the PAID orders",
            ),
            (self.double_charges, "orders were charged twice"),
            (self.not_announced_once, "PAID orders have not exactly one ORDER_PLACED and one receipt"),
            (self.paid_after_decline, "orders were paid although their buyers were declined"),
            (self.without_one_payer, "acknowledged orders have not exactly one buyer who began to pay"),
            (self.paid_by_nobody, "PAID orders were paid by nobody"),
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

    fn payment(order: u128, ending: Ending) -> PaymentRecord {
        PaymentRecord {
            order_id: id(order),
            payment_id: Some(id(100 + order)),
            ending,
            started_at: Duration::ZERO,
            ended_at: Duration::ZERO,
        }
    }

    fn paid(order: u128) -> (Uuid, Paid) {
        let payment_id = Some(id(100 + order));
        (id(order), Paid { amount: PRICE, payment_id, is_sold: true, announced: 1, receipts: 1 })
    }

    /// Orders 1 and 2 are paid, the buyer of order 3 was declined, and one capture was given back.
    fn clean() -> (Vec<PaymentRecord>, Money) {
        let payments = vec![payment(1, Ending::Paid), payment(2, Ending::Paid), payment(3, Ending::Declined)];
        let money = Money {
            captured: 3 * PRICE,
            cancelled: PRICE,
            kept: 2 * PRICE,
            paid: [paid(1), paid(2)].into_iter().collect(),
            ..Money::default()
        };
        (payments, money)
    }

    fn judged(change: impl FnOnce(&mut Vec<PaymentRecord>, &mut Money)) -> Verdict {
        let (mut payments, mut money) = clean();
        change(&mut payments, &mut money);
        judge((1..=3).map(id), &payments, &money)
    }

    fn wrong(verdict: &Verdict) -> Vec<&'static str> {
        verdict.violations().filter(|(count, _)| *count > 0).map(|(_, what)| what).collect()
    }

    #[test]
    fn equal_money_on_all_sides_passes() {
        let verdict = judged(|_, _| {});
        assert_eq!(wrong(&verdict), [""; 0]);
        assert_eq!((verdict.paid, verdict.captured, verdict.refunded, verdict.declined), (2, 300, 100, 1));
        assert_eq!((verdict.lost, verdict.unknown, verdict.unexpected.len()), (0, 0, 0));
    }

    #[test]
    fn a_won_that_only_one_side_has_is_a_difference() {
        assert_eq!(judged(|_, money| money.captured += 1).money_difference, 1);
        assert_eq!(judged(|_, money| money.cancelled += 1).money_difference, 1);
        assert_eq!(judged(|_, money| money.kept -= 1).money_difference, 1);
        let verdict = judged(|_, money| money.paid.get_mut(&id(1)).unwrap().amount += 7);
        assert_eq!(verdict.money_difference, 7);
        assert!(wrong(&verdict)[0].contains("won are between"));
    }

    #[test]
    fn a_buyer_who_was_told_paid_has_a_sold_order_paid_by_that_payment() {
        let unsold = judged(|_, money| money.paid.get_mut(&id(1)).unwrap().is_sold = false);
        let by_another = judged(|_, money| money.paid.get_mut(&id(1)).unwrap().payment_id = Some(id(9)));
        let gone = judged(|_, money| money.paid.retain(|order, _| *order != id(1)));
        assert_eq!((unsold.lost, by_another.lost, gone.lost), (1, 1, 1));
    }

    #[test]
    fn a_paid_order_has_one_event_and_one_receipt() {
        for (announced, receipts) in [(0, 0), (1, 0), (2, 1), (2, 2), (1, 2)] {
            let verdict = judged(|_, money| {
                let paid = money.paid.get_mut(&id(1)).unwrap();
                (paid.announced, paid.receipts) = (announced, receipts);
            });
            assert_eq!(verdict.not_announced_once, 1, "{announced} {receipts}");
            assert_eq!(wrong(&verdict).len(), 1);
        }
    }

    #[test]
    fn every_order_has_one_payer_and_no_other_is_paid() {
        let nobody = judged(|payments, money| {
            payments.clear();
            *money = Money::default();
        });
        assert_eq!(nobody.without_one_payer, 3);
        assert!(wrong(&nobody)[0].contains("exactly one buyer"));
        assert_eq!(judged(|payments, _| payments.truncate(2)).without_one_payer, 1);
        assert_eq!(judged(|payments, _| payments.push(payment(3, Ending::Declined))).without_one_payer, 1);
        let paid_by_nobody = judged(|_, money| {
            money.paid.extend([paid(4)]);
            (money.captured, money.kept) = (4 * PRICE, 3 * PRICE);
        });
        assert_eq!(
            (paid_by_nobody.paid_by_nobody, wrong(&paid_by_nobody)),
            (1, vec!["PAID orders were paid by nobody"])
        );
    }

    #[test]
    fn every_other_end_of_paying_is_reported() {
        let unknown = judged(|payments, _| payments[2].ending = Ending::Unknown);
        assert_eq!(unknown.unknown, 1);
        assert_eq!(judged(|_, money| money.open = 1).unknown, 1);
        let refused = Ending::Refused { status: 410, code: "HOLD_EXPIRED".to_owned() };
        let refused = judged(|payments, _| payments[2].ending = refused);
        assert_eq!(refused.unexpected["paying: 410 HOLD_EXPIRED"], 1);
        assert!(wrong(&judged(|_, money| money.double_charges = 1))[0].contains("charged twice"));
        let paid_after_decline = judged(|payments, _| payments[1].ending = Ending::Declined);
        assert!(wrong(&paid_after_decline)[0].contains("although their buyers were declined"));
    }
}
