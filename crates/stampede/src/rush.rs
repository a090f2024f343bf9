//! `stampede rush`: buys out one hot product with many buyers at once, and ends with a verdict.

mod api;
mod kills;
mod load;
mod outcome;
mod prepare;
mod record;
mod rest;
mod show;
mod tally;
mod verdict;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use tokio::time::Instant;
use uuid::Uuid;

use crate::audit::{self, Output, UNREACHABLE, VIOLATED};
use crate::dev;
use crate::site::{self, Site, SiteOptions};
use api::Api;
use kills::{Killed, Pace};
use load::Load;
use outcome::{Measured, Outcome};
use record::Record;
use tally::Tally;
use verdict::{Sale, judge};

#[derive(Debug, Args)]
pub struct RushArgs {
    /// Start a system of its own for the rush, and remove it afterwards.
    #[arg(long, conflicts_with = "url")]
    sandbox: bool,
    /// With --sandbox: one process per service behind a gateway, as in Kubernetes.
    #[arg(long, requires = "sandbox")]
    split: bool,
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    buyers: u64,
    /// Units of the product.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    stock: u64,
    /// Share of the buyers who send their key again, at once or later.
    #[arg(long, default_value_t = 0.2, value_parser = share)]
    duplicates: f64,
    /// Buyers who are asking at the same time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=4096))]
    concurrency: u64,
    /// Units that each buyer wants.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    quantity: u64,
    /// Buyers who register and log in over the API; the others are prepared in the database.
    #[arg(long, default_value_t = 50)]
    sample: u64,
    /// Kill this part in the middle and bring it back: a service (with --split), redis, flushall, kafka, wipe-kafka or
    /// postgres. May be given several times; the kills are spread over the rush, most of them over the sale.
    #[arg(long, value_name = "NAME", requires = "sandbox")]
    kill: Vec<String>,
    /// Time for everything after the clock starts.
    #[arg(long, default_value_t = 300, value_name = "N")]
    timeout_seconds: u64,
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Address of a running system, whose servers the settings name.
    #[arg(long)]
    url: Option<String>,
    /// Data folder of a running system, or, with --sandbox, of the new one, which is then kept.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Where a sandbox lives that was given no place of its own.
const SANDBOX_DIR: &str = ".stampede/rush";
/// A system must be at rest so long after the last answer at the latest, whatever happened before.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("must be from 0 to 1".to_owned()) }
}

/// Runs the command. The last line on standard output is the outcome when JSON is asked for.
pub async fn rush(args: RushArgs, config: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let site = if args.sandbox {
        Site::start(sandbox_options(&args, config)?).await?
    } else {
        match Site::attach(config, &dev::data_dir(args.data_dir.as_deref())?, args.url.clone()).await {
            Ok(site) => site,
            Err(error) => {
                eprintln!("stampede: {error:#}");
                return Ok(ExitCode::from(UNREACHABLE));
            }
        }
    };
    let outcome = course(&args, &site).await;
    let stopped = site.stop().await;
    let outcome = outcome?;
    // After the site's last log line.
    match args.output {
        Output::Json => println!("{}", serde_json::to_string(&outcome)?),
        Output::Text => print!("{}", outcome.text()),
    }
    stopped?;
    Ok(if outcome.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(VIOLATED) })
}

fn sandbox_options(args: &RushArgs, config: &[PathBuf]) -> anyhow::Result<SiteOptions> {
    let setting = |key: &str, value: String| (key.to_owned(), value);
    // A crowd that comes from one address; twice, for it registers and then logs in.
    let log_ins = (2 * args.sample + 10).to_string();
    Ok(SiteOptions {
        data_dir: dev::data_dir(Some(args.data_dir.as_deref().unwrap_or_else(|| Path::new(SANDBOX_DIR))))?,
        fresh: true,
        ephemeral: args.data_dir.is_none(),
        split: args.split,
        kafka: site::kafka_choice(config)?,
        config: config.to_vec(),
        overrides: vec![
            setting("host.http_listen", "127.0.0.1:0".to_owned()),
            setting("host.grpc_listen", "127.0.0.1:0".to_owned()),
            setting("account.log_ins_per_minute_and_address", log_ins),
            // What a thousand e-mails would print is not what this terminal is for.
            setting("telemetry.log_filter", "warn".to_owned()),
        ],
    })
}

