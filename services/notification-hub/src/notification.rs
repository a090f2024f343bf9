//! Rules: a notification's overall status, and the life of a delivery.

use std::time::Duration;

use common::{Code, Refusal};
use contract::codes;
use contract::ids::{DeliveryId, NotificationId};
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::pg::{Pg, PgValue};
use diesel::sql_types::Text;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use Group::{Failed, Open, Succeeded};

/// How soon a delivery is claimed among all that are due; the lower, the sooner. Leaves room on both sides.
pub const PRIORITY_NORMAL: i16 = 100;

/// The state of one delivery: `PENDING → PROCESSING → SUCCESS | FAILED`, and back to `PENDING` to be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromSqlRow, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum DeliveryStatus {
    Pending,
    Processing,
    Success,
    Failed,
}

impl DeliveryStatus {
    pub const ALL: [DeliveryStatus; 4] =
        [DeliveryStatus::Pending, DeliveryStatus::Processing, DeliveryStatus::Success, DeliveryStatus::Failed];

    pub const fn name(self) -> &'static str {
        match self {
            DeliveryStatus::Pending => "PENDING",
            DeliveryStatus::Processing => "PROCESSING",
            DeliveryStatus::Success => "SUCCESS",
            DeliveryStatus::Failed => "FAILED",
        }
    }

    pub const fn group(self) -> Group {
        match self {
            DeliveryStatus::Pending | DeliveryStatus::Processing => Open,
            DeliveryStatus::Success => Succeeded,
            DeliveryStatus::Failed => Failed,
        }
    }
}

/// A name in the database that this build does not know.
#[derive(Debug, thiserror::Error)]
#[error("unknown name {0:?}")]
pub struct UnknownName(pub String);

impl FromSql<Text, Pg> for DeliveryStatus {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let name = <String as FromSql<Text, Pg>>::from_sql(value)?;
        Ok(Self::ALL.into_iter().find(|status| status.name() == name).ok_or(UnknownName(name))?)
    }
}

/// What matters about a delivery for the overall status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    Open,
    Succeeded,
    Failed,
}

impl Group {
    pub fn statuses(self) -> impl Iterator<Item = DeliveryStatus> {
        DeliveryStatus::ALL.into_iter().filter(move |status| status.group() == self)
    }
}

/// How a notification is doing as a whole. Never stored: always computed from its deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[schema(as = NotificationStatus)]
pub enum Status {
    /// Something is still to be sent.
    InProgress,
    Completed,
    Failed,
    PartiallyFailed,
    /// Nothing was to be sent: the recipient wants nothing over any channel.
    Suppressed,
}

impl Status {
    pub fn of(deliveries: impl IntoIterator<Item = DeliveryStatus>) -> Status {
        let (mut open, mut succeeded, mut failed) = (false, false, false);
        for delivery in deliveries {
            match delivery.group() {
                Open => open = true,
                Succeeded => succeeded = true,
                Failed => failed = true,
            }
        }
        match (open, succeeded, failed) {
            (true, _, _) => Status::InProgress,
            (false, true, true) => Status::PartiallyFailed,
            (false, true, false) => Status::Completed,
            (false, false, true) => Status::Failed,
            (false, false, false) => Status::Suppressed,
        }
    }

    /// The same rule for a query: which groups of deliveries a notification of this status has, and which it lacks.
    pub const fn requires(self) -> &'static [(Group, bool)] {
        match self {
            Status::InProgress => &[(Open, true)],
            Status::PartiallyFailed => &[(Open, false), (Succeeded, true), (Failed, true)],
            Status::Completed => &[(Open, false), (Succeeded, true), (Failed, false)],
            Status::Failed => &[(Open, false), (Succeeded, false), (Failed, true)],
            Status::Suppressed => &[(Open, false), (Succeeded, false), (Failed, false)],
        }
    }
}

/// Why a delivery did not succeed. The names are stored and shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// There is nobody (any more) under this account. Trying again would not help.
    RecipientUnknown,
    /// Account could not say where to send to. Certainly not sent.
    AddressUnavailable,
    /// The worker died or stalled between its claim and its result. It may have been sent.
    LeaseLost,
    /// The provider is away or says that it failed. Probably not sent.
    Unavailable,
    /// The provider took the message and did not answer. It may have been sent.
    NoAnswer,
    /// The provider wants a pause. Certainly not sent.
    Throttled,
    /// The provider will not have this message. Trying again would not help.
    MessageRefused,
    /// The provider will not have a message that this was a part of: perhaps because of another part.
    DigestRefused,
    /// The webhook does not exist (any more) or lets nobody in. Trying again would not help.
    WebhookRefused,
}

impl Failure {
    pub const fn name(self) -> &'static str {
        match self {
            Failure::RecipientUnknown => "RECIPIENT_UNKNOWN",
            Failure::AddressUnavailable => "ADDRESS_UNAVAILABLE",
            Failure::LeaseLost => "LEASE_LOST",
            Failure::Unavailable => "UNAVAILABLE",
            Failure::NoAnswer => "NO_ANSWER",
            Failure::Throttled => "THROTTLED",
            Failure::MessageRefused => "MESSAGE_REFUSED",
            Failure::DigestRefused => "DIGEST_REFUSED",
            Failure::WebhookRefused => "WEBHOOK_REFUSED",
        }
    }

    const fn is_final(self) -> bool {
        match self {
            Failure::RecipientUnknown | Failure::MessageRefused | Failure::WebhookRefused => true,
            Failure::AddressUnavailable
            | Failure::LeaseLost
            | Failure::Unavailable
            | Failure::NoAnswer
            | Failure::Throttled
            | Failure::DigestRefused => false,
        }
    }
}

