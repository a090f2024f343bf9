//! `stampede bench orders`: the course of the measurement.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Args;
use sandbox::KafkaChoice;

use super::disk::{self, Disk};
use super::figures::Kind;
use super::measure::Bench;
use super::pgbench;
use super::prepare;
use super::report::{Conditions, Measured, Report};
use crate::audit::Output;
use crate::site::{Site, SiteOptions};

#[derive(Debug, Args)]
pub struct OrdersArgs {
    /// Length of each measurement.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=60))]
    pub seconds: u64,
    /// Times that every measurement is repeated, in turn with the others.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=20))]
    pub rounds: u64,
    /// One process per service behind a gateway, as in Kubernetes.
    #[arg(long)]
    pub split: bool,
    /// The broker: auto, apache or embedded. The setting sandbox.kafka unless told.
    #[arg(long)]
    pub kafka: Option<KafkaChoice>,
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
    /// Where the system lives while it is measured, and thereby the disk. Only logs of --split stay there.
    #[arg(long, value_name = "DIR", default_value = ".stampede/bench")]
    pub data_dir: PathBuf,
}

/// Simultaneous clients.
pub const CLIENTS: [usize; 3] = [1, 16, 64];
/// Long enough for the caches, for the first extensions of the tables, and for the compiler of the JVM that Kafka runs on.
pub const WARM_UP_SECONDS: u64 = 5;
pub const WARM_UP_CLIENTS: usize = 16;
/// No hold and no token may end within the longest measurement.
const DAY_SECONDS: u64 = 86_400;

/// Runs the command. The last line on standard output is the report when JSON is asked for.
pub async fn orders(args: OrdersArgs, config: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let program = pgbench::find()?;
    eprintln!("Starting PostgreSQL, Redis, Kafka and the services …");
    let site = Site::start(options(&args, config)?).await?;
    let measured = measure(&args, &site, program).await;
    let stopped = site.stop().await;
    let report = Report::new(measured?)?;
    match args.output {
        Output::Json => println!("{}", serde_json::to_string(&report)?),
        Output::Text => print!("{}", report.text()),
    }
    stopped?;
    Ok(if report.is_consistent() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A site for measuring.
pub fn options(args: &OrdersArgs, config: &[PathBuf]) -> anyhow::Result<SiteOptions> {
    let kafka = match args.kafka {
        Some(kafka) => kafka,
        None => crate::site::kafka_choice(config)?,
    };
    let setting = |key: &str, value: String| (key.to_owned(), value);
    Ok(SiteOptions {
        data_dir: sandbox::reachable_data_dir(&std::path::absolute(&args.data_dir)?),
        fresh: true,
        ephemeral: true,
        split: args.split,
        kafka,
        config: config.to_vec(),
        overrides: vec![
            setting("host.http_listen", "127.0.0.1:0".to_owned()),
            setting("host.grpc_listen", "127.0.0.1:0".to_owned()),
            setting("auth.access_token_minutes", (DAY_SECONDS / 60).to_string()),
            setting("inventory.hold_ttl_seconds", DAY_SECONDS.to_string()),
            // E-mails go to the log; printing them is not what is measured.
            setting("telemetry.log_filter", "warn".to_owned()),
        ],
    })
}

async fn measure(args: &OrdersArgs, site: &Site, program: PathBuf) -> anyhow::Result<Measured> {
    let processors = std::thread::available_parallelism().context("counting processors")?.get();
    let mut bench = Bench::open(site, program, processors).await?;
    let conditions = conditions(args, site, bench.postgres_version().await?)?;
    eprintln!("Warming up …");
    bench.stampede(WARM_UP_CLIENTS, WARM_UP_SECONDS, false).await?;
    bench.make_scratch(site).await?;
    for kind in [Kind::NaiveHotRow, Kind::NoHotRow] {
        bench.alone(kind, WARM_UP_CLIENTS, WARM_UP_SECONDS, false).await?;
    }
    let (mut runs, mut disks) = (Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        disks.push(measure_disk(site).await?);
        let is_last = round == args.rounds;
        if is_last {
            bench.settle().await;
        }
        for clients in CLIENTS {
            for kind in Kind::ALL {
                let run = match kind {
                    Kind::Stampede => bench.stampede(clients, args.seconds, is_last).await?,
                    _ => bench.alone(kind, clients, args.seconds, is_last).await?,
                };
                eprintln!(
                    "round {round} of {}: {}, {clients} at a time: {:.0} orders/s, p50 {:.2} ms",
                    args.rounds,
                    kind.label(),
                    run.orders_per_second,
                    run.p50_ms
                );
                runs.push(run);
            }
        }
    }
    disks.push(measure_disk(site).await?);
    bench.conclude(conditions, disks, runs).await
}

/// Under which conditions `site` is measured. Refuses those that make no sense.
pub fn conditions(args: &OrdersArgs, site: &Site, postgres: String) -> anyhow::Result<Conditions> {
    let is_private = site.pids().iter().any(|(name, _)| name == "PostgreSQL");
    ensure!(
        is_private,
        "PostgreSQL's processes are counted, so it must be one that is started here: leave postgres.url alone"
    );
    Ok(Conditions {
        seconds: args.seconds,
        rounds: args.rounds,
        processors: std::thread::available_parallelism().context("counting processors")?.get(),
        load_average_before: load_average(),
        postgres,
        kafka: site.sandbox().map_or_else(String::new, |sandbox| sandbox.kafka_kind().to_string()),
        split: args.split,
        buyers: prepare::BUYERS,
        debug_build: cfg!(debug_assertions),
    })
}

pub async fn measure_disk(site: &Site) -> anyhow::Result<Disk> {
    let folder = site.data_dir().to_owned();
    tokio::task::spawn_blocking(move || disk::measure(&folder)).await?
}

/// Of the last minute: whoever else used the machine before we did. None where it cannot be told.
fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}
