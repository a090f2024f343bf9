//! Rate limits inside one process: GCRA per key, in memory that cannot grow with the number of keys.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use actix_web::HttpRequest;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota};

use crate::error::{Code, RATE_LIMITED, Refused};

/// Cells that keys are spread over. Keys that share a cell share its allowance, which is rare at this size, cannot be
/// aimed at because the hash is seeded per process, and costs a wait at worst; in return a flood of made-up keys takes
/// a few megabytes and not all of the memory.
const CELLS: u64 = 1 << 18;

/// How often one key may do one thing. A rested key may do it `burst` times at once; then the allowance comes back
/// evenly, so whoever keeps trying gets slower instead of being locked out.
pub struct RateLimiter {
    code: Code,
    message: &'static str,
    seed: RandomState,
    cells: DefaultKeyedRateLimiter<u64>,
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
        RateLimiter {
            code: RATE_LIMITED,
            message: "Too many requests; try again later.",
            seed: RandomState::new(),
            cells: DefaultKeyedRateLimiter::keyed(quota.allow_burst(at_least_one(burst))),
            clock: DefaultClock::default(),
        }
    }

    /// Refuses with `code` instead of `RATE_LIMITED`.
    pub fn refusing_with(self, code: Code, message: &'static str) -> RateLimiter {
        RateLimiter { code, message, ..self }
    }

    /// Takes one from the allowance of `key`. The refusal says when the next one is there.
    pub fn check(&self, key: impl Hash) -> Result<(), Refused> {
        let cell = self.seed.hash_one(key) % CELLS;
        self.cells.check_key(&cell).map_err(|not_until| {
            metrics::counter!("stampede_rate_limited_total", "code" => self.code.reason.to_string()).increment(1);
            let wait_seconds = whole_seconds(not_until.wait_time_from(self.clock.now()));
            let limit = not_until.quota().burst_size().get();
            Refused {
                details: vec![serde_json::json!({ "limit": limit, "remaining": 0, "resetSeconds": wait_seconds })],
                ..Refused::new(self.code.clone(), self.message).retry_after(Duration::from_secs(wait_seconds))
            }
        })
    }
}

fn at_least_one(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN)
}

/// Rounded up: whoever comes back after this long is let in.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// Where a request comes from, as a key: an IPv4 address or an IPv6 /64, which is what one subscriber has.
///
/// With `trust_forwarded_for` it is the last address in `X-Forwarded-For`, the one that our own proxy wrote; those
/// before it are whatever the client claims.
pub fn client_address(request: &HttpRequest, trust_forwarded_for: bool) -> Option<IpAddr> {
    let forwarded = || {
        let value = request.headers().get_all("x-forwarded-for").last()?.to_str().ok()?;
        value.rsplit(',').next()?.trim().parse::<IpAddr>().ok()
    };
    let address = match trust_forwarded_for {
        true => forwarded(),
        false => None,
    };
    address.or_else(|| request.peer_addr().map(|peer| peer.ip())).map(subscriber)
}

fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

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

    #[test]
    fn only_the_entry_that_our_proxy_wrote_counts_and_only_when_trusted() {
        let request = || TestRequest::default().peer_addr("192.0.2.1:999".parse().unwrap());
        let spoofed = request().insert_header(("x-forwarded-for", "10.0.0.1, 198.51.100.7")).to_http_request();
        let address = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        assert_eq!(client_address(&spoofed, false), address("192.0.2.1"));
        assert_eq!(client_address(&spoofed, true), address("198.51.100.7"));
        assert_eq!(client_address(&request().to_http_request(), true), address("192.0.2.1"));
    }

    #[test]
    fn one_ipv6_subscriber_is_one_key() {
        assert_eq!(subscriber("2001:db8:1:2:3::9".parse().unwrap()), subscriber("2001:db8:1:2::1".parse().unwrap()));
        assert_eq!(subscriber("::ffff:192.0.2.1".parse().unwrap()), "192.0.2.1".parse::<IpAddr>().unwrap());
    }
}
