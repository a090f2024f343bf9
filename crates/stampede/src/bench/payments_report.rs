//! What `bench payments` reports: orders that are paid and confirmed beside those that are only placed.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use diesel::sql_types;
use serde::Serialize;

use super::measure::Measured;
use super::report::{Common, column, optional};
use super::runs::Kind;

/// Placing alone first: it is what paying is put beside.
pub const KINDS: [Kind; 2] = [Kind::Stampede, Kind::Paid];

const NOTES: [&str; 6] = [
    "A buyer places an order, prepares its payment, agrees in the provider's window and approves, one request after the \
     other on one connection; only then comes the next order. Its latency ends with PAID. Its order counts when its hold \
     is CONFIRMED, and the rate is taken until the last one is.",
    "Hold to sale: from created_at of the hold to the time of its confirmation, by one clock. It contains everything \
     the buyer did in between.",
    "The provider is the sandbox's: it waits as long as is said above, then writes each agreement and each capture to \
     its book with an fsync of its own, on the same disk. Its processor time is contained in that of the services; where \
     these are split, in that of others.",
    "All share this machine: the servers, the services, the provider and whoever sends the orders. The total of \
     processor time leaves the generator out. Others' CPU is what neither the site nor the generator used of this machine \
     meanwhile: far from 0, the numbers are too low.",
    "Turns: commits by pg_stat_database, of the last round; statements by pg_stat_statements, each a round trip unless it \
     is pipelined; transactions and batches by the services' metrics. Execution time contains waits for locks. The \
     buyer's requests come on top: to place, to prepare, to agree at the provider, and to approve.",
    "Medians over the rounds; the range in parentheses is from the slowest round to the fastest.",
];

/// What the database has at the end.
#[derive(Debug, Clone, Copy, Serialize, diesel::QueryableByName)]
#[serde(rename_all = "camelCase")]
pub struct Stored {
    #[diesel(sql_type = sql_types::BigInt)]
    pub orders: i64,
    /// PAID, with a CONFIRMED hold.
    #[diesel(sql_type = sql_types::BigInt)]
    pub sold: i64,
    /// What PAID orders cost, in won.
    #[diesel(sql_type = sql_types::BigInt)]
    pub cost: i64,
    /// What the payments captured and kept.
    #[diesel(sql_type = sql_types::BigInt)]
    pub kept: i64,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    #[serde(flatten)]
    common: Common,
    /// Orders per second that are paid and confirmed beside those that are only placed, by clients.
    ratios: BTreeMap<usize, f64>,
    /// The warm-up's included.
    paid: u64,
    #[serde(flatten)]
    money: Money,
}

/// The provider, and the money on all sides.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Money {
    /// For each capture.
    pub provider_ms: u64,
    pub stored: Stored,
    /// What the provider keeps, in won.
    pub captured: i64,
}

pub fn label(kind: Kind) -> &'static str {
    if kind == Kind::Paid { kind.label() } else { "placed alone" }
}

impl Report {
    pub fn new(mut measured: Measured, money: Money) -> anyhow::Result<Report> {
        // Here it means from hold to sale, and these orders are not sold.
        measured.runs.iter_mut().filter(|run| run.kind != Kind::Paid).for_each(|run| run.aftermath = None);
        let paid = measured.paid;
        let common = Common::new(measured, &KINDS, &NOTES)?;
        let rate = |kind, clients| anyhow::Ok(common.point(kind, clients)?.orders_per_second);
        let mut ratios = BTreeMap::new();
        for &clients in &common.conditions.clients {
            ratios.insert(clients, rate(Kind::Paid, clients)? / rate(Kind::Stampede, clients)?);
        }
        Ok(Report { common, ratios, paid, money })
    }

    /// Whether everything that was acknowledged is stored and sold, and the money is equal on all sides. Speed is never
    /// judged.
    pub fn is_consistent(&self) -> bool {
        let Stored { orders, sold, cost, kept } = self.money.stored;
        self.common.acknowledged <= orders.unsigned_abs()
            && self.paid <= sold.unsigned_abs()
            && cost == kept
            && kept == self.money.captured
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "\nOrders of one hot product: placed, paid and confirmed, beside placing alone\n")?;
        self.common.write_conditions(out)?;
        writeln!(out, "  The provider takes {} ms for each capture and makes no mistakes.", self.money.provider_ms)?;
        self.common.write_disks(out)?;
        let sale = vec![
            column("hold to sale p50", 18, |point| optional(point.consumer_p50_ms, 2)),
            column("p99 ms", 9, |point| optional(point.consumer_p99_ms, 2)),
        ];
        self.common.write_speed(out, label, sale)?;
        self.common.write_cpu(out, label, Vec::new())?;
        let ratios: Vec<String> =
            self.ratios.iter().map(|(clients, ratio)| format!("{ratio:.2} × with {clients}")).collect();
        writeln!(out, "\n  Paid and confirmed beside placed alone, in orders/s: {}.", ratios.join(", "))?;
        let most = self.common.points.iter().rfind(|point| point.kind == Kind::Paid);
        if let Some((point, turns)) = most.and_then(|point| Some((point, point.turns.as_ref()?))) {
            turns.write(out, point.clients)?;
        }
        self.common.write_memory(out)?;
        let Stored { orders, sold, cost, kept } = self.money.stored;
        let verdict = if self.is_consistent() { "as it should be" } else { "WRONG" };
        writeln!(
            out,
            "  {} orders acknowledged, {} of them PAID; {orders} stored, {sold} paid and sold. They cost {cost} won, the \
             payments keep {kept}, the provider keeps {}: {verdict}.",
            self.common.acknowledged, self.paid, self.money.captured
        )?;
        self.common.write_refused(out)?;
        self.common.write_notes(out)
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::measured_for_tests;
    use super::*;

    const MONEY: Money =
        Money { provider_ms: 10, stored: Stored { orders: 10, sold: 4, cost: 400, kept: 400 }, captured: 400 };

    fn report(money: Money) -> Report {
        let measured = measured_for_tests(&KINDS, |kind, _| if kind == Kind::Paid { 250.0 } else { 1000.0 });
        Report::new(measured, money).unwrap()
    }

    #[test]
    fn the_report_puts_both_beside_each_other() {
        let report = report(MONEY);
        assert_eq!(report.ratios, BTreeMap::from([(1, 0.25), (16, 0.25), (64, 0.25)]));
        let text = report.text();
        for part in [
            "placed alone",
            "placed, paid, confirmed",
            "0.25 × with 64",
            "with 64 clients: 2.50 commits",
            "takes 10 ms",
            "80.00",
            "–",
            "as it should be",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn only_a_loss_or_wrong_money_is_inconsistent() {
        let consistent = |stored, captured| report(Money { stored, captured, ..MONEY }).is_consistent();
        let stored = MONEY.stored;
        assert!(consistent(stored, 400) && consistent(Stored { orders: 11, ..stored }, 400));
        assert!(!consistent(Stored { orders: 9, ..stored }, 400));
        assert!(!consistent(Stored { sold: 3, ..stored }, 400));
        assert!(!consistent(Stored { cost: 500, ..stored }, 400));
        assert!(!consistent(stored, 500));
    }
}
