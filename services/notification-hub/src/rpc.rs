//! The gRPC interface: each method checks its request and calls one flow.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use common::idempotency::IdempotencyKey;
use common::rpc::{CallingService, SERVICE_FORBIDDEN};
use common::text::Text;
use common::{Refused, Result};
use contract::notification_hub::notification_service_server::NotificationService;
use contract::notification_hub::{RequestedDelivery, SendRequest, SendResponse};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tonic::{Request, Response, Status};

use crate::App;
use crate::api_key::check_client;
use crate::caller::client_id;
use crate::request::{ChannelRequest, Recipient, SendNotification};
use crate::send_notification::{Sent, send};

#[tonic::async_trait]
impl NotificationService for App {
    async fn send(&self, request: Request<SendRequest>) -> Result<Response<SendResponse>, Status> {
        // A caller in this process is believed: nobody else is in between.
        let caller = request.extensions().get::<CallingService>().copied();
        let request = request.into_inner();
        check_client("sender", &request.sender).map_err(common::Error::from)?;
        if let Some(CallingService(caller)) = caller.filter(|CallingService(caller)| *caller != request.sender) {
            let why = format!("{caller} may not send as {}.", request.sender);
            return Err(common::Error::from(Refused::new(SERVICE_FORBIDDEN, why)).into());
        }
        let by = client_id(&request.sender);
        let key = match request.idempotency_key.as_bytes() {
            [] => None,
            key => Some(IdempotencyKey::parse(key).map_err(common::Error::from)?),
        };
        let checked = notification(request)?.check(by, key.as_ref(), Utc::now())?;
        let sent = send(self, checked).await?;
        let created = matches!(sent, Sent::New(_));
        let stored = sent.into_stored();
        let delivery = |(id, channel): (contract::ids::DeliveryId, crate::channel::Channel)| RequestedDelivery {
            delivery_id: id.to_string(),
            channel: channel.name().to_owned(),
        };
        Ok(Response::new(SendResponse {
            notification_id: stored.id.to_string(),
            deliveries: stored.deliveries.into_iter().map(delivery).collect(),
            created,
        }))
    }
}

/// The request as the HTTP interface has it, so that one set of rules checks both.
fn notification(request: SendRequest) -> Result<SendNotification> {
    let channels = request.channels.into_iter().map(|asked| {
        Ok(ChannelRequest {
            channel: text("channels.channel", &asked.channel)?,
            target: optional(&asked.target, |target| text("channels.target", target))?,
        })
    });
    let not_before = request
        .not_before
        .map(DateTime::<Utc>::try_from)
        .transpose()
        .map_err(|_| Refused::invalid("not_before", "not a time"))?;
    Ok(SendNotification {
        kind: text("type", &request.r#type)?,
        recipient: Some(Recipient {
            user_id: optional(&request.user_id, |id| parse("user_id", id))?,
            email: optional(&request.email, |email| text("email", email))?,
        }),
        channels: channels.collect::<Result<_>>()?,
        subject: optional(&request.subject, |subject| text("subject", subject))?,
        body: optional(&request.body, |body| Ok(body.to_owned()))?,
        template: optional(&request.template, |name| text("template", name))?,
        language: optional(&request.language, |name| json("language", &Value::from(name).to_string()))?,
        data: optional(&request.data, |data| json("data", data))?.unwrap_or_default(),
        priority: optional(&request.priority, |name| json("priority", &Value::from(name).to_string()))?
            .unwrap_or_default(),
        not_before,
        event_id: optional(&request.event_id, |event| text("event_id", event))?,
    })
}

/// Protobuf has no absent text: an empty one says nothing.
pub fn optional<T>(text: &str, read: impl FnOnce(&str) -> Result<T>) -> Result<Option<T>> {
    if text.is_empty() { Ok(None) } else { read(text).map(Some) }
}

pub fn text<const MIN: usize, const MAX: usize>(field: &str, text: &str) -> Result<Text<MIN, MAX>> {
    Text::parse(text).map_err(|why| Refused::invalid(field, format!("{field} {why}")).into())
}

pub fn json<T: DeserializeOwned>(field: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| Refused::invalid(field, error.to_string()).into())
}

pub fn parse<T: FromStr<Err: ToString>>(field: &str, text: &str) -> Result<T> {
    text.parse().map_err(|error: T::Err| Refused::invalid(field, error.to_string()).into())
}
