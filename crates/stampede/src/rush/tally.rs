//! What has happened so far, counted by all workers together.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;

/// Latencies are counted in microseconds, from one up to ten minutes, with three digits.
const LATENCY_MAX_MICROS: u64 = 600_000_000;
/// Selling all there is takes the rush this much further than answering everybody: so the kills fall into the sale, where
/// there is something to lose, and not into the longer time after it.
const SALE_WEIGHT: f64 = 9.0;

pub struct Tally {
    started: Instant,
    /// Requests that will be answered when all is over.
    requests: u64,
    /// Orders there can be.
    orders_expected: u64,
    /// Whether every order is paid for too.
    pays: bool,
    /// By buyer: has been told of an order.
    has_order: Vec<AtomicBool>,
    pub answered: AtomicU64,
    pub placed: AtomicU64,
    pub replayed: AtomicU64,
    pub refused: AtomicU64,
    /// Attempts that ended without a definite answer and were repeated.
    pub retried: AtomicU64,
    /// Payers who have come to an end, and those of them who have paid.
    pub settled: AtomicU64,
    pub paid: AtomicU64,
    /// Microseconds since the start.
    last_order: AtomicU64,
    first_refusal: AtomicU64,
    recent: Mutex<Histogram<u64>>,
}

impl Tally {
    pub fn new(buyers: usize, requests: usize, orders_expected: u64, pays: bool) -> Tally {
        Tally {
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
            settled: AtomicU64::new(0),
            paid: AtomicU64::new(0),
            last_order: AtomicU64::new(0),
            first_refusal: AtomicU64::new(u64::MAX),
            recent: Mutex::new(latencies()),
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

    /// A payer has come to an end.
    pub fn record_settled(&self, is_paid: bool) {
        self.paid.fetch_add(u64::from(is_paid), Ordering::Relaxed);
        self.settled.fetch_add(1, Ordering::Relaxed);
    }

    pub fn pays(&self) -> bool {
        self.pays
    }

    pub fn record_refused(&self, latency: Duration) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.first_refusal.fetch_min(micros(self.elapsed().saturating_sub(latency)), Ordering::Relaxed);
        self.record_answered(latency);
    }

    /// An answer, or the end of waiting for one.
    pub fn record_answered(&self, latency: Duration) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        self.recent.lock().saturating_record(micros(latency));
    }

    /// The latencies since the last call.
    pub fn take_recent(&self) -> Histogram<u64> {
        std::mem::replace(&mut self.recent.lock(), latencies())
    }

    /// From 0 to 1. Selling all there is, having it paid where it is, and answering everybody all end at 1.
    pub fn progress(&self) -> f64 {
        let share = |part: &AtomicU64, whole: u64| part.load(Ordering::Relaxed) as f64 / whole.max(1) as f64;
        let mut sale = share(&self.placed, self.orders_expected).min(1.0);
        if self.pays {
            sale = (sale + share(&self.settled, self.orders_expected).min(1.0)) / 2.0;
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

pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_MICROS, 3).expect("these bounds are constants and valid")
}

pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn rate(count: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sale_is_most_of_the_way() {
        let tally = Tally::new(10, 10, 2, false);
        assert_eq!(tally.progress(), 0.0);
        tally.record_placed(0, Duration::ZERO);
        tally.record_placed(1, Duration::ZERO);
        assert!((tally.progress() - (SALE_WEIGHT + 0.2) / (SALE_WEIGHT + 1.0)).abs() < 1e-9, "{}", tally.progress());
        for _ in 2..10 {
            tally.record_refused(Duration::ZERO);
        }
        assert!((tally.progress() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_second_answer_for_one_buyer_is_a_replay() {
        let tally = Tally::new(1, 2, 1, false);
        tally.record_placed(0, Duration::ZERO);
        tally.record_placed(0, Duration::ZERO);
        assert_eq!(tally.placed.load(Ordering::Relaxed), 1);
        assert_eq!(tally.replayed.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn paying_is_half_of_a_sale_that_is_paid() {
        let tally = Tally::new(2, 2, 2, true);
        for buyer in 0..2 {
            assert!(tally.record_placed(buyer, Duration::ZERO));
        }
        assert!(
            (tally.progress() - (SALE_WEIGHT / 2.0 + 1.0) / (SALE_WEIGHT + 1.0)).abs() < 1e-9,
            "{}",
            tally.progress()
        );
        tally.record_settled(true);
        tally.record_settled(false);
        assert!((tally.progress() - 1.0).abs() < 1e-9);
        assert_eq!(tally.paid.load(Ordering::Relaxed), 1);
    }
}
