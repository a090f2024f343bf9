//! The buyers, in a process of their own: a closed loop on each connection, as light as pgbench is on its side.
//!
//! Told what to do by one line of JSON on standard input, it answers `ready`, waits for a second line, and ends with
//! one line of JSON.

mod pay;

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures_util::future::{join_all, try_join_all};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use uuid::Uuid;

use super::figures::{Latencies, milliseconds};
use pay::Till;

/// What this process says when all connections are open.
pub const READY: &str = "ready";
/// Far beyond every deadline of the services: who does not answer by then has hung up without saying so.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// More than an answer to an order has.
const ANSWER_BYTES: usize = 4096;

/// What to do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    /// `host:port`.
    pub address: String,
    /// A path that is asked for once on each connection, to have it open.
    pub first_path: String,
    /// The body of every order.
    pub order: String,
    /// The buyers' access tokens; they take turns.
    pub tokens: Vec<String>,
    pub connections: usize,
    pub seconds: f64,
    /// Whether each order is paid before the next one.
    pub pays: bool,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Orders that were answered 201 and, where they are paid, PAID.
    pub placed: u64,
    /// Other answers, by status and code.
    pub refused: BTreeMap<String, u64>,
    /// Until the last answer.
    pub seconds: f64,
    /// Of these orders, to the last answer.
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// Does one job. Blocks the thread, for it has a runtime of one thread of its own.
pub fn run() -> anyhow::Result<()> {
    let mut lines = io::stdin().lock().lines();
    let mut line = || lines.next().context("nobody tells the generator what to do")?.context("reading standard input");
    let job: Job = serde_json::from_str(&line()?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let opening = (0..job.connections).map(|_| Connection::open(&job.address, &job.first_path));
    let mut connections = runtime.block_on(try_join_all(opening))?;
    say(READY)?;
    line()?;
    let outcome = runtime.block_on(buy_all(&job, &mut connections))?;
    say(&serde_json::to_string(&outcome)?)
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

async fn buy_all(job: &Job, connections: &mut [Connection]) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let end = started + Duration::from_secs_f64(job.seconds);
    let count = connections.len();
    let buying = connections.iter_mut().enumerate().map(|(index, connection)| {
        // No two connections share a buyer at a time, as long as there are more buyers than connections.
        let tokens = job.tokens.iter().cycle().skip(index).step_by(count);
        buy(job, connection, tokens, end)
    });
    let mut outcome = Bought::default();
    for bought in join_all(buying).await {
        let bought = bought?;
        outcome.latencies.append(bought.latencies);
        for (what, times) in bought.refused {
            *outcome.refused.entry(what).or_default() += times;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let placed = outcome.latencies.len() as u64;
    let sorted = outcome.latencies.sorted();
    Ok(Outcome {
        placed,
        refused: outcome.refused,
        seconds,
        p50_ms: milliseconds(sorted.percentile(50.0)),
        p99_ms: milliseconds(sorted.percentile(99.0)),
    })
}

#[derive(Default)]
struct Bought {
    latencies: Latencies,
    refused: BTreeMap<String, u64>,
}

async fn buy<'a>(
    job: &Job,
    connection: &mut Connection,
    mut tokens: impl Iterator<Item = &'a String>,
    end: Instant,
) -> anyhow::Result<Bought> {
    let mut bought = Bought::default();
    let mut request = Vec::new();
    let mut till = Till::default();
    while Instant::now() < end {
        let token = tokens.next().context("there are no buyers")?;
        request.clear();
        write!(
            request,
            "POST /api/v1/orders HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {token}\r\nidempotency-key: {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{}",
            job.address,
            Uuid::new_v4(),
            job.order.len(),
            job.order
        )?;
        let at = Instant::now();
        let refusal = match connection.ask(&request).await? {
            201 if job.pays => till.pay(job, connection, token).await?,
            201 => None,
            status => Some(connection.refusal(status)),
        };
        match refusal {
            None => bought.latencies.record(at.elapsed()),
            Some(refusal) => *bought.refused.entry(refusal).or_default() += 1,
        }
    }
    Ok(bought)
}

/// One connection that stays open.
struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
    /// Where in `answer` its body begins.
    body_at: usize,
}

impl Connection {
    /// Opens one to `address`, and asks it for `first_path`.
    async fn open(address: &str, first_path: &str) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        let mut connection = Connection { stream, answer: Vec::with_capacity(ANSWER_BYTES), body_at: 0 };
        let first = format!("GET {first_path} HTTP/1.1\r\nhost: {address}\r\n\r\n");
        let status = connection.ask(first.as_bytes()).await?;
        ensure!(status == 200, "GET {first_path} answered {status}");
        Ok(connection)
    }

    /// Sends `request` and waits for the whole answer; returns its status.
    async fn ask(&mut self, request: &[u8]) -> anyhow::Result<u16> {
        timeout(ANSWER_TIMEOUT, async {
            self.stream.write_all(request).await?;
            self.answer.clear();
            loop {
                let received = self.stream.read_buf(&mut self.answer).await?;
                ensure!(received > 0, "the server closed a connection that was in use");
                if let Some(head) = head(&self.answer)?
                    && self.answer.len() >= head.body_at + head.body_bytes
                {
                    self.body_at = head.body_at;
                    return Ok(head.status);
                }
            }
        })
        .await
        .context("an order was not answered")?
    }

    /// What the last answer says.
    fn body(&self) -> Value {
        serde_json::from_slice(&self.answer[self.body_at..]).unwrap_or_default()
    }

    /// The last answer in a few words.
    fn refusal(&self, status: u16) -> String {
        let body = self.body();
        format!("{status} {}", body["code"].as_str().unwrap_or("without a code"))
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    body_at: usize,
    body_bytes: usize,
}

/// The head of an HTTP/1.1 answer; none while it is not complete.
fn head(answer: &[u8]) -> anyhow::Result<Option<Head>> {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&answer[..end])?;
    let mut lines = text.split("\r\n");
    let status =
        lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).context("an answer without a status")?;
    let length =
        lines.filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let (_, length) = length.context("an answer without a length")?;
    Ok(Some(Head { status, body_at: end + 4, body_bytes: length.trim().parse()? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_once_it_is_complete() {
        let answer = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nlocation: /x:y\r\n\r\n{}";
        let complete = Head { status: 201, body_at: answer.len() - 2, body_bytes: 2 };
        assert_eq!(head(answer).unwrap(), Some(complete));
        for cut in 0..answer.len() - 2 {
            assert_eq!(head(&answer[..cut]).unwrap(), None, "{cut}");
        }
    }

    #[test]
    fn an_answer_that_cannot_be_measured_is_an_error() {
        assert!(head(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        assert!(head(b"nonsense\r\ncontent-length: 0\r\n\r\n").is_err());
        assert!(head(b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n").is_err());
    }
}
