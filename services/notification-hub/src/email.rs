//! E-mail. The log stands in for a mail server: one line under the target `mail` for each e-mail, so that each can be seen
//! and counted there, or switched off by the log filter without losing anything else.

use std::collections::HashMap;
use std::time::Duration;

use contract::ids::{AccountId, DeliveryId};
use serde::Deserialize;
use tokio::time::Instant;

use crate::App;
use crate::channel::Channel;
use crate::claims::{AttemptResult, Claimed};
use crate::contacts::Address;
use crate::delivery::{Failure, Outcome};

/// Section `[notification_hub.email]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmailSettings {
    pub timeout_ms: u64,
    pub retry_delays_seconds: Vec<u64>,
}

impl EmailSettings {
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// Sends outside any transaction. What cannot be started before `deadline` or before the host stops is handed back.
pub async fn send(app: &App, claimed: Vec<Claimed>, deadline: Instant) -> Vec<AttemptResult> {
    let enough = async {
        tokio::select! {
            () = app.stopping.cancelled() => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
    };
    let asks = claimed.iter().filter(|delivery| delivery.target.is_none());
    let users = asks.filter_map(|delivery| delivery.user).collect();
    let addresses = app.contacts.addresses(users, enough).await;
    log_unavailable(&addresses);
    let retry_delays = app.settings.retry_delays(Channel::Email);
    // One mail server takes all of them.
    let turns = app.targets.admit(Channel::Email, &vec![""; claimed.len()]).await;
    let results = claimed.iter().zip(turns).map(|(delivery, turn)| {
        let known = delivery.target.as_deref().map(|target| Address::Known(target.into()));
        let address = known.as_ref().map(Some).or_else(|| delivery.user.map(|user| addresses.get(&user)));
        let outcome = match address {
            None | Some(Some(Address::NoSuchUser)) => Outcome::NotSent(Failure::RecipientUnknown),
            Some(Some(Address::Unavailable(_))) => Outcome::NotSent(Failure::AddressUnavailable),
            Some(None) => Outcome::HandedBack,
            Some(Some(Address::Known(_))) if Instant::now() >= deadline => Outcome::HandedBack,
            Some(Some(Address::Known(address))) => match turn {
                Some(pause) => Outcome::HeldBack(pause),
                None => {
                    write_to_log(delivery, address);
                    Outcome::Sent
                }
            },
        };
        delivery.attempt.result(outcome, &retry_delays)
    });
    results.collect()
}

/// One line for all that failed together: an account service that is away fails a whole claim.
fn log_unavailable(addresses: &HashMap<AccountId, Address>) {
    let mut failures = addresses.iter().filter_map(|(user, address)| match address {
        Address::Unavailable(error) => Some((user, error)),
        Address::Known(_) | Address::NoSuchUser => None,
    });
    if let Some((user, error)) = failures.next() {
        let others = failures.count();
        tracing::warn!(
            userId = %user, others, %error,
            "The account service did not answer with the e-mail addresses of users; their e-mails are tried again after a delay"
        );
    }
}

/// The Message-ID is the same in every attempt, so a mailbox shows a repeated e-mail once. The address is masked; the
/// body is written at debug only.
fn write_to_log(delivery: &Claimed, address: &str) {
    let Claimed { attempt, subject, body, .. } = delivery;
    let id: DeliveryId = attempt.delivery;
    let (message_id, to) = (format!("<{id}@stampede>"), masked(address));
    tracing::info!(target: "mail", deliveryId = %id, messageId = message_id, to, subject, "Sent an e-mail");
    tracing::debug!(target: "mail", deliveryId = %id, body, "Its text");
}

/// Enough of an address to recognise it by when one knows it: `b***@example.com`.
fn masked(address: &str) -> String {
    match address.split_once('@') {
        Some((local, domain)) => format!("{}***@{domain}", local.chars().next().unwrap_or('*')),
        None => "***".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_not_readable_in_logs() {
        for (address, expected) in [
            ("buyer.kim@example.com", "b***@example.com"),
            ("김@example.kr", "김***@example.kr"),
            ("@example.com", "****@example.com"),
            ("nonsense", "***"),
            ("", "***"),
        ] {
            assert_eq!(masked(address), expected);
        }
    }
}
