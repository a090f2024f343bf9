//! Channels: the ways to reach somebody. E-mail goes to the log, which stands in for a mail server.

use contract::ids::DeliveryId;
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::pg::{Pg, PgValue};
use diesel::sql_types::Text;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::notification::UnknownName;

#[derive(Debug, Clone, Copy, PartialEq, Eq, FromSqlRow, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Channel {
    Email,
    /// The operators' channel.
    Slack,
}

impl Channel {
    pub const ALL: [Channel; 2] = [Channel::Email, Channel::Slack];

    pub const fn name(self) -> &'static str {
        match self {
            Channel::Email => "EMAIL",
            Channel::Slack => "SLACK",
        }
    }

    /// Whether only operators may see what went over it: its texts name what customers need not know.
    pub const fn is_for_operators(self) -> bool {
        match self {
            Channel::Email => false,
            Channel::Slack => true,
        }
    }
}

impl FromSql<Text, Pg> for Channel {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let name = <String as FromSql<Text, Pg>>::from_sql(value)?;
        Ok(Self::ALL.into_iter().find(|channel| channel.name() == name).ok_or(UnknownName(name))?)
    }
}

/// A message in plain text. The subject is one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub subject: String,
    pub body: String,
}

/// "Sends" an e-mail: one line in the log under the target `mail`, so that each e-mail can be seen and counted there,
/// or switched off by the log filter without losing anything else.
///
/// The Message-ID is the same in every attempt, so a mailbox shows a repeated e-mail once. The address is masked; the
/// body is written at debug only.
pub fn log_email(delivery: DeliveryId, address: &str, mail: &Message) {
    let message_id = format!("<{delivery}@stampede>");
    let to = masked(address);
    tracing::info!(target: "mail", deliveryId = %delivery, messageId = message_id, to, subject = mail.subject, "Sent an e-mail");
    tracing::debug!(target: "mail", deliveryId = %delivery, body = mail.body, "Its text");
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

    #[test]
    fn channels_keep_their_names() {
        for channel in Channel::ALL {
            assert_eq!(serde_json::to_value(channel).unwrap(), channel.name());
        }
    }
}
