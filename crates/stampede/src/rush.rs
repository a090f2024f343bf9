//! `stampede rush`: buys out one hot product with many buyers at once, and ends with a verdict.

mod counters;
mod coupons;
mod kills;
mod load;
mod money;
mod outcome;
mod pay;
mod prepare;
pub mod provider;
mod record;
mod rest;
mod restock;
mod restock_verdict;
mod seats;
mod show;
mod verdict;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use clap::Args;
use client::{Buyer, Client};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use uuid::Uuid;

use crate::audit::{self, Output, VIOLATED};
use crate::dev;
use crate::reach::UNREACHABLE;
use crate::say;
use crate::site::{self, Site, SiteOptions};
use counters::Counters;
use coupons::{Coupons, Offer};
use kills::{Killed, Outage, Pace};
use load::Load;
use outcome::{Measured, Outcome};
use pay::{Payers, PaymentRecord, Shared};
use prepare::{Buyers, Goods};
use provider::{Faults, Provider};
use record::Record;
use verdict::{Sale, judge};

#[derive(Debug, Args)]
pub struct RushArgs {
    /// Start a system of its own for the rush, and remove it afterwards.
    #[arg(long, conflicts_with = "url")]
    sandbox: bool,
    /// With --sandbox: one process per service behind a gateway, as in Kubernetes.
    #[arg(long, requires = "sandbox")]
    split: bool,
    /// With --split: processes of each service.
    #[arg(long, requires = "split", default_value_t = 1, value_name = "N",
          value_parser = clap::value_parser!(u8).range(1..=4))]
    replicas: u8,
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
    /// So many coupons, which every buyer asks for before ordering. Of the buyers, the share of --duplicates behaves like
    /// bots: they ask several times at once and try to use the coupons of others.
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "1000",
          value_parser = clap::value_parser!(u64).range(1..))]
    coupons: Option<u64>,
    /// Have every order paid, by a payment provider that the sandbox plays.
    #[arg(long)]
    pay: bool,
    /// In place of a sale: the buyers subscribe to the product, it comes back, is bought out while they are being told, and
    /// comes back again.
    #[arg(long, conflicts_with_all = ["pay", "kill", "restart", "duplicates", "quantity", "coupons"])]
    restock: bool,
    /// In place of a product: --stock seats of a concert, of which each buyer wants one. Some give theirs back.
    #[arg(long, conflicts_with_all = ["duplicates", "quantity", "coupons", "restock"])]
    seats: bool,
    /// With --seats: the sale of the concert has a waiting room, and opens when everybody is there. Some go away in line, some
    /// come without a pass.
    #[arg(long, requires = "seats")]
    queue: bool,
    /// How the provider misbehaves until the last buyer has an answer: lost-before=0.1,lost-after=0.15,hang=0.03,
    /// declined, late, wrong-payment, error500, lost-query, duplicate-webhooks, reorder-webhooks, forged-webhooks (rates),
    /// hang-ms, late-ms, seed.
    #[arg(long, requires = "pay", value_name = "NAME=RATE,...", value_parser = provider::faults)]
    provider_faults: Option<Faults>,
    /// Share of the payers who approve twice at the same moment.
    #[arg(long, requires = "pay", default_value_t = 0.2, value_parser = share)]
    double_click: f64,
    /// Kill this part in the middle and bring it back: a service (with --split), redis, flushall, kafka, wipe-kafka or
    /// postgres. May be given several times; the kills are spread over the rush, most of them over the sale.
    #[arg(long, value_name = "NAME", requires = "sandbox")]
    kill: Vec<String>,
    /// Tell this service (with --split; with --replicas: order-1, order-2, …) to stop in the middle, let it drain, and start it
    /// again. May be given several times; the restarts come after the kills.
    #[arg(long, value_name = "NAME", requires = "split")]
    restart: Vec<String>,
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

