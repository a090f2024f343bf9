//! `stampede rush --seats [--queue] [--pay]`: many buyers want the seats of one concert, with --queue through its waiting
//! room. Some go away in line, some give back what they have reserved, some come without a pass or with a forged one.

mod verdict;
mod visits;
mod waiting_line;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use client::{Buyer, Client, NewConcert, NewSeats};
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use reqwest::Method;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use uuid::Uuid;

use super::counters::Counters;
use super::kills::{self, Killed, Pace};
use super::outcome::Paid;
use super::pay::{Payers, PaymentRecord, Shared};
use super::prepare::{self, Administrator, Buyers};
use super::provider::Provider;
use super::{Ended, REST_MONEY_TIMEOUT, REST_TIMEOUT, RushArgs, money, rest};
use crate::audit;
use crate::site::Site;
use verdict::{Line, Verdict, Visit, judge};
use waiting_line::Queue;

/// In won.
const PRICE: i64 = 150_000;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    buyers: u64,
    seats: u64,
    seats_ordered: u64,
    /// Answers 409 to somebody who wanted a seat that others had.
    seats_refused: u64,
    seconds: f64,
    #[serde(flatten)]
    line: Verdict,
    /// Where orders were paid.
    #[serde(flatten)]
    money: Option<Paid>,
    kills: Vec<Killed>,
    audit: audit::Report,
    violations: Vec<String>,
    verdict: audit::Verdict,
}

pub async fn run(args: &RushArgs, site: &Site) -> anyhow::Result<Ended> {
    let outages = kills::asked(args, site)?;
    let db = prepare::account_db(site.settings()).await?;
    let client = Client::for_load(site.api(), usize::try_from(args.concurrency)?)?;
    eprintln!("Preparing {} seats and {} buyers at {}", args.stock, args.buyers, site.api());
    let auth = site.settings().section("auth")?;
    let (count, sample) = (usize::try_from(args.buyers)?, usize::try_from(args.sample)?);
    let Buyers { all, .. } = prepare::buyers(&client, &db, &auth, count, sample).await?;
    let admin = Administrator::make(&client, &db).await?;
    let rush = Rush::prepare(args, client, all, &admin.client).await;
    admin.resign(&db).await?;
    let rush = rush?;
    let provider = Provider::open(args, site).await?;
    let started = Instant::now();
    let buying = rush.clone().visits();
    let (visits, kills) = kills::during(buying, &outages, site, &rush.counters, &rush.pace).await;
    let seconds = started.elapsed().as_secs_f64();
    if let Some(provider) = &provider {
        provider.behave().await?;
    }
    eprintln!("All buyers are done after {seconds:.1} s; waiting for the system to come to rest");
    let missed = outages.len() - kills.iter().filter(|kill| kill.error.is_none()).count();
    let seen = Seen { visits: visits?, kills, missed, seconds };
    let outcome = rush.conclude(site, seen, provider.as_ref()).await?;
    Ok(Ended { json: json!(outcome), text: outcome.text(), is_clean: outcome.violations.is_empty() })
}

/// What happened while the buyers came.
struct Seen {
    visits: Vec<Visit>,
    kills: Vec<Killed>,
    /// Outages that did not happen as they were asked for.
    missed: usize,
    seconds: f64,
}

struct Rush {
    client: Client,
    buyers: Arc<Vec<Buyer>>,
    concert: Uuid,
    product: Uuid,
    seats: Vec<Uuid>,
    queue: Option<Queue>,
    /// Requests under way.
    slots: Arc<Semaphore>,
    concurrency: usize,
    counters: Arc<Counters>,
    pace: Arc<Pace>,
    /// Where orders are paid.
    payers: Option<Payers>,
    /// Seats that somebody was told to have lost to others: not worth trying.
    gone: Mutex<HashSet<Uuid>>,
    line: Mutex<Line>,
    refused: AtomicU64,
    deadline: Instant,
}

impl Rush {
    async fn prepare(args: &RushArgs, client: Client, buyers: Vec<Buyer>, admin: &Client) -> anyhow::Result<Arc<Rush>> {
        let name = format!("RUSH-{}", Uuid::now_v7().simple());
        let concert = NewConcert {
            title: &name,
            starts_at: "2036-01-01T10:00:00Z",
            max_per_user: 10,
            queue_manage_required: args.queue,
        };
        let concert = admin.create_concert(&concert).await.context("creating the concert")?;
        let count = usize::try_from(args.stock)?;
        let category = NewSeats { sku: &name, name: "Rush seat", price: PRICE, row: "A", count };
        let product = admin.add_seats(concert, &category).await.context("adding the seats")?;
        let queue = match args.queue {
            true => {
                Some(Queue::schedule(admin, &name, product, args.concurrency).await.context("scheduling the sale")?)
            }
            false => None,
        };
        let map: Value = admin
            .try_send(admin.request(Method::GET, &format!("/concerts/{concert}/seats")))
            .await?
            .succeeded()?
            .read()?;
        let concurrency = usize::try_from(args.concurrency)?;
        let deadline = Instant::now() + Duration::from_secs(args.timeout_seconds);
        let (buyers, slots) = (Arc::new(buyers), Arc::new(Semaphore::new(concurrency)));
        let counters = Arc::new(visits::counters(buyers.len(), args.stock, args.queue, args.pay));
        let pace = Arc::new(Pace::default());
        let payers = args.pay.then(|| {
            Payers::new(Shared {
                client: client.clone(),
                buyers: buyers.clone(),
                counters: counters.clone(),
                pace: pace.clone(),
                double_clicks: args.double_click,
                deadline,
                slots: slots.clone(),
            })
        });
        Ok(Arc::new(Rush {
            client,
            buyers,
            concert,
            product,
            seats: visits::seats_of(&map, |_| true),
            queue,
            slots,
            concurrency,
            counters,
            pace,
            payers,
            gone: Mutex::default(),
            line: Mutex::default(),
            refused: AtomicU64::new(0),
            deadline,
        }))
    }

