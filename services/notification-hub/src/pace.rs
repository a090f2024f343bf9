//! Rules: how fast something may go, and for how long a target that fails is left alone.

use std::time::Duration;

/// One permit every `interval`; a rested target may have `burst` at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    pub interval: Duration,
    pub burst: u32,
}

/// What was granted of the permits that were wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permits {
    pub granted: u32,
    /// Where nothing was granted: until there is one.
    pub wait: Duration,
}

impl Permits {
    /// How long the `place`-th of those that got none waits, from 0: each for a permit of its own, so that they do not come
    /// back all at once.
    pub fn wait_of(self, place: u32, pace: Pace) -> Duration {
        self.wait.max(pace.interval) + pace.interval * place
    }
}

impl Pace {
    /// At most `per_second` in any second, of which `reserve` is kept back for what leaves late.
    ///
    /// In any second there are `burst` permits and those of the intervals in it.
    pub fn below(per_second: u32, burst: u32, reserve: u32) -> Pace {
        let steady = u64::from(per_second.saturating_sub(burst + reserve).max(1));
        Pace { interval: Duration::from_micros(1_000_000_u64.div_ceil(steady)), burst: burst.max(1) }
    }

    pub fn is_unlimited(self) -> bool {
        self.interval.is_zero()
    }

    /// What one of `replicas` may do by itself, so that all together keep the pace.
    pub fn share(self, replicas: u32) -> Pace {
        let replicas = replicas.max(1);
        Pace { interval: self.interval * replicas, burst: (self.burst / replicas).max(1) }
    }
}

/// Takes up to `wanted` permits at `now` from a target that is rested at `rested_at`. Returns them, and when it is rested
/// after that. The same rule as `shared_limit.lua`.
pub fn take(now: Duration, rested_at: Duration, pace: Pace, wanted: u32) -> (Permits, Duration) {
    let rested_at = rested_at.max(now);
    let room = (now + pace.interval * pace.burst).saturating_sub(rested_at);
    let room = u32::try_from(room.as_nanos() / pace.interval.as_nanos().max(1)).unwrap_or(u32::MAX);
    let granted = wanted.min(room);
    if granted == 0 {
        let wait = rested_at.saturating_sub(now + pace.interval * (pace.burst - 1));
        return (Permits { granted, wait }, rested_at);
    }
    (Permits { granted, wait: Duration::ZERO }, rested_at + pace.interval * granted)
}

/// When a target is taken for broken, and how long it is left alone.
#[derive(Debug, Clone, Copy)]
pub struct BreakerRule {
    /// Failures in a row.
    pub failures_max: u32,
    pub open: Duration,
}

/// Keeps from calling a target that does not answer: after some failures in a row it is left alone for a while; then one
/// call finds out whether it is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Breaker {
    failures: u32,
    /// When the next call may go, since some fixed moment; later ones wait for its outcome.
    open_until: Option<Duration>,
}

/// What a breaker says to calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    All,
    /// One call, to see whether the target is back; the others wait this long.
    One(Duration),
    None(Duration),
}

impl Breaker {
    /// Whether calls may go at `now`. A single one that is admitted keeps others out until its outcome is known, or as long as
    /// a failure would.
    pub fn admit(&mut self, now: Duration, rule: BreakerRule) -> Admission {
        match self.open_until {
            None => Admission::All,
            Some(until) if now < until => Admission::None(until - now),
            Some(_) => {
                self.open_until = Some(now + rule.open);
                Admission::One(rule.open)
            }
        }
    }

    /// Whether the target is left alone, or tried by one call at a time.
    pub fn is_open(&self) -> bool {
        self.open_until.is_some()
    }

