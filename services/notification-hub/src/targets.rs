//! Targets: what is called to deliver something, such as a webhook endpoint. How fast each may be called, and which are
//! left alone because they fail.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use common::redis::Redis;
use parking_lot::Mutex;
use serde::Deserialize;

use crate::channel::Channel;
use crate::claims::AttemptResult;
use crate::delivery::Outcome;
use crate::pace::{Admission, Breaker, BreakerRule, Pace};
use crate::shared_limit::SharedLimits;

/// Section `[notification_hub.targets]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetSettings {
    pub replicas: u32,
    pub breaker_failures: u32,
    pub breaker_open_seconds: u64,
    pub email_interval_ms: u64,
    pub email_burst: u32,
    pub webhook_interval_ms: u64,
    pub webhook_burst: u32,
}

impl TargetSettings {
    pub fn check(&self) -> anyhow::Result<()> {
        for (name, value) in [
            ("replicas", self.replicas),
            ("breaker_failures", self.breaker_failures),
            ("email_burst", self.email_burst),
            ("webhook_burst", self.webhook_burst),
        ] {
            anyhow::ensure!(value > 0, "notification_hub.targets.{name} must be at least 1");
        }
        Ok(())
    }

    /// None: the channel keeps its pace by itself.
    fn pace(&self, channel: Channel) -> Option<Pace> {
        let (interval_ms, burst) = match channel {
            Channel::Email => (self.email_interval_ms, self.email_burst),
            Channel::Webhook => (self.webhook_interval_ms, self.webhook_burst),
            Channel::Slack | Channel::Inapp => return None,
        };
        Some(Pace { interval: Duration::from_millis(interval_ms), burst })
    }
}

pub struct Targets {
    limits: SharedLimits,
    settings: TargetSettings,
    rule: BreakerRule,
    started: Instant,
    /// Of targets that have failed since their last success.
    breakers: Mutex<HashMap<(Channel, String), Breaker>>,
}

impl Targets {
    pub fn new(redis: Redis, settings: &TargetSettings) -> Targets {
        let open = Duration::from_secs(settings.breaker_open_seconds);
        Targets {
            limits: SharedLimits::new(redis, settings.replicas),
            settings: settings.clone(),
            rule: BreakerRule { failures_max: settings.breaker_failures, open },
            started: Instant::now(),
            breakers: Mutex::default(),
        }
    }

    /// For each of `targets`, in their order: None if it may be called now, or how long it has to wait.
    pub async fn admit(&self, channel: Channel, targets: &[&str]) -> Vec<Option<Duration>> {
        let mut turns = vec![None; targets.len()];
        let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
        for (place, target) in targets.iter().enumerate() {
            places.entry(target).or_default().push(place);
        }
        for (target, places) in places {
            let (calls, pause) = self.calls(channel, target, places.len());
            if let Some(pace) = self.settings.pace(channel) {
                let name = format!("{}:{target}", channel.name());
                let permits = self.limits.take(&name, pace, calls as u32).await;
                let late = places[..calls].iter().skip(permits.granted as usize);
                late.zip(0..).for_each(|(place, nth)| turns[*place] = Some(permits.wait_of(nth, pace)));
            }
            places[calls..].iter().for_each(|place| turns[*place] = Some(pause));
        }
        turns
    }

    /// How many calls of `target` the breaker admits, and how long the others wait.
    fn calls(&self, channel: Channel, target: &str, wanted: usize) -> (usize, Duration) {
        let mut breakers = self.breakers.lock();
        match breakers.get_mut(&(channel, target.to_owned())) {
            None => (wanted, Duration::ZERO),
            Some(breaker) => match breaker.admit(self.started.elapsed(), self.rule) {
                Admission::All => (wanted, Duration::ZERO),
                Admission::One(pause) => (1, pause),
                Admission::None(pause) => (0, pause),
            },
        }
    }

    /// Takes note of what became of calls: each with its target.
    pub fn record<'a>(&self, channel: Channel, calls: impl IntoIterator<Item = (&'a str, &'a AttemptResult)>) {
        let mut breakers = self.breakers.lock();
        for (target, result) in calls {
            let is_failure = match result.outcome {
                Outcome::NotSent(failure) => failure.is_of_target(),
                Outcome::Sent | Outcome::Throttled(_) => false,
                // It was not called.
                Outcome::HandedBack | Outcome::HeldBack(_) => continue,
            };
            let key = (channel, target.to_owned());
            if !is_failure {
                breakers.remove(&key);
                continue;
            }
            if breakers.entry(key).or_default().record(true, self.started.elapsed(), self.rule) {
                tracing::warn!(
                    channel = channel.name(), target, deliveryId = %result.attempt.delivery, pause = ?self.rule.open,
                    "A target has failed several times in a row and is left alone for the pause; its deliveries wait and are \
                     charged no attempt"
                );
            }
        }
        let failing = breakers.iter().filter(|((of, _), breaker)| *of == channel && breaker.is_open()).count();
        metrics::gauge!("stampede_targets_failing", "channel" => channel.name()).set(failing as f64);
    }
}
