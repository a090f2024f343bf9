//! Rate limits inside one process: GCRA per key, in memory that cannot grow with the number of keys.

use std::hash::{BuildHasher, Hash, RandomState};
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter as Governor};

use crate::error::{Code, RATE_LIMITED, Refused};
use crate::http::{Allowance, note_allowance};

/// Cells that keys are spread over. Keys that share a cell share its allowance, which is rare at this size, cannot be
/// aimed at because the hash is seeded per process, and costs a wait at worst; in return a flood of made-up keys takes
/// a few megabytes and not all of the memory.
const CELLS: u64 = 1 << 18;

/// GCRA with one state for each key.
type Cells = Governor<u64, DefaultKeyedStateStore<u64>, DefaultClock, StateInformationMiddleware>;

/// How often one key may do one thing. A rested key may do it `burst` times at once; then the allowance comes back
/// evenly, so whoever keeps trying gets slower instead of being locked out.
pub struct RateLimiter {
    code: Code,
    message: &'static str,
    /// What clients are told that is limited. None: they are not told.
    name: Option<&'static str>,
    quota: Quota,
    seed: RandomState,
    cells: Cells,
    clock: DefaultClock,
}

impl RateLimiter {
    /// `rate` a second for each key in the long run. Zero counts as one.
    pub fn per_second(rate: u32, burst: u32) -> RateLimiter {
        Self::new(Quota::per_second(at_least_one(rate)), burst)
    }

    /// `rate` a minute for each key in the long run. Zero counts as one.
    pub fn per_minute(rate: u32, burst: u32) -> RateLimiter {
        Self::new(Quota::per_minute(at_least_one(rate)), burst)
    }

    fn new(quota: Quota, burst: u32) -> RateLimiter {
        let quota = quota.allow_burst(at_least_one(burst));
        RateLimiter {
            code: RATE_LIMITED,
            message: "Too many requests; try again later.",
            name: None,
            quota,
            seed: RandomState::new(),
            cells: Governor::keyed(quota).with_middleware(),
            clock: DefaultClock::default(),
        }
    }

    /// Tells clients what is left for them, under `name`: whose allowance it is, such as `account`.
    pub fn told_as(self, name: &'static str) -> RateLimiter {
        RateLimiter { name: Some(name), ..self }
    }

    /// Refuses with `code` instead of `RATE_LIMITED`.
    pub fn refusing_with(self, code: Code, message: &'static str) -> RateLimiter {
        RateLimiter { code, message, ..self }
    }

    /// Takes one from the allowance of `key`. The refusal says when the next one is there.
    pub fn check(&self, key: impl Hash) -> Result<(), Refused> {
        let cell = self.seed.hash_one(key) % CELLS;
        match self.cells.check_key(&cell) {
            Ok(state) => {
                self.tell(state.remaining_burst_capacity());
                Ok(())
            }
            Err(not_until) => {
                self.tell(0);
                metrics::counter!("stampede_rate_limited_total", "code" => self.code.reason.to_string()).increment(1);
                let wait_seconds = whole_seconds(not_until.wait_time_from(self.clock.now()));
                let limit = self.quota.burst_size().get();
                Err(Refused {
                    details: vec![serde_json::json!({ "limit": limit, "remaining": 0, "resetSeconds": wait_seconds })],
                    ..Refused::new(self.code.clone(), self.message).retry_after(Duration::from_secs(wait_seconds))
                })
            }
        }
    }

    fn tell(&self, remaining: u32) {
        let Some(name) = self.name else { return };
        let quota = self.quota.burst_size().get();
        let back_in = |units: u32| whole_seconds(self.quota.replenish_interval().saturating_mul(units));
        note_allowance(Allowance {
            name,
            quota,
            window_seconds: back_in(quota),
            remaining,
            reset_seconds: back_in(quota - remaining.min(quota)),
        });
    }
}

fn at_least_one(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN)
}

/// Rounded up: whoever comes back after this long is let in.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_over_its_limit_is_told_when_to_come_back_and_others_are_not_affected() {
        let limiter = RateLimiter::per_minute(5, 5);
        for _ in 0..5 {
            limiter.check("ann").unwrap();
        }
        let refused = limiter.check("ann").unwrap_err();
        assert_eq!(refused.code, RATE_LIMITED);
        assert!((11..=12).contains(&refused.retry_after.unwrap().as_secs()), "{refused:?}");
        limiter.check("bob").unwrap();
    }

    #[test]
    fn a_flood_of_keys_stays_in_bounded_memory() {
        let limiter = RateLimiter::per_minute(1, 1);
        for key in 0..2 * CELLS {
            drop(limiter.check(key));
        }
        assert!(limiter.cells.len() <= CELLS as usize);
    }
}
