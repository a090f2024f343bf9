//! Rules of reconciliation: pure comparison of the provider's book with our payments, and of these with their orders.

use std::collections::{BTreeMap, BTreeSet};

use contract::ids::{OrderId, PaymentId};
use serde::Serialize;
use utoipa::ToSchema;

use crate::naverpay::{Entry, Movement};
use crate::payment::Status;

#[cfg(test)]
mod tests;

/// A payment as we know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ours {
    pub id: PaymentId,
    pub order_id: OrderId,
    pub status: Status,
    /// Of the attempt under way or the last one.
    pub pg_payment_id: Option<String>,
    pub amount: i64,
    pub captured: i64,
    pub refunded: i64,
    /// It has changed just now or is about to change: the two sides need not agree yet.
    pub is_moving: bool,
}

impl Ours {
    fn net(&self) -> i64 {
        self.captured.saturating_sub(self.refunded)
    }
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[schema(as = FindingKind)]
pub enum Kind {
    /// The provider has money that no payment of ours has or may be getting.
    StrayCapture,
    /// We say paid, and the provider has taken nothing.
    MissingCapture,
    /// The provider took another amount than we say.
    AmountMismatch,
    /// The provider took the money of one payment again, under another authorisation.
    DoubleCapture,
    /// The provider gave back another amount than we say.
    RefundMismatch,
    /// The order does not agree that this payment has paid it, or that the money went back.
    OrderMismatch,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Kind::StrayCapture => "STRAY_CAPTURE",
            Kind::MissingCapture => "MISSING_CAPTURE",
            Kind::AmountMismatch => "AMOUNT_MISMATCH",
            Kind::DoubleCapture => "DOUBLE_CAPTURE",
            Kind::RefundMismatch => "REFUND_MISMATCH",
            Kind::OrderMismatch => "ORDER_MISMATCH",
        }
    }
}

/// What is done about it without an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// The resolver asks the provider: the order is paid with the money, or the money is refunded.
    QueryStatus,
    /// Refund so much at once.
    Cancel(i64),
    /// Everything else would be a guess.
    Report,
}

/// A payment on which the two sides do not agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub kind: Kind,
    /// Our id of the payment as the provider has it; it may be none of ours.
    pub merchant_pay_key: String,
    pub payment: Option<PaymentId>,
    pub order: Option<OrderId>,
    pub pg_payment_id: Option<String>,
    /// What the shop has of this money by our payments, and by the provider's book. The differences of all findings add up
    /// to the difference of the two sides.
    pub expected: i64,
    pub found: i64,
    pub remedy: Remedy,
    /// For an operator.
    pub detail: String,
}

/// What the provider did under one authorisation.
#[derive(Debug, Clone, Copy, Default)]
struct Money {
    captured: i64,
    cancelled: i64,
}

impl Money {
    fn net(self) -> i64 {
        self.captured.saturating_sub(self.cancelled)
    }
}

/// By our id of the payment, then by the provider's.
type Book<'a> = BTreeMap<&'a str, BTreeMap<&'a str, Money>>;

fn sums(entries: &[Entry]) -> Book<'_> {
    let mut book = Book::new();
    for entry in entries {
        let payments = book.entry(&entry.merchant_pay_key).or_default();
        let money = payments.entry(&entry.pg_payment_id).or_default();
        let sum = match entry.movement {
            Movement::Capture => &mut money.captured,
            Movement::Cancel => &mut money.cancelled,
        };
        *sum = sum.saturating_add(entry.amount);
    }
    book
}

/// Where the book and our payments disagree. `book` must have all entries of every payment in it, and of every one of
/// `ours`; `ours` must have every payment that `book` names, as far as it exists.
pub fn reconcile(book: &[Entry], ours: &[Ours]) -> Vec<Finding> {
    let known: BTreeMap<String, &Ours> = ours.iter().map(|ours| (ours.id.to_string(), ours)).collect();
    let book = sums(book);
    let nothing = BTreeMap::new();
    let names: BTreeSet<&str> = book.keys().copied().chain(known.keys().map(String::as_str)).collect();
    let mut findings = Vec::new();
    for name in names {
        let taken = book.get(name).unwrap_or(&nothing);
        match known.get(name) {
            Some(ours) if ours.is_moving => {}
            Some(ours) => findings.extend(compare_payment(ours, taken)),
            None => findings.extend(taken.iter().filter(|(_, money)| money.net() > 0).map(|(pg, money)| {
                let detail = "No payment of ours has this name.".to_owned();
                finding(Kind::StrayCapture, name, None, Some(pg), *money, Remedy::Cancel(money.net()), detail)
            })),
        }
    }
    findings
}

/// Payments on which a part of the book does not agree, or says too little. All of their entries have to be read.
pub fn suspects(book: &[Entry], ours: &[Ours]) -> BTreeSet<String> {
    let found = reconcile(book, ours).into_iter().map(|finding| finding.merchant_pay_key);
    let sums = sums(book);
    // The capture is in another part, and other cancels may be there too.
    let partial = sums.iter().filter(|(_, taken)| taken.values().any(|money| money.captured == 0));
    found.chain(partial.map(|(name, _)| (*name).to_owned())).collect()
}

