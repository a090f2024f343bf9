//! The outcome of a rush, for programs and for people.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::counters::Counters;
use super::coupons::judge as coupons;
use super::kills::Killed;
use super::money;
use super::pay::PaymentRecord;
use super::record::Record;
use super::verdict::{Sale, Verdict};
use crate::audit;
use crate::latency::{Latencies, micros};

/// One JSON object. Times and rates are rounded to two decimals.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    pub buyers: u64,
    pub stock: u64,
    pub sold: u64,
    pub oversold: u64,
    pub duplicate_orders: u64,
    pub lost_acknowledged: u64,
    pub notifications_missing: u64,
    pub outbox_pending: u64,
    /// From the last answer until all outboxes were empty and all notifications were sent.
    pub outbox_drain_ms: u64,
    /// New orders, while there was something to sell.
    pub orders_per_second: f64,
    /// From the first refusal to the last answer.
    pub refusals_per_second: f64,
    /// From a buyer's first attempt to the definite answer, retries included.
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub orders: u64,
    pub undersold: u64,
    pub abandoned_holds: u64,
    pub unequal_replays: u64,
    pub unacknowledged_orders: u64,
    pub unexpected_answers: BTreeMap<String, u64>,
    pub unknown_left: u64,
    pub replays_checked: u64,
    pub registered_buyers: u64,
    pub requests: u64,
    pub retries: u64,
    pub elapsed_ms: u64,
    /// Where orders were paid.
    #[serde(flatten)]
    pub money: Option<Paid>,
    /// Where there were coupons.
    #[serde(flatten)]
    pub coupons: Option<coupons::Verdict>,
    pub kills: Vec<Killed>,
    pub audit: audit::Report,
    pub violations: Vec<String>,
    pub verdict: audit::Verdict,
}

/// What is reported of paying, beside the orders.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Paid {
    #[serde(flatten)]
    pub verdict: money::Verdict,
    /// From the first request to prepare a payment until its buyer knew the end.
    pub pay_p50_ms: f64,
    pub pay_p99_ms: f64,
    /// From when the last killed part was back, or from the last answer to an order, until the last buyer knew the end of
    /// a payment. A provider that hangs is waited for: see `payment.naverpay.read_timeout_ms`.
    pub last_payment_known_ms: u64,
}

impl Paid {
    /// `ordered`: when the last order was answered.
    pub fn new(verdict: money::Verdict, payments: &[PaymentRecord], kills: &[Killed], ordered: Duration) -> Paid {
        let paying: Latencies = payments.iter().map(|payment| payment.ended_at - payment.started_at).collect();
        let end = payments.iter().map(|payment| payment.ended_at).max().unwrap_or_default().max(ordered);
        let back_up = kills.iter().map(|kill| Duration::from_millis(kill.at_ms + kill.down_ms)).max();
        Paid {
            verdict,
            pay_p50_ms: two_decimals(paying.ms(0.50)),
            pay_p99_ms: two_decimals(paying.ms(0.99)),
            last_payment_known_ms: micros(end.saturating_sub(back_up.unwrap_or(ordered))) / 1000,
        }
    }

    /// Lines for people: a name and a value each.
    pub fn lines(&self, is_killed: bool) -> Vec<(&'static str, String)> {
        let Paid { verdict, pay_p50_ms, pay_p99_ms, last_payment_known_ms } = self;
        let money::Verdict { paid, captured, refunded, money_difference, double_charges, declined, .. } = verdict;
        let since = if is_killed { "the last killed part was back" } else { "the last order" };
        vec![
            ("paid", format!("{paid} orders; {declined} buyers were declined and left")),
            ("money", format!("{captured} captured, {refunded} refunded, difference {money_difference} won")),
            ("double charges", double_charges.to_string()),
            ("paying", format!("p50 {pay_p50_ms} ms, p99 {pay_p99_ms} ms")),
            ("last payment known", format!("{last_payment_known_ms} ms after {since}")),
        ]
    }
}

/// What was measured beside what was judged.
pub struct Measured<'a> {
    pub sale: Sale,
    pub registered_buyers: usize,
    pub records: &'a [Record],
    pub counters: &'a Counters,
    pub payments: &'a [PaymentRecord],
    pub kills: Vec<Killed>,
    /// When everything was done, measured from the start.
    pub rested: Duration,
    pub audit: audit::Report,
}

