//! Section `[notification_hub]`.

use std::time::Duration;

use common::batch::BatchSettings;
use serde::Deserialize;

use crate::channel::Channel;
use crate::contacts::USERS_MAX;
use crate::email::EmailSettings;
use crate::restock::RestockSettings;
use crate::slack::{DIGEST_MAX, SlackSettings};
use crate::stream::StreamSettings;
use crate::targets::TargetSettings;
use crate::template::Language;
use crate::webhook::WebhookSettings;

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
    pub sends_per_second: u32,
    pub transactional_types: Vec<String>,
    pub default_language: Language,
    pub batch: BatchSettings,
    pub targets: TargetSettings,
    pub email: EmailSettings,
    pub slack: SlackSettings,
    pub webhook: WebhookSettings,
    pub restock: RestockSettings,
    pub stream: StreamSettings,
}

/// What a claim needs besides sending: recording the results, and a pause of the whole process now and then.
pub const LEASE_MARGIN: Duration = Duration::from_secs(5);

impl Settings {
    /// Fails when a claim could outlive its lease although nothing is wrong: every such message would be sent twice.
    pub fn check(&self) -> anyhow::Result<()> {
        let email = &self.email;
        anyhow::ensure!(self.claim_batch_max > 0, "notification_hub.claim_batch_max must be at least 1");
        anyhow::ensure!(self.idle_poll_first_ms > 0, "notification_hub.idle_poll_first_ms must be at least 1");
        anyhow::ensure!(self.sends_per_second > 0, "notification_hub.sends_per_second must be at least 1");
        anyhow::ensure!(self.page_default <= self.page_max, "notification_hub.page_default is above page_max");
        let requests = self.claim_batch_max.div_ceil(USERS_MAX as u32);
        anyhow::ensure!(email.smtp_connections > 0, "notification_hub.email.smtp_connections must be at least 1");
        anyhow::ensure!(
            email.smtp_timeout() < LEASE_MARGIN,
            "notification_hub.email.smtp_timeout_ms must be below {LEASE_MARGIN:?}: an e-mail may be begun so long before the \
             lease of its claim ends"
        );
        let needed = email.timeout() * requests + LEASE_MARGIN;
        for (name, lease) in [("lease_seconds", self.lease()), ("new_lease_seconds", self.new_lease())] {
            anyhow::ensure!(
                lease >= needed,
                "notification_hub.{name} is {lease:?}, but {requests} times email.timeout_ms and a margin need {needed:?}"
            );
        }
        self.targets.check()?;
        self.restock.check(email)?;
        self.stream.check()?;
        self.check_slack()?;
        self.check_webhook()
    }

    fn check_webhook(&self) -> anyhow::Result<()> {
        let webhook = &self.webhook;
        anyhow::ensure!(webhook.concurrency > 0, "notification_hub.webhook.concurrency must be at least 1");
        let needed = webhook.timeout() + LEASE_MARGIN;
        anyhow::ensure!(
            self.lease() >= needed,
            "notification_hub.lease_seconds is {:?}, but webhook.timeout_ms and a margin need {needed:?}",
            self.lease()
        );
        Ok(())
    }

