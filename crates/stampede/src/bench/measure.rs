//! One measurement at a time: the load, what it costs, and what it leads to until the system is at rest again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use chrono::{DateTime, Utc};
use diesel::{QueryableByName, pg::Pg, sql_types};
use uuid::Uuid;

use super::disk::{self, Disk};
use super::generator::Generator;
use super::hot_product::HotProduct;
use super::options::{BenchArgs, Conditions};
use super::pgbench::Pgbench;
use super::runs::{Aftermath, Kind, Run};
use super::turns;
use super::usage::{Memory, Meter};
use crate::audit::Ledger;
use crate::site::Site;

/// PostgreSQL's processes that served pgbench end a moment after it.
const EXIT_PAUSE: Duration = Duration::from_millis(300);
/// An idle session of PostgreSQL reports what it has counted after 10 s at the latest.
const REPORT_PAUSE: Duration = Duration::from_millis(10_500);
/// Between two looks at a system that is not at rest yet.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// A system that is not at rest by then is reported without that time.
const REST_TIMEOUT: Duration = Duration::from_secs(30);

/// A site under measurement, and what has been measured so far.
pub struct Bench<'a> {
    args: &'a BenchArgs,
    site: &'a Site,
    conditions: Conditions,
    meter: Meter,
    ledger: Ledger,
    product: HotProduct,
    pgbench: Option<Pgbench>,
    began: DateTime<Utc>,
    disks: Vec<Disk>,
    runs: Vec<Run>,
    /// Orders that were answered 201, and those of them that were answered PAID.
    acknowledged: u64,
    paid: u64,
    refused: BTreeMap<String, u64>,
    resident_mib_max: f64,
}

/// Everything that was measured.
pub struct Measured {
    pub conditions: Conditions,
    /// Before each round, and at the end.
    pub disks: Vec<Disk>,
    pub runs: Vec<Run>,
    pub memory: Memory,
    /// Of all orders over HTTP, the warm-up's included.
    pub acknowledged: u64,
    pub paid: u64,
    /// Other answers, by status and code.
    pub refused: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Copy, QueryableByName)]
struct Wal {
    #[diesel(sql_type = sql_types::Timestamptz)]
    at: DateTime<Utc>,
    #[diesel(sql_type = sql_types::Nullable<sql_types::BigInt>)]
    syncs: Option<i64>,
    #[diesel(sql_type = sql_types::BigInt)]
    bytes: i64,
}

#[derive(QueryableByName)]
struct Rest {
    #[diesel(sql_type = sql_types::Bool)]
    is_at_rest: bool,
}

/// Orders that have had their effect, and how long it took.
#[derive(QueryableByName)]
struct Effects {
    #[diesel(sql_type = sql_types::BigInt)]
    orders: i64,
    #[diesel(sql_type = sql_types::Double)]
    p50_ms: f64,
    #[diesel(sql_type = sql_types::Double)]
    p99_ms: f64,
    /// Until the last one.
    #[diesel(sql_type = sql_types::Double)]
    seconds: f64,
}

#[derive(QueryableByName)]
struct Version {
    #[diesel(sql_type = sql_types::Text)]
    server_version: String,
}

