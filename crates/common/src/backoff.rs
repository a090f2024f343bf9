//! Jittered exponential delays.

use std::time::Duration;

use rand::RngExt;

/// Delays that double from `first` up to `max`, each ± 20 %, so that those who failed together do not return together.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    pub first: Duration,
    pub max: Duration,
}

impl Backoff {
    /// Between attempts of a transaction that met a conflict: long enough for the other to commit.
    pub const CONFLICT: Backoff = Backoff { first: Duration::from_millis(5), max: Duration::from_millis(100) };
    /// Between attempts to reach a dependency that is away.
    pub const RECONNECT: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(5) };

    /// The delay after failed attempt number `attempt` (the first is 1).
    pub fn delay(&self, attempt: u32) -> Duration {
        let doubled = self.first.saturating_mul(1u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX));
        doubled.min(self.max).mul_f64(rand::rng().random_range(0.8..1.2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_maximum_and_never_overflow() {
        let backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(5) };
        let expected_ms = [(1, 100), (2, 200), (3, 400), (6, 3200), (7, 5000), (40, 5000), (u32::MAX, 5000)];
        for (attempt, nominal) in expected_ms {
            let delay = backoff.delay(attempt).as_millis() as u64;
            assert!((nominal * 8 / 10..=nominal * 12 / 10).contains(&delay), "{attempt}: {delay}");
        }
    }
}
