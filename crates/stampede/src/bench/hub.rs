//! `stampede bench hub`: notifications over HTTP and their deliveries to the log, beside what PostgreSQL alone does.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use client::{Client, fresh_key};
use diesel::{QueryableByName, sql_types};
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use super::generator::Generator;
use super::hub_report::{Delivered, Kind, Report, Run};
use super::load::Job;
use super::options::BenchArgs;
use super::pgbench::{self, Pgbench};
use super::usage::Meter;
use crate::audit::Ledger;
use crate::demo;
use crate::site::{Site, SiteOptions};

/// Between two looks at deliveries that are under way.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Deliveries that take longer are reported as far as they are.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(60);
/// PostgreSQL's processes that served pgbench end a moment after it.
const EXIT_PAUSE: Duration = Duration::from_millis(300);

/// Runs the command. The last line on standard output is the report when JSON is asked for.
pub async fn hub(args: BenchArgs, config: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let program = pgbench::find()?;
    eprintln!("Starting PostgreSQL, Redis, Kafka and the services …");
    let mut options: SiteOptions = args.site(config)?;
    // One program asks for all of them.
    options.overrides.push(("notification_hub.sends_per_second".to_owned(), "1000000".to_owned()));
    let site = Site::start(options).await?;
    let report = measure(&args, &site, program).await;
    let stopped = site.stop().await;
    let report = report?;
    args.print(&report, report.text())?;
    stopped?;
    Ok(if report.is_consistent() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(QueryableByName)]
struct Clock {
    #[diesel(sql_type = sql_types::Timestamptz)]
    at: DateTime<Utc>,
    #[diesel(sql_type = sql_types::Text)]
    version: String,
}

async fn clock(ledger: &mut Ledger) -> anyhow::Result<Clock> {
    let text = "select clock_timestamp() as at, current_setting('server_version') as version";
    let rows = ledger.rows(ledger.statement(text)).await?;
    rows.into_iter().next().context("a clock is one row")
}

async fn measure(args: &BenchArgs, site: &Site, program: PathBuf) -> anyhow::Result<Report> {
    let mut ledger = Ledger::open(site.settings()).await?;
    let conditions = args.conditions(site, clock(&mut ledger).await?.version)?;
    let folder = site.data_dir().join("pgbench");
    let pgbench = Pgbench::new(program, site.settings(), folder, conditions.processors)?;
    pgbench.make_tables(site.settings(), &ledger, include_str!("hub_scratch.sql")).await?;
    let mut bench = Bench { site, ledger, pgbench, meter: Meter::new(site), key: key(site).await? };
    eprintln!("Warming up …");
    for kind in Kind::ALL {
        bench.run(kind, args.warm_up_clients(), args.warm_up_seconds()).await?;
    }
    let mut runs = Vec::new();
    for round in 1..=args.rounds {
        for clients in args.clients() {
            for kind in Kind::ALL {
                let run = bench.run(kind, clients, args.seconds).await?;
                let rate = run.creates_per_second;
                eprintln!("round {round} of {}: {}, {clients} at a time: {rate:.0}/s", args.rounds, kind.label());
                runs.push(run);
            }
        }
    }
    Report::new(conditions, runs)
}

/// A program's API key.
async fn key(site: &Site) -> anyhow::Result<String> {
    #[derive(Deserialize)]
    struct Made {
        key: String,
    }
    let anyone = Client::for_load(site.api(), 1)?;
    let people = demo::log_in(site.settings(), &anyone).await?;
    let admin = demo::with_role(&people, "ADMIN")?;
    let request = admin.request(Method::POST, "/admin/api-keys").header("Idempotency-Key", fresh_key());
    let body = json!({ "client": "bench", "scopes": ["notifications:write"] });
    let made: Made = admin.try_send(request.json(&body)).await?.succeeded()?.read()?;
    Ok(made.key)
}

struct Bench<'a> {
    site: &'a Site,
    ledger: Ledger,
    pgbench: Pgbench,
    meter: Meter,
    key: String,
}

impl Bench<'_> {
    async fn run(&mut self, kind: Kind, clients: usize, seconds: u64) -> anyhow::Result<Run> {
        match kind {
            Kind::OneCommitEach => self.postgres_alone(clients, seconds).await,
            Kind::Notifications => self.over_http(clients, seconds).await,
        }
    }

    async fn postgres_alone(&mut self, clients: usize, seconds: u64) -> anyhow::Result<Run> {
        let snapshot = self.meter.snapshot()?;
        let ran = self.pgbench.run(include_str!("naive_notification.sql"), clients, seconds).await?;
        tokio::time::sleep(EXIT_PAUSE).await;
        Ok(Run {
            kind: Kind::OneCommitEach,
            clients,
            creates: ran.latencies.count(),
            creates_per_second: ran.orders_per_second,
            mean_ms: ran.latencies.mean_ms(),
            p99_ms: ran.latencies.ms(0.99),
            usage: self.meter.since(&snapshot)?,
            delivered: None,
        })
    }

    /// Creates, and all deliveries that follow from them.
    async fn over_http(&mut self, clients: usize, seconds: u64) -> anyhow::Result<Run> {
        let address = self.site.api().strip_prefix("http://").context("the site speaks no plain HTTP")?.to_owned();
        let body = json!({
            "type": "BENCH", "recipient": { "email": "bench@example.com" }, "channels": [{ "channel": "EMAIL" }],
            "subject": "Bench", "body": "It comes on Friday.", "data": { "orderId": "bench" },
        });
        let job = Job {
            address,
            first_path: "/readyz".to_owned(),
            paths: vec!["/api/v1/notifications".to_owned()],
            body: body.to_string(),
            tokens: vec![self.key.clone()],
            tickets: Vec::new(),
            expected: 201,
            connections: clients,
            seconds: seconds as f64,
            pays: false,
        };
        let generator = Generator::start(&job).await?;
        let (since, snapshot) = (clock(&mut self.ledger).await?.at, self.meter.snapshot()?);
        let outcome = generator.go().await?;
        ensure!(outcome.done > 0, "no notification came through; the answers were {:?}", outcome.refused);
        ensure!(outcome.refused.is_empty(), "some were refused: {:?}", outcome.refused);
        let answered = Instant::now();
        let delivered = loop {
            let delivered = self.delivered(since).await?;
            if delivered.open == 0 || answered.elapsed() >= DELIVERY_TIMEOUT {
                break delivered;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        };
        Ok(Run {
            kind: Kind::Notifications,
            clients,
            creates: outcome.done,
            creates_per_second: outcome.done as f64 / outcome.seconds,
            mean_ms: outcome.mean_ms,
            p99_ms: outcome.p99_ms,
            usage: self.meter.since(&snapshot)?,
            delivered: Some(delivered),
        })
    }

    async fn delivered(&mut self, since: DateTime<Utc>) -> anyhow::Result<Delivered> {
        let statement = self.ledger.statement(include_str!("delivered.sql")).into_boxed();
        let rows = self.ledger.bound_rows(statement.bind::<sql_types::Timestamptz, _>(since)).await?;
        rows.into_iter().next().context("an aggregate is one row")
    }
}
