//! redis-benchmark, Redis' own load generator: what one of our scripts does alone, without anybody around it.

use std::process::Stdio;

use anyhow::{Context, ensure};
use common::redis::{Redis, cmd};
use common::settings::Settings;
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use tokio::process::Command;

/// Calls that one second of a measurement is worth: more than Redis does of our scripts.
const CALLS_PER_SECOND: u64 = 30_000;
/// In an argument: a number that is another one at each call, of up to twelve digits.
pub const RANDOM: &str = "__rand_int__";

/// A script with keys of its own, which no service knows.
pub struct RawScript {
    host: String,
    port: u16,
    sha: String,
    keys: Vec<String>,
    args: Vec<String>,
}

/// One run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ran {
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

impl RawScript {
    /// Loads `source`. In `args`, [`RANDOM`] stands for a random number.
    pub async fn load(
        redis: &Redis,
        settings: &Settings,
        source: &str,
        keys: &[String],
        args: &[String],
    ) -> anyhow::Result<RawScript> {
        let url: SecretString = settings.section("redis.url")?;
        let url = Url::parse(url.expose_secret()).context("redis.url")?;
        ensure!(url.password().is_none(), "redis-benchmark is run without a password: leave redis.url alone");
        Ok(RawScript {
            host: url.host_str().unwrap_or("127.0.0.1").to_owned(),
            port: url.port().unwrap_or(6379),
            sha: redis.command(cmd("SCRIPT").arg("LOAD").arg(source)).await?,
            keys: keys.to_vec(),
            args: args.to_vec(),
        })
    }

    pub async fn run(&self, clients: usize, seconds: u64) -> anyhow::Result<Ran> {
        let calls = seconds * CALLS_PER_SECOND;
        let output = Command::new("redis-benchmark")
            .args(["-h", &self.host, "-p", &self.port.to_string(), "-c", &clients.to_string()])
            .args(["-n", &calls.to_string(), "-r", "1000000000", "--precision", "3", "--csv"])
            .args(["EVALSHA", &self.sha, &self.keys.len().to_string()])
            .args(&self.keys)
            .args(&self.args)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .context("running redis-benchmark: it comes with the package redis-tools")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "redis-benchmark ended with {}: {errors}", output.status);
        ran(&said).with_context(|| format!("redis-benchmark printed no figures: {said} {errors}"))
    }
}

/// The last line of its table: the name of the test, calls a second, and latencies: mean, least, p50, p95, p99, most.
fn ran(said: &str) -> Option<Ran> {
    let line = said.lines().rfind(|line| line.starts_with('"') && !line.starts_with("\"test\""))?;
    // The name of the test is the whole call, and may contain what separates the columns.
    let columns: Vec<&str> = line.trim_matches('"').rsplit("\",\"").collect();
    let column = |from_the_end: usize| columns.get(from_the_end)?.parse().ok();
    Some(Ran { per_second: column(6)?, p50_ms: column(3)?, p99_ms: column(1)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_read_from_the_end_of_the_line() {
        let said = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\
                    \"p99_latency_ms\",\"max_latency_ms\"\n\
                    \"EVALSHA abc 1 a,b __rand_int__\",\"54321.50\",\"0.100\",\"0.050\",\"0.095\",\"0.200\",\"0.300\",\"1.500\"\n";
        assert_eq!(ran(said), Some(Ran { per_second: 54321.5, p50_ms: 0.095, p99_ms: 0.3 }));
        assert_eq!(ran("\"test\",\"rps\"\n"), None);
        assert_eq!(ran("Could not connect"), None);
    }
}
