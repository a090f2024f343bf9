//! Rules: what a request for a notification may say, and the rows that follow from it.

use chrono::{DateTime, TimeDelta, Utc};
use common::id::derive_uuid;
use common::idempotency::{IdempotencyKey, fingerprint};
use common::page::is_storable;
use common::text::Text;
use common::{Error, Refused, Result};
use contract::ids::{AccountId, DeliveryId, NotificationId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::api_key::check_client;
use crate::channel::{Channel, Message};
use crate::delivery::Priority;
use crate::notification;
use crate::template::Language;

/// The version of [`SendNotification`] in fingerprints. Raise it when a field is added.
const FINGERPRINT_VERSION: u8 = 2;

/// Of a message. Slack cuts at 3,000.
const BODY_CHARS_MAX: usize = 20_000;
/// So far ahead may a notification be asked for.
const NOT_BEFORE_MAX: TimeDelta = TimeDelta::days(30);
/// As in SMTP.
const EMAIL_BYTES_MAX: usize = 254;

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SendNotification {
    /// Upper case letters, digits and `_`.
    #[serde(rename = "type")]
    #[schema(example = "SYSTEM_INCIDENT")]
    pub kind: Text<1, 100>,
    /// Left out: it is for operators only.
    #[serde(default, deserialize_with = "common::object::optional")]
    pub recipient: Option<Recipient>,
    /// At least one, each once.
    #[serde(deserialize_with = "common::object::list")]
    pub channels: Vec<ChannelRequest>,
    /// One line. Left out where there is a template.
    #[serde(default)]
    pub subject: Option<Text<1, 200>>,
    /// Plain text, up to 20,000 characters. Left out where there is a template.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 20000)]
    pub body: Option<String>,
    /// The name of a template, in place of `subject` and `body`. It must have a text for each of the channels.
    #[serde(default)]
    #[schema(example = "ORDER_DELAYED")]
    pub template: Option<Text<1, 100>>,
    /// Of the template. Left out: the language that the user has chosen, else that of the settings.
    #[serde(default)]
    pub language: Option<Language>,
    /// For whoever reads the notification over the API, and for the template; the recipient reads it too.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub data: Map<String, Value>,
    #[serde(default)]
    pub priority: Priority,
    /// Nothing is sent before this time, which is 30 days ahead at the most.
    #[serde(default)]
    pub not_before: Option<DateTime<Utc>>,
    /// The fact that it tells of: two requests of one caller for one event are one notification, whatever their keys.
    #[serde(default)]
    pub event_id: Option<Text<1, 255>>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Recipient {
    #[serde(default)]
    pub user_id: Option<AccountId>,
    /// Where e-mail goes, in place of the address that the user's account has.
    #[serde(default)]
    pub email: Option<Text<3, 254>>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChannelRequest {
    /// `EMAIL`, `SLACK`, `WEBHOOK` or `INAPP`
    #[schema(example = "SLACK")]
    pub channel: Text<1, 30>,
    /// `EMAIL`: an address, in place of the recipient's. `WEBHOOK`: the name of an endpoint that an
    /// administrator has entered. `SLACK` and `INAPP` have none: they are the operators' channel and the user's inbox.
    #[serde(default)]
    pub target: Option<Text<1, 500>>,
}

/// A request that may be stored, once it has its text.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    pub requested: Requested,
    /// What its messages are to be made of. None: they are there.
    pub template: Option<AskedTemplate>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedTemplate {
    pub name: String,
    pub language: Option<Language>,
}

/// A request that may be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Requested {
    pub id: NotificationId,
    pub event_id: Uuid,
    pub by: Uuid,
    pub fingerprint: Vec<u8>,
    pub kind: String,
    pub user: Option<AccountId>,
    pub data: Value,
    pub priority: Priority,
    pub not_before: Option<DateTime<Utc>>,
    /// In the order of [`Channel`].
    pub deliveries: Vec<RequestedDelivery>,
    /// Of the trace that led to the request.
    pub traceparent: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RequestedDelivery {
    pub id: DeliveryId,
    pub channel: Channel,
    /// None: what is known at the time of sending.
    pub target: Option<String>,
    pub message: Message,
}

impl SendNotification {
    /// Checks the request of `by`, and derives the ids of what it leads to.
    ///
    /// An event names the notification, else the key does: so a repeat names the same rows.
    pub fn check(self, by: Uuid, key: Option<&IdempotencyKey>, now: DateTime<Utc>) -> Result<Checked> {
        let fingerprint = fingerprint(FINGERPRINT_VERSION, &self);
        let event_id = match (&self.event_id, key) {
            (Some(event), _) => derive_uuid("request", &[by.as_bytes(), b"event", event.as_str().as_bytes()]),
            (None, Some(key)) => derive_uuid("request", &[by.as_bytes(), b"key", key.as_bytes()]),
            (None, None) => {
                let text = "Send an Idempotency-Key header, or an eventId.";
                return Err(Refused::new(common::error::IDEMPOTENCY_KEY_REQUIRED, text).into());
            }
        };
        check_name("type", self.kind.as_str())?;
        let (message, template) = content(self.subject, self.body.as_deref(), self.template, self.language)?;
        if self.not_before.is_some_and(|at| !is_storable(&at) || at > now + NOT_BEFORE_MAX) {
            let text = format!("Must be within {} days.", NOT_BEFORE_MAX.num_days());
            return Err(Refused::invalid("notBefore", text).into());
        }
        let data = Value::Object(self.data);
        if has_nul(&data) {
            return Err(Refused::invalid("data", "Must not contain the character NUL.").into());
        }
        let id = NotificationId::derive(&[event_id.as_bytes()]);
        let recipient = self.recipient.unwrap_or_default();
        let deliveries = deliveries(id, &self.channels, &recipient, &message)?;
        let requested = Requested {
            id,
            event_id,
            by,
            fingerprint,
            kind: self.kind.into_string(),
            user: recipient.user_id,
            data,
            priority: self.priority,
            not_before: self.not_before,
            deliveries,
            traceparent: None,
        };
        Ok(Checked { requested, template })
    }
}

/// A type and a template have a name for programs.
pub fn check_name(field: &str, name: &str) -> Result<(), Refused> {
    let is_plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    if !name.bytes().all(is_plain) || !name.starts_with(|first: char| first.is_ascii_uppercase()) {
        return Err(Refused::invalid(field, "Must be upper case letters, digits and `_`, e.g. SYSTEM_INCIDENT."));
    }
    Ok(())
}

/// What is sent: a text, or the one that a template will make.
fn content(
    subject: Option<Text<1, 200>>,
    body: Option<&str>,
    template: Option<Text<1, 100>>,
    language: Option<Language>,
) -> Result<(Message, Option<AskedTemplate>), Refused> {
    match (template, subject, body) {
        (Some(name), None, None) => {
            check_name("template", name.as_str())?;
            let template = AskedTemplate { name: name.into_string(), language };
            Ok((Message::plain(String::new(), String::new()), Some(template)))
        }
        (Some(_), Some(_), _) => Err(Refused::invalid("subject", "A template makes the subject.")),
        (Some(_), None, Some(_)) => Err(Refused::invalid("body", "A template makes the body.")),
        (None, ..) if language.is_some() => Err(Refused::invalid("language", "Only a template has languages.")),
        (None, None, _) => Err(Refused::invalid("subject", "Send subject and body, or a template.")),
        (None, Some(_), None) => Err(Refused::invalid("body", "Send subject and body, or a template.")),
        (None, Some(subject), Some(body)) => Ok((Message::plain(subject.into_string(), check_body(body)?), None)),
    }
}

/// Text of several lines, which all end in the same way.
fn check_body(body: &str) -> Result<String, Refused> {
    let body = body.replace("\r\n", "\n");
    if body.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        return Err(Refused::invalid("body", "Must not contain control characters other than line breaks and tabs."));
    }
    if body.trim().is_empty() || body.chars().count() > BODY_CHARS_MAX {
        return Err(Refused::invalid("body", format!("Must be 1 to {BODY_CHARS_MAX} characters long.")));
    }
    Ok(body)
}

/// PostgreSQL cannot store NUL, not even within JSON.
pub fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(has_nul),
        Value::Object(members) => members.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn deliveries(
    notification: NotificationId,
    requests: &[ChannelRequest],
    recipient: &Recipient,
    message: &Message,
) -> Result<Vec<RequestedDelivery>> {
    if requests.is_empty() {
        return Err(Refused::invalid("channels", "Name at least one channel.").into());
    }
    let mut deliveries: Vec<RequestedDelivery> = Vec::with_capacity(requests.len());
    for (place, request) in requests.iter().enumerate() {
        let name = request.channel.as_str();
        let channel: Channel =
            name.parse().map_err(|_| Error::from(notification::Refused::UnknownChannel(name.to_owned())))?;
        if deliveries.iter().any(|other| other.channel == channel) {
            return Err(Refused::invalid(&format!("channels[{place}]"), format!("{name} is there already.")).into());
        }
        let target = target(channel, place, request.target.as_ref().map(Text::as_str), recipient)?;
        let id = DeliveryId::derive(&[
            notification.as_bytes(),
            name.as_bytes(),
            target.as_deref().unwrap_or_default().as_bytes(),
        ]);
        deliveries.push(RequestedDelivery { id, channel, target, message: message.clone() });
    }
    deliveries.sort_by_key(|delivery| delivery.channel);
    Ok(deliveries)
}

/// Where a delivery goes, as far as the request says it.
fn target(
    channel: Channel,
    place: usize,
    asked: Option<&str>,
    recipient: &Recipient,
) -> Result<Option<String>, Refused> {
    let field = format!("channels[{place}].target");
    match channel {
        Channel::Email => {
            let address = recipient.email.as_ref().map(|email| ("recipient.email", email.as_str()));
            match asked.map(|asked| (field.as_str(), asked)).or(address) {
                Some((field, address)) => {
                    check_email(field, address)?;
                    Ok(Some(address.to_owned()))
                }
                None if recipient.user_id.is_none() => {
                    Err(Refused::invalid("recipient", "EMAIL needs a recipient: userId, email, or a target."))
                }
                None => Ok(None),
            }
        }
        Channel::Webhook => {
            let name = asked.ok_or_else(|| Refused::invalid(&field, "WEBHOOK needs the name of an endpoint."))?;
            check_client(&field, name)?;
            Ok(Some(name.to_owned()))
        }
        Channel::Inapp if asked.is_some() => Err(Refused::invalid(&field, "INAPP goes to the user's inbox only.")),
        Channel::Inapp if recipient.user_id.is_none() => {
            Err(Refused::invalid("recipient", "INAPP needs a recipient with a userId."))
        }
        Channel::Slack if asked.is_some() => {
            Err(Refused::invalid(&field, "SLACK goes to the operators' channel only."))
        }
        Channel::Inapp | Channel::Slack => Ok(None),
    }
}

/// A local part, one `@`, a domain of labels that are not empty. What has a meaning in mail headers is refused: it turns
/// one recipient into several.
fn check_email(field: &str, address: &str) -> Result<(), Refused> {
    let has_meaning = |c: char| c.is_whitespace() || c.is_control() || "<>()[]\\,;:\"@".contains(c);
    let is_address = address.split_once('@').is_some_and(|(local, domain)| {
        let labels = domain.split('.').all(|label| !label.is_empty());
        !local.is_empty() && labels && !local.contains(has_meaning) && !domain.contains(has_meaning)
    });
    if !is_address || address.len() > EMAIL_BYTES_MAX {
        return Err(Refused::invalid(field, "Must be an e-mail address."));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
