//! Outages: parts of the site are killed, or told to stop, in the middle of the rush, one after the other, and brought back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::bail;
use serde::Serialize;
use tokio::time::Instant;

use super::counters::Counters;
use super::{RushArgs, show};
use crate::site::Site;

/// How long a part is down. Every buyer notices.
const DOWN: Duration = Duration::from_secs(1);
/// How often the progress is looked at: far less than the time between two kills.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// `Pace::limit` is a share of the progress in these units.
const SCALE: f64 = 1_000_000.0;

/// What is asked for.
#[derive(Debug, Clone)]
pub enum Outage {
    /// As by `kill -9`.
    Kill(String),
    /// By SIGTERM, as when a new version is rolled out: with another replica, no buyer notices.
    Restart(String),
}

impl Outage {
    pub fn part(&self) -> &str {
        let (Outage::Kill(part) | Outage::Restart(part)) = self;
        part
    }
}

/// The kills and the restarts that are asked for. Refuses what is no part of the site.
pub fn asked(args: &RushArgs, site: &Site) -> anyhow::Result<Vec<Outage>> {
    let parts = site.parts();
    if let Some(unknown) = args.kill.iter().chain(&args.restart).find(|part| !parts.contains(part)) {
        bail!("there is no {unknown:?} here; what can be killed: {}", parts.join(", "));
    }
    let kills = args.kill.iter().cloned().map(Outage::Kill);
    Ok(kills.chain(args.restart.iter().cloned().map(Outage::Restart)).collect())
}

/// One outage as it happened. Times are since the start of the rush.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Killed {
    pub part: String,
    /// It was told to stop, and drained.
    pub drained: bool,
    pub at_ms: u64,
    /// From the kill, or from when it was told, until it was ready again.
    pub down_ms: u64,
    /// Orders and answers that had been given when it was killed.
    pub orders: u64,
    pub answers: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Killed {
    /// A line for people: a name and a value.
    pub fn line(&self) -> (&'static str, String) {
        let Killed { part, drained, at_ms, down_ms, orders, error, .. } = self;
        let outcome = error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
        let word = if *drained { "restarted" } else { "killed" };
        (word, format!("{part} at {at_ms} ms, after {orders} orders, down for {down_ms} ms{outcome}"))
    }
}

/// Slows the buyers down while a part is down: were they all answered meanwhile, the next kills would hit nobody.
#[derive(Debug, Default)]
pub struct Pace {
    is_down: AtomicBool,
    limit: AtomicU64,
}

impl Pace {
    /// Returns when the next buyer may come: at once, unless a part is down and the next kill is due already.
    pub async fn wait(&self, counters: &Counters, deadline: Instant) {
        while self.is_down.load(Ordering::Relaxed)
            && counters.progress() * SCALE >= self.limit.load(Ordering::Relaxed) as f64
            && Instant::now() < deadline
        {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn part_is_down(&self, limit: f64) {
        self.limit.store((limit * SCALE) as u64, Ordering::Relaxed);
        self.is_down.store(true, Ordering::Relaxed);
    }

    fn part_is_up(&self) {
        self.is_down.store(false, Ordering::Relaxed);
    }
}

/// Has `buying` go on to its end while `outages` happen and the progress is shown. Returns both outcomes.
pub async fn during<T>(
    buying: impl Future<Output = T>,
    outages: &[Outage],
    site: &Site,
    counters: &Counters,
    pace: &Pace,
) -> (T, Vec<Killed>) {
    let is_over = AtomicBool::new(false);
    let buying = async {
        let bought = buying.await;
        is_over.store(true, Ordering::Relaxed);
        bought
    };
    let both = async { tokio::join!(buying, run(site, outages, counters, pace, &is_over)) };
    tokio::select! {
        both = both => both,
        () = show::run(counters) => unreachable!("it shows for as long as it is polled"),
    }
}

/// Has `outages` in turn, the k-th of n at k/(n+1) of the progress, until `is_over`. Returns those that happened.
async fn run(site: &Site, outages: &[Outage], counters: &Counters, pace: &Pace, is_over: &AtomicBool) -> Vec<Killed> {
    let mut killed = Vec::new();
    let due = |number: usize| number as f64 / (outages.len() + 1) as f64;
    for (index, outage) in outages.iter().enumerate() {
        while counters.progress() < due(index + 1) {
            if is_over.load(Ordering::Relaxed) {
                return killed;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        pace.part_is_down(due(index + 2));
        killed.push(take_down(site, outage, counters).await);
        pace.part_is_up();
    }
    killed
}

async fn take_down(site: &Site, outage: &Outage, counters: &Counters) -> Killed {
    let (part, drained) = (outage.part(), matches!(outage, Outage::Restart(_)));
    let at = counters.elapsed();
    let (orders, answers) = (counters.placed.load(Ordering::Relaxed), counters.answered.load(Ordering::Relaxed));
    let outcome = async {
        match outage {
            Outage::Kill(part) => site.kill(part).await?,
            Outage::Restart(part) => site.terminate(part).await?,
        }
        tokio::time::sleep(DOWN).await;
        site.revive(part).await
    };
    let error = outcome.await.err().map(|error| format!("{error:#}"));
    let down = counters.elapsed() - at;
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Killed { part: part.to_owned(), drained, at_ms: ms(at), down_ms: ms(down), orders, answers, error }
}
