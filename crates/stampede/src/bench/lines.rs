//! A report of lines, each with a rate and latencies, and of ratios between them: for benchmarks that compare ours with bounds.

use std::fmt::{self, Write};

use serde::Serialize;

use super::options::Conditions;
use super::runs::median;
use super::usage::Usage;

/// One measurement.
#[derive(Debug, Clone)]
pub struct Sample {
    pub label: &'static str,
    pub clients: usize,
    /// Orders, requests or calls, as the label says.
    pub per_second: f64,
    /// None where whoever measured does not tell.
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub others_cpu_share: f64,
}

/// Medians of the samples of one label and number of clients.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    pub label: &'static str,
    pub clients: usize,
    pub per_second: f64,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub others_cpu_share: f64,
}

/// A figure beside another one of the same run.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ratio {
    pub of: &'static str,
    pub to: &'static str,
    pub clients: usize,
    /// By the rates; for latencies by the 99th percentile.
    pub value: f64,
    /// What is aimed at on two processors.
    pub target: Option<&'static str>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub title: &'static str,
    pub conditions: Conditions,
    pub lines: Vec<Line>,
    pub ratios: Vec<Ratio>,
    /// What was counted, in sentences.
    pub facts: Vec<String>,
    /// Whether everything that was acknowledged is stored, and nothing else. Speed is never judged.
    pub is_consistent: bool,
}

impl Sample {
    pub fn new(label: &'static str, clients: usize, per_second: f64, p50_p99: (f64, f64), usage: &Usage) -> Sample {
        let (p50_ms, p99_ms) = p50_p99;
        let others_cpu_share = usage.others_share;
        Sample { label, clients, per_second, p50_ms: Some(p50_ms), p99_ms: Some(p99_ms), others_cpu_share }
    }
}

/// One line for each label and number of clients, in the order in which they were measured first.
pub fn lines(samples: &[Sample]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for Sample { label, clients, .. } in samples {
        if lines.iter().any(|line| line.label == *label && line.clients == *clients) {
            continue;
        }
        let same = || samples.iter().filter(|sample| sample.label == *label && sample.clients == *clients);
        lines.push(Line {
            label,
            clients: *clients,
            per_second: median(same().map(|sample| sample.per_second)).unwrap_or(0.0),
            p50_ms: median(same().filter_map(|sample| sample.p50_ms)),
            p99_ms: median(same().filter_map(|sample| sample.p99_ms)),
            others_cpu_share: median(same().map(|sample| sample.others_cpu_share)).unwrap_or(0.0),
        });
    }
    lines
}

/// `value` of the line `of` beside that of the line `to`. None where one of them was not measured or is 0.
pub fn ratio(
    lines: &[Line],
    of: &'static str,
    to: &'static str,
    clients: usize,
    value: impl Fn(&Line) -> Option<f64>,
) -> Option<Ratio> {
    let find = |label: &str| {
        let line = lines.iter().find(|line| line.label == label && line.clients == clients)?;
        value(line).filter(|value| *value > 0.0)
    };
    Some(Ratio { of, to, clients, value: find(of)? / find(to)?, target: None })
}

impl Report {
    /// The report for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        let Conditions { seconds, rounds, processors, postgres, debug_build, .. } = &self.conditions;
        writeln!(out, "\n{}\n", self.title)?;
        writeln!(out, "  {processors} processors; PostgreSQL {postgres}; {rounds} × {seconds} s for each line.")?;
        if *debug_build {
            writeln!(out, "  THIS IS A DEBUG BUILD: its numbers mean nothing. Build with --release.")?;
        }
        writeln!(
            out,
            "\n  {:<34}{:>8}{:>11}{:>9}{:>9}{:>13}",
            "", "clients", "a second", "p50 ms", "p99 ms", "others' CPU"
        )?;
        let ms = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.2}"));
        for line in &self.lines {
            writeln!(
                out,
                "  {:<34}{:>8}{:>11.0}{:>9}{:>9}{:>11.0} %",
                line.label,
                line.clients,
                line.per_second,
                ms(line.p50_ms),
                ms(line.p99_ms),
                100.0 * line.others_cpu_share
            )?;
        }
        writeln!(out)?;
        for Ratio { of, to, clients, value, target } in &self.ratios {
            let target = target.map_or_else(String::new, |target| format!(" (aim: {target})"));
            writeln!(out, "  With {clients} clients: {of} is {value:.2} × {to}{target}.")?;
        }
        for fact in &self.facts {
            writeln!(out, "  {fact}")?;
        }
        writeln!(out, "  {}.", if self.is_consistent { "All is as it should be" } else { "Something is WRONG" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(label: &'static str, per_second: f64, p99_ms: Option<f64>) -> Sample {
        Sample { label, clients: 4, per_second, p50_ms: Some(1.0), p99_ms, others_cpu_share: 0.1 }
    }

    #[test]
    fn a_line_has_the_medians_of_its_samples_and_lines_keep_their_order() {
        let samples = [
            sample("b", 10.0, Some(2.0)),
            sample("a", 5.0, None),
            sample("b", 30.0, Some(4.0)),
            sample("b", 20.0, None),
        ];
        let lines = lines(&samples);
        let seen: Vec<_> = lines.iter().map(|line| (line.label, line.per_second, line.p99_ms)).collect();
        assert_eq!(seen, [("b", 20.0, Some(3.0)), ("a", 5.0, None)]);
    }

    #[test]
    fn a_ratio_is_of_two_lines_that_were_measured() {
        let lines = lines(&[sample("ours", 30.0, Some(6.0)), sample("bound", 60.0, None)]);
        let rate = |line: &Line| Some(line.per_second);
        assert_eq!(ratio(&lines, "ours", "bound", 4, rate).unwrap().value, 0.5);
        assert!(ratio(&lines, "ours", "bound", 4, |line| line.p99_ms).is_none());
        assert!(ratio(&lines, "ours", "bound", 8, rate).is_none());
        let ratios = ratio(&lines, "ours", "bound", 4, rate).into_iter().collect();
        let (conditions, facts) = (Conditions::for_tests(), vec!["30 were stored.".to_owned()]);
        let report = Report { title: "Ours", conditions, lines, ratios, facts, is_consistent: false };
        let text = report.text();
        for shown in ["ours is 0.50 × bound", "30 were stored.", "WRONG", "–"] {
            assert!(text.contains(shown), "{shown}: {text}");
        }
    }
}
