//! The ring: the last facts that clients were told, so that one that comes back gets those that it missed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use actix_web::web::Bytes;
use uuid::Uuid;

use super::topics::About;

/// A fact as it was told, written once for all who get it.
#[derive(Debug, Clone)]
pub struct Told {
    /// Counts all facts of this process, whoever got them.
    pub number: u64,
    pub event_id: Uuid,
    pub at: Instant,
    pub about: About,
    pub frame: Bytes,
}

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub frames_max: usize,
    pub age_max: Duration,
}

/// Facts in the order of their numbers, bounded in count and age.
#[derive(Debug)]
pub struct Ring {
    told: VecDeque<Told>,
    bounds: Bounds,
    /// Facts up to this number may be missing here.
    forgotten: u64,
}

impl Ring {
    /// A ring that knows nothing of what was told up to the number `forgotten`.
    pub fn new(forgotten: u64, bounds: Bounds) -> Ring {
        Ring { told: VecDeque::new(), bounds, forgotten }
    }

    pub fn push(&mut self, told: Told) {
        let now = told.at;
        self.told.push_back(told);
        self.forget_old(now);
    }

    /// Whether the event has been told not long ago: the log may have it twice.
    pub fn has(&self, event_id: Uuid) -> bool {
        self.told.iter().any(|told| told.event_id == event_id)
    }

    /// What was told after `number`. None: a part of it is forgotten.
    pub fn since(&mut self, number: u64, now: Instant) -> Option<impl Iterator<Item = &Told>> {
        self.forget_old(now);
        let from = self.told.partition_point(|told| told.number <= number);
        (number >= self.forgotten).then(|| self.told.range(from..))
    }

    fn forget_old(&mut self, now: Instant) {
        let Bounds { frames_max, age_max } = self.bounds;
        let is_over = |ring: &VecDeque<Told>| {
            ring.len() > frames_max || ring.front().is_some_and(|told| now.duration_since(told.at) > age_max)
        };
        while is_over(&self.told) {
            if let Some(oldest) = self.told.pop_front() {
                self.forgotten = oldest.number;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { frames_max: 3, age_max: Duration::from_secs(600) };

    fn told(number: u64, at: Instant) -> Told {
        let event_id = Uuid::from_u128(number.into());
        Told { number, event_id, at, about: About::Coupon, frame: Bytes::new() }
    }

    fn numbers(ring: &mut Ring, since: u64, now: Instant) -> Option<Vec<u64>> {
        ring.since(since, now).map(|told| told.map(|told| told.number).collect())
    }

    #[test]
    fn what_was_missed_is_told_in_order_or_known_to_be_forgotten() {
        let (mut ring, now) = (Ring::new(4, BOUNDS), Instant::now());
        assert_eq!(numbers(&mut ring, 3, now), None, "what came before the ring is unknown to it");
        assert_eq!(numbers(&mut ring, 4, now), Some(vec![]));
        // Numbers of other rings are left out.
        for number in [5, 7, 8] {
            ring.push(told(number, now));
        }
        assert_eq!(numbers(&mut ring, 4, now), Some(vec![5, 7, 8]));
        assert_eq!(numbers(&mut ring, 6, now), Some(vec![7, 8]));
        assert_eq!(numbers(&mut ring, 9, now), Some(vec![]));
        ring.push(told(10, now));
        assert_eq!(numbers(&mut ring, 4, now), None, "5 is gone");
        assert_eq!(numbers(&mut ring, 5, now), Some(vec![7, 8, 10]), "whoever has seen 5 has missed nothing");
    }

    #[test]
    fn what_is_too_old_is_forgotten_though_nothing_new_comes() {
        let (mut ring, now) = (Ring::new(0, BOUNDS), Instant::now());
        ring.push(told(1, now));
        ring.push(told(2, now + Duration::from_secs(60)));
        let later = now + Duration::from_secs(601);
        assert_eq!(numbers(&mut ring, 0, later), None);
        assert_eq!(numbers(&mut ring, 1, later), Some(vec![2]));
    }

    #[test]
    fn a_repeat_is_known_for_as_long_as_the_first_is_kept() {
        let (mut ring, now) = (Ring::new(0, BOUNDS), Instant::now());
        for number in 1..=4 {
            ring.push(told(number, now));
        }
        assert!(!ring.has(Uuid::from_u128(1)) && ring.has(Uuid::from_u128(2)));
    }
}