async fn course(args: &RushArgs, site: &Site) -> anyhow::Result<Outcome> {
    let parts = site.parts();
    if let Some(unknown) = args.kill.iter().find(|part| !parts.contains(part)) {
        bail!("cannot kill {unknown:?} here; what can be killed: {}", parts.join(", "));
    }
    let concurrency = usize::try_from(args.concurrency)?;
    let api = Arc::new(Api::new(site.api(), concurrency)?);
    let db = prepare::account_db(site.settings()).await?;
    eprintln!("Preparing {} units and {} buyers at {}", args.stock, args.buyers, site.api());
    let product = prepare::product(&api, &db, args.stock).await?;
    let auth = site.settings().section("auth")?;
    let crowd = prepare::crowd(&api, &db, &auth, usize::try_from(args.buyers)?, usize::try_from(args.sample)?).await?;
    let buyers = Arc::new(crowd.buyers);

    let sale = Sale { stock: args.stock, quantity: args.quantity, killed: !args.kill.is_empty() };
    let visits = load::visits(buyers.len(), args.duplicates);
    let requests = visits.iter().map(|visit| visit.copies).sum();
    let tally = Arc::new(Tally::new(buyers.len(), requests, sale.expected(buyers.len()) / args.quantity));
    let load = Arc::new(Load {
        wanted: api.order_request(product, args.quantity)?,
        api: api.clone(),
        buyers: buyers.clone(),
        visits,
        next: AtomicUsize::new(0),
        tally: tally.clone(),
        pace: Arc::new(Pace::default()),
        deadline: Instant::now() + Duration::from_secs(args.timeout_seconds),
    });
    let (records, kills) = storm(load.clone(), concurrency, site, &args.kill).await;

    eprintln!("All buyers are answered; waiting for the system to come to rest");
    let deadline = load.deadline.max(Instant::now() + SETTLE_TIMEOUT);
    let undone = rest::wait(site.settings(), product, deadline).await?;
    let rested = tally.elapsed();
    let mut observed = rest::observe(site.settings(), product).await?;
    observed.lost = rest::lost(&api, &buyers, &records, deadline).await;
    observed.outbox_pending = undone.outbox_pending.unsigned_abs();
    observed.kills_missed = (args.kill.len() - kills.iter().filter(|kill| kill.error.is_none()).count()) as u64;
    let report = audit::run(site.settings()).await?;
    observed.audit = report.violated();
    let accounts: Vec<Uuid> = buyers.iter().map(|buyer| buyer.account).collect();
    let verdict = judge(sale, &accounts, &records, &observed);
    let registered_buyers = crowd.registered;
    let measured = Measured { sale, registered_buyers, records: &records, tally: &tally, kills, rested, audit: report };
    Ok(Outcome::new(verdict, measured))
}

/// The load and the kills together, until both are over.
async fn storm(load: Arc<Load>, concurrency: usize, site: &Site, parts: &[String]) -> (Vec<Record>, Vec<Killed>) {
    let is_over = AtomicBool::new(false);
    let (tally, pace) = (load.tally.clone(), load.pace.clone());
    let buying = async {
        let records = load::run(load, concurrency).await;
        is_over.store(true, Ordering::Relaxed);
        records
    };
    let both = async { tokio::join!(buying, kills::run(site, parts, &tally, &pace, &is_over)) };
    tokio::select! {
        outcome = both => outcome,
        () = show::run(&tally) => unreachable!("it shows for as long as it is polled"),
    }
}
