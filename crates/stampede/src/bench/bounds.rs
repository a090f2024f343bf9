//! What `bench coupons` and `bench queue` have in common: their buyers, loads over HTTP, and the bounds beside them.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use client::Client;
use common::auth::AuthSettings;
use common::db::{Db, DbSettings};
use common::host::{HostSettings, Running, schema};
use common::redis::Redis;
use diesel::sql_types;

use super::generator::Generator;
use super::hello;
use super::lines::Sample;
use super::load::{Job, Outcome, Ticket};
use super::options::{BenchArgs, Conditions};
use super::raw_script::{Ran, RawScript};
use super::usage::Meter;
use crate::audit::Ledger;
use crate::demo;
use crate::site::Site;

/// Between two looks at a system that is not at rest yet.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// A system that is not at rest by then is measured all the same.
const REST_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(diesel::QueryableByName)]
struct Version {
    #[diesel(sql_type = sql_types::Text)]
    server_version: String,
}

/// A site, who asks, and a handler of the same server that only says hello.
pub struct Stage<'a> {
    pub site: &'a Site,
    pub ledger: Ledger,
    pub redis: Redis,
    pub admin: Client,
    pub tokens: Vec<String>,
    pub conditions: Conditions,
    pub meter: Meter,
    hello: Running,
}

impl<'a> Stage<'a> {
    pub async fn set_up(args: &BenchArgs, site: &'a Site) -> anyhow::Result<Stage<'a>> {
        let mut ledger = Ledger::open(site.settings()).await?;
        let version = ledger.statement("select current_setting('server_version') as server_version");
        let version: Vec<Version> = ledger.rows(version).await?;
        let postgres = version.into_iter().next().context("a version is one row")?.server_version;
        let host: HostSettings = site.settings().section("host")?;
        let database: DbSettings = site.settings().section("postgres")?;
        let auth: AuthSettings = site.settings().section("auth")?;
        let accounts = Db::open(&database, &schema(&host.namespace, "account")).await?;
        let buyers = account::prepare_buyers(&accounts, &auth, args.buyers()).await?;
        let people = demo::log_in(site.settings(), &Client::for_load(site.api(), 1)?).await?;
        Ok(Stage {
            ledger,
            redis: Redis::open(&site.settings().section("redis")?, &host.namespace)?,
            admin: demo::with_role(&people, "ADMIN")?.clone(),
            tokens: buyers.into_iter().map(|buyer| buyer.access_token).collect(),
            conditions: args.conditions(site, postgres)?,
            meter: Meter::new(site),
            hello: hello::serve(site).await?,
            site,
        })
    }

    /// What every load here has in common: `paths` of the site are posted to.
    pub fn job(&self, paths: Vec<String>, clients: usize, seconds: u64, expected: u16) -> anyhow::Result<Job> {
        let address = self.site.api().strip_prefix("http://").context("the site speaks no plain HTTP")?;
        Ok(Job {
            address: address.to_owned(),
            first_path: "/readyz".to_owned(),
            paths,
            body: "{}".to_owned(),
            tokens: self.tokens.clone(),
            tickets: Vec::new(),
            expected,
            connections: clients,
            seconds: seconds as f64,
            pays: false,
        })
    }

    /// Runs a load whose every answer must be the expected one.
    pub async fn run(&mut self, label: &'static str, job: &Job) -> anyhow::Result<(Outcome, Sample)> {
        let generator = Generator::start(job).await?;
        let snapshot = self.meter.snapshot()?;
        let outcome = generator.go().await?;
        let usage = self.meter.since(&snapshot)?;
        ensure!(outcome.done > 0 && outcome.refused.is_empty(), "{label}: other answers: {:?}", outcome.refused);
        let rate = outcome.done as f64 / outcome.seconds;
        let sample = Sample::new(label, job.connections, rate, (outcome.p50_ms, outcome.p99_ms), &usage);
        Ok((outcome, sample))
    }

    /// The handler that says hello: posted to, or looked at as at a ticket.
    pub async fn say_hello(
        &mut self,
        label: &'static str,
        clients: usize,
        seconds: u64,
        is_looked_at: bool,
    ) -> anyhow::Result<Sample> {
        let path = hello::PATH.to_owned();
        let ticket = Ticket { path: path.clone(), token: "hello".to_owned() };
        let tickets = if is_looked_at { vec![ticket; self.tokens.len()] } else { Vec::new() };
        let expected = if is_looked_at { 200 } else { 201 };
        let address = self.hello.http_addr.to_string();
        let job = Job { address, tickets, ..self.job(vec![path], clients, seconds, expected)? };
        Ok(self.run(label, &job).await?.1)
    }

    /// A script of ours, without anybody around it.
    pub async fn run_script(
        &mut self,
        label: &'static str,
        script: &RawScript,
        clients: usize,
        seconds: u64,
    ) -> anyhow::Result<Sample> {
        let snapshot = self.meter.snapshot()?;
        let Ran { per_second, p50_ms, p99_ms } = script.run(clients, seconds).await?;
        let usage = self.meter.since(&snapshot)?;
        Ok(Sample::new(label, clients, per_second, (p50_ms, p99_ms), &usage))
    }

    /// Waits until nothing is left to do of what was measured before. Says so if the next figure has some of it in it.
    pub async fn rest(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let left = self.ledger.unfinished().await?;
            if left.is_empty() {
                return Ok(());
            }
            if began.elapsed() >= REST_TIMEOUT {
                let seconds = REST_TIMEOUT.as_secs();
                eprintln!(
                    "After {seconds} s there is still work of the figure before; the next one includes it: {left:?}"
                );
                return Ok(());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Ends the server that says hello.
    pub async fn tear_down(self) -> Conditions {
        self.hello.stop().await;
        self.conditions
    }
}
