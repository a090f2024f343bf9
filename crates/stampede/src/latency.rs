//! Latencies of many requests: a histogram in microseconds, exact to three digits.

use std::time::Duration;

use hdrhistogram::Histogram;

/// What is longer counts as this: ten minutes.
const MICROS_MAX: u64 = 600_000_000;

#[derive(Debug, Clone)]
pub struct Latencies {
    micros: Histogram<u64>,
}

impl Default for Latencies {
    fn default() -> Latencies {
        let micros = Histogram::new_with_bounds(1, MICROS_MAX, 3);
        Latencies { micros: micros.expect("these bounds are constants and valid") }
    }
}

impl Latencies {
    pub fn record(&mut self, latency: Duration) {
        self.micros.saturating_record(micros(latency));
    }

    pub fn count(&self) -> u64 {
        self.micros.len()
    }

    /// In milliseconds; 0 when there is none.
    pub fn mean_ms(&self) -> f64 {
        self.micros.mean() / 1e3
    }

    /// The latency in milliseconds that this share of all does not exceed, from 0 to 1. 0 when there is none.
    pub fn ms(&self, quantile: f64) -> f64 {
        self.micros.value_at_quantile(quantile) as f64 / 1e3
    }
}

impl FromIterator<Duration> for Latencies {
    fn from_iter<I: IntoIterator<Item = Duration>>(latencies: I) -> Latencies {
        let mut all = Latencies::default();
        latencies.into_iter().for_each(|latency| all.record(latency));
        all
    }
}

pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(millis: impl IntoIterator<Item = u64>) -> Latencies {
        millis.into_iter().map(Duration::from_millis).collect()
    }

    #[test]
    fn a_quantile_is_a_latency_that_was_met_to_three_digits() {
        let hundred = of((1..=100).rev());
        assert_eq!(hundred.count(), 100);
        for (quantile, ms) in [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0), (0.0, 1.0)] {
            assert!((hundred.ms(quantile) / ms - 1.0).abs() < 1e-3, "{quantile}: {}", hundred.ms(quantile));
        }
        assert_eq!(of([]).ms(0.99), 0.0);
    }

    #[test]
    fn the_longest_and_the_shortest_are_counted_too() {
        let ends: Latencies = [Duration::ZERO, Duration::MAX].into_iter().collect();
        assert_eq!(ends.count(), 2);
        assert!(ends.ms(1.0) >= 600_000.0, "{}", ends.ms(1.0));
    }
}
