//! Rules of a pace: so many at once, and one more after each interval (GCRA). `limiter.lua` has the same rule.

use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    pub interval_us: u64,
    /// Given at once after a rest; at least 1.
    pub burst: u32,
}

/// What a request for permits gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permits {
    pub granted: u32,
    /// Until the next one; zero where some were granted.
    pub wait: Duration,
}

impl Pace {
    /// At most `per_second` in any second, of which `burst` is kept back for what leaves late.
    ///
    /// In any second there are `burst` permits and those of the intervals in it.
    pub fn below(per_second: u32, burst: u32) -> Pace {
        let steady = u64::from(per_second.saturating_sub(2 * burst).max(1));
        Pace { interval_us: 1_000_000_u64.div_ceil(steady), burst: burst.max(1) }
    }

    /// What each of `replicas` may take where they cannot agree.
    pub fn share(self, replicas: u32) -> Pace {
        Pace { interval_us: self.interval_us * u64::from(replicas.max(1)), burst: 1 }
    }
}

/// The theoretical arrival time: when everything that was given would have come one by one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tat(u64);

impl Tat {
    /// Nothing is left at `now_us`; the next permit comes an interval later.
    pub fn empty(now_us: u64, pace: Pace) -> Tat {
        Tat(now_us + u64::from(pace.burst) * pace.interval_us)
    }

    pub fn take(&mut self, now_us: u64, pace: Pace, wanted: u32) -> Permits {
        let (interval, burst) = (pace.interval_us, u64::from(pace.burst));
        let tat = self.0.max(now_us);
        let room = (now_us + burst * interval).saturating_sub(tat) / interval;
        let granted = room.min(wanted.into());
        if granted == 0 {
            let wait_us = tat.saturating_sub((burst - 1) * interval).saturating_sub(now_us);
            return Permits { granted: 0, wait: Duration::from_micros(wait_us) };
        }
        self.0 = tat + granted * interval;
        Permits { granted: granted as u32, wait: Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use testkit::properties;

    use super::*;

    #[test]
    fn after_a_rest_the_burst_is_given_and_then_one_for_each_interval() {
        let (pace, mut tat) = (Pace { interval_us: 1_000, burst: 3 }, Tat::default());
        assert_eq!(tat.take(10_000, pace, 5), Permits { granted: 3, wait: Duration::ZERO });
        assert_eq!(tat.take(10_000, pace, 1), Permits { granted: 0, wait: Duration::from_millis(1) });
        assert_eq!(tat.take(10_400, pace, 1), Permits { granted: 0, wait: Duration::from_micros(600) });
        assert_eq!(tat.take(11_000, pace, 5).granted, 1);
        assert_eq!(tat.take(13_000, pace, 5).granted, 2);
    }

    #[test]
    fn an_empty_allowance_has_its_next_permit_an_interval_later() {
        let pace = Pace { interval_us: 1_000, burst: 3 };
        let mut tat = Tat::empty(10_000, pace);
        assert_eq!(tat.take(10_000, pace, 1), Permits { granted: 0, wait: Duration::from_millis(1) });
        assert_eq!(tat.take(11_000, pace, 5).granted, 1);
    }

    #[test]
    fn the_limit_of_the_founding_document_is_kept_with_a_burst_to_spare() {
        let pace = Pace::below(500, 12);
        assert_eq!(pace, Pace { interval_us: 2_101, burst: 12 });
        assert_eq!(pace.share(4), Pace { interval_us: 8_404, burst: 1 });
    }

    /// The greatest number of permits in any second.
    fn worst_second(granted: &[(u64, u32)]) -> u32 {
        let within = |start: u64| granted.iter().filter(move |(at, _)| (start..start + 1_000_000).contains(at));
        granted.iter().map(|(start, _)| within(*start).map(|(_, count)| count).sum()).max().unwrap_or(0)
    }

    proptest! {
        #![proptest_config(properties::quick(60))]
        #[test]
        fn however_it_is_asked_no_second_has_more_than_the_limit_without_the_spare_burst(
            asks in prop::collection::vec((0_u64..40_000, 1_u32..60), 1..400)
        ) {
            let (pace, mut tat, mut now_us) = (Pace::below(500, 12), Tat::default(), 1);
            let mut granted = Vec::new();
            for (pause_us, wanted) in asks {
                now_us += pause_us;
                granted.push((now_us, tat.take(now_us, pace, wanted).granted));
            }
            prop_assert!(worst_second(&granted) <= 488, "{}", worst_second(&granted));
        }
    }
}
