//! `stampede doctor`: whether an installation will work, and what to do where it will not. It changes nothing.

mod clocks;
mod disk;
mod kafka;
mod machine;
mod neighbours;
mod postgres;
mod redis;
mod schemas;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use common::manifest::ServiceSpec;
use common::settings::Settings;
use serde::Serialize;

use crate::reach::{DATA_DIR_HELP, DATA_DIR_ORDER};
use crate::services::{self, SERVICES};
use crate::{dev, say, site};

/// A server that has not answered by then counts as unreachable.
const ANSWER_MAX: Duration = Duration::from_secs(5);

#[derive(Args)]
pub struct DoctorArgs {
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
    #[arg(long, value_name = "DIR", help = DATA_DIR_HELP, long_help = DATA_DIR_ORDER)]
    data_dir: Option<PathBuf>,
    /// Only what this service needs; several are separated by commas. Without it, every service whose schema our role may
    /// read.
    #[arg(long = "service", value_name = "NAME", value_delimiter = ',', value_parser = services::find)]
    services: Vec<ServiceSpec>,
    /// How long each of the two measurements of the disk takes.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10))]
    seconds: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    Ok,
    /// It works, and could be lost, slow or surprising.
    Warning,
    /// Something will not work.
    Error,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    pub check: &'static str,
    pub level: Level,
    pub found: String,
    /// What to do about it. None: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// Everything that was looked at.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub findings: Vec<Finding>,
    /// None: PostgreSQL could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<disk::Disk>,
    pub machine: machine::Machine,
}

impl Report {
    fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.findings.push(Finding { check, level: Level::Ok, found: found.into(), remedy: None });
    }

    fn warn(&mut self, check: &'static str, found: impl Into<String>, remedy: impl Into<String>) {
        let remedy = Some(remedy.into());
        self.findings.push(Finding { check, level: Level::Warning, found: found.into(), remedy });
    }

    fn fail(&mut self, check: &'static str, found: impl Into<String>, remedy: impl Into<String>) {
        let remedy = Some(remedy.into());
        self.findings.push(Finding { check, level: Level::Error, found: found.into(), remedy });
    }

    /// How bad the worst finding is.
    pub fn worst(&self) -> Level {
        self.findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
    }

    /// The findings of this level, of one check or of all.
    pub fn of(&self, level: Level) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.level == level)
    }

    /// The report for people: a line for each finding, and below it what to do.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for Finding { check, level, found, remedy } in &self.findings {
            let mark = match level {
                Level::Ok => "ok",
                Level::Warning => "WARNING",
                Level::Error => "ERROR",
            };
            text.push_str(&format!("{check:<11} {mark:<8} {found}\n"));
            if let Some(remedy) = remedy {
                text.push_str(&format!("{:20} -> {remedy}\n", ""));
            }
        }
        let (errors, warnings) = (self.of(Level::Error).count(), self.of(Level::Warning).count());
        text.push_str(&format!("doctor: errors {errors}, warnings {warnings}\n"));
        text
    }
}

/// Runs the command.
pub async fn doctor(args: DoctorArgs, config: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let data_dir = dev::data_dir(args.data_dir.as_deref())?;
    let settings = site::settings(config, &data_dir);
    let report = examine(settings, &args.services, Duration::from_secs(args.seconds)).await;
    if args.json {
        say!("{}", serde_json::to_string(&report)?);
    } else {
        say!("{}", report.text().trim_end());
    }
    Ok(if report.worst() == Level::Error { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Looks at everything that `named` need; where none is named, at what is needed by each service whose schema our role may
/// read. `measured` is how long each measurement of the disk takes.
pub async fn examine(settings: anyhow::Result<Settings>, named: &[ServiceSpec], measured: Duration) -> Report {
    let mut report = Report::default();
    report.machine = machine::examine(&mut report);
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) => {
            report.fail("settings", format!("{error:#}"), "correct them; config/default.toml explains each setting");
            return report;
        }
    };
    if let Err(error) = examine_servers(&settings, named, measured, &mut report).await {
        report.fail("settings", format!("{error:#}"), "correct it; config/default.toml explains each setting");
    }
    report
}

/// An error is a section of the settings that cannot be read.
async fn examine_servers(
    settings: &Settings,
    named: &[ServiceSpec],
    measured: Duration,
    report: &mut Report,
) -> anyhow::Result<()> {
    let lines = settings.lines();
    let namespace: String = settings.section("host.namespace")?;
    report.ok("settings", format!("{} settings are valid; host.namespace is {namespace:?}", lines.len()));
    let mut database = postgres::examine(settings, report).await?;
    let mut services = if named.is_empty() { SERVICES.to_vec() } else { named.to_vec() };
    if let Some(connection) = &mut database {
        services = schemas::examine(connection, settings, named, report).await?;
        report.disk = disk::examine(settings, measured, report).await?;
    }
    let gate = redis::examine(settings, report).await?;
    kafka::examine(settings, &services, report).await?;
    neighbours::examine(settings, &services, report).await?;
    clocks::examine(settings, database.as_mut(), gate.as_ref(), report).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_decides_and_every_one_but_the_good_says_what_to_do() {
        let mut report = Report::default();
        report.ok("settings", "valid");
        assert_eq!(report.worst(), Level::Ok);
        report.warn("redis", "evicts", "set noeviction");
        assert_eq!(report.worst(), Level::Warning);
        report.fail("kafka", "away", "start it");
        assert_eq!(report.worst(), Level::Error);
        assert_eq!(
            report.text(),
            "settings    ok       valid\n\
             redis       WARNING  evicts\n                     -> set noeviction\n\
             kafka       ERROR    away\n                     -> start it\n\
             doctor: errors 1, warnings 1\n"
        );
    }

    #[tokio::test]
    async fn settings_that_cannot_be_read_are_named_and_nothing_else_is_asked() {
        let wrong = [("postgres.connections_max".to_owned(), "many".to_owned())];
        let report = examine(Settings::load(&[], &wrong), &[], Duration::ZERO).await;
        let found = report.of(Level::Error).map(|finding| finding.found.as_str()).collect::<Vec<_>>();
        assert!(found.len() == 1 && found[0].contains("postgres.connections_max"), "{found:?}");
    }
}