impl<'a> Bench<'a> {
    pub async fn open(args: &'a BenchArgs, site: &'a Site) -> anyhow::Result<Bench<'a>> {
        let mut ledger = Ledger::open(site.settings()).await?;
        let version = ledger.statement("select current_setting('server_version') as server_version");
        let Version { server_version } = one_row(ledger.rows(version).await?)?;
        Ok(Bench {
            args,
            site,
            conditions: args.conditions(site, server_version)?,
            meter: Meter::new(site),
            product: HotProduct::create(site, args.buyers()).await?,
            pgbench: None,
            began: wal(&mut ledger).await?.at,
            ledger,
            disks: Vec::new(),
            runs: Vec::new(),
            acknowledged: 0,
            paid: 0,
            refused: BTreeMap::new(),
            resident_mib_max: 0.0,
        })
    }

    /// Makes pgbench's tables. There must have been an order already: its event serves as the pattern.
    pub async fn use_pgbench(&mut self, program: PathBuf) -> anyhow::Result<()> {
        let folder = self.site.data_dir().join("pgbench");
        let pgbench = Pgbench::new(program, self.site.settings(), folder, self.conditions.processors)?;
        pgbench.make_tables(self.site.settings(), &self.ledger, include_str!("scratch.sql")).await?;
        self.pgbench = Some(pgbench);
        Ok(())
    }

    /// Measures all `kinds` with all numbers of clients, once in each round.
    pub async fn run_rounds(
        &mut self,
        kinds: &[Kind],
        label: fn(Kind) -> &'static str,
        count_syncs: bool,
    ) -> anyhow::Result<()> {
        let BenchArgs { rounds, seconds, .. } = *self.args;
        for round in 1..=rounds {
            self.measure_disk().await?;
            let count_syncs = count_syncs && round == rounds;
            if count_syncs {
                tokio::time::sleep(REPORT_PAUSE).await;
            }
            for clients in self.args.clients() {
                for kind in kinds {
                    let run = self.run(*kind, clients, seconds, count_syncs).await?;
                    eprintln!(
                        "round {round} of {rounds}: {}, {clients} at a time: {:.0} orders/s, p50 {:.2} ms",
                        label(*kind),
                        run.orders_per_second,
                        run.p50_ms
                    );
                    self.runs.push(run);
                }
            }
        }
        self.measure_disk().await
    }

    /// One measurement. With `count_syncs`, PostgreSQL must have reported everything that was before.
    pub async fn run(&mut self, kind: Kind, clients: usize, seconds: u64, count_syncs: bool) -> anyhow::Result<Run> {
        match kind {
            Kind::NaiveHotRow | Kind::NoHotRow => self.postgres_alone(kind, clients, seconds, count_syncs).await,
            Kind::Stampede | Kind::Paid => self.over_http(kind, clients, seconds, count_syncs).await,
        }
    }

    pub fn product_id(&self) -> anyhow::Result<Uuid> {
        self.product.id()
    }

    /// What the report is made of.
    pub fn measured(self) -> Measured {
        Measured {
            memory: Memory { resident_mib: self.resident_mib_max, ..self.meter.memory() },
            conditions: self.conditions,
            disks: self.disks,
            runs: self.runs,
            acknowledged: self.acknowledged,
            paid: self.paid,
            refused: self.refused,
        }
    }

    /// The row that `statement` selects about the orders since the beginning, `$1`.
    pub async fn stored<R: QueryableByName<Pg> + Send + 'static>(&mut self, statement: &str) -> anyhow::Result<R> {
        self.about(statement, self.began).await
    }

    async fn postgres_alone(
        &mut self,
        kind: Kind,
        clients: usize,
        seconds: u64,
        count_syncs: bool,
    ) -> anyhow::Result<Run> {
        let (before, snapshot) = (wal(&mut self.ledger).await?, self.meter.snapshot()?);
        let pgbench = self.pgbench.as_ref().context("pgbench has no tables yet")?;
        let script = match kind {
            Kind::NaiveHotRow => include_str!("naive_hot_row.sql"),
            Kind::NoHotRow => include_str!("no_hot_row.sql"),
            Kind::Stampede | Kind::Paid => bail!("this is not for pgbench"),
        };
        let ran = pgbench.run(script, clients, seconds).await?;
        tokio::time::sleep(EXIT_PAUSE).await;
        let (after, usage) = (wal(&mut self.ledger).await?, self.meter.since(&snapshot)?);
        Ok(Run {
            kind,
            clients,
            orders: ran.latencies.count(),
            orders_per_second: ran.orders_per_second,
            p50_ms: ran.latencies.ms(0.50),
            p99_ms: ran.latencies.ms(0.99),
            usage,
            wal_bytes: (after.bytes - before.bytes) as f64,
            wal_syncs: syncs(before, after).filter(|_| count_syncs),
            aftermath: None,
            turns: None,
        })
    }

    /// Our own orders, each paid if `kind` is `Paid`, and all they lead to until the system is at rest again. With
    /// `count_syncs` it takes a pause longer.
    async fn over_http(&mut self, kind: Kind, clients: usize, seconds: u64, count_syncs: bool) -> anyhow::Result<Run> {
        let pays = kind == Kind::Paid;
        let generator = Generator::start(&self.product.job(clients, seconds, pays)).await?;
        let metrics = (!self.args.split).then(|| self.site.api());
        let counted = turns::count(&mut self.ledger, metrics).await?;
        let counts_statements = turns::count_statements(&mut self.ledger).await;
        let (before, snapshot) = (wal(&mut self.ledger).await?, self.meter.snapshot()?);
        let outcome = generator.go().await?;
        self.resident_mib_max = self.resident_mib_max.max(self.meter.memory().resident_mib);
        let orders = outcome.done;
        ensure!(orders > 0, "no order came through; the answers were {:?}", outcome.refused);
        self.acknowledged += orders;
        self.paid += if pays { orders } else { 0 };
        for (answer, times) in outcome.refused {
            *self.refused.entry(answer).or_default() += times;
        }
        let (rest, effects) = self.wait_for_rest(before.at, orders, pays).await?;
        let usage = self.meter.since(&snapshot)?;
        let executed = if counts_statements { Some(turns::executed(&mut self.ledger).await?) } else { None };
        if count_syncs {
            tokio::time::sleep(REPORT_PAUSE).await;
        }
        let after = wal(&mut self.ledger).await?;
        let turns =
            turns::count(&mut self.ledger, metrics).await?.since(&counted, orders, executed.as_deref(), count_syncs);
        // Placing ends with the answer, paying with the sale.
        let sold_after = rest.filter(|_| pays).and(effects.as_ref()).map(|effects| effects.seconds);
        Ok(Run {
            kind,
            clients,
            orders,
            orders_per_second: orders as f64 / sold_after.unwrap_or(outcome.seconds),
            p50_ms: outcome.p50_ms,
            p99_ms: outcome.p99_ms,
            usage,
            wal_bytes: (after.bytes - before.bytes) as f64,
            wal_syncs: syncs(before, after).filter(|_| count_syncs),
            aftermath: effects.map(|effects| Aftermath {
                consumer_p50_ms: effects.p50_ms,
                consumer_p99_ms: effects.p99_ms,
                rest_ms: rest.map(|rest| rest.as_secs_f64() * 1000.0),
            }),
            turns: Some(turns),
        })
    }

    /// Waits until all `orders` since `since` are published, consumed, notified and, where they were paid, sold. Returns
    /// how long that took, unless it did not come in time, and what was seen of the notifications or sales.
    async fn wait_for_rest(
        &mut self,
        since: DateTime<Utc>,
        orders: u64,
        paid: bool,
    ) -> anyhow::Result<(Option<Duration>, Option<Effects>)> {
        let orders = i64::try_from(orders)?;
        // A paid order is notified twice: that it was placed and that it was paid.
        let (notifications, effect) =
            if paid { (2 * orders, include_str!("sold.sql")) } else { (orders, include_str!("notified.sql")) };
        let started = Instant::now();
        while started.elapsed() < REST_TIMEOUT {
            let statement = self.ledger.statement(include_str!("rest.sql")).into_boxed();
            let statement =
                statement.bind::<sql_types::Timestamptz, _>(since).bind::<sql_types::BigInt, _>(notifications);
            let Rest { is_at_rest } = one_row(self.ledger.bound_rows(statement).await?)?;
            let rest = started.elapsed();
            if is_at_rest {
                // Reads all holds or notifications, so it is asked last.
                let effects: Effects = self.about(effect, since).await?;
                if effects.orders >= orders {
                    return Ok((Some(rest), Some(effects)));
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let effects: Effects = self.about(effect, since).await?;
        Ok((None, Some(effects).filter(|effects| effects.orders > 0)))
    }

    async fn about<R>(&mut self, statement: &str, since: DateTime<Utc>) -> anyhow::Result<R>
    where
        R: QueryableByName<Pg> + Send + 'static,
    {
        let statement = self.ledger.statement(statement).into_boxed().bind::<sql_types::Timestamptz, _>(since);
        one_row(self.ledger.bound_rows(statement).await?)
    }

    async fn measure_disk(&mut self) -> anyhow::Result<()> {
        let folder = self.site.data_dir().to_owned();
        self.disks.push(tokio::task::spawn_blocking(move || disk::measure(&folder)).await??);
        Ok(())
    }
}

/// What the log of PostgreSQL has come to.
async fn wal(ledger: &mut Ledger) -> anyhow::Result<Wal> {
    one_row(ledger.rows(ledger.statement(include_str!("wal.sql"))).await?)
}

fn one_row<R>(rows: Vec<R>) -> anyhow::Result<R> {
    rows.into_iter().next().context("an aggregate is one row")
}

fn syncs(before: Wal, after: Wal) -> Option<f64> {
    Some((after.syncs? - before.syncs?) as f64)
}
