//! What `bench hub` reports: notifications of ours beside those of PostgreSQL alone.

use std::fmt::{self, Write};

use diesel::sql_types;
use serde::Serialize;

use super::options::Conditions;
use super::runs::median;
use super::usage::{Part, Usage};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// pgbench: insert a notification and its delivery, commit.
    OneCommitEach,
    /// `POST /notifications`, each with an e-mail that goes to the log.
    Notifications,
}

impl Kind {
    pub const ALL: [Kind; 2] = [Kind::OneCommitEach, Kind::Notifications];

    pub fn label(self) -> &'static str {
        match self {
            Kind::OneCommitEach => "one commit each (pgbench)",
            Kind::Notifications => "POST /notifications",
        }
    }
}

/// What has become of the deliveries of a run.
#[derive(Debug, Clone, Copy, diesel::QueryableByName)]
pub struct Delivered {
    #[diesel(sql_type = sql_types::BigInt)]
    pub sent: i64,
    #[diesel(sql_type = sql_types::BigInt)]
    pub open: i64,
    /// From the first create to the last result.
    #[diesel(sql_type = sql_types::Double)]
    pub seconds: f64,
}

/// One measurement.
#[derive(Debug, Clone)]
pub struct Run {
    pub kind: Kind,
    pub clients: usize,
    pub creates: u64,
    pub creates_per_second: f64,
    pub mean_ms: f64,
    pub p99_ms: f64,
    pub usage: Usage,
    /// None for pgbench, which delivers nothing.
    pub delivered: Option<Delivered>,
}

/// Medians of several runs.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Point {
    kind: Kind,
    clients: usize,
    creates_per_second: f64,
    mean_ms: f64,
    p99_ms: f64,
    /// From the first create to the last result.
    deliveries_per_second: Option<f64>,
    /// Of the servers and the services, for 1,000 notifications; delivering is in it where there is any.
    cpu_seconds_per_1000: f64,
    /// Of the services alone.
    services_cpu_seconds_per_1000: f64,
    others_cpu_share: f64,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    conditions: Conditions,
    points: Vec<Point>,
    /// Creates per second with the most clients, beside one commit for each.
    ratio: f64,
    acknowledged: u64,
    delivered: u64,
}

impl Report {
    pub fn new(conditions: Conditions, runs: Vec<Run>) -> anyhow::Result<Report> {
        let mut points = Vec::new();
        for clients in &conditions.clients {
            for kind in Kind::ALL {
                let same: Vec<&Run> = runs.iter().filter(|run| run.kind == kind && run.clients == *clients).collect();
                points.push(point(kind, *clients, &same));
            }
        }
        let rate =
            |kind: Kind| points.iter().rev().find(|point| point.kind == kind).map(|point| point.creates_per_second);
        let ratio = rate(Kind::Notifications).unwrap_or(0.0) / rate(Kind::OneCommitEach).unwrap_or(f64::NAN);
        let ours = || runs.iter().filter(|run| run.kind == Kind::Notifications);
        let delivered = ours().filter_map(|run| run.delivered).map(|delivered| delivered.sent.unsigned_abs()).sum();
        Ok(Report { acknowledged: ours().map(|run| run.creates).sum(), delivered, ratio, points, conditions })
    }

