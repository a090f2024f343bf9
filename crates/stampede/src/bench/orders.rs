//! `stampede bench orders`: orders of one hot product over HTTP, beside what PostgreSQL alone does.

use std::path::PathBuf;
use std::process::ExitCode;

use super::measure::Bench;
use super::options::BenchArgs;
use super::orders_report::{KINDS, Report};
use super::pgbench;
use super::runs::Kind;
use crate::site::Site;

/// Runs the command. The last line on standard output is the report when JSON is asked for.
pub async fn orders(args: BenchArgs, config: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let program = pgbench::find()?;
    eprintln!("Starting PostgreSQL, Redis, Kafka and the services …");
    let site = Site::start(args.site(config)?).await?;
    let report = measure(&args, &site, program).await;
    let stopped = site.stop().await;
    let report = report?;
    args.print(&report, report.text())?;
    stopped?;
    Ok(if report.is_consistent() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn measure(args: &BenchArgs, site: &Site, program: PathBuf) -> anyhow::Result<Report> {
    let mut bench = Bench::open(args, site).await?;
    eprintln!("Warming up …");
    bench.run(Kind::Stampede, args.warm_up_clients(), args.warm_up_seconds(), false).await?;
    bench.use_pgbench(program).await?;
    for kind in [Kind::NaiveHotRow, Kind::NoHotRow] {
        bench.run(kind, args.warm_up_clients(), args.warm_up_seconds(), false).await?;
    }
    bench.run_rounds(&KINDS, Kind::label, args.counts_syncs()).await?;
    let stored = bench.stored(include_str!("stored.sql")).await?;
    Report::new(bench.measured(), stored)
}
