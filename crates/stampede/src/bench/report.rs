//! What was measured, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Context;
use diesel::sql_types;
use serde::Serialize;

use super::cost::{Memory, Part};
use super::disk::Disk;
use super::figures::{Kind, Point, Run, median, point};
use super::orders::CLIENTS;

/// What an answer promises, in either kind of load.
const ACKNOWLEDGED: &str =
    "durable: committed in PostgreSQL (fsync and synchronous_commit on) before the client was told";
/// What the numbers do not tell by themselves.
const NOTES: [&str; 6] = [
    "pgbench sends prepared statements to PostgreSQL and stores an order and an event, in tables with the columns and \
     indexes of ours. It checks no token, no key and no limit, and nothing is published. An order of ours stores its \
     items, its hold and the hold's line as well, and is published, consumed, recorded as a notification and sent.",
    "All share this machine: the servers, the services and whoever sends the orders. Costs of ours are counted from the \
     first request until everything that follows from the orders is done; those of pgbench contain its connecting.",
    "The total of processor time leaves the generator out. It is counted in ticks of 10 ms. Others' CPU is what \
     neither the site nor the generator used of this machine meanwhile: far from 0, the numbers are too low.",
    "Syncs of the log were counted in the last round alone, because PostgreSQL tells them only 10 s later.",
    "Commit to consumer: from created_at of the order's event to created_at of its notification, which one clock has \
     told. Both are the start of their transaction, so the order's commit is contained and the notification's is not. \
     Under full load it contains the waiting behind everybody else's orders.",
    "Medians over the rounds; the range in parentheses is from the slowest round to the fastest.",
];

/// Under which conditions.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Conditions {
    pub seconds: u64,
    pub rounds: u64,
    pub processors: usize,
    pub load_average_before: Option<f64>,
    pub postgres: String,
    pub kafka: String,
    pub split: bool,
    pub buyers: usize,
    pub debug_build: bool,
}

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

