//! pgbench, PostgreSQL's own load generator: what PostgreSQL does alone, with tables like ours.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use common::db::{Db, DbSettings};
use common::host::{HostSettings, schema};
use common::settings::Settings;
use diesel_async::SimpleAsyncConnection;
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use tokio::process::Command;

use crate::audit::Ledger;
use crate::latency::Latencies;

/// The schema that pgbench works in.
const SCRATCH: &str = "stampede_bench";

const SECONDS_MAX: u64 = 60;

/// How to run pgbench against one database.
pub struct Pgbench {
    program: PathBuf,
    environment: BTreeMap<&'static str, OsString>,
    /// For scripts and logs.
    folder: PathBuf,
    processors: usize,
}

/// One run.
#[derive(Debug)]
pub struct Ran {
    /// Without the time that connecting took.
    pub orders_per_second: f64,
    /// Of each stored order.
    pub latencies: Latencies,
}

/// Where pgbench is. Fails, and says what to install, before anything has been started for it.
pub fn find() -> anyhow::Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(|entry| {
        let entry = entry.ok()?;
        let version: u32 = entry.file_name().to_str()?.parse().ok()?;
        Some((version, entry.path().join("bin/pgbench")))
    });
    // Before PATH, where Debian has a wrapper in another language whose time would be counted.
    let newest = versions.filter(|(_, program)| program.is_file()).max().map(|(_, program)| program);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path =
        || std::env::split_paths(&path).map(|folder| folder.join("pgbench")).find(|program| program.is_file());
    newest.or_else(in_path).context("found no pgbench: install the package postgresql (elsewhere postgresql-contrib)")
}

impl Pgbench {
    /// `folder` is for files of its own; it is emptied first, and removed in the end.
    pub fn new(program: PathBuf, settings: &Settings, folder: PathBuf, processors: usize) -> anyhow::Result<Pgbench> {
        let url: SecretString = settings.section("postgres.url")?;
        let url = Url::parse(url.expose_secret()).context("postgres.url")?;
        let mut environment = BTreeMap::from([
            ("PGHOST", url.host_str().unwrap_or("127.0.0.1").into()),
            ("PGPORT", url.port().unwrap_or(5432).to_string().into()),
            ("PGUSER", url.username().into()),
            ("PGDATABASE", url.path().trim_start_matches('/').into()),
            ("PGOPTIONS", format!("-csearch_path={SCRATCH}").into()),
        ]);
        environment.extend(url.password().map(|password| ("PGPASSWORD", password.into())));
        if folder.exists() {
            // It was left by a measurement that was killed. Its logs must not be read as ours.
            fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        Ok(Pgbench { program, environment, folder, processors })
    }

    /// Makes tables like ours in a schema apart, by `statements`.
    pub async fn make_tables(&self, settings: &Settings, ledger: &Ledger, statements: &str) -> anyhow::Result<()> {
        let host: HostSettings = settings.section("host")?;
        let postgres: DbSettings = settings.section("postgres")?;
        let db = Db::open(&postgres, &schema(&host.namespace, "order")).await?;
        let statements = ledger.spelt(statements).replace("{scratch}", SCRATCH);
        db.dedicated().await?.batch_execute(&statements).await.context("creating the tables for pgbench")
    }

    /// Runs `script` for `seconds`, which contain the connecting. Where nothing is stored by then, longer: up to a minute.
    pub async fn run(&self, script: &str, clients: usize, mut seconds: u64) -> anyhow::Result<Ran> {
        loop {
            if let Some(ran) = self.run_once(script, clients, seconds).await? {
                return Ok(ran);
            }
            ensure!(seconds < SECONDS_MAX, "pgbench stored no order within {seconds} s");
            seconds = (2 * seconds).min(SECONDS_MAX);
        }
    }

    /// None: nothing was stored, because all the time went into connecting.
    async fn run_once(&self, script: &str, clients: usize, seconds: u64) -> anyhow::Result<Option<Ran>> {
        let file = self.folder.join("script.sql");
        fs::write(&file, script)?;
        let output = Command::new(&self.program)
            // Prepared statements, since nobody would be faster without.
            .args(["--no-vacuum", "--protocol=prepared", "--log", "--log-prefix=run"])
            .arg(format!("--client={clients}"))
            .arg(format!("--jobs={}", clients.min(self.processors)))
            .arg(format!("--time={seconds}"))
            .arg("--file")
            .arg(&file)
            .current_dir(&self.folder)
            .envs(&self.environment)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("running {}", self.program.display()))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "pgbench ended with {}: {errors}", output.status);
        let latencies = self.take_logs()?;
        if latencies.count() == 0 {
            return Ok(None);
        }
        let orders_per_second = rate(&said).with_context(|| format!("pgbench printed no rate: {said}"))?;
        Ok(Some(Ran { orders_per_second, latencies }))
    }

    /// Reads the logs of the last run and removes them.
    fn take_logs(&self) -> anyhow::Result<Latencies> {
        let mut latencies = Latencies::default();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if is_log(&path) {
                let log = fs::read_to_string(&path)?;
                log.lines().filter_map(latency).for_each(|latency| latencies.record(latency));
                fs::remove_file(&path)?;
            }
        }
        Ok(latencies)
    }
}

impl Drop for Pgbench {
    fn drop(&mut self) {
        // If this fails, the next measurement removes the folder.
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// `run.<pid>`, and `run.<pid>.<thread>` of further threads.
fn is_log(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("run."))
}

/// The latency in a line of pgbench's log: `client transaction time script epoch microseconds`. None for a transaction
/// that failed.
fn latency(line: &str) -> Option<Duration> {
    Some(Duration::from_micros(line.split(' ').nth(2)?.parse().ok()?))
}

/// `tps = 1234.5 (without initial connection time)`.
fn rate(said: &str) -> Option<f64> {
    let line = said.lines().find(|line| line.starts_with("tps = ") && !line.contains("including"))?;
    line.split(' ').nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_read_from_what_pgbench_prints() {
        let said = "pgbench (15.18)\ntransaction type: x.sql\nlatency average = 1.6 ms\n\
                    initial connection time = 12.1 ms\ntps = 623.25 (without initial connection time)\n";
        assert_eq!(rate(said), Some(623.25));
        // Before version 14.
        assert_eq!(
            rate("tps = 1.0 (including connections establishing)\ntps = 2.0 (excluding connections establishing)"),
            Some(2.0)
        );
        assert_eq!(rate("pgbench: error"), None);
    }

    #[test]
    fn a_line_of_the_log_is_a_latency_unless_it_failed() {
        assert_eq!(latency("3 14 1650 0 1700000000 123456"), Some(Duration::from_micros(1650)));
        assert_eq!(latency("3 15 failed 0 1700000000 123456"), None);
        assert_eq!(latency(""), None);
    }

    #[test]
    fn only_files_of_a_run_are_logs() {
        assert!(is_log(Path::new("x/run.123")) && is_log(Path::new("run.123.1")));
        assert!(!is_log(Path::new("run/script.sql")) && !is_log(Path::new("running")));
    }
}