    fn check_slack(&self) -> anyhow::Result<()> {
        let slack = &self.slack;
        let needed = slack.timeout() + LEASE_MARGIN;
        anyhow::ensure!(
            self.lease() >= needed,
            "notification_hub.lease_seconds is {:?}, but slack.timeout_ms and a margin need {needed:?}",
            self.lease()
        );
        anyhow::ensure!(
            (1..=DIGEST_MAX).contains(&(slack.digest_max as usize)),
            "notification_hub.slack.digest_max must be 1 to {DIGEST_MAX}: Slack takes no more in one message"
        );
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

    /// Deliveries that one claim takes.
    pub fn claim_max(&self, channel: Channel) -> u32 {
        match channel {
            Channel::Email | Channel::Inapp => self.claim_batch_max,
            Channel::Slack => self.slack.digest_max,
            Channel::Webhook => self.webhook.concurrency,
        }
    }

    pub fn retry_delays(&self, channel: Channel) -> Vec<Duration> {
        let delays_seconds = match channel {
            // Only a worker that dies makes a message to the inbox fail.
            Channel::Email | Channel::Inapp => &self.email.retry_delays_seconds,
            Channel::Slack => &self.slack.retry_delays_seconds,
            Channel::Webhook => &self.webhook.retry_delays_seconds,
        };
        delays_seconds.iter().copied().map(Duration::from_secs).collect()
    }

    pub fn contact_age_max(&self) -> Duration {
        Duration::from_secs(self.contact_cache_seconds)
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
            sends_per_second: 10,
            transactional_types: vec![],
            default_language: Language::Ko,
            batch: BatchSettings { requests_max: 1, queue_max: 1, lanes: 1 },
            targets: TargetSettings {
                replicas: 2,
                breaker_failures: 5,
                breaker_open_seconds: 30,
                email_interval_ms: 0,
                email_burst: 1,
                webhook_interval_ms: 10,
                webhook_burst: 100,
            },
            email: EmailSettings {
                timeout_ms,
                smtp_url: String::new().into(),
                smtp_timeout_ms: 4_000,
                smtp_connections: 8,
                from: "shop@example.com".to_owned(),
                retry_delays_seconds: vec![1],
            },
            slack: slack(3_000, 20),
            webhook: webhook(3_000, 32),
            restock: RestockSettings {
                subscribe_in_stock: true,
                batch: 50,
                lease_seconds: 10,
                attempts_max: 5,
                poll_ms: 1_000,
                runners: 4,
                per_second_max: 500,
                burst: 24,
                reserve: 14,
            },
            stream: StreamSettings {
                streams_max: 10,
                streams_per_account: 3,
                streams_per_address: 10,
                client_frames: 64,
                ring_frames: 100,
                account_frames: 10,
                ring_minutes: 10,
                heartbeat_seconds: 15,
            },
        }
    }

    fn webhook(timeout_ms: u64, concurrency: u32) -> WebhookSettings {
        WebhookSettings {
            connect_timeout_ms: 1_000,
            timeout_ms,
            concurrency,
            allow_http: false,
            allow_private_addresses: false,
            secret_overlap_hours: 24,
            retry_after_max_seconds: 60,
            retry_delays_seconds: vec![1],
        }
    }

    fn slack(timeout_ms: u64, digest_max: u32) -> SlackSettings {
        SlackSettings {
            url: String::new().into(),
            connect_timeout_ms: 1_000,
            timeout_ms,
            interval_ms: 1_100,
            digest_max,
            retry_after_max_seconds: 60,
            retry_delays_seconds: vec![1],
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

    #[test]
    fn an_email_begun_before_the_margin_ends_before_the_lease() {
        for (smtp_timeout_ms, smtp_connections, is_fine) in [(4_999, 1, true), (5_000, 1, false), (1_000, 0, false)] {
            let mut settings = settings(45, 3_000, 500);
            settings.email = EmailSettings { smtp_timeout_ms, smtp_connections, ..settings.email };
            assert_eq!(settings.check().is_ok(), is_fine, "{smtp_timeout_ms} ms, {smtp_connections}");
        }
    }

    #[test]
    fn a_stream_must_speak_before_gateways_take_it_for_dead() {
        for (heartbeat_seconds, is_fine) in [(0, false), (1, true), (30, true), (31, false)] {
            let mut settings = settings(45, 3_000, 500);
            settings.stream.heartbeat_seconds = heartbeat_seconds;
            assert_eq!(settings.check().is_ok(), is_fine, "{heartbeat_seconds} s");
        }
    }

    #[test]
    fn a_lease_must_cover_a_webhook_as_well() {
        for (timeout_ms, concurrency, is_fine) in [(40_000, 1, true), (40_001, 1, false), (3_000, 0, false)] {
            let settings = Settings { webhook: webhook(timeout_ms, concurrency), ..settings(45, 3_000, 500) };
            assert_eq!(settings.check().is_ok(), is_fine, "{timeout_ms} ms, {concurrency}");
        }
    }

    #[test]
    fn a_lease_must_cover_slack_as_well_and_a_digest_must_fit_into_a_message() {
        for (timeout_ms, digest_max, is_fine) in
            [(10_000, 20, true), (40_000, 24, true), (40_001, 20, false), (10_000, 0, false), (10_000, 25, false)]
        {
            let settings = Settings { slack: slack(timeout_ms, digest_max), ..settings(45, 3_000, 500) };
            assert_eq!(settings.check().is_ok(), is_fine, "{timeout_ms} ms, {digest_max}");
        }
    }
}