    /// Waits until the system is at rest, looks at it, and judges.
    async fn conclude(&self, site: &Site, seen: Seen, provider: Option<&Provider>) -> anyhow::Result<Outcome> {
        let Seen { visits, kills, missed, seconds } = seen;
        let deadline = match provider {
            Some(_) => Instant::now() + REST_MONEY_TIMEOUT,
            None => self.deadline.max(Instant::now() + REST_TIMEOUT),
        };
        let pending = rest::wait(site.settings(), deadline).await?;
        let lost = self.count_lost(&visits).await?;
        let slots_max = self.queue.as_ref().map(|queue| queue.slots_max);
        let line = judge(&visits, &self.line.lock(), slots_max, lost);
        let mut violations = line.violations();
        let mut money = None;
        if let Some(Provider { address, before }) = provider {
            let found = rest::money(site.settings(), self.product, address, *before).await?;
            let payments: Vec<PaymentRecord> = visits.iter().filter_map(|visit| visit.payment.clone()).collect();
            let judged = money::judge(visits.iter().filter_map(|visit| visit.order), &payments, &found);
            violations.extend(judged.all_violations());
            money = Some(Paid::new(judged, &payments, &kills, Duration::from_secs_f64(seconds)));
        }
        let audit = audit::run(site.settings()).await?;
        if !audit.violated().is_empty() {
            violations.push(format!("the audit finds {} violated", audit.violated().join(", ")));
        }
        let others = [(pending, "events are still in an outbox"), (missed as u64, "kills did not happen as asked")];
        violations.extend(others.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")));
        let verdict = if violations.is_empty() { audit::Verdict::Pass } else { audit::Verdict::Fail };
        Ok(Outcome {
            buyers: self.buyers.len() as u64,
            seats: self.seats.len() as u64,
            seats_ordered: visits.iter().map(|visit| visit.ordered.len() as u64).sum(),
            seats_refused: self.refused.load(Ordering::Relaxed),
            seconds,
            line,
            money,
            kills,
            audit,
            violations,
            verdict,
        })
    }

    /// Orders that were acknowledged and are not there.
    async fn count_lost(&self, visits: &[Visit]) -> anyhow::Result<u64> {
        let reads = visits.iter().filter_map(|visit| Some((visit.buyer, visit.order?)));
        let reads = stream::iter(reads).map(|(buyer, order)| async move {
            let path = format!("/orders/{order}");
            let (status, _) = self.answered("reading", || self.client.read_for(&self.buyers[buyer], &path)).await?;
            anyhow::Ok(u64::from(status != 200))
        });
        let lost: Vec<anyhow::Result<u64>> = reads.buffer_unordered(self.concurrency).collect().await;
        lost.into_iter().sum()
    }
}

impl Outcome {
    /// The outcome for people.
    fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| text.push_str(&format!("{name:<24}{value}\n"));
        line("buyers", format!("{} in {:.1} s", self.buyers, self.seconds));
        line("seats ordered", format!("{} of {}", self.seats_ordered, self.seats));
        line("refused a taken seat", self.seats_refused.to_string());
        let Verdict { double_seats, orders_lost, .. } = &self.line;
        line("double seats", double_seats.to_string());
        line("orders lost", orders_lost.to_string());
        line("let in without a pass", self.line.admitted_without_pass.to_string());
        line("order violations", self.line.order_violations.to_string());
        line("capacity exceeded by", self.line.capacity_exceeded.to_string());
        if let Some(late) = self.line.open_lateness_ms {
            line("opened", format!("{late} ms after its time"));
        }
        for (name, value) in self.money.iter().flat_map(|money| money.lines(!self.kills.is_empty())) {
            line(name, value);
        }
        for kill in &self.kills {
            let (name, value) = kill.line();
            line(name, value);
        }
        text.push('\n');
        text.push_str(&self.audit.text());
        for violation in &self.violations {
            text.push_str(&format!("violation: {violation}\n"));
        }
        let verdict = if self.verdict == audit::Verdict::Pass { "PASS" } else { "FAIL" };
        text.push_str(&format!("rush: {verdict}\n"));
        text
    }
}