/// The data folder of a sandbox unless told.
pub const SANDBOX_DIR: &str = ".stampede/rush";
/// A system must be at rest this long after the last answer, whatever happened before.
const REST_TIMEOUT: Duration = Duration::from_secs(60);
/// The same where payments without an answer are found out: the provider is asked more than once, with pauses.
const REST_MONEY_TIMEOUT: Duration = Duration::from_secs(120);

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
    let ended = match (args.restock, args.seats) {
        (true, _) => restock::run(&args, &site).await,
        (_, true) => seats::run(&args, &site).await,
        _ => run(&args, &site).await.map(Ended::from),
    };
    let stopped = site.stop().await;
    let Ended { json, text, is_clean } = ended?;
    // Last, after the log of the services.
    match args.output {
        Output::Json => say!("{json}"),
        Output::Text => print!("{text}"),
    }
    stopped?;
    Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::from(VIOLATED) })
}

/// How a rush has ended, for programs and for people.
struct Ended {
    json: Value,
    text: String,
    is_clean: bool,
}

impl From<Outcome> for Ended {
    fn from(outcome: Outcome) -> Ended {
        Ended { json: json!(outcome), text: outcome.text(), is_clean: outcome.violations.is_empty() }
    }
}

fn sandbox_options(args: &RushArgs, config: &[PathBuf]) -> anyhow::Result<SiteOptions> {
    let setting = |key: &str, value: String| (key.to_owned(), value);
    // All buyers come from one address, and each comes twice: to register and to log in.
    let log_ins = (2 * args.sample + 10).to_string();
    Ok(SiteOptions {
        data_dir: dev::data_dir(Some(args.data_dir.as_deref().unwrap_or_else(|| Path::new(SANDBOX_DIR))))?,
        fresh: true,
        ephemeral: args.data_dir.is_none(),
        split: args.split,
        replicas: args.replicas.into(),
        kafka: site::kafka_choice(config)?,
        config: config.to_vec(),
        overrides: vec![
            setting("host.http_listen", "127.0.0.1:0".to_owned()),
            setting("host.grpc_listen", "127.0.0.1:0".to_owned()),
            setting("account.log_ins_per_minute_and_address", log_ins.clone()),
            setting("account.registrations_per_minute_and_address", log_ins),
            // Thousands of e-mails go to the log, which would bury the progress.
            setting("telemetry.log_filter", "warn".to_owned()),
        ],
        log_to_file: false,
        count_statements: false,
    })
}

async fn run(args: &RushArgs, site: &Site) -> anyhow::Result<Outcome> {
    let outages = kills::asked(args, site)?;
    let scenario = Scenario::prepare(args, site).await?;
    let provider = Provider::open(args, site).await?;
    let load = scenario.load(args)?;
    let remembered = run_load(load.clone(), scenario.concurrency, site, &outages).await;
    if let Some(provider) = &provider {
        provider.behave().await?;
    }
    eprintln!("All buyers are answered; waiting for the system to come to rest");
    let deadline = match args.pay {
        true => Instant::now() + REST_MONEY_TIMEOUT,
        false => load.deadline.max(Instant::now() + REST_TIMEOUT),
    };
    scenario.conclude(site, &load, &remembered, provider.as_ref(), deadline).await
}

/// What there is before the clock starts.
struct Scenario {
    sale: Sale,
    concurrency: usize,
    client: Client,
    product: Uuid,
    /// The coupon, where there is one.
    offer: Option<Offer>,
    buyers: Arc<Vec<Buyer>>,
    /// Buyers who registered and logged in over the API.
    registered: usize,
    /// Kills and restarts that were asked for.
    outages: usize,
}

impl Scenario {
    async fn prepare(args: &RushArgs, site: &Site) -> anyhow::Result<Scenario> {
        let concurrency = usize::try_from(args.concurrency)?;
        let client = Client::for_load(site.api(), concurrency)?;
        let db = prepare::account_db(site.settings()).await?;
        eprintln!("Preparing {} units and {} buyers at {}", args.stock, args.buyers, site.api());
        let Goods { product, offer } = prepare::goods(&client, &db, args.stock, args.coupons).await?;
        let auth = site.settings().section("auth")?;
        let (count, sample) = (usize::try_from(args.buyers)?, usize::try_from(args.sample)?);
        let Buyers { all, registered } = prepare::buyers(&client, &db, &auth, count, sample).await?;
        let sale = Sale { stock: args.stock, quantity: args.quantity, killed: !args.kill.is_empty() };
        let (buyers, outages) = (Arc::new(all), args.kill.len() + args.restart.len());
        Ok(Scenario { sale, concurrency, client, product, offer, buyers, registered, outages })
    }

