//! Kills: parts of the site are killed in the middle of the rush, one after the other, and brought back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::counters::Counters;
use crate::site::Site;

/// How long a part is down. Every buyer notices.
const DOWN: Duration = Duration::from_secs(1);
/// How often the progress is looked at: far less than the time between two kills.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// `Pace::limit` is a share of the progress in these units.
const SCALE: f64 = 1_000_000.0;

/// One kill as it happened. Times are since the start of the rush.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Killed {
    pub part: String,
    pub at_ms: u64,
    /// From the kill until it was ready again.
    pub down_ms: u64,
    /// Orders and answers that had been given when it was killed.
    pub orders: u64,
    pub answers: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
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

/// Kills `parts` in turn, the k-th of n at k/(n+1) of the progress, until `is_over`. Returns the kills that happened.
pub async fn run(site: &Site, parts: &[String], counters: &Counters, pace: &Pace, is_over: &AtomicBool) -> Vec<Killed> {
    let mut killed = Vec::new();
    let due = |number: usize| number as f64 / (parts.len() + 1) as f64;
    for (index, part) in parts.iter().enumerate() {
        while counters.progress() < due(index + 1) {
            if is_over.load(Ordering::Relaxed) {
                return killed;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        pace.part_is_down(due(index + 2));
        killed.push(kill(site, part, counters).await);
        pace.part_is_up();
    }
    killed
}

async fn kill(site: &Site, part: &str, counters: &Counters) -> Killed {
    let at = counters.elapsed();
    let (orders, answers) = (counters.placed.load(Ordering::Relaxed), counters.answered.load(Ordering::Relaxed));
    let outcome = async {
        site.kill(part).await?;
        tokio::time::sleep(DOWN).await;
        site.revive(part).await
    };
    let error = outcome.await.err().map(|error| format!("{error:#}"));
    let down = counters.elapsed() - at;
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Killed { part: part.to_owned(), at_ms: ms(at), down_ms: ms(down), orders, answers, error }
}
