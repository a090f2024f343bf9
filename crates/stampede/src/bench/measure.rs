//! One measurement at a time: the load, and around it what it costs and what it leads to.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use diesel::sql_types;

use super::cost::{Memory, Meter};
use super::disk::Disk;
use super::figures::{Aftermath, Kind, Run};
use super::generator::Generator;
use super::pgbench::Pgbench;
use super::prepare::{self, Shop};
use super::report::{Conditions, Measured, Stored};
use crate::audit::Ledger;
use crate::site::Site;

/// PostgreSQL's processes that served pgbench end a moment after it.
const EXIT_PAUSE: Duration = Duration::from_millis(300);
/// An idle session of PostgreSQL reports what it has counted after 10 s at the latest.
const REPORT_PAUSE: Duration = Duration::from_millis(10_500);
/// Between two looks at a system that is still coming to rest.
pub const LOOK: Duration = Duration::from_millis(100);
/// A system that is not at rest by then has lost its way.
pub const REST_TIMEOUT: Duration = Duration::from_secs(30);

/// A site under measurement.
pub struct Bench {
    meter: Meter,
    ledger: Ledger,
    pgbench: Pgbench,
    shop: Shop,
    began: DateTime<Utc>,
    /// Orders that were answered 201, and other answers.
    acknowledged: u64,
    refused: BTreeMap<String, u64>,
    resident_mib_max: f64,
}

#[derive(Debug, Clone, Copy, diesel::QueryableByName)]
pub struct Wal {
    #[diesel(sql_type = sql_types::Timestamptz)]
    pub at: DateTime<Utc>,
    #[diesel(sql_type = sql_types::Nullable<sql_types::BigInt>)]
    syncs: Option<i64>,
    #[diesel(sql_type = sql_types::BigInt)]
    pub bytes: i64,
}

#[derive(diesel::QueryableByName)]
pub struct Rest {
    #[diesel(sql_type = sql_types::Bool)]
    pub is_at_rest: bool,
}

#[derive(diesel::QueryableByName)]
struct Delays {
    #[diesel(sql_type = sql_types::BigInt)]
    notified: i64,
    #[diesel(sql_type = sql_types::Double)]
    p50_ms: f64,
    #[diesel(sql_type = sql_types::Double)]
    p99_ms: f64,
}

#[derive(diesel::QueryableByName)]
struct Version {
    #[diesel(sql_type = sql_types::Text)]
    server_version: String,
}

impl Bench {
    pub async fn open(site: &Site, program: PathBuf, processors: usize) -> anyhow::Result<Bench> {
        let mut ledger = Ledger::open(site.settings()).await?;
        let began = wal(&mut ledger).await?.at;
        Ok(Bench {
            meter: Meter::new(site),
            pgbench: Pgbench::new(program, site.settings(), site.data_dir().join("pgbench"), processors)?,
            shop: Shop::open(site).await?,
            ledger,
            began,
            acknowledged: 0,
            refused: BTreeMap::new(),
            resident_mib_max: 0.0,
        })
    }

    pub async fn postgres_version(&mut self) -> anyhow::Result<String> {
        postgres_version(&mut self.ledger).await
    }

    /// Makes pgbench's tables, once there is an order to take as the pattern.
    pub async fn make_scratch(&self, site: &Site) -> anyhow::Result<()> {
        prepare::scratch(site, &self.ledger).await
    }

    /// Waits until PostgreSQL's counters have everything that has happened so far.
    pub async fn settle(&self) {
        tokio::time::sleep(REPORT_PAUSE).await;
    }

    /// PostgreSQL without us. `count_syncs` asks for the syncs of the log, which need a settled beginning.
    pub async fn alone(&mut self, kind: Kind, clients: usize, seconds: u64, count_syncs: bool) -> anyhow::Result<Run> {
        let (before, look) = (wal(&mut self.ledger).await?, self.meter.look()?);
        let ran = self.pgbench.run(kind, clients, seconds).await?;
        tokio::time::sleep(EXIT_PAUSE).await;
        let (after, cost) = (wal(&mut self.ledger).await?, self.meter.since(&look)?);
        Ok(Run {
            kind,
            clients,
            orders: ran.orders,
            orders_per_second: ran.orders_per_second,
            p50_ms: ran.p50_ms,
            p99_ms: ran.p99_ms,
            cost,
            wal_bytes: (after.bytes - before.bytes) as f64,
            wal_syncs: syncs(before, after).filter(|_| count_syncs),
            aftermath: None,
        })
    }

