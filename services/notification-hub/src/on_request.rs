//! Reaction to a request that comes as an event: the same as `POST /notifications`, for whoever would rather write to Kafka.
//!
//! A request that cannot be stored is parked like any other event that cannot be applied: an operator sees it, with the
//! reason, and has it applied when the reason is gone.

use chrono::{DateTime, Utc};
use common::db::Tx;
use common::inbox::{Handler, Received};
use common::text::Text;
use common::{Error, Refused, Result};
use contract::events::NotificationRequested;
use serde_json::{Map, Value};

use crate::App;
use crate::api_key::check_client;
use crate::caller::client_id;
use crate::find_templates::Wanted;
use crate::request::{AskedTemplate, ChannelRequest, Checked, Recipient, Requested, SendNotification};
use crate::rpc::{json, optional, parse, text};
use crate::send_notification::insert_all;

impl Handler<NotificationRequested> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<NotificationRequested>]) -> Result<()> {
        let checked: Vec<Checked> = events.iter().map(checked).collect::<Result<_>>()?;
        let wanted = |one: &Checked| {
            let AskedTemplate { name, .. } = one.template.clone()?;
            Some(Wanted { name, user: one.requested.user })
        };
        let wanted: Vec<Wanted> = checked.iter().filter_map(wanted).collect();
        let texts = self.templates.find_in(tx, &wanted).await?;
        let requested = |(one, event): (Checked, &Received<NotificationRequested>)| {
            Ok(Requested { traceparent: event.traceparent.clone(), ..one.with_messages(&texts)? })
        };
        let requests: Vec<Requested> = checked.into_iter().zip(events).map(requested).collect::<Result<_>>()?;
        let outcomes = insert_all(tx, &requests, &self.settings.transactional_types, &self.due).await?;
        outcomes.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(())
    }
}

/// Integers up to here are exact in a floating-point number.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// Protobuf's JSON objects have floating-point numbers only; a quantity of 2 is to be read as 2.
fn with_integers(value: Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(float) if float.fract() == 0.0 && float.abs() <= EXACT_MAX => Value::from(float as i64),
            _ => Value::Number(number),
        },
        Value::Array(values) => values.into_iter().map(with_integers).collect(),
        Value::Object(members) => {
            members.into_iter().map(|(name, value)| (name, with_integers(value))).collect::<Map<_, _>>().into()
        }
        other => other,
    }
}

/// The event as a request over HTTP, by the rules of one.
fn checked(received: &Received<NotificationRequested>) -> Result<Checked> {
    let event = &received.event;
    check_client("sender", &event.sender)?;
    let channels = event.channels.iter().map(|asked| {
        Ok(ChannelRequest {
            channel: text("channels.channel", &asked.channel)?,
            target: optional(&asked.target, |target| text("channels.target", target))?,
        })
    });
    let not_before = event.not_before.map(DateTime::<Utc>::try_from).transpose();
    let data = event.data.as_ref().map(serde_json::to_value).transpose().map_err(Error::fault)?;
    let request = SendNotification {
        kind: text("type", &event.r#type)?,
        recipient: Some(Recipient {
            user_id: optional(&event.user_id, |id| parse("userId", id))?,
            email: optional(&event.email, |email| text("email", email))?,
        }),
        channels: channels.collect::<Result<_>>()?,
        subject: optional(&event.subject, |subject| text("subject", subject))?,
        body: optional(&event.body, |body| Ok(body.to_owned()))?,
        template: optional(&event.template, |name| text("template", name))?,
        language: optional(&event.language, |name| json("language", &Value::from(name).to_string()))?,
        data: match data {
            Some(Value::Object(data)) => data.into_iter().map(|(name, value)| (name, with_integers(value))).collect(),
            _ => Map::new(),
        },
        priority: optional(&event.priority, |name| json("priority", &Value::from(name).to_string()))?
            .unwrap_or_default(),
        not_before: not_before.map_err(|_| Refused::invalid("notBefore", "not a time"))?,
        event_id: Some(Text::parse(&event.event_id).map_err(|why| Refused::invalid("eventId", why))?),
    };
    request.check(client_id(&event.sender), None, Utc::now())
}
