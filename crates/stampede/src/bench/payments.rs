//! `stampede bench payments`: the course of the measurement.

mod measure;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::figures::Kind;
use super::orders::{self, CLIENTS, OrdersArgs, WARM_UP_CLIENTS, WARM_UP_SECONDS};
use crate::audit::Output;
use crate::site::Site;
use measure::Till;
use report::{Measured, Report};

#[derive(Debug, Args)]
pub struct PaymentsArgs {
    #[command(flatten)]
    course: OrdersArgs,
    /// Time that the provider takes for each capture.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=5_000))]
    provider_ms: u64,
}

/// Placing alone first: it is what the other is put beside.
const KINDS: [Kind; 2] = [Kind::Stampede, Kind::Paid];

/// Runs the command. The last line on standard output is the report when JSON is asked for.
pub async fn payments(args: PaymentsArgs, config: &[PathBuf]) -> anyhow::Result<ExitCode> {
    eprintln!("Starting PostgreSQL, Redis, Kafka, the payment provider and the services …");
    let site = Site::start(orders::options(&args.course, config)?).await?;
    let measured = measure(&args, &site).await;
    let stopped = site.stop().await;
    let report = Report::new(measured?)?;
    match args.course.output {
        Output::Json => println!("{}", serde_json::to_string(&report)?),
        Output::Text => print!("{}", report.text()),
    }
    stopped?;
    Ok(if report.is_consistent() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn measure(args: &PaymentsArgs, site: &Site) -> anyhow::Result<Measured> {
    let mut till = Till::open(site, args.provider_ms).await?;
    let conditions = orders::conditions(&args.course, site, till.postgres_version().await?)?;
    eprintln!("Warming up …");
    for kind in KINDS {
        till.run(kind, WARM_UP_CLIENTS, WARM_UP_SECONDS).await?;
    }
    let (mut runs, mut disks) = (Vec::new(), Vec::new());
    for round in 1..=args.course.rounds {
        disks.push(orders::measure_disk(site).await?);
        for clients in CLIENTS {
            for kind in KINDS {
                let run = till.run(kind, clients, args.course.seconds).await?;
                eprintln!(
                    "round {round} of {}: {}, {clients} at a time: {:.0} orders/s, p50 {:.2} ms",
                    args.course.rounds,
                    report::label(kind),
                    run.orders_per_second,
                    run.p50_ms
                );
                runs.push(run);
            }
        }
    }
    disks.push(orders::measure_disk(site).await?);
    till.conclude(conditions, disks, runs).await
}
