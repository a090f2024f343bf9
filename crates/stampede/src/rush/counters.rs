//! What has happened so far: counters and latencies that all workers share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::latency::{Latencies, micros};

/// How much more the sale counts than the answers in [`Counters::progress`]: kills happen during the sale, when there is
/// something to lose, and not in the longer time after it.
const SALE_WEIGHT: f64 = 9.0;

pub struct Counters {
    started: Instant,
    /// Requests that will be answered when all is over.
    requests: u64,
    /// Orders there can be.
    orders_expected: u64,
    /// Whether every order is paid for too.
    pays: bool,
    /// By buyer: whether they were told of an order.
    has_order: Vec<AtomicBool>,
    pub answered: AtomicU64,
    pub placed: AtomicU64,
    pub replayed: AtomicU64,
    pub refused: AtomicU64,
    /// Attempts that ended without a definite answer and were repeated.
    pub retried: AtomicU64,
    /// Buyers whose paying has ended, and those of them who have paid.
    pub payers_done: AtomicU64,
    pub paid: AtomicU64,
    /// Microseconds since the start.
    last_order: AtomicU64,
    first_refusal: AtomicU64,
    /// Since the last [`Counters::take_recent`].
    recent: Mutex<Recent>,
}

/// Latencies of a short time.
#[derive(Default)]
pub struct Recent {
    /// From a buyer's first attempt to order to the definite answer.
    pub ordering: Latencies,
    /// From a buyer's first request to prepare a payment to its end.
    pub paying: Latencies,
}

impl Counters {
    pub fn new(buyers: usize, requests: usize, orders_expected: u64, pays: bool) -> Counters {
        Counters {
            started: Instant::now(),
            requests: requests as u64,
            orders_expected,
            pays,
            has_order: (0..buyers).map(|_| AtomicBool::new(false)).collect(),
            answered: AtomicU64::new(0),
            placed: AtomicU64::new(0),
            replayed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            payers_done: AtomicU64::new(0),
            paid: AtomicU64::new(0),
            last_order: AtomicU64::new(0),
            first_refusal: AtomicU64::new(u64::MAX),
            recent: Mutex::default(),
        }
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn requests(&self) -> u64 {
        self.requests
    }

    pub fn orders_expected(&self) -> u64 {
        self.orders_expected
    }

    pub fn record_retry(&self) {
        self.retried.fetch_add(1, Ordering::Relaxed);
    }

    /// Buyer `buyer` was told of an order. Returns whether for the first time.
    pub fn record_placed(&self, buyer: usize, latency: Duration) -> bool {
        let is_replay = self.has_order[buyer].swap(true, Ordering::Relaxed);
        if is_replay {
            self.replayed.fetch_add(1, Ordering::Relaxed);
        } else {
            self.placed.fetch_add(1, Ordering::Relaxed);
            self.last_order.fetch_max(micros(self.elapsed()), Ordering::Relaxed);
        }
        self.record_answered(latency);
        !is_replay
    }

    /// A buyer's paying has ended.
    pub fn record_payer_done(&self, is_paid: bool, latency: Duration) {
        self.paid.fetch_add(u64::from(is_paid), Ordering::Relaxed);
        self.payers_done.fetch_add(1, Ordering::Relaxed);
        self.recent.lock().paying.record(latency);
    }

    pub fn pays(&self) -> bool {
        self.pays
    }

    pub fn record_refused(&self, latency: Duration) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.first_refusal.fetch_min(micros(self.elapsed().saturating_sub(latency)), Ordering::Relaxed);
        self.record_answered(latency);
    }

    /// Somebody gave up in line: nothing was ordered, so there is no latency of ordering.
    pub fn record_gave_up(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// An answer, or the end of waiting for one.
    pub fn record_answered(&self, latency: Duration) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        self.recent.lock().ordering.record(latency);
    }

    /// The latencies since the last call.
    pub fn take_recent(&self) -> Recent {
        std::mem::take(&mut self.recent.lock())
    }

    /// From 0 to 1. Selling all there is, having it paid where it is, and answering everybody all end at 1.
    pub fn progress(&self) -> f64 {
        let share = |part: &AtomicU64, whole: u64| part.load(Ordering::Relaxed) as f64 / whole.max(1) as f64;
        let mut sale = share(&self.placed, self.orders_expected).min(1.0);
        if self.pays {
            sale = (sale + share(&self.payers_done, self.orders_expected).min(1.0)) / 2.0;
        }
        (SALE_WEIGHT * sale + share(&self.answered, self.requests)) / (SALE_WEIGHT + 1.0)
    }

    /// New orders per second, from the start to the last of them.
    pub fn orders_per_second(&self) -> f64 {
        rate(self.placed.load(Ordering::Relaxed), Duration::from_micros(self.last_order.load(Ordering::Relaxed)))
    }

    /// Refusals per second, from the first one to `end`.
    pub fn refusals_per_second(&self, end: Duration) -> f64 {
        let first = Duration::from_micros(self.first_refusal.load(Ordering::Relaxed));
        rate(self.refused.load(Ordering::Relaxed), end.saturating_sub(first))
    }
}

fn rate(count: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sale_is_most_of_the_way() {
        let counters = Counters::new(10, 10, 2, false);
        assert_eq!(counters.progress(), 0.0);
        counters.record_placed(0, Duration::ZERO);
        counters.record_placed(1, Duration::ZERO);
        assert!(
            (counters.progress() - (SALE_WEIGHT + 0.2) / (SALE_WEIGHT + 1.0)).abs() < 1e-9,
            "{}",
            counters.progress()
        );
        for _ in 2..10 {
            counters.record_refused(Duration::ZERO);
        }
        assert!((counters.progress() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_second_answer_for_one_buyer_is_a_replay() {
        let counters = Counters::new(1, 2, 1, false);
        counters.record_placed(0, Duration::ZERO);
        counters.record_placed(0, Duration::ZERO);
        assert_eq!(counters.placed.load(Ordering::Relaxed), 1);
        assert_eq!(counters.replayed.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn paying_is_half_of_a_sale_that_is_paid() {
        let counters = Counters::new(2, 2, 2, true);
        for buyer in 0..2 {
            assert!(counters.record_placed(buyer, Duration::ZERO));
        }
        assert!(
            (counters.progress() - (SALE_WEIGHT / 2.0 + 1.0) / (SALE_WEIGHT + 1.0)).abs() < 1e-9,
            "{}",
            counters.progress()
        );
        counters.record_payer_done(true, Duration::ZERO);
        counters.record_payer_done(false, Duration::ZERO);
        assert!((counters.progress() - 1.0).abs() < 1e-9);
        assert_eq!(counters.paid.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn paying_has_latencies_of_its_own() {
        let counters = Counters::new(1, 1, 1, true);
        counters.record_placed(0, Duration::from_millis(10));
        assert_eq!(counters.take_recent().ordering.count(), 1);
        counters.record_payer_done(true, Duration::from_millis(300));
        let recent = counters.take_recent();
        assert_eq!((recent.ordering.count(), recent.paying.count()), (0, 1));
        assert!(recent.paying.ms(0.5) >= 299.0, "{}", recent.paying.ms(0.5));
    }
}
