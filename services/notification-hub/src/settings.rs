//! Section `[notification_hub]`.

use std::time::Duration;

use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub claim_batch_max: u32,
    pub lease_seconds: u64,
    pub new_lease_seconds: u64,
    pub idle_poll_first_ms: u64,
    pub idle_poll_max_ms: u64,
    pub reclaim_period_ms: u64,
    pub contact_cache_seconds: u64,
    pub contact_cache_max: u64,
    pub page_default: u32,
    pub page_max: u32,
    pub email: EmailSettings,
}

/// Section `[notification_hub.email]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmailSettings {
    pub timeout_ms: u64,
    pub retry_delays_seconds: Vec<u64>,
}

/// What a claim needs besides sending: recording the results, and a pause of the whole process now and then.
pub const LEASE_MARGIN: Duration = Duration::from_secs(5);

impl Settings {
    /// Fails when a claim could outlive its lease although nothing is wrong: every such e-mail would be sent twice.
    pub fn check(&self) -> anyhow::Result<()> {
        let email = &self.email;
        anyhow::ensure!(self.claim_batch_max > 0, "notification_hub.claim_batch_max must be at least 1");
        anyhow::ensure!(self.idle_poll_first_ms > 0, "notification_hub.idle_poll_first_ms must be at least 1");
        anyhow::ensure!(self.page_default <= self.page_max, "notification_hub.page_default is above page_max");
        let questions = self.claim_batch_max.div_ceil(crate::contacts::QUESTION_MAX as u32);
        let needed = Duration::from_millis(email.timeout_ms) * questions + LEASE_MARGIN;
        for (name, lease) in [("lease_seconds", self.lease()), ("new_lease_seconds", self.new_lease())] {
            anyhow::ensure!(
                lease >= needed,
                "notification_hub.{name} is {lease:?}, but {questions} times email.timeout_ms and a margin need {needed:?}"
            );
        }
        Ok(())
    }

    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds)
    }

    pub fn new_lease(&self) -> Duration {
        Duration::from_secs(self.new_lease_seconds)
    }

    pub fn idle_poll_first(&self) -> Duration {
        Duration::from_millis(self.idle_poll_first_ms)
    }

    pub fn idle_poll_max(&self) -> Duration {
        Duration::from_millis(self.idle_poll_max_ms)
    }

    /// Of e-mails.
    pub fn retry_delays(&self) -> Vec<Duration> {
        self.email.retry_delays_seconds.iter().copied().map(Duration::from_secs).collect()
    }

    pub fn reclaim_period(&self) -> Duration {
        Duration::from_millis(self.reclaim_period_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(lease_seconds: u64, timeout_ms: u64, claim_batch_max: u32) -> Settings {
        Settings {
            claim_batch_max,
            lease_seconds,
            new_lease_seconds: lease_seconds,
            idle_poll_first_ms: 50,
            idle_poll_max_ms: 5_000,
            reclaim_period_ms: 5_000,
            contact_cache_seconds: 60,
            contact_cache_max: 1_000,
            page_default: 50,
            page_max: 100,
            email: EmailSettings { timeout_ms, retry_delays_seconds: vec![1] },
        }
    }

    #[test]
    fn a_lease_must_cover_the_slowest_claim_and_a_margin() {
        assert!(settings(45, 3_000, 500).check().is_ok());
        assert!(settings(8, 3_000, 500).check().is_ok());
        assert!(settings(7, 3_000, 500).check().is_err());
        assert!(settings(10, 3_000, 1_001).check().is_err());
        assert!(settings(45, 3_000, 0).check().is_err());
        assert!(Settings { new_lease_seconds: 7, ..settings(45, 3_000, 500) }.check().is_err());
    }
}