    /// Records the outcome of a call at `now`. Returns whether the target has just been given up for a while.
    pub fn record(&mut self, is_failure: bool, now: Duration, rule: BreakerRule) -> bool {
        if !is_failure {
            *self = Breaker::default();
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures < rule.failures_max {
            return false;
        }
        let is_new = self.open_until.is_none();
        self.open_until = Some(now + rule.open);
        is_new
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use testkit::properties;

    use super::*;

    const fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    const PACE: Pace = Pace { interval: at(100), burst: 3 };

    #[test]
    fn a_rested_target_gives_its_burst_and_then_one_for_each_interval() {
        let (permits, rested_at) = take(at(0), at(0), PACE, 5);
        assert_eq!(permits, Permits { granted: 3, wait: at(0) });
        let (permits, rested_at) = take(at(50), rested_at, PACE, 1);
        assert_eq!(permits, Permits { granted: 0, wait: at(50) });
        let (permits, rested_at) = take(at(100), rested_at, PACE, 5);
        assert_eq!(permits.granted, 1);
        let (permits, _) = take(at(10_000), rested_at, PACE, 5);
        assert_eq!(permits.granted, 3, "rest does not add up");
    }

    #[test]
    fn in_any_time_there_are_no_more_than_the_burst_and_one_for_each_interval() {
        let (mut rested_at, mut granted) = (at(0), 0);
        for now in 0..1_000 {
            let (permits, later) = take(at(now), rested_at, PACE, 2);
            rested_at = later;
            granted += permits.granted;
            assert!(u64::from(granted) <= 3 + now / 100, "{granted} after {now} ms");
        }
        assert_eq!(granted, 3 + 9);
    }

    #[test]
    fn the_limit_of_the_founding_document_is_kept_with_a_reserve() {
        let pace = Pace::below(500, 24, 14);
        assert_eq!(pace, Pace { interval: Duration::from_micros(2_165), burst: 24 });
    }

    /// The greatest number of permits in any second.
    fn worst_second(granted: &[(Duration, u32)]) -> u32 {
        let within =
            |start: Duration| granted.iter().filter(move |(at, _)| (start..start + self::at(1_000)).contains(at));
        granted.iter().map(|(start, _)| within(*start).map(|(_, count)| count).sum()).max().unwrap_or(0)
    }

    proptest! {
        #![proptest_config(properties::quick(60))]
        #[test]
        fn however_it_is_asked_no_second_has_more_than_the_limit_without_the_reserve(
            asks in prop::collection::vec((0_u64..40_000, 1_u32..60), 1..400)
        ) {
            let (pace, mut now, mut rested_at) = (Pace::below(500, 24, 14), at(1), at(0));
            let mut granted = Vec::new();
            for (pause_us, wanted) in asks {
                now += Duration::from_micros(pause_us);
                let (permits, later) = take(now, rested_at, pace, wanted);
                rested_at = later;
                granted.push((now, permits.granted));
            }
            prop_assert!(worst_second(&granted) <= 486, "{}", worst_second(&granted));
        }
    }

    #[test]
    fn those_that_wait_come_back_one_after_the_other() {
        let none = Permits { granted: 0, wait: at(250) };
        assert_eq!((none.wait_of(0, PACE), none.wait_of(2, PACE)), (at(250), at(450)));
        let some = Permits { granted: 3, wait: at(0) };
        assert_eq!((some.wait_of(0, PACE), some.wait_of(1, PACE)), (at(100), at(200)));
    }

    #[test]
    fn the_shares_of_all_replicas_are_no_more_than_the_whole() {
        let whole = Pace { interval: at(10), burst: 100 };
        assert_eq!(whole.share(4), Pace { interval: at(40), burst: 25 });
        assert_eq!(whole.share(0), whole);
        assert_eq!(Pace { interval: at(10), burst: 1 }.share(4), Pace { interval: at(40), burst: 1 });
    }

    #[test]
    fn a_target_that_fails_is_left_alone_and_then_tried_by_one() {
        let rule = BreakerRule { failures_max: 3, open: at(1_000) };
        let mut breaker = Breaker::default();
        for _ in 0..2 {
            assert!(!breaker.record(true, at(0), rule));
        }
        assert_eq!(breaker.admit(at(0), rule), Admission::All, "two failures are none yet");
        assert!(breaker.record(true, at(0), rule), "the third is told");
        assert!(!breaker.record(true, at(0), rule), "and told once");
        assert_eq!(breaker.admit(at(400), rule), Admission::None(at(600)));
        assert_eq!(breaker.admit(at(1_000), rule), Admission::One(at(1_000)));
        assert_eq!(breaker.admit(at(1_001), rule), Admission::None(at(999)), "one at a time");
        breaker.record(true, at(1_500), rule);
        assert_eq!(breaker.admit(at(2_000), rule), Admission::None(at(500)), "it is not back");
        assert_eq!(breaker.admit(at(2_500), rule), Admission::One(at(1_000)));
        breaker.record(false, at(2_600), rule);
        assert_eq!(breaker.admit(at(2_600), rule), Admission::All);
    }

    #[test]
    fn one_success_forgets_the_failures_before_it() {
        let rule = BreakerRule { failures_max: 2, open: at(1_000) };
        let mut breaker = Breaker::default();
        breaker.record(true, at(0), rule);
        breaker.record(false, at(1), rule);
        assert!(!breaker.record(true, at(2), rule));
    }
}
