//! Rules: the verdict, from what the buyers were told and what was found when the system was at rest.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::coupons::judge as coupons;
use super::money::{self, Money};
use super::pay::PaymentRecord;
use super::record::{Answer, Record};

/// What was for sale and how it was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Sale {
    /// Units.
    pub stock: u64,
    /// Units that each buyer wants.
    pub quantity: u64,
    /// Something was killed meanwhile, so a hold may have lost the order it was for.
    pub killed: bool,
}

impl Sale {
    /// Units that must be gone when `buyers` have been answered.
    pub fn expected(&self, buyers: usize) -> u64 {
        (self.stock / self.quantity).min(buyers as u64) * self.quantity
    }
}

/// An order as the database has it.
#[derive(Debug, Clone)]
pub struct Stored {
    pub order_id: Uuid,
    pub buyer: Uuid,
    pub units: u64,
}

/// What was found at rest.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Orders of the product.
    pub stored: Vec<Stored>,
    /// Units held for orders that do not exist.
    pub abandoned: u64,
    /// Acknowledged orders that `GET /orders/{id}` did not answer with the same content.
    pub lost: Vec<Uuid>,
    /// Notifications of each order, and how many of them were sent.
    pub notified: HashMap<Uuid, Notified>,
    /// Events that were recorded and not published, in all schemas.
    pub outbox_pending: u64,
    /// Names of the audit's violated invariants.
    pub audit: Vec<String>,
    /// Kills that were asked for and did not happen.
    pub kills_missed: u64,
    /// Where orders were paid: what the buyers remember, and what is known of the money.
    pub money: Option<(Vec<PaymentRecord>, Money)>,
    /// Where there were coupons.
    pub coupons: Option<coupons::Found>,
}

#[derive(Debug, Clone, Copy)]
pub struct Notified {
    pub notifications: u64,
    pub sent: u64,
}

/// The numbers of the verdict. All but `sold`, `orders`, `replays_checked` and (after a kill) `abandoned` must be 0.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// Units in acknowledged orders.
    pub sold: u64,
    pub orders: u64,
    pub oversold: u64,
    /// Units that should have been sold and were not.
    pub undersold: u64,
    pub abandoned: u64,
    pub duplicate_orders: u64,
    pub lost_acknowledged: u64,
    pub unequal_replays: u64,
    /// Orders whose buyers have an answer to everything they asked, and not this order.
    pub unacknowledged_orders: u64,
    pub notifications_missing: u64,
    pub outbox_pending: u64,
    pub unknown_left: u64,
    /// By code: answers that are neither an order nor `OUT_OF_STOCK`.
    pub unexpected: BTreeMap<String, u64>,
    /// Second and further 201 answers that were compared with the first.
    pub replays_checked: u64,
    /// Where orders were paid. Its losses, unknowns and unexpected answers are counted above too.
    pub money: Option<money::Verdict>,
    /// Where there were coupons; the same holds.
    pub coupons: Option<coupons::Verdict>,
    /// Why it is FAIL, a sentence each; empty for PASS.
    pub violations: Vec<String>,
}