    fn load(&self, args: &RushArgs) -> anyhow::Result<Arc<Load>> {
        let visits = load::visits(self.buyers.len(), args.duplicates);
        let requests = visits.iter().map(|visit| visit.copies).sum();
        let orders_expected = self.sale.expected(self.buyers.len()) / args.quantity;
        let counters = Arc::new(Counters::new(self.buyers.len(), requests, orders_expected, args.pay));
        let pace = Arc::new(Pace::default());
        let deadline = Instant::now() + Duration::from_secs(args.timeout_seconds);
        let payers = args.pay.then(|| {
            Payers::new(Shared {
                client: self.client.clone(),
                buyers: self.buyers.clone(),
                counters: counters.clone(),
                pace: pace.clone(),
                double_clicks: args.double_click,
                deadline,
                slots: Arc::new(Semaphore::new(self.concurrency)),
            })
        });
        let coupons = self
            .offer
            .map(|offer| Coupons::new(offer, self.client.clone(), self.buyers.clone(), args.duplicates, deadline));
        Ok(Arc::new(Load {
            product: self.product,
            quantity: args.quantity,
            coupons,
            order: self.client.order_request(self.product, args.quantity)?,
            client: self.client.clone(),
            buyers: self.buyers.clone(),
            visits,
            next: AtomicUsize::new(0),
            counters,
            pace,
            payers,
            deadline,
        }))
    }

    /// Waits until the system is at rest, looks at it, and judges.
    async fn conclude(
        &self,
        site: &Site,
        load: &Load,
        remembered: &Remembered,
        provider: Option<&Provider>,
        deadline: Instant,
    ) -> anyhow::Result<Outcome> {
        let Remembered { records, payments, kills } = remembered;
        let outbox_pending = rest::wait(site.settings(), deadline).await?;
        let rested = load.counters.elapsed();
        let mut observed = rest::observe(site.settings(), self.product).await?;
        observed.lost = rest::lost(&self.client, &self.buyers, records, deadline).await;
        observed.outbox_pending = outbox_pending;
        observed.kills_missed = (self.outages - kills.iter().filter(|kill| kill.error.is_none()).count()) as u64;
        if let Some(Provider { address, before }) = provider {
            let money = rest::money(site.settings(), self.product, address, *before).await?;
            observed.money = Some((payments.clone(), money));
        }
        if let Some(coupons) = &load.coupons {
            observed.coupons = Some(rest::coupons(site.settings(), self.product, coupons).await?);
        }
        let report = audit::run(site.settings()).await?;
        observed.audit = report.violated();
        let accounts: Vec<Uuid> = self.buyers.iter().map(|buyer| buyer.account).collect();
        let verdict = judge(self.sale, &accounts, records, &observed);
        let measured = Measured {
            sale: self.sale,
            registered_buyers: self.registered,
            records,
            counters: &load.counters,
            payments,
            kills: kills.clone(),
            rested,
            audit: report,
        };
        Ok(Outcome::new(verdict, measured))
    }
}

/// What the buyers remember, and what was killed meanwhile.
struct Remembered {
    records: Vec<Record>,
    payments: Vec<PaymentRecord>,
    kills: Vec<Killed>,
}

/// The load, the payers and the kills together, until all are over.
async fn run_load(load: Arc<Load>, concurrency: usize, site: &Site, outages: &[Outage]) -> Remembered {
    let (counters, pace) = (load.counters.clone(), load.pace.clone());
    let buying = async {
        let records = load::run(load.clone(), concurrency).await;
        let payments = match &load.payers {
            Some(payers) => payers.finish().await,
            None => Vec::new(),
        };
        (records, payments)
    };
    let ((records, payments), kills) = kills::during(buying, outages, site, &counters, &pace).await;
    Remembered { records, payments, kills }
}
