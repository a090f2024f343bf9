//! `stampede rush --restock`: the buyers subscribe to a product, it comes back, is bought out while they are being told, and
//! comes back again. Over the public API; what the mail server was handed is read from the hub's own record.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use client::{Buyer, Client, Reply};
use common::db::Db;
use diesel::sql_types;
use futures_util::{StreamExt, stream};
use reqwest::{Method, Request};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

use super::prepare::{self, Administrator, Buyers};
use super::restock_verdict::{Alert, Promised, Verdict, judge};
use super::{Ended, REST_TIMEOUT, RushArgs, rest};
use crate::audit::{self, Ledger};
use crate::site::Site;

/// Between two looks at a round.
const LOOK: Duration = Duration::from_millis(20);
const RETRY: Duration = Duration::from_millis(50);

/// One JSON object.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    subscribers: u64,
    stock: u64,
    /// Of the round that was bought out in the middle, and of the one after it.
    rounds: Vec<Round>,
    #[serde(flatten)]
    verdict: Verdict,
    audit: audit::Report,
    violations: Vec<String>,
    #[serde(rename = "verdict")]
    word: audit::Verdict,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Round {
    round: i64,
    status: String,
    recipient_count: u64,
    sent_count: u64,
    started_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
}

pub async fn run(args: &RushArgs, site: &Site) -> anyhow::Result<Ended> {
    let db = prepare::account_db(site.settings()).await?;
    let client = Client::for_load(site.api(), usize::try_from(args.concurrency)?)?;
    let admin = Administrator::make(&client, &db).await?;
    let ran = Restock::prepare(args, site, client, &db, &admin).await;
    let ended = match ran {
        Ok(restock) => restock.run(site).await,
        Err(error) => Err(error),
    };
    admin.resign(&db).await?;
    let outcome = ended?;
    Ok(Ended { json: json!(outcome), text: outcome.text(), is_clean: outcome.violations.is_empty() })
}

/// What there is before the clock starts.
struct Restock {
    client: Client,
    admin: Client,
    product: Uuid,
    buyers: Arc<Vec<Buyer>>,
    stock: u64,
    concurrency: usize,
    deadline: Instant,
}

impl Restock {
    async fn prepare(
        args: &RushArgs,
        site: &Site,
        client: Client,
        db: &Db,
        admin: &Administrator,
    ) -> anyhow::Result<Restock> {
        eprintln!("Preparing {} subscribers at {}", args.buyers, site.api());
        let auth = site.settings().section("auth")?;
        let (count, sample) = (usize::try_from(args.buyers)?, usize::try_from(args.sample)?);
        let Buyers { all, .. } = prepare::buyers(&client, db, &auth, count, sample).await?;
        // A product that has never been in stock.
        let product = admin.product(0).await?;
        Ok(Restock {
            concurrency: usize::try_from(args.concurrency)?,
            client,
            admin: admin.client.clone(),
            product,
            buyers: Arc::new(all),
            stock: args.stock.min(args.buyers),
            deadline: Instant::now() + Duration::from_secs(args.timeout_seconds),
        })
    }

    async fn run(&self, site: &Site) -> anyhow::Result<Outcome> {
        let subscriptions = self.subscribe().await?;
        eprintln!("{} have subscribed; the product comes back", subscriptions.len());
        self.adjust().await?;
        let third = subscriptions.len() as u64 / 3;
        self.round(1, |round| round.recipient_count >= third || round.ended_at.is_some()).await?;
        let gone_at = self.buy_out().await?;
        let first = self.round(1, |round| round.ended_at.is_some()).await?;
        eprintln!("Bought out: {} of them were told, the round is {}", first.sent_count, first.status);
        self.adjust().await?;
        let second = self.round(2, |round| round.ended_at.is_some()).await?;
        eprintln!("Back again: {} were told, the round is {}", second.sent_count, second.status);
        rest::wait(site.settings(), self.deadline.max(Instant::now() + REST_TIMEOUT)).await?;

        let mut ledger = Ledger::open(site.settings()).await?;
        let told = ledger.statement(include_str!("restock.sql")).into_boxed();
        let alerts: Vec<Alert> = ledger.bound_rows(told.bind::<sql_types::Uuid, _>(self.product)).await?;
        let subscribers = subscriptions.len() as u64;
        let promised = Promised { subscriptions, sold_out: (1, gone_at), whole: 2 };
        let verdict = judge(&promised, &alerts);
        let audit = audit::run(site.settings()).await?;
        let mut violations = verdict.violations();
        let all_before = first.status == "COMPLETED" && first.recipient_count == subscribers;
        if first.status != "CANCELED_BY_SOLD_OUT" && !all_before {
            violations.push(format!("the first round is {}, and its product was bought out", first.status));
        }
        if second.status != "COMPLETED" {
            violations.push(format!("the second round is {}", second.status));
        }
        if !audit.violated().is_empty() {
            violations.push(format!("the audit finds {} violated", audit.violated().join(", ")));
        }
        let word = if violations.is_empty() { audit::Verdict::Pass } else { audit::Verdict::Fail };
        let rounds = vec![first, second];
        Ok(Outcome { subscribers, stock: self.stock, rounds, verdict, audit, violations, word })
    }

