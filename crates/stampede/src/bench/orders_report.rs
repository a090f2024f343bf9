//! What `bench orders` reports: our orders beside those of PostgreSQL alone.

use std::fmt::{self, Write};

use anyhow::Context;
use diesel::sql_types;
use serde::Serialize;

use super::measure::Measured;
use super::report::{Common, column, optional, write_table};
use super::runs::{Kind, median};

pub const KINDS: [Kind; 3] = [Kind::NaiveHotRow, Kind::NoHotRow, Kind::Stampede];

/// What an answer promises, in either kind of load.
const ACKNOWLEDGED: &str =
    "durable: committed in PostgreSQL (fsync and synchronous_commit on) before the client was told";
const NOTES: [&str; 6] = [
    "pgbench sends prepared statements to PostgreSQL and stores an order and an event, in tables with the columns and \
     indexes of ours. It checks no token, no key and no limit, and nothing is published. An order of ours stores its \
     items, its hold and the hold's line as well, and is published, consumed, recorded as a notification and sent.",
    "All share this machine: the servers, the services and whoever sends the orders. Costs of ours are counted from the \
     first request until everything that follows from the orders is done; those of pgbench contain its connecting.",
    "The total of processor time leaves the generator out. It is counted in ticks of 10 ms. Others' CPU is what \
     neither the site nor the generator used of this machine meanwhile: far from 0, the numbers are too low.",
    "Syncs of the log are counted in the last round alone, because PostgreSQL reports them 10 s late, and not at all in \
     measurements shorter than 5 s.",
    "Commit to consumer: from created_at of the order's event to created_at of its notification, by one clock. Both are \
     the start of their transaction, so the order's commit is contained and the notification's is not. Under full load \
     it contains the waiting behind all other orders.",
    "Medians over the rounds; the range in parentheses is from the slowest round to the fastest.",
];

/// What the database has at the end.
#[derive(Debug, Clone, Copy, Serialize, diesel::QueryableByName)]
#[serde(rename_all = "camelCase")]
pub struct Stored {
    #[diesel(sql_type = sql_types::BigInt)]
    pub orders: i64,
    /// Units that are held for them.
    #[diesel(sql_type = sql_types::BigInt)]
    pub units: i64,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    acknowledged_means: &'static str,
    #[serde(flatten)]
    common: Common,
    ratios: Ratios,
    stored: Stored,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
struct Ratios {
    /// Orders per second with the most clients.
    clients: usize,
    to_naive_hot_row: f64,
    to_no_hot_row: f64,
    /// One client of ours beside one write that the disk makes durable, over all measurements of the disk.
    single_client_p50_ms: f64,
    fdatasync_p50_ms: f64,
    /// What is left of it after two such writes.
    single_client_beyond_two_fdatasyncs_ms: f64,
}

impl Report {
    pub fn new(measured: Measured, stored: Stored) -> anyhow::Result<Report> {
        let common = Common::new(measured, &KINDS, &NOTES)?;
        let clients = &common.conditions.clients;
        let (few, many) = clients.first().copied().zip(clients.last().copied()).context("no clients were asked for")?;
        let rate = |kind| anyhow::Ok(common.point(kind, many)?.orders_per_second);
        let single_client_p50_ms = common.point(Kind::Stampede, few)?.p50_ms;
        let fdatasync_p50_ms =
            median(common.disk.iter().map(|disk| disk.p50_ms)).context("the disk was not measured")?;
        let ratios = Ratios {
            clients: many,
            to_naive_hot_row: rate(Kind::Stampede)? / rate(Kind::NaiveHotRow)?,
            to_no_hot_row: rate(Kind::Stampede)? / rate(Kind::NoHotRow)?,
            single_client_p50_ms,
            fdatasync_p50_ms,
            single_client_beyond_two_fdatasyncs_ms: single_client_p50_ms - 2.0 * fdatasync_p50_ms,
        };
        Ok(Report { acknowledged_means: ACKNOWLEDGED, common, ratios, stored })
    }

