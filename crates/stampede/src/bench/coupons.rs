//! `stampede bench coupons`: coupons that are issued and refused over HTTP, beside what bounds them, in one run.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use client::{NewProduct, fresh_key};
use common::redis::cmd;
use diesel::sql_types;
use serde_json::json;
use uuid::Uuid;

use super::bounds::Stage;
use super::lines::{Line, Report, Sample, lines, ratio};
use super::load::Job;
use super::options::BenchArgs;
use super::pgbench::{self, Pgbench};
use super::raw_script::{RANDOM, RawScript};
use crate::site::Site;

const HELLO: &str = "hello world, the same server";
const RAW: &str = "raw EVALSHA of the script";
const ONE_COMMIT: &str = "one commit each (pgbench)";
const ORDERS: &str = "orders placed";
const ISSUES: &str = "coupons issued";
/// Everybody asks for one coupon that another one has.
const REFUSALS: &str = "coupons refused, sold out";
/// So many are issued in a second at the most: each account gets a coupon once, so there must be coupons enough.
const ISSUES_PER_SECOND_MAX: u64 = 12_000;
/// PostgreSQL's processes that served pgbench end a moment after it.
const EXIT_PAUSE: Duration = Duration::from_millis(300);
/// Of the stock, and of the gate that the script runs at alone.
const PLENTY: i64 = 1_000_000_000;
/// Of each coupon that is issued: more than there are buyers.
const TOTAL: i64 = 1_000_000;

