//! Rules: what becomes of a delivery after an attempt to send it, and when an operator may have it tried again.

use std::time::Duration;

use contract::ids::DeliveryId;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;
use utoipa::ToSchema;

use crate::notification::{DeliveryStatus, Refused};

/// How soon a delivery is claimed among all that are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Priority {
    High,
    #[default]
    Normal,
    Low,
}

/// Of what goes to many people at once: nobody else's message waits behind it.
pub const PRIORITY_BULK: i16 = 200;

impl Priority {
    /// As it is stored: the lower, the sooner. Leaves room between them.
    pub const fn rank(self) -> i16 {
        match self {
            Priority::High => 50,
            Priority::Normal => 100,
            Priority::Low => 150,
        }
    }
}

/// Why an attempt did not succeed. The names are stored and shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum Failure {
    /// There is no such account (any more). Trying again would not help.
    RecipientUnknown,
    /// The account service did not answer with the address. Certainly not sent.
    AddressUnavailable,
    /// The worker died or stalled between its claim and its result. It may have been sent.
    LeaseLost,
    /// The provider cannot be reached, or says that it failed. Probably not sent.
    Unavailable,
    /// The provider took the message and did not answer. It may have been sent.
    NoAnswer,
    /// The provider asks for a pause. Certainly not sent.
    Throttled,
    /// The provider refuses this message. Trying again would not help.
    MessageRefused,
    /// The provider refuses a message that this was a part of: perhaps because of another part.
    DigestRefused,
    /// The webhook does not exist (any more) or is closed to us. Trying again would not help.
    WebhookRefused,
    /// The receiver of a webhook answers that it does not take the message, which may pass. Certainly not sent.
    Rejected,
    /// The address of a webhook is not one that may be called. Trying again would not help.
    AddressRefused,
    /// The webhook endpoint was removed. Trying again would not help.
    EndpointUnknown,
    /// The receiver of the webhook endpoint wants nothing any more. Trying again would not help.
    EndpointDisabled,
    /// The product of a restock alert has sold out since it was written. Not sent, on purpose.
    SoldOut,
}

impl Failure {
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Whether the target itself seems to be away: it cannot be reached, says that it fails, or says nothing.
    pub const fn is_of_target(self) -> bool {
        matches!(self, Failure::Unavailable | Failure::NoAnswer)
    }

    const fn is_final(self) -> bool {
        match self {
            Failure::RecipientUnknown
            | Failure::MessageRefused
            | Failure::WebhookRefused
            | Failure::AddressRefused
            | Failure::EndpointUnknown
            | Failure::EndpointDisabled
            | Failure::SoldOut => true,
            Failure::AddressUnavailable
            | Failure::LeaseLost
            | Failure::Unavailable
            | Failure::NoAnswer
            | Failure::Throttled
            | Failure::Rejected
            | Failure::DigestRefused => false,
        }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Sent,
    NotSent(Failure),
    /// The provider asks for a pause of this length.
    Throttled(Duration),
    /// Claimed but not tried: the worker stops, or its lease is nearly over.
    HandedBack,
    /// Claimed but not tried: its target may not be called for this long, by a limit of ours or because it fails.
    HeldBack(Duration),
}

impl Outcome {
    /// Whether there was an attempt at all.
    pub const fn is_tried(self) -> bool {
        match self {
            Outcome::Sent | Outcome::NotSent(_) | Outcome::Throttled(_) => true,
            Outcome::HandedBack | Outcome::HeldBack(_) => false,
        }
    }
}

/// What becomes of a claimed delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    pub status: DeliveryStatus,
    /// Attempts that count.
    pub attempt: i32,
    /// How long it waits before it is due again; zero where it is not.
    pub delay: Duration,
    pub failure: Option<Failure>,
}

impl Next {
    /// It is a dead letter: only an operator has it tried again.
    pub fn is_dead(self) -> bool {
        self.status == DeliveryStatus::Failed && self.failure != Some(Failure::SoldOut)
    }

    /// It was claimed and not tried.
    pub fn is_handed_back(self) -> bool {
        self.status == DeliveryStatus::Pending && self.failure.is_none()
    }

    /// The `outcome` in metrics.
    pub fn name(self) -> &'static str {
        match (self.status, self.failure) {
            (DeliveryStatus::Success, _) => "success",
            (DeliveryStatus::Failed, Some(Failure::SoldOut)) => "sold_out",
            (DeliveryStatus::Failed, _) => "dead",
            (DeliveryStatus::Pending | DeliveryStatus::Processing, Some(_)) => "retry",
            (DeliveryStatus::Pending | DeliveryStatus::Processing, None) => "handed_back",
        }
    }
}

