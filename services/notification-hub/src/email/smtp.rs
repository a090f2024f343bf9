//! A mail server, spoken to over SMTP. Its answers are judged here, and nowhere else.

use std::error::Error as _;
use std::time::Duration;

use anyhow::Context;
use contract::ids::DeliveryId;
use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp::{Error, PoolConfig};
use lettre::{Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use secrecy::ExposeSecret;

use super::EmailSettings;
use crate::delivery::{Failure, Outcome};

/// What a server says of who we are, not of the message: 530, 534, 535, 538. It passes when the settings are mended.
const AUTHENTICATION: [u16; 4] = [530, 534, 535, 538];

pub struct Smtp {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    timeout: Duration,
}

/// An e-mail that was not taken.
pub struct NotTaken {
    pub outcome: Outcome,
    /// For the log.
    pub reason: String,
}

impl Smtp {
    /// None when no server is set.
    pub fn new(settings: &EmailSettings) -> anyhow::Result<Option<Smtp>> {
        let url = settings.smtp_url.expose_secret();
        if url.is_empty() {
            return Ok(None);
        }
        // No cause in the error: it would quote the password.
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(url)
            .ok()
            .context("notification_hub.email.smtp_url is not smtp://… or smtps://…")?
            .timeout(Some(settings.smtp_timeout()))
            .pool_config(PoolConfig::new().max_size(settings.smtp_connections))
            .build();
        let from = settings.from.parse().context("notification_hub.email.from is not a name and an address")?;
        Ok(Some(Smtp { transport, from, timeout: settings.smtp_timeout() }))
    }

    /// Sends one e-mail. Its Message-ID is the same in every attempt, so that a mailbox shows a repeated one once.
    pub async fn send(&self, id: DeliveryId, to: &str, subject: &str, body: &str) -> Result<(), NotTaken> {
        let refused = |reason: String| NotTaken { outcome: Outcome::NotSent(Failure::MessageRefused), reason };
        let to: Address = to.parse().map_err(|_| refused("the address is none that SMTP can carry".to_owned()))?;
        let message = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(subject)
            .message_id(Some(message_id(id, self.from.email.domain())))
            .header(ContentType::TEXT_PLAIN)
            .body(body.to_owned())
            .map_err(|error| refused(error.to_string()))?;
        // The limit of lettre is for each step of the dialogue.
        match tokio::time::timeout(self.timeout, self.transport.send(message)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(NotTaken { outcome: Outcome::NotSent(failure(&error)), reason: error.to_string() }),
            Err(_) => {
                let reason = format!("no answer within {:?}", self.timeout);
                Err(NotTaken { outcome: Outcome::NotSent(Failure::NoAnswer), reason })
            }
        }
    }
}

/// `<id@domain>`
pub fn message_id(id: DeliveryId, domain: &str) -> String {
    format!("<{id}@{domain}>")
}

fn failure(error: &Error) -> Failure {
    match error.status() {
        Some(code) => judge(u16::from(code), error.is_transient()),
        None if was_not_reached(error) => Failure::Unavailable,
        None => Failure::NoAnswer,
    }
}

/// What a refusal of the server means: 4xx passes, 5xx does not.
fn judge(code: u16, is_transient: bool) -> Failure {
    match code {
        // The server closes the connection: it is busy, or going down.
        421 => Failure::Unavailable,
        code if AUTHENTICATION.contains(&code) => Failure::Unavailable,
        _ if is_transient => Failure::Rejected,
        _ => Failure::MessageRefused,
    }
}

/// Whether the server was not even reached: certainly nothing was sent.
fn was_not_reached(error: &Error) -> bool {
    use std::io::ErrorKind::{AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable, NotFound};
    let mut cause = error.source();
    while let Some(found) = cause {
        if let Some(io) = found.downcast_ref::<std::io::Error>() {
            return [AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable, NotFound]
                .contains(&io.kind());
        }
        cause = found.source();
    }
    error.is_tls()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_hundreds_pass_and_five_hundreds_do_not() {
        for (code, expected) in [
            (421, Failure::Unavailable),
            (450, Failure::Rejected),
            (451, Failure::Rejected),
            (452, Failure::Rejected),
            (535, Failure::Unavailable),
            (550, Failure::MessageRefused),
            (552, Failure::MessageRefused),
            (554, Failure::MessageRefused),
        ] {
            assert_eq!(judge(code, code < 500), expected, "{code}");
        }
    }

    #[tokio::test]
    async fn a_server_that_cannot_be_reached_has_got_nothing() {
        let settings = |smtp_url: &str, from: &str| EmailSettings {
            timeout_ms: 1_000,
            smtp_url: smtp_url.to_owned().into(),
            smtp_timeout_ms: 1_000,
            smtp_connections: 1,
            from: from.to_owned(),
            retry_delays_seconds: vec![],
        };
        let from = "Shop <shop@example.com>";
        // Nobody listens on port 1.
        let smtp = Smtp::new(&settings("smtp://127.0.0.1:1", from)).unwrap().unwrap();
        let not_taken = smtp.send(DeliveryId::derive(&[b"x"]), "a@example.com", "s", "b").await.unwrap_err();
        assert_eq!(not_taken.outcome, Outcome::NotSent(Failure::Unavailable), "{}", not_taken.reason);
        assert!(Smtp::new(&settings("", from)).unwrap().is_none());
        for (url, from) in [("http://user:hunter2@x", from), ("smtp://127.0.0.1:1", "nobody")] {
            let error = format!("{:#}", Smtp::new(&settings(url, from)).err().unwrap());
            assert!(error.contains("notification_hub.email") && !error.contains("hunter2"), "{error}");
        }
    }
}