impl Outcome {
    pub fn new(verdict: Verdict, measured: Measured<'_>) -> Outcome {
        let Measured { sale, registered_buyers, records, counters, payments, kills, rested, audit } = measured;
        let calls = || records.iter().flat_map(|record| &record.calls);
        let ordering: Latencies = calls().map(|call| call.ended_at - call.sent_at).collect();
        let end = calls().map(|call| call.ended_at).max().unwrap_or_default();
        let end_of_all = payments.iter().map(|payment| payment.ended_at).max().unwrap_or_default().max(end);
        let paid = |verdict| Paid::new(verdict, payments, &kills, end);
        let money = verdict.money.map(paid);
        let is_clean = verdict.violations.is_empty();
        Outcome {
            buyers: records.len() as u64,
            stock: sale.stock,
            sold: verdict.sold,
            oversold: verdict.oversold,
            duplicate_orders: verdict.duplicate_orders,
            lost_acknowledged: verdict.lost_acknowledged,
            notifications_missing: verdict.notifications_missing,
            outbox_pending: verdict.outbox_pending,
            outbox_drain_ms: micros(rested.saturating_sub(end_of_all)) / 1000,
            orders_per_second: two_decimals(counters.orders_per_second()),
            refusals_per_second: two_decimals(counters.refusals_per_second(end)),
            p50_ms: two_decimals(ordering.ms(0.50)),
            p99_ms: two_decimals(ordering.ms(0.99)),
            orders: verdict.orders,
            undersold: verdict.undersold,
            abandoned_holds: verdict.abandoned,
            unequal_replays: verdict.unequal_replays,
            unacknowledged_orders: verdict.unacknowledged_orders,
            unexpected_answers: verdict.unexpected,
            unknown_left: verdict.unknown_left,
            replays_checked: verdict.replays_checked,
            registered_buyers: registered_buyers as u64,
            requests: counters.requests(),
            retries: counters.retried.load(std::sync::atomic::Ordering::Relaxed),
            elapsed_ms: micros(end_of_all) / 1000,
            money,
            coupons: verdict.coupons,
            kills,
            audit,
            violations: verdict.violations,
            verdict: if is_clean { audit::Verdict::Pass } else { audit::Verdict::Fail },
        }
    }

    /// The outcome for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| text.push_str(&format!("{name:<24}{value}\n"));
        let drained = format!("{} pending, drained in {} ms", self.outbox_pending, self.outbox_drain_ms);
        line("buyers", format!("{}, {} of them registered and logged in", self.buyers, self.registered_buyers));
        line("sold", format!("{} of {} units in {} orders", self.sold, self.stock, self.orders));
        line("oversold", self.oversold.to_string());
        line("undersold", self.undersold.to_string());
        line("abandoned holds", self.abandoned_holds.to_string());
        line("duplicate orders", self.duplicate_orders.to_string());
        line("lost acknowledgements", self.lost_acknowledged.to_string());
        line("replays", format!("{} checked, {} contradicting", self.replays_checked, self.unequal_replays));
        line("notifications missing", self.notifications_missing.to_string());
        line("outboxes", drained);
        line(
            "requests",
            format!("{}, and {} retries; {} without an answer", self.requests, self.retries, self.unknown_left),
        );
        line("orders/s", self.orders_per_second.to_string());
        line("refusals/s", self.refusals_per_second.to_string());
        line("latency", format!("p50 {} ms, p99 {} ms", self.p50_ms, self.p99_ms));
        for (name, value) in self.money.iter().flat_map(|money| money.lines(!self.kills.is_empty())) {
            line(name, value);
        }
        if let Some(coupons) = &self.coupons {
            let coupons::Verdict { coupons_issued, coupons_over_issued, coupons_told_but_missing, .. } = coupons;
            line("coupons", format!("{coupons_issued} issued, {coupons_over_issued} too many"));
            line("coupons told, missing", coupons_told_but_missing.to_string());
            line("two for one account", coupons.coupons_per_user_violations.to_string());
            line("discounts", format!("difference {} won", coupons.discount_difference));
            line("another's coupon", format!("{} orders refused", coupons.thefts_refused));
        }
        for kill in &self.kills {
            let (name, value) = kill.line();
            line(name, value);
        }
        text.push('\n');
        text.push_str(&self.audit.text());
        for violation in &self.violations {
            text.push_str(&format!("violation: {violation}\n"));
        }
        let verdict = if self.verdict == audit::Verdict::Pass { "PASS" } else { "FAIL" };
        text.push_str(&format!("rush: {verdict}\n"));
        text
    }
}

fn two_decimals(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
