//! How many commits PostgreSQL makes durable in a second: the limit of everything that is stored.

use std::time::{Duration, Instant};

use common::settings::Settings;
use diesel::sql_query;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::future::try_join_all;
use serde::Serialize;

use super::{Report, postgres};
use crate::latency::Latencies;

const CHECK: &str = "disk";
/// A disk that is slower makes every buyer wait for tens of milliseconds.
const COMMITS_PER_SECOND_MIN: f64 = 100.0;
/// Placing an order commits its hold, then the order itself.
const COMMITS_OF_AN_ORDER: f64 = 2.0;

/// Durable commits, one connection after the other and at the same time.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    pub commits_per_second: f64,
    pub commit_p50_ms: f64,
    pub commit_p99_ms: f64,
    /// As many connections as holds have lanes.
    pub lanes: usize,
    /// What those do together: PostgreSQL shares one flush between commits that wait for it.
    pub lanes_commits_per_second: f64,
    /// Holds in one commit at the most.
    pub batch_max: u64,
}

/// None: PostgreSQL does not let us, and the report says so.
pub async fn examine(settings: &Settings, measured: Duration, report: &mut Report) -> anyhow::Result<Option<Disk>> {
    let lanes: usize = settings.section("inventory.hold_batch.lanes")?;
    let batch_max: u64 = settings.section("inventory.hold_batch.requests_max")?;
    let (one, all) = match measure(settings, lanes, measured).await {
        Ok(figures) => figures,
        Err(error) => {
            report.warn(
                CHECK,
                format!("commits could not be measured: {error:#}"),
                "grant execute on function pg_logical_emit_message(boolean, text, text) to our role, or leave it",
            );
            return Ok(None);
        }
    };
    let per_second = |commits: &Latencies| commits.count() as f64 / measured.as_secs_f64();
    let disk = Disk {
        commits_per_second: per_second(&one),
        commit_p50_ms: one.ms(0.5),
        commit_p99_ms: one.ms(0.99),
        lanes,
        lanes_commits_per_second: per_second(&all),
        batch_max,
    };
    let found = format!(
        "{:.0} durable commits/s on one connection (p50 {:.2} ms, p99 {:.2} ms), {:.0} on {lanes}: up to so many batches/s, \
         each of up to {batch_max} orders; one order alone waits for {COMMITS_OF_AN_ORDER} commits, {:.1} ms",
        disk.commits_per_second,
        disk.commit_p50_ms,
        disk.commit_p99_ms,
        disk.lanes_commits_per_second,
        disk.commit_p50_ms * COMMITS_OF_AN_ORDER,
    );
    if disk.commits_per_second < COMMITS_PER_SECOND_MIN {
        report.warn(
            CHECK,
            found,
            "put PostgreSQL's log on a disk with protection against power loss; until then buyers wait for this one",
        );
    } else {
        report.ok(CHECK, found);
    }
    Ok(Some(disk))
}

/// One connection alone, then all lanes at the same time.
async fn measure(settings: &Settings, lanes: usize, measured: Duration) -> anyhow::Result<(Latencies, Latencies)> {
    let mut connections = Vec::with_capacity(lanes);
    for _ in 0..lanes {
        connections.push(postgres::connect(settings).await??);
    }
    let alone = match connections.first_mut() {
        Some(first) => commits(first, measured).await?,
        None => Vec::new(),
    };
    let together = try_join_all(connections.iter_mut().map(|connection| commits(connection, measured))).await?;
    Ok((alone.into_iter().collect(), together.concat().into_iter().collect()))
}

/// Commits that need the log on the disk, one after the other: each writes a message into the log and nothing into tables.
/// Replicas and consumers of the log skip what they do not know.
async fn commits(connection: &mut AsyncPgConnection, measured: Duration) -> diesel::QueryResult<Vec<Duration>> {
    let (started, mut latencies) = (Instant::now(), Vec::new());
    while started.elapsed() < measured {
        let at = Instant::now();
        sql_query("select pg_logical_emit_message(true, 'stampede doctor', ''::text)").execute(connection).await?;
        latencies.push(at.elapsed());
    }
    Ok(latencies)
}
