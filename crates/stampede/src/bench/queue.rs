//! `stampede bench queue`: people who enter a line and ask how far it is, over HTTP, beside what bounds them, in one run.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use chrono::Utc;
use client::{Client, NewProduct, fresh_key};
use common::redis::cmd;
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::bounds::Stage;
use super::lines::{Line, Report, Sample, lines, ratio};
use super::load::{Job, Ticket};
use super::options::BenchArgs;
use super::raw_script::{RANDOM, RawScript};
use crate::site::Site;

const HELLO: &str = "hello world, the same server";
const RAW_JOIN: &str = "raw EVALSHA of entering";
const RAW_CLAIM: &str = "raw EVALSHA of asking";
const ENTERS: &str = "entering the line";
const POLLS: &str = "asking, far from the front";
/// So many enter in a second at the most: each account enters a line once, so there must be sales enough.
const ENTERS_PER_SECOND_MAX: u64 = 16_000;
/// Numbers behind the front that are not asked about: it goes on over those who do not ask, and what is near it as well.
const NEAR_MAX: i64 = 1_000;
/// People who enter at once while the line is filled that is asked about.
const FILLING: usize = 64;

/// Runs the command. The last line on standard output is the report when JSON is asked for.
pub async fn queue(args: BenchArgs, config: &[PathBuf]) -> anyhow::Result<ExitCode> {
    eprintln!("Starting PostgreSQL, Redis, Kafka and the services …");
    let mut options = args.site(config)?;
    options.overrides.push(("queue.entries_per_minute".to_owned(), "1000000".to_owned()));
    let site = Site::start(options).await?;
    let report = measure(&args, &site).await;
    let stopped = site.stop().await;
    let report = report?;
    args.print(&report, report.text())?;
    stopped?;
    Ok(if report.is_consistent { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn measure(args: &BenchArgs, site: &Site) -> anyhow::Result<Report> {
    let mut bench = Bench::open(args, site).await?;
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
    join: RawScript,
    claim: RawScript,
    /// Those who wait far from the front: their tokens and, in the same order, their tickets.
    waiting: Vec<String>,
    tickets: Vec<Ticket>,
    bytes_each: f64,
    acknowledged: u64,
    /// By the rooms' own counters.
    numbers: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entered {
    ticket_id: Uuid,
    ticket_token: String,
    seq: i64,
}

impl<'a> Bench<'a> {
    async fn open(args: &BenchArgs, site: &'a Site) -> anyhow::Result<Bench<'a>> {
        let stage = Stage::set_up(args, site).await?;
        let parts = ["meta", "who", "seen", "offer", "active", "parked", "back", "ended", "shown"];
        let keys = parts.map(|part| stage.redis.key(&format!("bench:{{room}}:{part}")));
        let far = "1000000000000";
        let room = [
            "epoch",
            "1",
            "next",
            "1",
            "ceil",
            far,
            "front",
            "0",
            "edge",
            "0",
            "floor",
            "0",
            "state",
            "open",
            "waiting_max",
            far,
            "grace_ms",
            "300000",
            "session_ms",
            "600000",
            "alive_ms",
            "45000",
            "since",
            "0",
            "hole_from",
            "1",
            "hole_to",
            "0",
        ];
        let _: i64 = stage.redis.command(cmd("HSET").arg(&keys[0]).arg(&room)).await?;
        // As the service calls them: the account; the account, its number and the epoch of its ticket.
        let account = format!("account-{RANDOM}");
        let settings = site.settings();
        let join = RawScript::load(&stage.redis, settings, ::queue::JOIN_SCRIPT, &keys, &[account]).await?;
        let asking = ["account-that-asks".to_owned(), "1".to_owned(), "1".to_owned()];
        let claim = RawScript::load(&stage.redis, settings, ::queue::CLAIM_SCRIPT, &keys, &asking).await?;
        let mut bench = Bench {
            stage,
            join,
            claim,
            waiting: Vec::new(),
            tickets: Vec::new(),
            bytes_each: 0.0,
            acknowledged: 0,
            numbers: 0,
        };
        bench.fill().await?;
        Ok(bench)
    }

    /// One measurement of each kind.
    async fn round(&mut self, clients: usize, seconds: u64) -> anyhow::Result<Vec<Sample>> {
        let mut samples = vec![self.stage.say_hello(HELLO, clients, seconds, true).await?];
        samples.push(self.stage.run_script(RAW_JOIN, &self.join, clients, seconds).await?);
        samples.push(self.stage.run_script(RAW_CLAIM, &self.claim, clients, seconds).await?);
        samples.push(self.enters(clients, seconds).await?);
        let polls = self.stage.job(vec![String::new()], clients, seconds, 200)?;
        let polls = Job { tokens: self.waiting.clone(), tickets: self.tickets.clone(), ..polls };
        samples.push(self.stage.run(POLLS, &polls).await?.1);
        Ok(samples)
    }

    /// Everybody enters one line after the other.
    async fn enters(&mut self, clients: usize, seconds: u64) -> anyhow::Result<Sample> {
        let mut events = Vec::new();
        for _ in 0..seconds * ENTERS_PER_SECOND_MAX / self.stage.tokens.len() as u64 + 1 {
            events.push(self.open_sale().await?);
        }
        let paths = events.iter().map(|event| format!("/api/v1/queues/{event}/tickets")).collect();
        let job = self.stage.job(paths, clients, seconds, 201)?;
        let (outcome, sample) = self.stage.run(ENTERS, &job).await?;
        self.acknowledged += outcome.done;
        for event in events {
            self.numbers += self.numbers_of(event).await?;
            // A room that nobody enters any more would go on being run beside the next measurement.
            self.admin_posts(&format!("/admin/events/{event}/close")).await?;
        }
        Ok(sample)
    }

    /// All buyers enter one line, and wait there.
    async fn fill(&mut self) -> anyhow::Result<()> {
        let event = self.open_sale().await?;
        let before = self.redis_bytes().await?;
        let client = Client::for_load(self.stage.site.api(), FILLING)?;
        let path = format!("/queues/{event}/tickets");
        let entering = self.stage.tokens.iter().map(|token| {
            let (buyer, path) = (client.with_token(token), path.clone());
            async move {
                let answer = buyer.try_send(buyer.request(Method::POST, &path)).await?.succeeded()?;
                let Entered { ticket_id, ticket_token, seq } = answer.read()?;
                let ticket = Ticket { path: format!("/api/v1{path}/{ticket_id}"), token: ticket_token };
                anyhow::Ok((token.clone(), seq, ticket))
            }
        });
        let entered: Vec<(String, i64, Ticket)> = stream::iter(entering).buffered(FILLING).try_collect().await?;
        self.bytes_each = (self.redis_bytes().await? - before) as f64 / entered.len() as f64;
        self.acknowledged += entered.len() as u64;
        self.numbers += self.numbers_of(event).await?;
        let edge = self.edge_of(event).await? + NEAR_MAX;
        let far = entered.into_iter().filter(|(_, seq, _)| *seq > edge);
        (self.waiting, self.tickets) = far.map(|(token, _, ticket)| (token, ticket)).unzip();
        ensure!(!self.tickets.is_empty(), "nobody waits far from the front: it begins behind number {edge}");
        Ok(())
    }

    /// The last number of a sale's room that is near the front: whoever has it or a smaller one is looked up in Redis.
    async fn edge_of(&self, event: Uuid) -> anyhow::Result<i64> {
        let meta = self.stage.redis.key(&format!("q:{{{event}}}:meta"));
        let edge: Option<i64> = self.stage.redis.command(cmd("HGET").arg(meta).arg("edge")).await?;
        edge.with_context(|| format!("sale {event} has no room"))
    }

    /// A sale with a waiting room that admits next to nobody: all who enter wait.
    async fn open_sale(&self) -> anyhow::Result<Uuid> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Scheduled {
            event_id: Uuid,
        }
        let sku = format!("BENCH-{}", Uuid::now_v7());
        let product = NewProduct { sku: &sku, name: "Bench Sneaker", price: 129_000, stock: 1_000, max_per_user: None };
        let sale = json!({
            "name": "Bench",
            "opensAt": Utc::now(),
            "productIds": [self.stage.admin.create_product(&product).await?],
            "queueManageRequired": true,
            "queue": {
                "maxActive": 1, "ratePerMinute": 1, "sessionSeconds": 86_400, "claimSeconds": 60, "waitingMax": 1_000_000,
                "verifyOffline": false, "closedOnOutage": false,
            },
        });
        let admin = &self.stage.admin;
        let request = admin.request(Method::POST, "/admin/events").header("Idempotency-Key", fresh_key());
        let event = admin.try_send(request.json(&sale)).await?.succeeded()?.read::<Scheduled>()?.event_id;
        self.admin_posts(&format!("/admin/events/{event}/open")).await?;
        Ok(event)
    }

    async fn admin_posts(&self, path: &str) -> anyhow::Result<()> {
        let admin = &self.stage.admin;
        admin.try_send(admin.request(Method::POST, path)).await?.succeeded()?;
        Ok(())
    }

    /// How many numbers the room of a sale has given.
    async fn numbers_of(&self, event: Uuid) -> anyhow::Result<u64> {
        let meta = self.stage.redis.key(&format!("q:{{{event}}}:meta"));
        let next: Option<u64> = self.stage.redis.command(cmd("HGET").arg(meta).arg("next")).await?;
        // A sale that nobody has entered has no room yet.
        Ok(next.map_or(0, |next| next - 1))
    }

    async fn redis_bytes(&self) -> anyhow::Result<i64> {
        let told: String = self.stage.redis.command(cmd("INFO").arg("memory")).await?;
        let used = told.lines().find_map(|line| line.strip_prefix("used_memory:"));
        Ok(used.context("Redis does not say how much memory it uses")?.trim().parse()?)
    }

    async fn report(self, lines: Vec<Line>) -> anyhow::Result<Report> {
        let rate = |line: &Line| Some(line.per_second);
        let aims = [
            (POLLS, HELLO, Some("0.60 or more")),
            (ENTERS, RAW_JOIN, Some("0.40 or more")),
            (ENTERS, HELLO, None),
            (POLLS, RAW_CLAIM, None),
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
        let facts = vec![
            format!("A waiting person is {:.0} bytes in Redis.", self.bytes_each),
            format!("{} places were acknowledged, {} numbers were given.", self.acknowledged, self.numbers),
        ];
        Ok(Report {
            title: "The waiting room over HTTP, beside what bounds it",
            is_consistent: self.acknowledged == self.numbers,
            conditions: self.stage.tear_down().await,
            lines,
            ratios,
            facts,
        })
    }
}
