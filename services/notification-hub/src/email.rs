//! E-mail, by SMTP. Where no server is set the log stands in for it: one line under the target `mail` for each e-mail, so
//! that each can be seen and counted there, or switched off by the log filter without losing anything else.

mod smtp;

use std::collections::HashMap;
use std::time::Duration;

use contract::ids::{AccountId, DeliveryId};
use futures_util::stream::{self, StreamExt};
use secrecy::SecretString;
use serde::Deserialize;
use tokio::time::Instant;

use crate::App;
use crate::channel::Channel;
use crate::claims::{AttemptResult, Claimed};
use crate::contacts::Address;
use crate::delivery::{Failure, Outcome};

pub use smtp::Smtp;

/// Section `[notification_hub.email]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmailSettings {
    pub timeout_ms: u64,
    pub smtp_url: SecretString,
    pub smtp_timeout_ms: u64,
    pub smtp_connections: u32,
    pub from: String,
    pub retry_delays_seconds: Vec<u64>,
}

impl EmailSettings {
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    pub fn smtp_timeout(&self) -> Duration {
        Duration::from_millis(self.smtp_timeout_ms)
    }
}

/// Where the users of some deliveries can be reached. Who is not among them was not asked for.
pub type Addresses = HashMap<AccountId, Address>;

/// Sends outside any transaction. What cannot be started before `deadline` or before the host stops is handed back.
pub async fn send(app: &App, claimed: Vec<Claimed>, deadline: Instant) -> Vec<AttemptResult> {
    let addresses = look_up(app, claimed.iter(), deadline).await;
    let turns = admit(app, claimed.len()).await;
    hand_over(app, &claimed, &addresses, turns, deadline).await
}

/// The addresses of those whose e-mails go to no other. Ends at `deadline` or when the host stops.
pub async fn look_up(app: &App, claimed: impl Iterator<Item = &Claimed>, deadline: Instant) -> Addresses {
    let enough = async {
        tokio::select! {
            () = app.stopping.cancelled() => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
    };
    let users = claimed.filter(|delivery| delivery.target.is_none()).filter_map(|delivery| delivery.user).collect();
    let addresses = app.contacts.addresses(users, enough).await;
    log_unavailable(&addresses);
    addresses
}

/// For each of `count` e-mails: None if it may go now, or how long it has to wait. One mail server takes all of them.
pub async fn admit(app: &App, count: usize) -> Vec<Option<Duration>> {
    app.targets.admit(Channel::Email, &vec![""; count]).await
}

/// Hands e-mails to the mail server, those that have no turn excepted. They are begun in their order.
pub async fn hand_over(
    app: &App,
    claimed: &[Claimed],
    addresses: &Addresses,
    turns: Vec<Option<Duration>>,
    deadline: Instant,
) -> Vec<AttemptResult> {
    let retry_delays = app.settings.retry_delays(Channel::Email);
    let sending = claimed.iter().zip(turns).map(|(delivery, turn)| {
        let known = delivery.target.as_deref().map(|target| Address::Known(target.into()));
        let found = delivery.user.map(|user| addresses.get(&user));
        let retry_delays = &retry_delays;
        async move {
            let outcome = match known.as_ref().map(Some).or(found) {
                None | Some(Some(Address::NoSuchUser)) => Outcome::NotSent(Failure::RecipientUnknown),
                Some(Some(Address::Unavailable(_))) => Outcome::NotSent(Failure::AddressUnavailable),
                Some(None) => Outcome::HandedBack,
                Some(Some(Address::Known(_))) if Instant::now() >= deadline => Outcome::HandedBack,
                Some(Some(Address::Known(address))) => match turn {
                    Some(pause) => Outcome::HeldBack(pause),
                    None => delivery.in_trace(post(app, delivery, address)).await,
                },
            };
            delivery.attempt.result(outcome, retry_delays)
        }
    });
    // As many at once as there are connections to the server.
    let at_once = app.settings.email.smtp_connections as usize;
    let sending: Vec<_> = sending.collect();
    let results: Vec<AttemptResult> = stream::iter(sending).buffered(at_once).collect().await;
    app.targets.record(Channel::Email, results.iter().map(|result| ("", result)));
    results
}

async fn post(app: &App, delivery: &Claimed, address: &str) -> Outcome {
    let Some(smtp) = &app.smtp else {
        write_to_log(delivery, address);
        return Outcome::Sent;
    };
    let Claimed { attempt, subject, body, .. } = delivery;
    let Err(not_taken) = smtp.send(attempt.delivery, address, subject, body).await else { return Outcome::Sent };
    tracing::warn!(
        deliveryId = %attempt.delivery, to = masked(address), reason = not_taken.reason, outcome = ?not_taken.outcome,
        "The mail server did not take an e-mail; it is tried again, or given up where the outcome is final"
    );
    not_taken.outcome
}

/// One line for all that failed together: an account service that is away fails a whole claim.
fn log_unavailable(addresses: &Addresses) {
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
    let (message_id, to) = (smtp::message_id(id, "stampede"), masked(address));
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