    /// Everybody subscribes at once. Returns who was told so, and the number of the subscription.
    async fn subscribe(&self) -> anyhow::Result<HashMap<Uuid, i64>> {
        let asked = stream::iter(self.buyers.iter()).map(|buyer| self.subscribe_one(buyer));
        let answers: Vec<anyhow::Result<(Uuid, i64)>> = asked.buffer_unordered(self.concurrency).collect().await;
        answers.into_iter().collect()
    }

    async fn subscribe_one(&self, buyer: &Buyer) -> anyhow::Result<(Uuid, i64)> {
        loop {
            let reply = self.client.subscribe_for(buyer, self.product).await;
            let pause = match &reply {
                Reply::Answered { status: 200 | 201, .. } => {
                    let id = reply.json()["subscriptionId"].clone();
                    let id = id.as_i64().or_else(|| id.as_str()?.parse().ok());
                    return Ok((buyer.account, id.context("a subscription without a number")?));
                }
                Reply::Answered { status, body } => bail!("subscribing: {status} {}", String::from_utf8_lossy(body)),
                Reply::Busy(pause) => *pause,
                Reply::Unknown => RETRY,
            };
            self.pause(pause, "subscribing").await?;
        }
    }

    /// Units arrive.
    async fn adjust(&self) -> anyhow::Result<()> {
        let path = format!("/admin/products/{}/stock-adjust", self.product);
        let body = json!({ "delta": self.stock, "reason": "rush" });
        let request = self.admin.request(Method::POST, &path).header("Idempotency-Key", Uuid::new_v4().to_string());
        self.admin.patiently(request.json(&body), self.deadline).await?.succeeded()?;
        Ok(())
    }

    /// The round, once `is_so`.
    async fn round(&self, round: i64, is_so: impl Fn(&Round) -> bool) -> anyhow::Result<Round> {
        let path = format!("/admin/products/{}/restock-rounds/{round}", self.product);
        loop {
            let answer = self.admin.patiently(self.admin.request(Method::GET, &path), self.deadline).await?;
            // It begins when its event has been read.
            if answer.status != reqwest::StatusCode::NOT_FOUND {
                let found: Round = answer.succeeded()?.read()?;
                if is_so(&found) {
                    return Ok(found);
                }
            }
            self.pause(LOOK, "waiting for a round").await?;
        }
    }

    /// As many buyers as there are units order one each. Returns when the last one was acknowledged.
    async fn buy_out(&self) -> anyhow::Result<DateTime<Utc>> {
        let order = self.client.order_request(self.product, 1)?;
        let units = usize::try_from(self.stock)?;
        let asked = stream::iter(&self.buyers[..units]).map(|buyer| self.buy(buyer, &order));
        let answers: Vec<anyhow::Result<()>> = asked.buffer_unordered(self.concurrency).collect().await;
        answers.into_iter().collect::<anyhow::Result<Vec<()>>>()?;
        Ok(Utc::now())
    }

    async fn buy(&self, buyer: &Buyer, order: &Request) -> anyhow::Result<()> {
        loop {
            let pause = match self.client.place_for(buyer, order).await {
                Reply::Answered { status: 201, .. } => return Ok(()),
                Reply::Answered { status, body } => bail!("ordering: {status} {}", String::from_utf8_lossy(&body)),
                Reply::Busy(pause) => pause,
                Reply::Unknown => RETRY,
            };
            self.pause(pause, "ordering").await?;
        }
    }

    async fn pause(&self, pause: Duration, what: &str) -> anyhow::Result<()> {
        if Instant::now() + pause >= self.deadline {
            bail!("{what} was not over in time; see --timeout-seconds");
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

impl Outcome {
    /// The outcome for people.
    fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| text.push_str(&format!("{name:<24}{value}\n"));
        line("subscribers", self.subscribers.to_string());
        for Round { round, status, sent_count, started_at, ended_at, .. } in &self.rounds {
            let seconds = ended_at.map(|end| (end - *started_at).as_seconds_f64()).unwrap_or_default();
            line("round", format!("{round}: {status}, {sent_count} told in {seconds:.2} s"));
        }
        let Verdict {
            restock_missing,
            restock_duplicates,
            restock_out_of_order,
            sent_after_sold_out_ms,
            max_per_second,
        } = &self.verdict;
        line("restock missing", restock_missing.to_string());
        line("restock duplicates", restock_duplicates.to_string());
        line("restock out of order", restock_out_of_order.to_string());
        line("sent after sold out", format!("{sent_after_sold_out_ms} ms"));
        line("max per second", max_per_second.to_string());
        text.push('\n');
        text.push_str(&self.audit.text());
        for violation in &self.violations {
            text.push_str(&format!("violation: {violation}\n"));
        }
        let verdict = if self.word == audit::Verdict::Pass { "PASS" } else { "FAIL" };
        text.push_str(&format!("rush: {verdict}\n"));
        text
    }
}