fn compare_payment(ours: &Ours, taken: &BTreeMap<&str, Money>) -> Vec<Finding> {
    let name = ours.id.to_string();
    let mut findings = Vec::new();
    let current = ours.pg_payment_id.as_deref();
    for (&pg, &money) in taken {
        let found = if current == Some(pg) { compare_current(ours, pg, money) } else { compare_other(ours, pg, money) };
        findings.extend(found);
    }
    let is_there = current.and_then(|pg| taken.get(pg)).is_some_and(|money| money.captured > 0);
    if ours.status.is_captured() && !is_there {
        let money = current.and_then(|pg| taken.get(pg)).copied().unwrap_or_default();
        let detail = format!("Paid by us ({}), not captured by the provider.", ours.status.name());
        findings.push(finding(Kind::MissingCapture, &name, Some(ours), current, money, Remedy::Report, detail));
    }
    findings
}

/// Money of the payment's current authorisation.
fn compare_current(ours: &Ours, pg: &str, money: Money) -> Option<Finding> {
    let detail = format!(
        "The provider captured {} and cancelled {}; our payment is {}, captured {} and refunded {}.",
        money.captured,
        money.cancelled,
        ours.status.name(),
        ours.captured,
        ours.refunded
    );
    let (kind, remedy) = if ours.status.is_captured() {
        if money.captured == 0 {
            // Reported as a missing capture.
            return None;
        } else if money.captured != ours.captured {
            (Kind::AmountMismatch, Remedy::Report)
        } else if money.cancelled != ours.refunded {
            (Kind::RefundMismatch, Remedy::Report)
        } else {
            return None;
        }
    } else if ours.status.is_open() || money.net() <= 0 {
        // Its outcome is still unknown, or nothing is left of the money.
        return None;
    } else if money.captured == ours.amount && money.cancelled == 0 {
        (Kind::StrayCapture, Remedy::QueryStatus)
    } else {
        (Kind::StrayCapture, Remedy::Cancel(money.net()))
    };
    Some(finding(kind, &ours.id.to_string(), Some(ours), Some(pg), money, remedy, detail))
}

/// Money of an authorisation that is not the payment's current one, and never will be: attempts go on with newer ones.
fn compare_other(ours: &Ours, pg: &str, money: Money) -> Option<Finding> {
    if money.net() <= 0 {
        return None;
    }
    let kind = if ours.status.is_captured() { Kind::DoubleCapture } else { Kind::StrayCapture };
    let detail = format!(
        "Our payment is {} by {}.",
        ours.status.name(),
        ours.pg_payment_id.as_deref().unwrap_or("no authorisation")
    );
    let unwanted = Some(Ours { captured: 0, refunded: 0, ..ours.clone() });
    let remedy = Remedy::Cancel(money.net());
    Some(finding(kind, &ours.id.to_string(), unwanted.as_ref(), Some(pg), money, remedy, detail))
}

fn finding(
    kind: Kind,
    merchant_pay_key: &str,
    ours: Option<&Ours>,
    pg_payment_id: Option<&str>,
    money: Money,
    remedy: Remedy,
    detail: String,
) -> Finding {
    Finding {
        kind,
        merchant_pay_key: merchant_pay_key.to_owned(),
        payment: ours.map(|ours| ours.id),
        order: ours.map(|ours| ours.order_id),
        pg_payment_id: pg_payment_id.map(str::to_owned),
        expected: ours.map_or(0, Ours::net),
        found: money.net(),
        remedy,
        detail,
    }
}

/// An order as its service describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderSeen {
    pub status: String,
    pub amount: i64,
    /// The id of the payment that paid it; empty if none has.
    pub paid_by: String,
}

/// What is wrong between a captured payment and its order. `order` is None when there is no such order.
pub fn check_order(ours: &Ours, order: Option<&OrderSeen>) -> Option<Finding> {
    if ours.is_moving || !ours.status.is_captured() {
        return None;
    }
    let wrong = match order {
        None => Some("There is no such order.".to_owned()),
        Some(order) => {
            let is_paid = matches!(order.status.as_str(), "PAID" | "COMPLETED");
            let is_ours = order.paid_by == ours.id.to_string();
            let agrees = match ours.status {
                // The order may have ended in any way, or another payment has paid it; but this one has not.
                Status::Refunded => !is_ours || order.status == "REFUNDED",
                _ => is_ours && is_paid && order.amount == ours.captured,
            };
            let text =
                || format!("The order is {} and costs {}; {} is paid.", order.status, order.amount, ours.captured);
            (!agrees).then(text)
        }
    };
    wrong.map(|detail| Finding {
        kind: Kind::OrderMismatch,
        merchant_pay_key: ours.id.to_string(),
        payment: Some(ours.id),
        order: Some(ours.order_id),
        pg_payment_id: ours.pg_payment_id.clone(),
        // Both sides agree on the money.
        expected: ours.net(),
        found: ours.net(),
        remedy: Remedy::Report,
        detail,
    })
}
