//! How fast restock alerts go out: at most so many a second, over all replicas together.
//!
//! Redis has the one clock and the one allowance (GCRA). While it is away each replica takes its share, and no more than
//! that until every other must have noticed as well that it is back. One allowance of `burst` is never given: it covers
//! messages that leave a little later than they were admitted.

use std::sync::LazyLock;
use std::time::Duration;

use common::redis::{Redis, Script};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::pace::{Pace, Permits, take};
use crate::restock::RestockSettings;

static TAKE: LazyLock<Script> = LazyLock::new(|| Script::new("shared_limit", include_str!("../shared_limit.lua")));

/// A replica takes its share for so long after Redis failed it: longer than `redis.pause_ms` and `redis.timeout_ms`
/// together, so that others that are cut off have seen it back.
const SHARE_FOR: Duration = Duration::from_secs(1);

pub struct Limiter {
    redis: Redis,
    /// Of all replicas together.
    pace: Pace,
    /// Of this one while Redis is away.
    share: Pace,
    /// How long nothing is given after Redis has lost its memory.
    return_pause: Duration,
    born: Instant,
    state: Mutex<Share>,
}

#[derive(Default)]
struct Share {
    rested_at: Duration,
    /// It counts until then.
    until: Duration,
}

impl Limiter {
    pub fn new(redis: Redis, settings: &RestockSettings) -> Limiter {
        Limiter {
            redis,
            pace: settings.pace(),
            share: settings.share(),
            return_pause: settings.redis_return(),
            born: Instant::now(),
            state: Mutex::default(),
        }
    }

    /// Up to `wanted` permits to send, or how long to wait for the next.
    pub async fn take(&self, wanted: u32) -> Permits {
        let own = self.of_share(wanted);
        let wanted = match own {
            Some(Permits { granted: 0, wait }) => return Permits { granted: 0, wait },
            Some(Permits { granted, .. }) => granted,
            None => wanted,
        };
        let Pace { interval, burst } = self.pace;
        let args = [interval.as_micros(), burst.into(), wanted.into(), self.return_pause.as_micros()];
        let args = args.map(|argument| argument.to_string());
        let (permits, from) =
            match self.redis.run::<(u32, u64)>(&TAKE, &[self.redis.key("{rl:hub:restock}")], &args).await {
                Ok((granted, wait_us)) => (Permits { granted, wait: Duration::from_micros(wait_us) }, "redis"),
                Err(_) => (self.without_redis(own), "share"),
            };
        metrics::counter!("stampede_restock_permits_total", "from" => from).increment(permits.granted.into());
        permits
    }

    /// After a chunk: as long as a few permits take to come. No more than the burst comes meanwhile, so none is lost.
    pub fn gap(&self) -> Duration {
        self.pace.interval * (self.pace.burst / 2)
    }

    /// What this replica's share has left, for as long as it counts.
    fn of_share(&self, wanted: u32) -> Option<Permits> {
        let now = self.born.elapsed();
        let mut state = self.state.lock();
        (now < state.until).then(|| {
            let (permits, later) = take(now, state.rested_at, self.share, wanted);
            state.rested_at = later;
            permits
        })
    }

    /// `own` is what the share has given already.
    fn without_redis(&self, own: Option<Permits>) -> Permits {
        let now = self.born.elapsed();
        let mut state = self.state.lock();
        state.until = now + SHARE_FOR;
        own.unwrap_or_else(|| {
            // Redis has given a moment ago what this share would give now.
            state.rested_at = self.share.used_up(now);
            Permits { granted: 0, wait: self.share.interval }
        })
    }
}
