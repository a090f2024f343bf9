//! What the reports of all benchmarks have in common, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use anyhow::Context;
use serde::Serialize;

use super::disk::Disk;
use super::measure::Measured;
use super::options::Conditions;
use super::runs::{Kind, Point, Run, point};
use super::usage::{Memory, Part};

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Common {
    pub conditions: Conditions,
    /// Before each round, and at the end.
    pub disk: Vec<Disk>,
    pub points: Vec<Point>,
    services_memory: Memory,
    /// Of our own orders, the warm-up's included.
    pub acknowledged: u64,
    refused: BTreeMap<String, u64>,
    /// What the figures do not say by themselves.
    notes: Vec<&'static str>,
}

/// A column of a table.
pub struct Column {
    heading: &'static str,
    width: usize,
    value: Box<dyn Fn(&Point) -> String>,
}

pub fn column(heading: &'static str, width: usize, value: impl Fn(&Point) -> String + 'static) -> Column {
    Column { heading, width, value: Box::new(value) }
}

impl Common {
    /// Fails when a measurement of one of `kinds` is missing.
    pub fn new(measured: Measured, kinds: &[Kind], notes: &[&'static str]) -> anyhow::Result<Common> {
        let Measured { conditions, disks, runs, memory, acknowledged, refused, .. } = measured;
        let mut points = Vec::new();
        for kind in kinds {
            for &clients in &conditions.clients {
                let same: Vec<&Run> = runs.iter().filter(|run| run.kind == *kind && run.clients == clients).collect();
                points.push(point(&same).context("a measurement is missing")?);
            }
        }
        let notes = notes.to_vec();
        Ok(Common { conditions, disk: disks, points, services_memory: memory, acknowledged, refused, notes })
    }

    pub fn point(&self, kind: Kind, clients: usize) -> anyhow::Result<&Point> {
        let found = self.points.iter().find(|point| point.kind == kind && point.clients == clients);
        found.context("a measurement is missing")
    }

    pub fn write_conditions(&self, out: &mut String) -> fmt::Result {
        let Conditions { seconds, rounds, processors, postgres, kafka, split, buyers, .. } = &self.conditions;
        let layout = if *split { "one process per service behind a gateway" } else { "all services in one process" };
        let load = self.conditions.load_average_before;
        let load = load.map_or_else(String::new, |load| format!(", load average before {load:.2}"));
        writeln!(out, "  {processors} processors{load}; PostgreSQL {postgres}, Kafka ({kafka}); {layout}.")?;
        writeln!(out, "  {rounds} × {seconds} s for each line; {buyers} buyers take turns.")?;
        if self.conditions.debug_build {
            writeln!(out, "  THIS IS A DEBUG BUILD: its numbers mean nothing. Build with --release.")?;
        }
        Ok(())
    }

    pub fn write_disks(&self, out: &mut String) -> fmt::Result {
        for (index, Disk { p50_ms, p99_ms, per_second }) in self.disk.iter().enumerate() {
            let is_last = index + 1 == self.disk.len();
            let when = if is_last { "at the end".to_owned() } else { format!("before round {}", index + 1) };
            writeln!(
                out,
                "  Disk {when}: 8 kB and fdatasync p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms, {per_second:.0}/s."
            )?;
        }
        Ok(())
    }

    /// Rates and latencies, with `more` between the latencies and what others used.
    pub fn write_speed(&self, out: &mut String, label: fn(Kind) -> &'static str, more: Vec<Column>) -> fmt::Result {
        let range = |point: &Point| {
            format!("  {:<16}", format!("({:.0}–{:.0})", point.orders_per_second_min, point.orders_per_second_max))
        };
        let mut columns = vec![
            column("orders/s", 10, |point| format!("{:.0}", point.orders_per_second)),
            column("  (range)         ", 18, range),
            column("p50 ms", 9, |point| format!("{:.2}", point.p50_ms)),
            column("p99 ms", 9, |point| format!("{:.2}", point.p99_ms)),
        ];
        columns.extend(more);
        columns.push(column("others' CPU", 12, |point| format!("{:.0} %", 100.0 * point.others_cpu_share)));
        write_table(out, "", label, &self.points, &columns)
    }

    /// Processor time of each part, with `more` behind it.
    pub fn write_cpu(&self, out: &mut String, label: fn(Kind) -> &'static str, more: Vec<Column>) -> fmt::Result {
        let is_there =
            |part: &Part| self.points.iter().any(|point| point.cpu_seconds_per_1000_orders.contains_key(part));
        let cpu = |part: Part| {
            column(part.label(), 11, move |point| {
                format!("{:.3}", point.cpu_seconds_per_1000_orders.get(&part).copied().unwrap_or(0.0))
            })
        };
        let mut columns: Vec<Column> = Part::ALL.into_iter().filter(is_there).map(cpu).collect();
        columns.push(column("total", 9, |point| format!("{:.3}", point.cpu_seconds_per_1000_orders_total)));
        columns.extend(more);
        columns.push(column("WAL bytes/order", 17, |point| format!("{:.0}", point.wal_bytes_per_order)));
        write_table(out, "CPU s per 1,000 orders", label, &self.points, &columns)
    }

    pub fn write_memory(&self, out: &mut String) -> fmt::Result {
        let Memory { resident_mib, peak_mib } = self.services_memory;
        writeln!(
            out,
            "  Memory of the services: {resident_mib:.0} MiB resident under load, {peak_mib:.0} MiB at the most."
        )
    }

    pub fn write_refused(&self, out: &mut String) -> fmt::Result {
        if self.refused.is_empty() {
            return Ok(());
        }
        let refused: Vec<String> = self.refused.iter().map(|(answer, times)| format!("{times} × {answer}")).collect();
        writeln!(out, "  Other answers: {}.", refused.join(", "))
    }

    pub fn write_notes(&self, out: &mut String) -> fmt::Result {
        self.notes.iter().try_for_each(|note| write!(out, "\n{}", wrapped(note)))?;
        writeln!(out)
    }
}

/// A line for each of `points`, below headings.
pub fn write_table<'a>(
    out: &mut String,
    title: &str,
    label: fn(Kind) -> &'static str,
    points: impl IntoIterator<Item = &'a Point>,
    columns: &[Column],
) -> fmt::Result {
    write!(out, "\n  {title:<24}{:>8}", "clients")?;
    columns.iter().try_for_each(|Column { heading, width, .. }| write!(out, "{heading:>width$}"))?;
    writeln!(out)?;
    for point in points {
        write!(out, "  {:<24}{:>8}", label(point.kind), point.clients)?;
        columns.iter().try_for_each(|Column { width, value, .. }| write!(out, "{:>width$}", value(point)))?;
        writeln!(out)?;
    }
    Ok(())
}