    /// Whether everything that was acknowledged is stored, with its units. Speed is never judged.
    pub fn is_consistent(&self) -> bool {
        let Stored { orders, units } = self.stored;
        self.common.acknowledged <= orders.unsigned_abs() && orders == units
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "\nOrders of one hot product, beside what PostgreSQL alone does on the same servers\n")?;
        writeln!(out, "  Acknowledged means {}.", self.acknowledged_means)?;
        self.common.write_conditions(out)?;
        self.common.write_disks(out)?;
        self.common.write_speed(out, Kind::label, Vec::new())?;
        let syncs = column("WAL syncs/order", 17, |point| optional(point.wal_syncs_per_order, 3));
        self.common.write_cpu(out, Kind::label, vec![syncs])?;
        let ours = self.common.points.iter().filter(|point| point.kind == Kind::Stampede);
        let columns = [
            column("p50 ms", 9, |point| optional(point.consumer_p50_ms, 1)),
            column("p99 ms", 9, |point| optional(point.consumer_p99_ms, 1)),
            column("all at rest after ms", 22, |point| optional(point.rest_ms, 0)),
        ];
        write_table(out, "Commit to consumer", Kind::label, ours, &columns)?;
        self.write_ratios(out)?;
        self.common.write_memory(out)?;
        let Stored { orders, units } = self.stored;
        let verdict = if self.is_consistent() { "as it should be" } else { "WRONG" };
        let acknowledged = self.common.acknowledged;
        writeln!(
            out,
            "  {acknowledged} orders acknowledged, {orders} stored, {units} units held for them: {verdict}."
        )?;
        self.common.write_refused(out)?;
        self.common.write_notes(out)
    }

    fn write_ratios(&self, out: &mut String) -> fmt::Result {
        let Ratios { clients, to_naive_hot_row, to_no_hot_row, single_client_p50_ms, fdatasync_p50_ms, .. } =
            self.ratios;
        let beyond = self.ratios.single_client_beyond_two_fdatasyncs_ms;
        writeln!(
            out,
            "\n  With {clients} clients: {to_naive_hot_row:.2} × the naive hot row, {to_no_hot_row:.2} × the bound without a hot row."
        )?;
        writeln!(
            out,
            "  One client: p50 {single_client_p50_ms:.2} ms; two fdatasyncs are {:.2} ms, so {beyond:.2} ms beyond them.",
            2.0 * fdatasync_p50_ms
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::measured_for_tests;
    use super::*;

    fn measured() -> Measured {
        measured_for_tests(
            &KINDS,
            |kind, clients| {
                if kind == Kind::NaiveHotRow { 500.0 } else { 50.0 * clients as f64 }
            },
        )
    }

    #[test]
    fn ratios_are_those_of_the_most_clients_and_latency_that_of_the_fewest() {
        let report = Report::new(measured(), Stored { orders: 11, units: 11 }).unwrap();
        let Ratios { clients, to_naive_hot_row, to_no_hot_row, .. } = report.ratios;
        assert_eq!((clients, to_naive_hot_row, to_no_hot_row), (64, 6.4, 1.0));
        assert_eq!(report.ratios.single_client_beyond_two_fdatasyncs_ms, 2.0);
        let text = report.text();
        for part in ["DEBUG BUILD", "6.40 × the naive hot row", "2 × 503 SERVICE_UNAVAILABLE", "as it should be", "2 %"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn only_a_loss_is_inconsistent() {
        let consistent = |acknowledged, orders, units| {
            let stored = Stored { orders, units };
            Report::new(Measured { acknowledged, ..measured() }, stored).unwrap().is_consistent()
        };
        assert!(consistent(10, 10, 10) && consistent(10, 11, 11));
        assert!(!consistent(10, 9, 9) && !consistent(10, 10, 11));
    }
}
