//! Kills: parts of the site die in the middle of the rush, one after the other, and come back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::tally::Tally;
use crate::site::Site;

/// Long enough for every buyer to notice.
const DEAD: Duration = Duration::from_secs(1);
/// How often the progress is looked at: far less than the time between two kills.
const GLANCE: Duration = Duration::from_millis(2);
/// `Pace::limit` is a share of the way in these units.
const SCALE: f64 = 1_000_000.0;

/// One kill as it happened. Times are since the start of the rush.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Killed {
    pub part: String,
    pub at_ms: u64,
    /// From the kill until it was ready again.
    pub down_ms: u64,
    /// Orders and answers that had been given when it died.
    pub orders: u64,
    pub answers: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Keeps the buyers from being all served while a part is dead: then the kills after it would hit nobody.
#[derive(Debug, Default)]
pub struct Pace {
    is_dead: AtomicBool,
    limit: AtomicU64,
}

impl Pace {
    /// Returns when the next buyer may come: at once, unless a part is dead and the next kill would be due already.
    pub async fn wait(&self, tally: &Tally, deadline: Instant) {
        while self.is_dead.load(Ordering::Relaxed)
            && tally.progress() * SCALE >= self.limit.load(Ordering::Relaxed) as f64
            && Instant::now() < deadline
        {
            tokio::time::sleep(GLANCE).await;
        }
    }

    fn dies(&self, limit: f64) {
        self.limit.store((limit * SCALE) as u64, Ordering::Relaxed);
        self.is_dead.store(true, Ordering::Relaxed);
    }

    fn lives(&self) {
        self.is_dead.store(false, Ordering::Relaxed);
    }
}

/// Kills `parts` in turn, the k-th of n at k/(n+1) of the way, until `is_over`. What did not happen is not in the list.
pub async fn run(site: &Site, parts: &[String], tally: &Tally, pace: &Pace, is_over: &AtomicBool) -> Vec<Killed> {
    let mut killed = Vec::new();
    let due = |number: usize| number as f64 / (parts.len() + 1) as f64;
    for (index, part) in parts.iter().enumerate() {
        while tally.progress() < due(index + 1) {
            if is_over.load(Ordering::Relaxed) {
                return killed;
            }
            tokio::time::sleep(GLANCE).await;
        }
        pace.dies(due(index + 2));
        killed.push(kill(site, part, tally).await);
        pace.lives();
    }
    killed
}

async fn kill(site: &Site, part: &str, tally: &Tally) -> Killed {
    let at = tally.elapsed();
    let (orders, answers) = (tally.placed.load(Ordering::Relaxed), tally.answered.load(Ordering::Relaxed));
    let outcome = async {
        site.kill(part).await?;
        tokio::time::sleep(DEAD).await;
        site.revive(part).await
    };
    let error = outcome.await.err().map(|error| format!("{error:#}"));
    let down = tally.elapsed() - at;
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Killed { part: part.to_owned(), at_ms: ms(at), down_ms: ms(down), orders, answers, error }
}