/// A figure, or a dash where there is none.
pub fn optional(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.decimals$}"))
}

/// An item of a list, in lines of a readable length.
fn wrapped(note: &str) -> String {
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

/// Measurements of `kinds`, `orders_per_second` each.
#[cfg(test)]
pub fn measured_for_tests(kinds: &[Kind], orders_per_second: fn(Kind, usize) -> f64) -> Measured {
    let mut runs = Vec::new();
    for kind in kinds {
        for clients in Conditions::for_tests().clients {
            let aftermath = super::runs::Aftermath { consumer_p50_ms: 4.0, consumer_p99_ms: 80.0, rest_ms: None };
            runs.push(Run {
                kind: *kind,
                clients,
                orders: 1000,
                orders_per_second: orders_per_second(*kind, clients),
                p50_ms: 5.0,
                p99_ms: 9.0,
                usage: super::usage::Usage { cpu: BTreeMap::from([(Part::Postgres, 0.5)]), others_share: 0.02 },
                wal_bytes: 1e6,
                wal_syncs: Some(100.0),
                aftermath: Some(aftermath),
                turns: Some(super::turns::Turns { commits: Some(2.5), ..Default::default() }),
            });
        }
    }
    Measured {
        conditions: Conditions::for_tests(),
        disks: vec![Disk { p50_ms: 1.5, p99_ms: 3.0, per_second: 600.0 }; 2],
        runs,
        memory: Memory { resident_mib: 90.0, peak_mib: 100.0 },
        acknowledged: 10,
        paid: 4,
        refused: BTreeMap::from([("503 SERVICE_UNAVAILABLE".to_owned(), 2)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_measurement_is_an_error() {
        let mut measured = measured_for_tests(&[Kind::Stampede], |_, _| 1.0);
        measured.runs.pop();
        assert!(Common::new(measured, &[Kind::Stampede], &[]).is_err());
    }

    #[test]
    fn only_parts_that_were_there_have_a_column() {
        let common = Common::new(measured_for_tests(&[Kind::Stampede], |_, _| 1.0), &[Kind::Stampede], &[]).unwrap();
        let mut text = String::new();
        common.write_cpu(&mut text, Kind::label, Vec::new()).unwrap();
        assert!(text.contains("PostgreSQL") && text.contains("0.500") && !text.contains("gateway"), "{text}");
    }

    #[test]
    fn a_note_is_broken_between_words() {
        let text = wrapped(&"word ".repeat(50));
        assert!(text.lines().count() > 1 && text.lines().all(|line| line.len() <= 110), "{text}");
    }
}
