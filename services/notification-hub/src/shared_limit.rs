//! Limits that all replicas keep together: a rate for each target, counted in Redis. While Redis is away each replica
//! keeps a share of it by itself.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use common::redis::{Redis, Script};
use parking_lot::Mutex;

use crate::pace::{Pace, Permits, take};

/// Beyond this many targets those that are rested are forgotten.
const TARGETS_MAX: usize = 10_000;

pub struct SharedLimits {
    redis: Redis,
    script: Script,
    /// Among how many replicas a limit is divided while Redis is away.
    replicas: u32,
    started: Instant,
    /// When each target is rested again, since `started`; used while Redis is away.
    alone: Mutex<HashMap<String, Duration>>,
}

impl SharedLimits {
    pub fn new(redis: Redis, replicas: u32) -> SharedLimits {
        let script = Script::new("shared_limit", include_str!("shared_limit.lua"));
        SharedLimits { redis, script, replicas, started: Instant::now(), alone: Mutex::default() }
    }

    /// Takes up to `wanted` permits of `target`.
    pub async fn take(&self, target: &str, pace: Pace, wanted: u32) -> Permits {
        if wanted == 0 || pace.is_unlimited() {
            return Permits { granted: wanted, wait: Duration::ZERO };
        }
        let args = [pace.interval.as_micros(), pace.burst.into(), wanted.into()].map(|argument| argument.to_string());
        let key = self.redis.key(&format!("{{rl:hub:{target}}}"));
        match self.redis.run::<(u32, u64)>(&self.script, &[key], &args).await {
            Ok((granted, wait_us)) => Permits { granted, wait: Duration::from_micros(wait_us) },
            Err(_) => self.take_alone(target, pace.share(self.replicas), wanted),
        }
    }

    fn take_alone(&self, target: &str, pace: Pace, wanted: u32) -> Permits {
        let now = self.started.elapsed();
        let mut alone = self.alone.lock();
        if alone.len() > TARGETS_MAX {
            alone.retain(|_, rested_at| *rested_at > now);
        }
        let rested_at = alone.entry(target.to_owned()).or_insert(now);
        let (permits, later) = take(now, *rested_at, pace, wanted);
        *rested_at = later;
        permits
    }
}