/// How a claim ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Sent,
    NotSent(Failure),
    /// The provider asks for a pause of this length.
    Throttled(Duration),
    /// Claimed but not tried: the worker stops, or its lease is nearly over.
    HandedBack,
}

/// What becomes of a claimed delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    pub status: DeliveryStatus,
    /// Tries that count.
    pub attempt: i32,
    /// How long it waits before it is due again; zero where it is not.
    pub delay: Duration,
    pub failure: Option<Failure>,
}

impl Next {
    /// Nothing will be tried any more by itself.
    pub fn is_dead(self) -> bool {
        self.status == DeliveryStatus::Failed
    }

    /// As it appears in metrics.
    pub fn name(self) -> &'static str {
        match (self.status, self.failure) {
            (DeliveryStatus::Success, _) => "success",
            (DeliveryStatus::Failed, _) => "dead",
            (DeliveryStatus::Pending | DeliveryStatus::Processing, Some(_)) => "retry",
            (DeliveryStatus::Pending | DeliveryStatus::Processing, None) => "handed_back",
        }
    }
}

/// Decides what follows after the claim that made `attempt` tries. There is one try more than `retry_delays`.
///
/// `jitter` (0.8 to 1.2) spreads those that failed together.
pub fn next(outcome: Outcome, attempt: i32, retry_delays: &[Duration], jitter: f64) -> Next {
    let ended = |status, failure| Next { status, attempt, delay: Duration::ZERO, failure };
    match outcome {
        Outcome::Sent => ended(DeliveryStatus::Success, None),
        Outcome::HandedBack => Next { attempt: attempt - 1, ..ended(DeliveryStatus::Pending, None) },
        // Not its own fault, so it costs nothing: however long the provider is busy, nothing is given up.
        Outcome::Throttled(delay) => {
            Next { attempt: attempt - 1, delay, ..ended(DeliveryStatus::Pending, Some(Failure::Throttled)) }
        }
        Outcome::NotSent(failure) => {
            let tries_before = usize::try_from(attempt - 1).unwrap_or(0);
            match retry_delays.get(tries_before) {
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
/// A failed delivery starts anew, a waiting one waits no longer: so asking twice is asking once. What was sent is never
/// sent again, and what is being sent is left alone.
pub fn retry(delivery: DeliveryId, status: DeliveryStatus, attempt: i32) -> Result<i32, Refused> {
    match status {
        DeliveryStatus::Failed => Ok(0),
        DeliveryStatus::Pending => Ok(attempt),
        DeliveryStatus::Processing | DeliveryStatus::Success => Err(Refused::NotRetryable { delivery, status }),
    }
}

/// Why the hub says no.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("There is no notification {0}.")]
    NotificationNotFound(NotificationId),
    #[error("There is no delivery {0} of this notification.")]
    DeliveryNotFound(DeliveryId),
    #[error("Delivery {delivery} cannot be retried: it is {}.", status.name())]
    NotRetryable { delivery: DeliveryId, status: DeliveryStatus },
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Refused::NotificationNotFound(_) => codes::NOTIFICATION_NOT_FOUND,
            Refused::DeliveryNotFound(_) => codes::DELIVERY_NOT_FOUND,
            Refused::NotRetryable { .. } => codes::DELIVERY_NOT_RETRYABLE,
        }
    }

    fn details(&self) -> Vec<Value> {
        match self {
            Refused::NotificationNotFound(_) | Refused::DeliveryNotFound(_) => Vec::new(),
            Refused::NotRetryable { delivery, status } => vec![json!({ "deliveryId": delivery, "status": status })],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAYS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

    #[test]
    fn the_overall_status_follows_from_the_deliveries() {
        use DeliveryStatus::{Failed, Pending, Processing, Success};
        for (deliveries, expected) in [
            (&[][..], Status::Suppressed),
            (&[Pending], Status::InProgress),
            (&[Processing], Status::InProgress),
            (&[Success, Failed, Pending], Status::InProgress),
            (&[Success], Status::Completed),
            (&[Success, Success], Status::Completed),
            (&[Failed, Failed], Status::Failed),
            (&[Failed, Success], Status::PartiallyFailed),
        ] {
            assert_eq!(Status::of(deliveries.iter().copied()), expected, "{deliveries:?}");
        }
    }

    #[test]
    fn a_query_for_a_status_finds_exactly_what_computes_to_it() {
        let every =
            [Status::InProgress, Status::Completed, Status::Failed, Status::PartiallyFailed, Status::Suppressed];
        for present in 0..16_u8 {
            let mix: Vec<_> =
                DeliveryStatus::ALL.into_iter().enumerate().filter(|(bit, _)| present & (1 << bit) != 0).collect();
            let mix = mix.into_iter().map(|(_, status)| status);
            let found = every.into_iter().filter(|status| {
                status.requires().iter().all(|(group, wanted)| mix.clone().any(|one| one.group() == *group) == *wanted)
            });
            assert_eq!(found.collect::<Vec<_>>(), [Status::of(mix.clone())], "{mix:?}");
        }
    }

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
    fn what_cannot_help_is_not_repeated() {
        assert!(next(Outcome::NotSent(Failure::RecipientUnknown), 1, &DELAYS, 1.0).is_dead());
        assert!(next(Outcome::NotSent(Failure::MessageRefused), 1, &DELAYS, 1.0).is_dead());
        assert!(next(Outcome::NotSent(Failure::WebhookRefused), 1, &DELAYS, 1.0).is_dead());
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
    fn statuses_keep_their_names() {
        for status in DeliveryStatus::ALL {
            assert_eq!(serde_json::to_value(status).unwrap(), status.name());
        }
    }
}