    /// Whether everything that was acknowledged was delivered. Speed is never judged.
    pub fn is_consistent(&self) -> bool {
        self.acknowledged <= self.delivered
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        let Conditions { seconds, rounds, processors, postgres, debug_build, .. } = &self.conditions;
        writeln!(
            out,
            "\nNotifications over HTTP, each with an e-mail to the log, beside what PostgreSQL alone does\n"
        )?;
        writeln!(out, "  {processors} processors; PostgreSQL {postgres}; {rounds} × {seconds} s for each line.")?;
        if *debug_build {
            writeln!(out, "  THIS IS A DEBUG BUILD: its numbers mean nothing. Build with --release.")?;
        }
        writeln!(
            out,
            "\n  {:<26}{:>7}{:>11}{:>9}{:>9}{:>14}{:>17}{:>10}{:>13}",
            "",
            "clients",
            "creates/s",
            "mean ms",
            "p99 ms",
            "deliveries/s",
            "CPU s per 1,000",
            "services",
            "others' CPU"
        )?;
        for point in &self.points {
            let delivered = point.deliveries_per_second.map_or_else(|| "–".to_owned(), |rate| format!("{rate:.0}"));
            writeln!(
                out,
                "  {:<26}{:>7}{:>11.0}{:>9.2}{:>9.2}{:>14}{:>17.3}{:>10.3}{:>11.0} %",
                point.kind.label(),
                point.clients,
                point.creates_per_second,
                point.mean_ms,
                point.p99_ms,
                delivered,
                point.cpu_seconds_per_1000,
                point.services_cpu_seconds_per_1000,
                100.0 * point.others_cpu_share,
            )?;
        }
        let most = self.conditions.clients.last().copied().unwrap_or_default();
        writeln!(out, "\n  With {most} clients: {:.2} × one commit for each.", self.ratio)?;
        let verdict = if self.is_consistent() { "as it should be" } else { "WRONG" };
        writeln!(out, "  {} acknowledged, {} delivered: {verdict}.", self.acknowledged, self.delivered)
    }
}

fn point(kind: Kind, clients: usize, runs: &[&Run]) -> Point {
    let middle = |value: &dyn Fn(&Run) -> Option<f64>| median(runs.iter().filter_map(|run| value(run)));
    let cpu = |run: &Run, counts: fn(Part) -> bool| {
        let used = run.usage.cpu.iter().filter(|(part, _)| counts(**part)).map(|(_, seconds)| seconds).sum::<f64>();
        Some(1000.0 * used / run.creates.max(1) as f64)
    };
    Point {
        kind,
        clients,
        creates_per_second: middle(&|run| Some(run.creates_per_second)).unwrap_or(0.0),
        mean_ms: middle(&|run| Some(run.mean_ms)).unwrap_or(0.0),
        p99_ms: middle(&|run| Some(run.p99_ms)).unwrap_or(0.0),
        deliveries_per_second: middle(&|run| run.delivered.map(|one| one.sent as f64 / one.seconds.max(0.001))),
        cpu_seconds_per_1000: middle(&|run| cpu(run, |part| part != Part::Generator)).unwrap_or(0.0),
        services_cpu_seconds_per_1000: middle(&|run| cpu(run, |part| part == Part::Services)).unwrap_or(0.0),
        others_cpu_share: middle(&|run| Some(run.usage.others_share)).unwrap_or(0.0),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn run(kind: Kind, creates: u64, delivered: Option<i64>) -> Run {
        Run {
            kind,
            clients: 64,
            creates,
            creates_per_second: creates as f64 / 2.0,
            mean_ms: 3.0,
            p99_ms: 9.0,
            usage: Usage { cpu: BTreeMap::from([(Part::Services, 1.0), (Part::Generator, 9.0)]), others_share: 0.1 },
            delivered: delivered.map(|sent| Delivered { sent, open: 0, seconds: 4.0 }),
        }
    }

    #[test]
    fn the_report_names_rates_the_ratio_and_whether_all_was_delivered() {
        let conditions = Conditions { clients: vec![64], ..Conditions::for_tests() };
        let runs = vec![run(Kind::OneCommitEach, 1_000, None), run(Kind::Notifications, 4_000, Some(4_000))];
        let report = Report::new(conditions.clone(), runs).unwrap();
        let text = report.text();
        for part in ["4.00 × one commit for each", "4000 acknowledged, 4000 delivered: as it should be", "0.250"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        let lost = vec![run(Kind::OneCommitEach, 1_000, None), run(Kind::Notifications, 4_000, Some(3_999))];
        assert!(!Report::new(conditions, lost).unwrap().is_consistent());
    }
}