/// Judges. `records[n]` is what the buyer with account `buyers[n]` remembers.
pub fn judge(sale: Sale, buyers: &[Uuid], records: &[Record], observed: &Observed) -> Verdict {
    let mut verdict = Verdict {
        abandoned: observed.abandoned,
        lost_acknowledged: observed.lost.len() as u64,
        outbox_pending: observed.outbox_pending,
        ..Verdict::default()
    };
    let mut owners: HashMap<Uuid, usize> = HashMap::new();
    for (buyer, record) in records.iter().enumerate() {
        let orders = record.orders();
        verdict.duplicate_orders += orders.len().saturating_sub(1) as u64;
        for order in orders {
            // One order promised to two buyers is as bad as two orders for one.
            verdict.duplicate_orders += u64::from(owners.insert(order, buyer).is_some());
        }
        verdict.unequal_replays += u64::from(record.contradicts_itself());
        verdict.replays_checked += record.placed().count().saturating_sub(1) as u64;
        for call in &record.calls {
            match &call.answer {
                None => verdict.unknown_left += 1,
                Some(Answer::Other { status, code }) => {
                    *verdict.unexpected.entry(format!("{status} {code}")).or_default() += 1;
                }
                Some(_) => {}
            }
        }
    }
    verdict.orders = owners.len() as u64;
    verdict.sold = verdict.orders * sale.quantity;
    judge_stored(&mut verdict, sale, buyers, records, observed);
    verdict.notifications_missing = owners
        .keys()
        .filter(|order| !observed.notified.get(order).is_some_and(|found| found.notifications == 1 && found.sent == 1))
        .count() as u64;
    if let Some((payments, money)) = &observed.money {
        let judged = money::judge(owners.keys().copied(), payments, money);
        verdict.lost_acknowledged += judged.lost;
        verdict.unknown_left += judged.unknown;
        verdict.unexpected.extend(judged.unexpected.clone());
        verdict.money = Some(judged);
    }
    if let Some(found) = &observed.coupons {
        let judged = coupons::judge(buyers, records, found);
        verdict.unknown_left += judged.unknown;
        verdict.unexpected.extend(judged.unexpected.clone());
        verdict.coupons = Some(judged);
    }
    verdict.violations = violations(&verdict, sale, observed);
    verdict
}

fn judge_stored(verdict: &mut Verdict, sale: Sale, buyers: &[Uuid], records: &[Record], observed: &Observed) {
    let units: u64 = observed.stored.iter().map(|order| order.units).sum();
    verdict.oversold = verdict.sold.max(units + verdict.abandoned).saturating_sub(sale.stock);
    let expected = sale.expected(records.len());
    // After a kill an order may exist whose buyer was not answered in time; that is counted as `unknown_left`.
    let taken = if sale.killed { units + verdict.abandoned } else { verdict.sold };
    verdict.undersold = expected.saturating_sub(taken);

    let mut rows: HashMap<Uuid, u64> = HashMap::new();
    for order in &observed.stored {
        *rows.entry(order.buyer).or_default() += 1;
    }
    // Every buyer used one key, so a second row is a second effect of it.
    verdict.duplicate_orders += rows.values().map(|count| count - 1).sum::<u64>();
    let certain: HashMap<Uuid, Vec<Uuid>> = buyers
        .iter()
        .zip(records)
        .filter(|(_, record)| record.is_certain())
        .map(|(buyer, record)| (*buyer, record.orders()))
        .collect();
    let is_untold = |order: &&Stored| certain.get(&order.buyer).is_some_and(|told| !told.contains(&order.order_id));
    verdict.unacknowledged_orders = observed.stored.iter().filter(is_untold).count() as u64;
}

fn violations(verdict: &Verdict, sale: Sale, observed: &Observed) -> Vec<String> {
    let abandoned_unasked = if sale.killed { 0 } else { verdict.abandoned };
    let unexpected: u64 = verdict.unexpected.values().sum();
    let checks = [
        (verdict.oversold, "units were sold that do not exist"),
        (verdict.undersold, "units were left although somebody wanted them"),
        (abandoned_unasked, "units are held for orders that do not exist, although nothing was killed"),
        (verdict.duplicate_orders, "times a key led to a second order"),
        (verdict.lost_acknowledged, "acknowledged orders or payments cannot be read back as they were promised"),
        (verdict.unequal_replays, "buyers got answers to one key that contradict each other"),
        (verdict.unacknowledged_orders, "orders exist that their buyers were not told of"),
        (verdict.notifications_missing, "acknowledged orders were not notified exactly once"),
        (verdict.outbox_pending, "events are still in an outbox"),
        (verdict.unknown_left, "requests or payments never got a definite answer"),
        (unexpected, "answers were neither what was asked for nor a refusal that was due"),
        (observed.kills_missed, "kills did not happen as asked"),
    ];
    let of_money = verdict.money.iter().flat_map(money::Verdict::violations);
    let of_coupons = verdict.coupons.iter().flat_map(|coupons| coupons.violations(sale.killed));
    let mut violations: Vec<String> = checks
        .into_iter()
        .chain(of_money)
        .chain(of_coupons)
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if !observed.audit.is_empty() {
        violations.push(format!("the audit finds {} violated", observed.audit.join(", ")));
    }
    violations
}

#[cfg(test)]
mod tests;