    /// Our own orders over HTTP, and all they lead to until the system is at rest again. With `count_syncs` it takes
    /// a pause longer.
    pub async fn stampede(&mut self, clients: usize, seconds: u64, count_syncs: bool) -> anyhow::Result<Run> {
        let generator = Generator::start(&self.shop.job(clients, seconds, false)).await?;
        let (before, look) = (wal(&mut self.ledger).await?, self.meter.look()?);
        let outcome = generator.go().await?;
        self.resident_mib_max = self.resident_mib_max.max(self.meter.memory().resident_mib);
        ensure!(outcome.placed > 0, "no order was placed; the answers were {:?}", outcome.refused);
        self.acknowledged += outcome.placed;
        for (answer, times) in &outcome.refused {
            *self.refused.entry(answer.clone()).or_default() += times;
        }
        let rest = self.rest(before.at, outcome.placed).await?;
        let cost = self.meter.since(&look)?;
        if count_syncs {
            self.settle().await;
        }
        let after = wal(&mut self.ledger).await?;
        Ok(Run {
            kind: Kind::Stampede,
            clients,
            orders: outcome.placed,
            orders_per_second: outcome.placed as f64 / outcome.seconds,
            p50_ms: outcome.p50_ms,
            p99_ms: outcome.p99_ms,
            cost,
            wal_bytes: (after.bytes - before.bytes) as f64,
            wal_syncs: syncs(before, after).filter(|_| count_syncs),
            aftermath: self.aftermath(before.at, rest).await?,
        })
    }

    /// Puts what was told beside what is stored.
    pub async fn conclude(
        mut self,
        conditions: Conditions,
        disks: Vec<Disk>,
        runs: Vec<Run>,
    ) -> anyhow::Result<Measured> {
        let statement = self.ledger.statement(include_str!("stored.sql")).into_boxed();
        let stored: Vec<Stored> =
            self.ledger.bound_rows(statement.bind::<sql_types::Timestamptz, _>(self.began)).await?;
        Ok(Measured {
            conditions,
            disks,
            runs,
            memory: Memory { resident_mib: self.resident_mib_max, ..self.meter.memory() },
            acknowledged: self.acknowledged,
            refused: self.refused,
            stored: stored.into_iter().next().context("a count is one row")?,
        })
    }

    /// Waits until all `orders` since `since` are published, consumed and notified. Returns how long that took, if it
    /// came to that in time.
    async fn rest(&mut self, since: DateTime<Utc>, orders: u64) -> anyhow::Result<Option<Duration>> {
        let orders = i64::try_from(orders)?;
        let started = Instant::now();
        while started.elapsed() < REST_TIMEOUT {
            let statement = self.ledger.statement(include_str!("rest.sql")).into_boxed();
            let statement = statement.bind::<sql_types::Timestamptz, _>(since).bind::<sql_types::BigInt, _>(orders);
            let looked: Vec<Rest> = self.ledger.bound_rows(statement).await?;
            if looked.iter().any(|rest| rest.is_at_rest) {
                return Ok(Some(started.elapsed()));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(None)
    }

    async fn aftermath(&mut self, since: DateTime<Utc>, rest: Option<Duration>) -> anyhow::Result<Option<Aftermath>> {
        let statement = self.ledger.statement(include_str!("aftermath.sql")).into_boxed();
        let delays: Vec<Delays> = self.ledger.bound_rows(statement.bind::<sql_types::Timestamptz, _>(since)).await?;
        Ok(delays.into_iter().find(|delays| delays.notified > 0).map(|delays| Aftermath {
            consumer_p50_ms: delays.p50_ms,
            consumer_p99_ms: delays.p99_ms,
            rest_ms: rest.map(|rest| rest.as_secs_f64() * 1000.0),
        }))
    }
}

pub async fn postgres_version(ledger: &mut Ledger) -> anyhow::Result<String> {
    let statement = ledger.statement("select current_setting('server_version') as server_version");
    let versions: Vec<Version> = ledger.rows(statement).await?;
    Ok(versions.into_iter().map(|version| version.server_version).collect())
}

/// What the log of PostgreSQL has come to.
pub async fn wal(ledger: &mut Ledger) -> anyhow::Result<Wal> {
    let looked: Vec<Wal> = ledger.rows(ledger.statement(include_str!("wal.sql"))).await?;
    looked.first().copied().context("pg_stat_wal is one row")
}

fn syncs(before: Wal, after: Wal) -> Option<f64> {
    Some((after.syncs? - before.syncs?) as f64)
}