/// Decides what follows after attempt number `attempt`. There is one attempt more than `retry_delays`.
///
/// `jitter` (0.8 to 1.2) spreads those that failed together.
pub fn next(outcome: Outcome, attempt: i32, retry_delays: &[Duration], jitter: f64) -> Next {
    let ended = |status, failure| Next { status, attempt, delay: Duration::ZERO, failure };
    match outcome {
        Outcome::Sent => ended(DeliveryStatus::Success, None),
        Outcome::HandedBack => Next { attempt: attempt - 1, ..ended(DeliveryStatus::Pending, None) },
        Outcome::HeldBack(delay) => Next { attempt: attempt - 1, delay, ..ended(DeliveryStatus::Pending, None) },
        // Not the delivery's own fault, so it costs no attempt: however long the provider is busy, nothing is given up.
        Outcome::Throttled(delay) => {
            Next { attempt: attempt - 1, delay, ..ended(DeliveryStatus::Pending, Some(Failure::Throttled)) }
        }
        Outcome::NotSent(failure) => {
            let attempts_before = usize::try_from(attempt - 1).unwrap_or(0);
            match retry_delays.get(attempts_before) {
                Some(delay) if !failure.is_final() => {
                    Next { delay: delay.mul_f64(jitter), ..ended(DeliveryStatus::Pending, Some(failure)) }
                }
                Some(_) | None => ended(DeliveryStatus::Failed, Some(failure)),
            }
        }
    }
}

/// The attempts that count after an operator asked to try again at once.
///
/// A failed delivery starts anew, a pending one waits no longer: so asking twice is asking once. What was sent is never
/// sent again, and what is being sent is left alone.
pub fn retry(delivery: DeliveryId, status: DeliveryStatus, attempt: i32) -> Result<i32, Refused> {
    match status {
        DeliveryStatus::Failed => Ok(0),
        DeliveryStatus::Pending => Ok(attempt),
        DeliveryStatus::Processing | DeliveryStatus::Success => Err(Refused::NotRetryable { delivery, status }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAYS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

    #[test]
    fn a_delivery_is_tried_once_more_than_there_are_delays() {
        let failed = Outcome::NotSent(Failure::AddressUnavailable);
        for (attempt, status, delay_ms) in [
            (1, DeliveryStatus::Pending, 1_000),
            (2, DeliveryStatus::Pending, 5_000),
            (3, DeliveryStatus::Failed, 0),
            (4, DeliveryStatus::Failed, 0),
        ] {
            let next = next(failed, attempt, &DELAYS, 1.0);
            assert_eq!((next.status, next.delay.as_millis(), next.attempt), (status, delay_ms, attempt));
            assert_eq!(next.failure, Some(Failure::AddressUnavailable));
        }
    }

    #[test]
    fn a_final_failure_is_not_tried_again() {
        for failure in [Failure::RecipientUnknown, Failure::MessageRefused, Failure::WebhookRefused] {
            assert!(next(Outcome::NotSent(failure), 1, &DELAYS, 1.0).is_dead(), "{failure:?}");
        }
        for failure in [Failure::LeaseLost, Failure::Unavailable, Failure::NoAnswer, Failure::DigestRefused] {
            assert!(!next(Outcome::NotSent(failure), 1, &DELAYS, 1.0).is_dead(), "{failure:?}");
        }
    }

    #[test]
    fn a_pause_that_the_provider_asks_for_is_kept_and_costs_no_attempt() {
        let pause = Duration::from_secs(30);
        let next = next(Outcome::Throttled(pause), 9, &DELAYS, 0.8);
        assert_eq!((next.status, next.attempt, next.delay), (DeliveryStatus::Pending, 8, pause));
        assert_eq!((next.failure, next.name()), (Some(Failure::Throttled), "retry"));
    }

    #[test]
    fn handing_back_costs_no_attempt() {
        let next = next(Outcome::HandedBack, 3, &DELAYS, 1.2);
        assert_eq!((next.status, next.attempt, next.delay), (DeliveryStatus::Pending, 2, Duration::ZERO));
    }

    #[test]
    fn waiting_for_a_limit_costs_no_attempt_and_is_no_failure() {
        let pause = Duration::from_secs(3);
        let next = next(Outcome::HeldBack(pause), 3, &DELAYS, 1.2);
        assert_eq!((next.status, next.attempt, next.delay), (DeliveryStatus::Pending, 2, pause));
        assert_eq!((next.failure, next.name()), (None, "handed_back"));
    }

    #[test]
    fn what_has_sold_out_is_given_up_and_is_no_dead_letter() {
        let next = next(Outcome::NotSent(Failure::SoldOut), 2, &DELAYS, 1.0);
        assert_eq!((next.status, next.name()), (DeliveryStatus::Failed, "sold_out"));
        assert!(!next.is_dead(), "no operator has to look");
    }

    #[test]
    fn the_delay_is_spread() {
        let failed = Outcome::NotSent(Failure::LeaseLost);
        assert_eq!(next(failed, 2, &DELAYS, 0.8).delay, Duration::from_secs(4));
        assert_eq!(next(failed, 2, &DELAYS, 1.2).delay, Duration::from_secs(6));
    }

    #[test]
    fn only_what_is_not_sent_can_be_retried() {
        let id = DeliveryId::derive(&[b"test"]);
        assert_eq!(retry(id, DeliveryStatus::Failed, 9).unwrap(), 0);
        assert_eq!(retry(id, DeliveryStatus::Pending, 2).unwrap(), 2);
        assert!(retry(id, DeliveryStatus::Processing, 1).is_err());
        assert!(retry(id, DeliveryStatus::Success, 1).is_err());
    }

    #[test]
    fn failures_are_stored_under_the_names_that_operators_know() {
        assert_eq!(Failure::LeaseLost.name(), "LEASE_LOST");
        assert_eq!(Failure::NoAnswer.name(), "NO_ANSWER");
        assert_eq!(Failure::RecipientUnknown.name(), "RECIPIENT_UNKNOWN");
    }
}