/// Everything that was seen.
pub struct Measured {
    pub conditions: Conditions,
    /// Before each round, and at the end.
    pub disks: Vec<Disk>,
    pub runs: Vec<Run>,
    pub memory: Memory,
    pub acknowledged: u64,
    pub refused: BTreeMap<String, u64>,
    pub stored: Stored,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    acknowledged_means: &'static str,
    conditions: Conditions,
    disk: Vec<Disk>,
    points: Vec<Point>,
    ratios: Ratios,
    services_memory: Memory,
    /// Of our own orders, the warm-up's included.
    acknowledged: u64,
    refused: BTreeMap<String, u64>,
    stored: Stored,
    notes: [&'static str; 6],
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
    pub fn new(measured: Measured) -> anyhow::Result<Report> {
        let Measured { conditions, disks, runs, memory, acknowledged, refused, stored } = measured;
        let of = |kind, clients| {
            let same: Vec<&Run> = runs.iter().filter(|run| run.kind == kind && run.clients == clients).collect();
            point(&same).context("a measurement is missing")
        };
        let mut points = Vec::new();
        for kind in Kind::ALL {
            for clients in CLIENTS {
                points.push(of(kind, clients)?);
            }
        }
        let [few, .., many] = CLIENTS;
        let rate = |kind| anyhow::Ok(of(kind, many)?.orders_per_second);
        let single_client_p50_ms = of(Kind::Stampede, few)?.p50_ms;
        let fdatasync_p50_ms = median(disks.iter().map(|disk| disk.p50_ms)).context("the disk was not measured")?;
        let ratios = Ratios {
            clients: many,
            to_naive_hot_row: rate(Kind::Stampede)? / rate(Kind::NaiveHotRow)?,
            to_no_hot_row: rate(Kind::Stampede)? / rate(Kind::NoHotRow)?,
            single_client_p50_ms,
            fdatasync_p50_ms,
            single_client_beyond_two_fdatasyncs_ms: single_client_p50_ms - 2.0 * fdatasync_p50_ms,
        };
        Ok(Report {
            acknowledged_means: ACKNOWLEDGED,
            conditions,
            disk: disks,
            points,
            ratios,
            services_memory: memory,
            acknowledged,
            refused,
            stored,
            notes: NOTES,
        })
    }

    /// Whether everything that was acknowledged is stored, with its units. Speed is never judged.
    pub fn is_consistent(&self) -> bool {
        let Stored { orders, units } = self.stored;
        self.acknowledged <= orders.unsigned_abs() && orders == units
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\nOrders of one hot product, beside what PostgreSQL alone does on the same servers\n")?;
        writeln!(out, "  Acknowledged means {}.", self.acknowledged_means)?;
        self.conditions.write(out)?;
        write_disks(&self.disk, out)?;
        self.write_speed(out)?;
        self.write_cost(out)?;
        self.write_aftermath(out)?;
        self.write_ratios(out)?;
        writeln!(out)?;
        for note in self.notes {
            writeln!(out, "{}", wrapped(note))?;
        }
        Ok(())
    }

    fn write_speed(&self, out: &mut String) -> std::fmt::Result {
        let header = ("", "clients", "orders/s", "(range)", "p50 ms", "p99 ms", "others' CPU");
        let (label, clients, rate, range, p50, p99, others) = header;
        writeln!(out, "\n  {label:<24}{clients:>8}{rate:>10}  {range:<16}{p50:>9}{p99:>9}{others:>12}")?;
        for point in &self.points {
            let range = format!("({:.0}–{:.0})", point.orders_per_second_min, point.orders_per_second_max);
            let Point { clients, orders_per_second, p50_ms, p99_ms, .. } = point;
            let label = point.kind.label();
            let others = format!("{:.0} %", 100.0 * point.others_cpu_share);
            writeln!(
                out,
                "  {label:<24}{clients:>8}{orders_per_second:>10.0}  {range:<16}{p50_ms:>9.2}{p99_ms:>9.2}{others:>12}"
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
        writeln!(out, "{:>9}  {:>15}{:>17}", "total", "WAL syncs/order", "WAL bytes/order")?;
        for point in &self.points {
            write!(out, "  {:<24}{:>8}", point.kind.label(), point.clients)?;
            for part in &parts {
                write!(out, "{:>11.3}", point.cpu_seconds_per_1000_orders.get(part).copied().unwrap_or(0.0))?;
            }
            let total = point.cpu_seconds_per_1000_orders_total;
            let syncs = optional(point.wal_syncs_per_order, 3);
            writeln!(out, "{total:>9.3}  {syncs:>15}{:>17.0}", point.wal_bytes_per_order)?;
        }
        Ok(())
    }

    fn write_aftermath(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "\n  {:<24}{:>8}{:>9}{:>9}{:>22}",
            "Commit to consumer", "clients", "p50 ms", "p99 ms", "all at rest after ms"
        )?;
        for point in self.points.iter().filter(|point| point.kind == Kind::Stampede) {
            let (p50, p99, rest) =
                (optional(point.consumer_p50_ms, 1), optional(point.consumer_p99_ms, 1), optional(point.rest_ms, 0));
            writeln!(out, "  {:<24}{:>8}{p50:>9}{p99:>9}{rest:>22}", point.kind.label(), point.clients)?;
        }
        Ok(())
    }

    fn write_ratios(&self, out: &mut String) -> std::fmt::Result {
        let Ratios { clients, to_naive_hot_row, to_no_hot_row, single_client_p50_ms, fdatasync_p50_ms, .. } =
            self.ratios;
        let beyond = self.ratios.single_client_beyond_two_fdatasyncs_ms;
        let Memory { resident_mib, peak_mib } = self.services_memory;
        writeln!(
            out,
            "\n  With {clients} clients: {to_naive_hot_row:.2} × the naive hot row, {to_no_hot_row:.2} × the bound without a hot row."
        )?;
        writeln!(
            out,
            "  One client: p50 {single_client_p50_ms:.2} ms; two fdatasyncs are {:.2} ms, so {beyond:.2} ms beyond them.",
            2.0 * fdatasync_p50_ms
        )?;
        writeln!(
            out,
            "  Memory of the services: {resident_mib:.0} MiB resident under load, {peak_mib:.0} MiB at the most."
        )?;
        let Stored { orders, units } = self.stored;
        let verdict = if self.is_consistent() { "as it should be" } else { "WRONG" };
        writeln!(
            out,
            "  {} orders acknowledged, {orders} stored, {units} units held for them: {verdict}.",
            self.acknowledged
        )?;
        if !self.refused.is_empty() {
            let refused: Vec<String> =
                self.refused.iter().map(|(answer, times)| format!("{times} × {answer}")).collect();
            writeln!(out, "  Other answers: {}.", refused.join(", "))?;
        }
        Ok(())
    }
}

impl Conditions {
    pub fn write(&self, out: &mut String) -> std::fmt::Result {
        let Conditions { seconds, rounds, processors, postgres, kafka, split, buyers, .. } = self;
        let layout = if *split { "one process per service behind a gateway" } else { "all services in one process" };
        let load = self.load_average_before.map_or_else(String::new, |load| format!(", load average before {load:.2}"));
        writeln!(out, "  {processors} processors{load}; PostgreSQL {postgres}, Kafka ({kafka}); {layout}.")?;
        writeln!(out, "  {rounds} × {seconds} s for each line; {buyers} buyers take turns.")?;
        if self.debug_build {
            writeln!(out, "  THIS IS A DEBUG BUILD: its numbers mean nothing. Build with --release.")?;
        }
        Ok(())
    }
}

/// How fast the disk was before each round, and at the end.
pub fn write_disks(disks: &[Disk], out: &mut String) -> std::fmt::Result {
    for (index, Disk { p50_ms, p99_ms, per_second }) in disks.iter().enumerate() {
        let when =
            if index < disks.len() - 1 { format!("before round {}", index + 1) } else { "at the end".to_owned() };
        writeln!(out, "  Disk {when}: 8 kB and fdatasync p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms, {per_second:.0}/s.")?;
    }
    Ok(())
}

/// An item of a list, in lines of a readable length.
pub fn wrapped(note: &str) -> String {
    const COLUMNS: usize = 110;
    let mut text = "  -".to_owned();
    let mut column = text.len();
    for word in note.split(' ') {
        if column + 1 + word.len() > COLUMNS {
            text.push_str("\n   ");
            column = 3;
        }
        text.push(' ');
        text.push_str(word);
        column += 1 + word.len();
    }
    text
}

/// A figure, or a dash where there is none.
pub fn optional(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.decimals$}"))
}

#[cfg(test)]
impl Conditions {
    pub fn for_tests() -> Conditions {
        Conditions {
            seconds: 5,
            rounds: 1,
            processors: 2,
            load_average_before: None,
            postgres: "15".to_owned(),
            kafka: "Apache".to_owned(),
            split: false,
            buyers: 1,
            debug_build: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::cost::Cost;
    use super::super::figures::Aftermath;
    use super::*;

    fn measured() -> Measured {
        let mut runs = Vec::new();
        for kind in Kind::ALL {
            for clients in CLIENTS {
                let orders_per_second = if kind == Kind::NaiveHotRow { 500.0 } else { 50.0 * clients as f64 };
                runs.push(Run {
                    kind,
                    clients,
                    orders: 1000,
                    orders_per_second,
                    p50_ms: 5.0,
                    p99_ms: 9.0,
                    cost: Cost { spent: BTreeMap::from([(Part::Postgres, 0.5)]), others_share: 0.02 },
                    wal_bytes: 1e6,
                    wal_syncs: Some(100.0),
                    aftermath: (kind == Kind::Stampede).then_some(Aftermath {
                        consumer_p50_ms: 4.0,
                        consumer_p99_ms: 8.0,
                        rest_ms: None,
                    }),
                });
            }
        }
        Measured {
            conditions: Conditions::for_tests(),
            disks: vec![Disk { p50_ms: 1.5, p99_ms: 3.0, per_second: 600.0 }; 2],
            runs,
            memory: Memory { resident_mib: 90.0, peak_mib: 100.0 },
            acknowledged: 3000,
            refused: BTreeMap::from([("503 SERVICE_UNAVAILABLE".to_owned(), 2)]),
            stored: Stored { orders: 3001, units: 3001 },
        }
    }

    #[test]
    fn ratios_are_those_of_the_most_clients_and_latency_that_of_the_fewest() {
        let report = Report::new(measured()).unwrap();
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
            Report::new(Measured { acknowledged, stored, ..measured() }).unwrap().is_consistent()
        };
        assert!(consistent(10, 10, 10) && consistent(10, 11, 11));
        assert!(!consistent(10, 9, 9) && !consistent(10, 10, 11));
    }

    #[test]
    fn a_missing_measurement_is_an_error() {
        let mut measured = measured();
        measured.runs.pop();
        assert!(Report::new(measured).is_err());
    }

    #[test]
    fn a_note_is_broken_between_words() {
        let text = wrapped(&"word ".repeat(50));
        assert!(text.lines().count() > 1 && text.lines().all(|line| line.len() <= 110), "{text}");
    }
}
