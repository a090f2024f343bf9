//! What was measured, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Context;
use diesel::sql_types;
use serde::Serialize;

use super::super::cost::{Memory, Part};
use super::super::disk::Disk;
use super::super::figures::{Kind, Point, Run, point};
use super::super::orders::CLIENTS;
use super::super::report::{Conditions, optional, wrapped, write_disks};
use super::KINDS;

/// What the numbers do not tell by themselves.
const NOTES: [&str; 5] = [
    "A buyer places an order, prepares its payment, agrees in the provider's window and approves, one request after the \
     other on one connection; only then comes the next order. Its latency ends with PAID. Its order counts when its hold \
     is CONFIRMED, and the rate is taken until the last one is.",
    "Hold to sale: from created_at of the hold to the time of its confirmation, which one clock has told. It contains \
     everything the buyer did in between.",
    "The provider is the sandbox's: it waits as long as is told above, then writes each agreement and each capture to \
     its book with an fsync of its own, on the same disk. Its processor time is contained in that of the services; where \
     these are split, in that of others.",
    "All share this machine: the servers, the services, the provider and whoever sends the orders. The total of \
     processor time leaves the generator out. Others' CPU is what neither the site nor the generator used of this machine \
     meanwhile: far from 0, the numbers are too low.",
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

/// Everything that was seen.
pub struct Measured {
    pub conditions: Conditions,
    pub provider_ms: u64,
    /// Before each round, and at the end.
    pub disks: Vec<Disk>,
    pub runs: Vec<Run>,
    pub memory: Memory,
    pub acknowledged: u64,
    pub paid: u64,
    pub refused: BTreeMap<String, u64>,
    pub stored: Stored,
    /// What the provider keeps, in won.
    pub captured: i64,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    conditions: Conditions,
    /// For each capture.
    provider_ms: u64,
    disk: Vec<Disk>,
    points: Vec<Point>,
    /// Orders per second that are paid and confirmed beside those that are only placed, by clients.
    ratios: BTreeMap<usize, f64>,
    services_memory: Memory,
    /// The warm-up's included.
    acknowledged: u64,
    paid: u64,
    refused: BTreeMap<String, u64>,
    stored: Stored,
    captured: i64,
    notes: [&'static str; 5],
}

pub fn label(kind: Kind) -> &'static str {
    if kind == Kind::Paid { kind.label() } else { "placed alone" }
}

impl Report {
    pub fn new(measured: Measured) -> anyhow::Result<Report> {
        let Measured { conditions, provider_ms, disks, runs, memory, acknowledged, paid, refused, stored, captured } =
            measured;
        let of = |kind, clients| {
            let same: Vec<&Run> = runs.iter().filter(|run| run.kind == kind && run.clients == clients).collect();
            point(&same).context("a measurement is missing")
        };
        let (mut points, mut ratios) = (Vec::new(), BTreeMap::new());
        for kind in KINDS {
            for clients in CLIENTS {
                points.push(of(kind, clients)?);
            }
        }
        for clients in CLIENTS {
            let rate = |kind| anyhow::Ok(of(kind, clients)?.orders_per_second);
            ratios.insert(clients, rate(Kind::Paid)? / rate(Kind::Stampede)?);
        }
        let (disk, services_memory, notes) = (disks, memory, NOTES);
        Ok(Report {
            conditions,
            provider_ms,
            disk,
            points,
            ratios,
            services_memory,
            acknowledged,
            paid,
            refused,
            stored,
            captured,
            notes,
        })
    }

    /// Whether everything that was acknowledged is stored and sold, and the money is equal on all sides. Speed is never
    /// judged.
    pub fn is_consistent(&self) -> bool {
        let Stored { orders, sold, cost, kept } = self.stored;
        self.acknowledged <= orders.unsigned_abs()
            && self.paid <= sold.unsigned_abs()
            && cost == kept
            && kept == self.captured
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\nOrders of one hot product: placed, paid and confirmed, beside placing alone\n")?;
        self.conditions.write(out)?;
        writeln!(out, "  The provider takes {} ms for each capture and makes no mistakes.", self.provider_ms)?;
        write_disks(&self.disk, out)?;
        self.write_speed(out)?;
        self.write_cost(out)?;
        let ratios: Vec<String> =
            self.ratios.iter().map(|(clients, ratio)| format!("{ratio:.2} × with {clients}")).collect();
        writeln!(out, "\n  Paid and confirmed beside placed alone, in orders/s: {}.", ratios.join(", "))?;
        let Memory { resident_mib, peak_mib } = self.services_memory;
        writeln!(
            out,
            "  Memory of the services: {resident_mib:.0} MiB resident under load, {peak_mib:.0} MiB at the most."
        )?;
        self.write_money(out)?;
        writeln!(out)?;
        for note in self.notes {
            writeln!(out, "{}", wrapped(note))?;
        }
        Ok(())
    }

    fn write_speed(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "\n  {:<24}{:>8}{:>10}  {:<16}{:>9}{:>9}{:>18}{:>9}{:>12}",
            "", "clients", "orders/s", "(range)", "p50 ms", "p99 ms", "hold to sale p50", "p99 ms", "others' CPU"
        )?;
        for point in &self.points {
            let range = format!("({:.0}–{:.0})", point.orders_per_second_min, point.orders_per_second_max);
            let Point { clients, orders_per_second: rate, p50_ms: p50, p99_ms: p99, .. } = point;
            let (sold_p50, sold_p99) = (optional(point.consumer_p50_ms, 2), optional(point.consumer_p99_ms, 2));
            let others = format!("{:.0} %", 100.0 * point.others_cpu_share);
            let label = label(point.kind);
            writeln!(
                out,
                "  {label:<24}{clients:>8}{rate:>10.0}  {range:<16}{p50:>9.2}{p99:>9.2}{sold_p50:>18}{sold_p99:>9}{others:>12}"
            )?;
        }
        Ok(())
    }

    fn write_cost(&self, out: &mut String) -> std::fmt::Result {
        let parts = Part::ALL
            .into_iter()
            .filter(|part| self.points.iter().any(|point| point.cpu_seconds_per_1000_orders.contains_key(part)));
        let parts: Vec<Part> = parts.collect();
        write!(out, "\n  {:<24}{:>8}", "CPU s per 1,000 orders", "clients")?;
        for part in &parts {
            write!(out, "{:>11}", part.label())?;
        }
        writeln!(out, "{:>9}{:>17}", "total", "WAL bytes/order")?;
        for point in &self.points {
            write!(out, "  {:<24}{:>8}", label(point.kind), point.clients)?;
            for part in &parts {
                write!(out, "{:>11.3}", point.cpu_seconds_per_1000_orders.get(part).copied().unwrap_or(0.0))?;
            }
            writeln!(out, "{:>9.3}{:>17.0}", point.cpu_seconds_per_1000_orders_total, point.wal_bytes_per_order)?;
        }
        Ok(())
    }

    fn write_money(&self, out: &mut String) -> std::fmt::Result {
        let Stored { orders, sold, cost, kept } = self.stored;
        let verdict = if self.is_consistent() { "as it should be" } else { "WRONG" };
        writeln!(
            out,
            "  {} orders acknowledged, {} of them PAID; {orders} stored, {sold} paid and sold. They cost {cost} won, the \
             payments keep {kept}, the provider keeps {}: {verdict}.",
            self.acknowledged, self.paid, self.captured
        )?;
        if !self.refused.is_empty() {
            let refused: Vec<String> =
                self.refused.iter().map(|(answer, times)| format!("{times} × {answer}")).collect();
            writeln!(out, "  Other answers: {}.", refused.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::cost::Cost;
    use super::super::super::figures::Aftermath;
    use super::*;

    fn measured() -> Measured {
        let mut runs = Vec::new();
        for kind in KINDS {
            for clients in CLIENTS {
                let pays = kind == Kind::Paid;
                runs.push(Run {
                    kind,
                    clients,
                    orders: 1000,
                    orders_per_second: if pays { 250.0 } else { 1000.0 },
                    p50_ms: 5.0,
                    p99_ms: 9.0,
                    cost: Cost { spent: BTreeMap::from([(Part::Postgres, 0.5)]), others_share: 0.02 },
                    wal_bytes: 1e6,
                    wal_syncs: None,
                    aftermath: pays.then_some(Aftermath {
                        consumer_p50_ms: 40.0,
                        consumer_p99_ms: 80.0,
                        rest_ms: None,
                    }),
                });
            }
        }
        Measured {
            conditions: Conditions::for_tests(),
            provider_ms: 10,
            disks: vec![Disk { p50_ms: 1.5, p99_ms: 3.0, per_second: 600.0 }; 2],
            runs,
            memory: Memory { resident_mib: 90.0, peak_mib: 100.0 },
            acknowledged: 10,
            paid: 4,
            refused: BTreeMap::from([("202 without a code".to_owned(), 2)]),
            stored: Stored { orders: 10, sold: 4, cost: 400, kept: 400 },
            captured: 400,
        }
    }

    #[test]
    fn the_report_puts_both_beside_each_other() {
        let report = Report::new(measured()).unwrap();
        assert_eq!(report.ratios, BTreeMap::from([(1, 0.25), (16, 0.25), (64, 0.25)]));
        let text = report.text();
        for part in
            ["placed alone", "placed, paid, confirmed", "0.25 × with 64", "takes 10 ms", "80.00", "as it should be"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn only_a_loss_or_wrong_money_is_inconsistent() {
        let consistent = |change: &dyn Fn(&mut Measured)| {
            let mut measured = measured();
            change(&mut measured);
            Report::new(measured).unwrap().is_consistent()
        };
        assert!(consistent(&|_| {}) && consistent(&|measured| measured.stored.orders = 11));
        assert!(!consistent(&|measured| measured.stored.orders = 9));
        assert!(!consistent(&|measured| measured.stored.sold = 3));
        assert!(!consistent(&|measured| measured.stored.cost = 500));
        assert!(!consistent(&|measured| measured.captured = 500));
    }

    #[test]
    fn a_missing_measurement_is_an_error() {
        let mut measured = measured();
        measured.runs.pop();
        assert!(Report::new(measured).is_err());
    }
}