/// Runs the command. The last line on standard output is the report when JSON is asked for.
pub async fn coupons(args: BenchArgs, config: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let program = pgbench::find()?;
    eprintln!("Starting PostgreSQL, Redis, Kafka and the services …");
    let mut options = args.site(config)?;
    // Buyers take turns, each far more often than a person.
    options.overrides.push(("order.placements_per_minute".to_owned(), "1000000".to_owned()));
    let site = Site::start(options).await?;
    let report = measure(&args, &site, program).await;
    let stopped = site.stop().await;
    let report = report?;
    args.print(&report, report.text())?;
    stopped?;
    Ok(if report.is_consistent { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(diesel::QueryableByName)]
struct Issued {
    #[diesel(sql_type = sql_types::BigInt)]
    issues: i64,
    #[diesel(sql_type = sql_types::BigInt)]
    events: i64,
}

async fn measure(args: &BenchArgs, site: &Site, program: PathBuf) -> anyhow::Result<Report> {
    let mut bench = Bench::open(args, site, program).await?;
    eprintln!("Warming up …");
    bench.round(args.warm_up_clients(), args.warm_up_seconds()).await?;
    let mut samples = Vec::new();
    for round in 1..=args.rounds {
        for clients in args.clients() {
            let measured = bench.round(clients, args.seconds).await?;
            let figures: Vec<String> =
                measured.iter().map(|sample| format!("{} {:.0}/s", sample.label, sample.per_second)).collect();
            eprintln!("round {round} of {}, {clients} at a time: {}", args.rounds, figures.join(", "));
            samples.extend(measured);
        }
    }
    bench.report(lines(&samples)).await
}

struct Bench<'a> {
    stage: Stage<'a>,
    pgbench: Pgbench,
    script: RawScript,
    /// Posted to for an order.
    order: Job,
    sold_out: String,
    /// Coupons that were issued, that of the sold-out coupon included.
    acknowledged: u64,
}

impl<'a> Bench<'a> {
    async fn open(args: &BenchArgs, site: &'a Site, program: PathBuf) -> anyhow::Result<Bench<'a>> {
        let stage = Stage::set_up(args, site).await?;
        let product =
            NewProduct { sku: "BENCH-1", name: "Bench Sneaker", price: 129_000, stock: PLENTY, max_per_user: None };
        let product = stage.admin.create_product(&product).await?;
        let order = Job {
            body: json!({ "items": [{ "productId": product, "quantity": 1 }] }).to_string(),
            ..stage.job(vec!["/api/v1/orders".to_owned()], 1, 1, 201)?
        };
        let sold_out = stage.admin.create_coupon(&fresh_key(), &coupon(1)).await?;
        stage.admin.issue_coupon(sold_out).await?;
        let (sold_out, acknowledged) = (issue_path(sold_out), 1);
        let folder = site.data_dir().join("pgbench");
        let pgbench = Pgbench::new(program, site.settings(), folder, stage.conditions.processors)?;
        pgbench.make_tables(site.settings(), &stage.ledger, include_str!("coupons_scratch.sql")).await?;
        let keys =
            ["meta", "stock", "issued", "journal"].map(|part| stage.redis.key(&format!("bench:{{coupon}}:{part}")));
        let gate = ["epoch", "1", "opens", "0", "closes", "9000000000000000", "state", "open"];
        let _: i64 = stage.redis.command(cmd("HSET").arg(&keys[0]).arg(&gate)).await?;
        let _: String = stage.redis.command(cmd("SET").arg(&keys[1]).arg(PLENTY)).await?;
        // As the service calls it for one user: the newest epoch seen, a time that has come, user, issue.
        let call = ["1".to_owned(), "1000".to_owned(), format!("user-{RANDOM}"), "issue".to_owned()];
        let script = RawScript::load(&stage.redis, site.settings(), coupon::TAKE_SCRIPT, &keys, &call).await?;
        Ok(Bench { stage, pgbench, script, order, sold_out, acknowledged })
    }

    /// One measurement of each kind.
    async fn round(&mut self, clients: usize, seconds: u64) -> anyhow::Result<Vec<Sample>> {
        let mut samples = vec![self.stage.say_hello(HELLO, clients, seconds, false).await?];
        samples.push(self.stage.run_script(RAW, &self.script, clients, seconds).await?);
        samples.push(self.one_commit_each(clients, seconds).await?);
        let order = Job { connections: clients, seconds: seconds as f64, ..self.order.clone() };
        samples.push(self.stage.run(ORDERS, &order).await?.1);
        self.stage.rest().await?;
        samples.push(self.issues(clients, seconds).await?);
        self.stage.rest().await?;
        let refusals = self.stage.job(vec![self.sold_out.clone()], clients, seconds, 409)?;
        samples.push(self.stage.run(REFUSALS, &refusals).await?.1);
        Ok(samples)
    }

    async fn one_commit_each(&mut self, clients: usize, seconds: u64) -> anyhow::Result<Sample> {
        let snapshot = self.stage.meter.snapshot()?;
        let ran = self.pgbench.run(include_str!("naive_coupon.sql"), clients, seconds).await?;
        tokio::time::sleep(EXIT_PAUSE).await;
        let usage = self.stage.meter.since(&snapshot)?;
        let latencies = (ran.latencies.ms(0.50), ran.latencies.ms(0.99));
        Ok(Sample::new(ONE_COMMIT, clients, ran.orders_per_second, latencies, &usage))
    }

    /// Each buyer asks for one new coupon after the other.
    async fn issues(&mut self, clients: usize, seconds: u64) -> anyhow::Result<Sample> {
        let coupons = seconds * ISSUES_PER_SECOND_MAX / self.stage.tokens.len() as u64 + 1;
        let mut paths = Vec::new();
        for _ in 0..coupons {
            let coupon = self.stage.admin.create_coupon(&fresh_key(), &coupon(TOTAL)).await?;
            paths.push(issue_path(coupon));
        }
        let job = self.stage.job(paths, clients, seconds, 201)?;
        let (outcome, sample) = self.stage.run(ISSUES, &job).await?;
        self.acknowledged += outcome.done;
        Ok(sample)
    }

    async fn report(mut self, lines: Vec<Line>) -> anyhow::Result<Report> {
        let rate = |line: &Line| Some(line.per_second);
        let aims = [
            (REFUSALS, HELLO, Some("0.60 or more")),
            (REFUSALS, RAW, None),
            (ISSUES, ONE_COMMIT, Some("5 or more")),
            (ISSUES, ORDERS, Some("1 or more")),
            (ISSUES, HELLO, None),
        ];
        let mut ratios = Vec::new();
        for clients in &self.stage.conditions.clients {
            for (of, to, target) in aims {
                ratios.extend(ratio(&lines, of, to, *clients, rate).map(|mut ratio| {
                    ratio.target = target;
                    ratio
                }));
            }
        }
        let issued = self.stage.ledger.statement(include_str!("coupons_issued.sql"));
        let issued: Vec<Issued> = self.stage.ledger.rows(issued).await?;
        let (issues, events) = issued.first().map_or((0, 0), |issued| (issued.issues, issued.events));
        let acknowledged = i64::try_from(self.acknowledged)?;
        Ok(Report {
            title: "Coupons over HTTP, beside what bounds them",
            facts: vec![format!(
                "{acknowledged} issues were acknowledged, {issues} are stored, {events} were announced."
            )],
            is_consistent: acknowledged == issues && acknowledged == events,
            conditions: self.stage.tear_down().await,
            lines,
            ratios,
        })
    }
}

fn issue_path(coupon: Uuid) -> String {
    format!("/api/v1/coupons/{coupon}/issue")
}

/// A coupon with so many to be had, for a day.
fn coupon(total: i64) -> serde_json::Value {
    let now = chrono::Utc::now();
    json!({
        "name": "Bench",
        "discount": { "kind": "PERCENT", "value": 10 },
        "currency": "KRW",
        "total": total,
        "startsAt": now - chrono::TimeDelta::hours(1),
        "expiresAt": now + chrono::TimeDelta::days(1),
        "restoredOnRefund": true,
    })
}
