//! `stampede bench payments`: orders that are placed, paid and confirmed, beside placing alone in the same run.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::measure::Bench;
use super::options::BenchArgs;
use super::payments_report::{KINDS, Money, Report, label};
use crate::audit::provider_book;
use crate::rush::provider::{self, Faults};
use crate::site::{Site, SiteOptions};

#[derive(Debug, Args)]
pub struct PaymentsArgs {
    #[command(flatten)]
    bench: BenchArgs,
    /// Time that the provider takes for each capture.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=5_000))]
    provider_ms: u64,
}

/// Runs the command. The last line on standard output is the report when JSON is asked for.
pub async fn payments(args: PaymentsArgs, config: &[PathBuf]) -> anyhow::Result<ExitCode> {
    eprintln!("Starting PostgreSQL, Redis, Kafka, the payment provider and the services …");
    let options = SiteOptions { count_statements: true, ..args.bench.site(config)? };
    let site = Site::start(options).await?;
    let report = measure(&args, &site).await;
    let stopped = site.stop().await;
    let report = report?;
    args.bench.print(&report, report.text())?;
    stopped?;
    Ok(if report.is_consistent() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn measure(args: &PaymentsArgs, site: &Site) -> anyhow::Result<Report> {
    let provider = provider_book::address(site.settings())?;
    provider::set_faults(&provider, &Faults::late(args.provider_ms)).await?;
    let mut bench = Bench::open(&args.bench, site).await?;
    eprintln!("Warming up …");
    for kind in KINDS {
        bench.run(kind, args.bench.warm_up_clients(), args.bench.warm_up_seconds(), false).await?;
    }
    bench.run_rounds(&KINDS, label, args.bench.counts_syncs()).await?;
    let stored = bench.stored(include_str!("stored_paid.sql")).await?;
    let book = provider_book::read_totals(&provider).await?;
    let money = Money { provider_ms: args.provider_ms, stored, captured: book.captured - book.cancelled };
    Report::new(bench.measured(), money)
}
