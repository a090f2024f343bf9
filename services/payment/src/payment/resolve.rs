//! What the resolver does with a provider's answer.

use serde::Deserialize;

use super::AttemptOutcome;
use crate::provider::ProviderStatus;

/// What the resolver does after it has asked the provider about an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResolverStep {
    /// The outcome is known.
    Record(AttemptOutcome),
    /// The provider knows no capture, and the order can still be paid: ask for the money again, under the same key.
    Retry,
    /// Query the status again later. `absent`: the provider knew no capture, from now on if not before.
    Wait { absent: bool },
    /// Refund `amount`, or all that may have been captured, and query the status again.
    Undo { amount: Option<i64> },
}

/// What the resolver knows about an attempt besides the provider's answer.
#[derive(Debug, Clone, Copy)]
pub struct AttemptFacts {
    /// The order has not expired.
    pub payable: bool,
    /// Seconds since the attempt began.
    pub age: i64,
    /// Seconds since the provider was last asked for the money. It may still begin for `provider_seconds`.
    pub requested_ago: i64,
    /// Seconds for which every answer was that the provider knows no capture; None when the last answer was another.
    pub absent_for: Option<i64>,
    /// The provider was told to undo the attempt: a capture of it is refunded.
    pub undone: bool,
}

/// Time limits of the resolver, in seconds.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// A provider that has not begun so long after it was asked for the money never will.
    pub provider_seconds: i64,
    /// Between the two answers that together prove that there is no capture.
    pub absence_seconds: i64,
    /// After this, an attempt without a clear answer is undone at the provider.
    pub undo_after_seconds: i64,
    /// After this, an operator has to look.
    pub review_after_seconds: i64,
}

/// What the resolver does when the provider answers `status` about an attempt.
pub fn resolve(status: &ProviderStatus, facts: AttemptFacts, timeouts: Timeouts) -> ResolverStep {
    let is_overdue = facts.age >= timeouts.review_after_seconds;
    match status {
        ProviderStatus::Captured if facts.undone && is_overdue => ResolverStep::Record(AttemptOutcome::Overdue),
        ProviderStatus::Captured if facts.undone => ResolverStep::Undo { amount: None },
        ProviderStatus::Captured => ResolverStep::Record(AttemptOutcome::Captured),
        ProviderStatus::Cancelled | ProviderStatus::Foreign => ResolverStep::Record(AttemptOutcome::NotCaptured),
        ProviderStatus::WrongAmount { .. } if is_overdue => ResolverStep::Record(AttemptOutcome::Overdue),
        // The buyer gets a wrong amount back at once and may try again.
        ProviderStatus::WrongAmount { left } => ResolverStep::Undo { amount: Some(*left) },
        ProviderStatus::Absent if facts.payable => ResolverStep::Retry,
        ProviderStatus::Absent if facts.requested_ago < timeouts.provider_seconds => {
            ResolverStep::Wait { absent: false }
        }
        ProviderStatus::Absent => match facts.absent_for {
            Some(seconds) if seconds >= timeouts.absence_seconds => ResolverStep::Record(AttemptOutcome::NotCaptured),
            _ => ResolverStep::Wait { absent: true },
        },
        ProviderStatus::Unclear(_) if is_overdue => ResolverStep::Record(AttemptOutcome::Overdue),
        // While the order is payable the money may be asked for again under the same key, and the provider would repeat the
        // answer from before the undo.
        ProviderStatus::Unclear(_) if facts.age >= timeouts.undo_after_seconds && !facts.payable => {
            ResolverStep::Undo { amount: None }
        }
        ProviderStatus::Unclear(_) => ResolverStep::Wait { absent: false },
    }
}

/// Seconds between the n-th question to a provider (from 1) and the next one about the same attempt or refund.
pub fn retry_delay_seconds(asked: i32) -> i32 {
    match asked {
        ..=1 => 1,
        2 => 2,
        3 => 5,
        4 => 15,
        // No longer: when a provider is back after an outage, every payment is known a minute later.
        _ => 60,
    }
}
