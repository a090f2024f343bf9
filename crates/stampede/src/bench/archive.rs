//! `stampede bench archive`: orders over HTTP while old orders are archived, beside the same alone, before it and after it.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use client::Client;
use diesel::sql_types;
use reqwest::Method;
use uuid::Uuid;

use super::lines::{Report, Sample, lines, ratio};
use super::measure::Bench;
use super::options::BenchArgs;
use super::runs::{Kind, Run};
use crate::audit::Ledger;
use crate::demo;
use crate::old_orders::write_old_orders;
use crate::site::Site;

const ALONE: &str = "orders alone";
const BESIDE: &str = "orders beside the archive";
const MOVED: &str = "orders moved to the archive";
/// Between two looks at a run of the archive.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// A run that has moved nothing for five minutes is stuck: its longest pause is one.
const IDLE_LOOKS_MAX: usize = 3_000;

#[derive(Debug, Args)]
pub struct ArchiveArgs {
    #[command(flatten)]
    bench: BenchArgs,
    /// Old orders that are archived beside each measurement: so many that it lasts as long.
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    old_orders: u32,
    /// What the archive takes of the time while people buy, as the setting order.archive.busy_percent.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    busy_percent: u32,
}

/// Runs the command. The last line on standard output is the report when JSON is asked for.
pub async fn archive(args: ArchiveArgs, config: &[PathBuf]) -> anyhow::Result<ExitCode> {
    eprintln!("Starting PostgreSQL, Redis, Kafka and the services …");
    let mut options = args.bench.site(config)?;
    options.overrides.push(("order.archive.busy_percent".to_owned(), args.busy_percent.to_string()));
    let site = Site::start(options).await?;
    let report = measure(&args, &site).await;
    let stopped = site.stop().await;
    let report = report?;
    args.bench.print(&report, report.text())?;
    stopped?;
    Ok(if report.is_consistent { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The newest run of the archive.
#[derive(Debug, diesel::QueryableByName)]
struct ArchiveRun {
    #[diesel(sql_type = sql_types::Text)]
    status: String,
    #[diesel(sql_type = sql_types::BigInt)]
    orders: i64,
    #[diesel(sql_type = sql_types::Double)]
    seconds: f64,
}

impl ArchiveRun {
    /// Orders a second, from its beginning to its end.
    fn per_second(&self) -> f64 {
        self.orders as f64 / self.seconds.max(0.001)
    }
}

#[derive(diesel::QueryableByName)]
struct Counted {
    #[diesel(sql_type = sql_types::BigInt)]
    archived: i64,
    #[diesel(sql_type = sql_types::BigInt)]
    in_both: i64,
}

async fn measure(args: &ArchiveArgs, site: &Site) -> anyhow::Result<Report> {
    let anyone = Client::for_load(site.api(), 1)?;
    let people = demo::log_in(site.settings(), &anyone).await?;
    let admin = demo::with_role(&people, "ADMIN")?;
    let mut ledger = Ledger::open(site.settings()).await?;
    let mut bench = Bench::open(&args.bench, site).await?;
    eprintln!("Warming up …");
    bench.run(Kind::Stampede, args.bench.warm_up_clients(), args.bench.warm_up_seconds(), false).await?;
    let (mut samples, mut facts, mut moved) = (Vec::new(), Vec::new(), 0);
    for round in 1..=args.bench.rounds {
        for clients in args.bench.clients() {
            let measured = Round::measure(args, &mut ledger, &mut bench, admin, clients).await?;
            eprintln!("round {round} of {}, {clients} at a time: {measured}", args.bench.rounds);
            samples.extend(measured.samples(clients));
            moved += measured.run.orders;
            if measured.run.seconds < args.bench.seconds as f64 {
                facts.push(format!(
                    "The archive was done after {:.1} s of {} s: ask for more --old-orders.",
                    measured.run.seconds, args.bench.seconds
                ));
            }
        }
    }
    let lines = lines(&samples);
    let rates = args.bench.clients().into_iter().filter_map(|clients| {
        let mut rate = ratio(&lines, BESIDE, ALONE, clients, |line| Some(line.per_second))?;
        rate.target = Some("as near to 1 as the processors allow");
        Some(rate)
    });
    let p99 = args.bench.clients().into_iter().filter_map(|clients| {
        let p99 = ratio(&lines, BESIDE, ALONE, clients, |line| line.p99_ms)?;
        Some(format!("With {clients} clients, the p99 beside the archive is {:.2} × that alone.", p99.value))
    });
    let ratios = rates.collect();
    facts.extend(p99);
    let counted: Vec<Counted> = ledger.rows(ledger.statement(include_str!("archive_counted.sql"))).await?;
    let Counted { archived, in_both } = counted.into_iter().next().context("a count is one row")?;
    facts.push(format!("{moved} orders were moved, {archived} are archived, {in_both} are in both places."));
    Ok(Report {
        title: "Orders over HTTP while old orders are archived, beside the same alone",
        conditions: bench.measured().conditions,
        lines,
        ratios,
        facts,
        is_consistent: archived == moved && in_both == 0,
    })
}

/// A run of the archive, with a sale before it, at its beginning, and after it.
struct Round {
    before: Run,
    beside: Run,
    run: ArchiveRun,
    after: Run,
}

impl Round {
    async fn measure(
        args: &ArchiveArgs,
        ledger: &mut Ledger,
        bench: &mut Bench<'_>,
        admin: &Client,
        clients: usize,
    ) -> anyhow::Result<Round> {
        // They are there for the sale alone too: larger tables cost something by themselves.
        write_old_orders(ledger, Uuid::now_v7(), bench.product_id()?, args.old_orders as usize).await?;
        // What writing them has left to do is not what is measured: old orders were cleaned up long ago.
        ledger.execute("vacuum analyze").await?;
        ledger.execute("checkpoint").await?;
        let before = bench.run(Kind::Stampede, clients, args.bench.seconds, false).await?;
        admin.try_send(admin.request(Method::POST, "/admin/archive/runs")).await?.succeeded()?;
        let beside = bench.run(Kind::Stampede, clients, args.bench.seconds, false).await?;
        let run = ended(ledger).await?;
        // Each sale finds what those before it have written, archive or not. So the sale alone is measured on both sides.
        let after = bench.run(Kind::Stampede, clients, args.bench.seconds, false).await?;
        Ok(Round { before, beside, run, after })
    }

    fn samples(&self, clients: usize) -> Vec<Sample> {
        let sample = |(label, run): (&'static str, &Run)| {
            Sample::new(label, clients, run.orders_per_second, (run.p50_ms, run.p99_ms), &run.usage)
        };
        let mut samples: Vec<Sample> =
            [(ALONE, &self.before), (BESIDE, &self.beside), (ALONE, &self.after)].map(sample).into();
        samples.push(Sample {
            label: MOVED,
            clients,
            per_second: self.run.per_second(),
            p50_ms: None,
            p99_ms: None,
            others_cpu_share: self.beside.usage.others_share,
        });
        samples
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = |run: &Run| format!("{:.0} orders/s, p99 {:.2} ms", run.orders_per_second, run.p99_ms);
        let Round { before, beside, run, after } = self;
        let archived = run.per_second();
        write!(f, "{}; beside {archived:.0} archived/s: {}; alone again: {}", told(before), told(beside), told(after))
    }
}

/// Waits until the newest run of the archive has ended.
async fn ended(ledger: &mut Ledger) -> anyhow::Result<ArchiveRun> {
    let (mut orders, mut idle_looks) = (0, 0);
    while idle_looks < IDLE_LOOKS_MAX {
        let rows: Vec<ArchiveRun> = ledger.rows(ledger.statement(include_str!("archive_run.sql"))).await?;
        let run = rows.into_iter().next().context("no run of the archive was made")?;
        ensure!(run.status != "FAILED", "the archive failed after {} orders; see its error line", run.orders);
        if run.status == "COMPLETED" {
            return Ok(run);
        }
        idle_looks = if run.orders > orders { 0 } else { idle_looks + 1 };
        orders = run.orders;
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    anyhow::bail!("the archive has moved {orders} orders and goes no further")
}
