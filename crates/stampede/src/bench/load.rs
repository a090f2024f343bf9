//! The buyers, in a process of their own: a closed loop on each connection, as light as pgbench is on its side.
//!
//! Told what to do by one line of JSON on standard input, it answers `ready`, waits for a second line, and ends with
//! one line of JSON.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use client::{Bill, Connection, Prepared, code_of, pg_payment_id};
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};

use crate::latency::Latencies;

/// What this process says when all connections are open.
pub const READY: &str = "ready";

/// What to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// `host:port`.
    pub address: String,
    /// A path that is asked for once on each connection, to have it open.
    pub first_path: String,
    /// Where requests are posted: all buyers have their turn at the first path, then at the second, and so on.
    pub paths: Vec<String>,
    pub body: String,
    /// The buyers' access tokens; they take turns.
    pub tokens: Vec<String>,
    /// If there are any: nothing is posted, and each buyer looks at the ticket in the place of their token.
    pub tickets: Vec<Ticket>,
    /// The status that is asked for.
    pub expected: u16,
    pub connections: usize,
    pub seconds: f64,
    /// Whether each order is paid before the next one.
    pub pays: bool,
}

/// A place in the line of a sale event.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ticket {
    pub path: String,
    pub token: String,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Requests that were answered as expected and, where they are paid, PAID.
    pub done: u64,
    /// Other answers, by status and code.
    pub refused: BTreeMap<String, u64>,
    /// Until the last answer.
    pub seconds: f64,
    /// From the request for an order to its last answer.
    pub mean_ms: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// What all connections together have had so far.
#[derive(Default)]
struct Answers {
    latencies: Latencies,
    refused: BTreeMap<String, u64>,
}

/// Does one job. Blocks the thread, for it has a runtime of one thread of its own.
pub fn run() -> anyhow::Result<()> {
    let mut lines = io::stdin().lock().lines();
    let mut line = || lines.next().context("standard input ended before the job")?.context("reading standard input");
    let job: Job = serde_json::from_str(&line()?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let opening = (0..job.connections).map(|_| open(&job));
    let mut connections = runtime.block_on(try_join_all(opening))?;
    print_line(READY)?;
    line()?;
    let outcome = runtime.block_on(buy_all(&job, &mut connections))?;
    print_line(&serde_json::to_string(&outcome)?)
}

fn print_line(line: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

async fn open(job: &Job) -> anyhow::Result<Connection> {
    let mut connection = Connection::open(&job.address).await?;
    let status = connection.get(&job.first_path).await?;
    ensure!(status == 200, "GET {} answered {status}", job.first_path);
    Ok(connection)
}

async fn buy_all(job: &Job, connections: &mut [Connection]) -> anyhow::Result<Outcome> {
    let answers = RefCell::new(Answers::default());
    let started = Instant::now();
    let end = started + Duration::from_secs_f64(job.seconds);
    ensure!(!job.tokens.is_empty() && !job.paths.is_empty(), "there are no buyers, or there is nothing to ask for");
    let count = connections.len();
    let buying = connections.iter_mut().enumerate().map(|(index, connection)| {
        // No two connections share a buyer at a time, as long as there are more buyers than connections.
        buy(job, connection, (index..).step_by(count), end, &answers)
    });
    try_join_all(buying).await?;
    let seconds = started.elapsed().as_secs_f64();
    let Answers { latencies, refused } = answers.into_inner();
    Ok(Outcome {
        done: latencies.count(),
        refused,
        seconds,
        mean_ms: latencies.mean_ms(),
        p50_ms: latencies.ms(0.50),
        p99_ms: latencies.ms(0.99),
    })
}

async fn buy(
    job: &Job,
    connection: &mut Connection,
    mut turns: impl Iterator<Item = usize>,
    end: Instant,
    answers: &RefCell<Answers>,
) -> anyhow::Result<()> {
    let mut window = None;
    while Instant::now() < end {
        let turn = turns.next().context("turns have no end")?;
        let (buyer, path) = (turn % job.tokens.len(), turn / job.tokens.len() % job.paths.len());
        let token = &job.tokens[buyer];
        let at = Instant::now();
        let status = match job.tickets.get(buyer) {
            Some(ticket) => connection.get_ticket(&ticket.path, token, &ticket.token).await?,
            None => connection.post(&job.paths[path], Some(token), &job.body).await?,
        };
        let refusal = match status {
            status if status != job.expected => Some(refusal(status, connection)),
            _ if job.pays => pay(connection, &mut window, token).await?,
            _ => None,
        };
        let mut answers = answers.borrow_mut();
        match refusal {
            None => answers.latencies.record(at.elapsed()),
            Some(refusal) => *answers.refused.entry(refusal).or_default() += 1,
        }
    }
    Ok(())
}

/// Pays for the order that `connection` has just been answered: prepares, agrees in the provider's window, approves.
/// `window` is the buyer's connection to the provider, opened with the first payment. Returns how it was refused, if it
/// was.
async fn pay(
    connection: &mut Connection,
    window: &mut Option<(String, Connection)>,
    token: &str,
) -> anyhow::Result<Option<String>> {
    let bill = Bill::of(connection.body())?;
    let preparation = bill.preparation().to_string();
    let status = connection.post("/api/v1/payments/prepare", Some(token), &preparation).await?;
    if status != 201 {
        return Ok(Some(refusal(status, connection)));
    }
    let Prepared { payment_id, window: url, consent } = Prepared::of(connection.body())?;
    let address = format!(
        "{}:{}",
        url.host_str().context("the provider's window has no host")?,
        url.port_or_known_default().context("the provider's window has no port")?
    );
    let window = match window {
        Some((open, window)) if *open == address => window,
        window => {
            let connection = Connection::open(&address).await?;
            &mut window.insert((address, connection)).1
        }
    };
    let status = window.post(url.path(), None, &consent.to_string()).await?;
    if status != 200 {
        return Ok(Some(format!("{status} of the provider's window")));
    }
    let approval = bill.approval(pg_payment_id(&window.json())?).to_string();
    let status = connection.post(&format!("/api/v1/payments/{payment_id}/approve"), Some(token), &approval).await?;
    let is_paid = status == 200 && connection.json()["status"] == "PAID";
    Ok(if is_paid { None } else { Some(refusal(status, connection)) })
}

/// The last answer in a few words.
fn refusal(status: u16, connection: &Connection) -> String {
    format!("{status} {}", code_of(connection.body()))
}
