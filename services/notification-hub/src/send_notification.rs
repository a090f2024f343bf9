//! `POST /notifications`: stores a notification and one delivery for each channel. The workers send them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use actix_web::{FromRequest, HttpRequest, HttpResponse, post};
use chrono::Utc;
use common::batch::Batch;
use common::db::{Db, Tx};
use common::http::{Data, Problem, detach};
use common::idempotency::{HEADER, IdempotencyKey, REPLAYED_HEADER, same_request};
use common::{Error, Result, telemetry};
use contract::ids::{DeliveryId, NotificationId};
use diesel::{ExpressionMethods, QueryDsl};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::Serialize;
use utoipa::ToSchema;

use crate::caller::Sending;
use crate::channel::Channel;
use crate::find_templates::{Texts, Wanted};
use crate::handoff::DueSignals;
use crate::insert_notifications::{NewDelivery, NewNotification, insert_notifications};
use crate::manage_preferences::muted_deliveries;
use crate::notification::{DeliveryStatus, Refused};
use crate::request::{AskedTemplate, Checked, Requested, RequestedDelivery, SendNotification};
use crate::schema::{deliveries, notifications, webhook_endpoints};
use crate::{App, Settings};

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SentNotification {
    notification_id: NotificationId,
    deliveries: Vec<SentDelivery>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SentDelivery {
    delivery_id: DeliveryId,
    channel: Channel,
    /// `PENDING`: what becomes of it is told by `GET /notifications/{id}`.
    status: DeliveryStatus,
}

/// Have a notification sent.
///
/// It is stored, with one delivery for each channel, and sent soon after. The same key or `eventId` with the same body
/// gives the same answer, marked `Idempotent-Replayed: true`, for ever. For programs with an API key that has
/// `notifications:write`, and for administrators.
#[utoipa::path(
    tag = "notifications",
    request_body = SendNotification,
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters, chosen by the client for this intent; may be left out when there is an `eventId`, which names the notification where both are sent")),
    responses(
        (status = 201, body = SentNotification, description = "Stored; durable"),
        (status = 200, body = SentNotification, description = "There is a notification for this `eventId` already: this one"),
        (status = 400, body = Problem, description = "VALIDATION_ERROR, IDEMPOTENCY_KEY_REQUIRED"),
        (status = 401, body = Problem, description = "UNAUTHORIZED"),
        (status = 403, body = Problem, description = "FORBIDDEN"),
        (status = 404, body = Problem, description = "WEBHOOK_ENDPOINT_NOT_FOUND, TEMPLATE_NOT_FOUND"),
        (status = 422, body = Problem, description = "UNKNOWN_CHANNEL, TEMPLATE_INVALID, IDEMPOTENCY_KEY_REUSED"),
        (status = 429, body = Problem, description = "RATE_LIMITED"),
        (status = 503, body = Problem, description = "SERVICE_UNAVAILABLE: try again with the same key"),
    ),
    security(("bearer" = ["ADMIN"]), ("apiKey" = ["notifications:write"]))
)]
#[post("/notifications")]
pub async fn send_notification(
    app: Data<App>,
    request: HttpRequest,
    sending: Sending<SendNotification>,
) -> Result<HttpResponse> {
    accept(app, request, sending).await
}

/// The same at any address.
pub async fn accept(
    app: Data<App>,
    request: HttpRequest,
    Sending { sender, body }: Sending<SendNotification>,
) -> Result<HttpResponse> {
    // An extractor of an optional key would take a malformed one for none.
    let key = match request.headers().contains_key(HEADER) {
        true => Some(IdempotencyKey::extract(&request).await?),
        false => None,
    };
    app.sends.check(sender.id)?;
    let names_event = body.event_id.is_some();
    let checked = body.check(sender.id, key.as_ref(), Utc::now())?;
    let app = app.into_inner();
    let sent = detach(async move { send(&app, checked).await }).await?;
    let mut response = match (&sent, names_event) {
        (Sent::Replay(_), true) => HttpResponse::Ok(),
        _ => HttpResponse::Created(),
    };
    if let Sent::Replay(_) = sent {
        response.insert_header((REPLAYED_HEADER, "true"));
    }
    let stored = sent.into_stored();
    response.insert_header(("Location", format!("/api/v1/notifications/{}", stored.id)));
    Ok(response.json(view(stored)))
}

/// As it is stored, whatever has become of it since: a replay is equal to the first answer to the byte.
fn view(stored: Stored) -> SentNotification {
    let deliveries = stored.deliveries.into_iter().map(|(delivery_id, channel)| SentDelivery {
        delivery_id,
        channel,
        status: DeliveryStatus::Pending,
    });
    SentNotification { notification_id: stored.id, deliveries: deliveries.collect() }
}

/// The notification that a request names.
#[derive(Debug, Clone, PartialEq)]
pub enum Sent {
    New(Stored),
    /// An earlier request led to it.
    Replay(Stored),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    pub id: NotificationId,
    fingerprint: Vec<u8>,
    /// In the order of [`Channel`].
    pub deliveries: Vec<(DeliveryId, Channel)>,
}

impl Sent {
    pub fn into_stored(self) -> Stored {
        match self {
            Sent::New(stored) | Sent::Replay(stored) => stored,
        }
    }
}

/// Stores what `checked` says, if its id is new. Refuses with `IDEMPOTENCY_KEY_REUSED` if another request has taken it.
pub async fn send(app: &App, checked: Checked) -> Result<Sent> {
    let (id, fingerprint) = (checked.requested.id, checked.requested.fingerprint.clone());
    let sent = match with_messages(app, checked).await? {
        Ok(requested) => app.inserts.submit(Requested { traceparent: telemetry::traceparent(), ..requested }).await?,
        // A repeat is answered as the first time, though its template may have changed since.
        Err(refused) => match load(&mut *app.db.read().await?, &[id]).await?.remove(&id) {
            Some(stored) => Sent::Replay(stored),
            None => return Err(refused.into()),
        },
    };
    if let Sent::Replay(stored) = &sent {
        same_request(&stored.fingerprint, &fingerprint)?;
    }
    let outcome = if matches!(sent, Sent::New(_)) { "stored" } else { "replayed" };
    metrics::counter!("stampede_notification_requests_total", "outcome" => outcome).increment(1);
    Ok(sent)
}

/// The request with what its template makes of its data, or why it makes nothing.
async fn with_messages(app: &App, checked: Checked) -> Result<Result<Requested, Refused>> {
    let Some(AskedTemplate { name, .. }) = &checked.template else { return Ok(Ok(checked.requested)) };
    let wanted = Wanted { name: name.clone(), user: checked.requested.user };
    let texts = app.templates.find(wanted).await?;
    Ok(checked.with_messages(&texts))
}

impl Checked {
    /// Refuses with `TEMPLATE_NOT_FOUND` or `TEMPLATE_INVALID`.
    pub fn with_messages(mut self, texts: &Texts) -> Result<Requested, Refused> {
        if let Some(AskedTemplate { name, language }) = &self.template {
            let Requested { user, data, deliveries, .. } = &mut self.requested;
            for delivery in deliveries {
                delivery.message = texts.message(name, delivery.channel, *language, *user, data)?;
            }
        }
        Ok(self.requested)
    }
}

/// One transaction for all the notifications that are waiting to be stored.
pub fn insert_batch(db: &Db, settings: &Settings, due: &Arc<DueSignals>) -> Batch<Requested, Sent> {
    let (db, due) = (db.clone(), due.clone());
    let transactional: Arc<[String]> = settings.transactional_types.clone().into();
    Batch::start("notification_inserts", &settings.batch, move |requests: Arc<[Requested]>| {
        let (db, due, transactional) = (db.clone(), due.clone(), transactional.clone());
        async move { db.tx("send_notifications", async |tx| insert_all(tx, &requests, &transactional, &due).await).await }
    })
}

/// Stores the notifications that do not exist yet. One outcome for each request.
pub async fn insert_all(
    tx: &mut Tx,
    requests: &[Requested],
    transactional: &[String],
    due: &Arc<DueSignals>,
) -> Result<Vec<Result<Sent>>> {
    // Two requests with one key may share a batch: the first of them is stored, whole.
    let mut ids = HashSet::new();
    let mut first: Vec<&Requested> = requests.iter().filter(|request| ids.insert(request.id)).collect();
    // One order for all batches: two that have the same ids must not wait for each other.
    first.sort_by_key(|request| request.id);
    let unknown = unknown_endpoints(tx, &first).await?;
    first.retain(|request| request.endpoint().is_none_or(|name| !unknown.contains(name)));
    let muted = muted_deliveries(tx, &first, transactional).await?;
    let new = insert(tx, &first, &muted).await?;
    let existing: Vec<NotificationId> = ids.into_iter().filter(|id| !new.contains(id)).collect();
    let mut stored = load(tx, &existing).await?;
    let mut outcomes = Vec::with_capacity(requests.len());
    for request in requests {
        outcomes.push(match stored.get(&request.id) {
            Some(stored) => Ok(Sent::Replay(stored.clone())),
            None if new.contains(&request.id) => {
                let one = request.stored(&muted);
                stored.insert(one.id, one.clone());
                Ok(Sent::New(one))
            }
            None if request.endpoint().is_some_and(|name| unknown.contains(name)) => {
                let name = request.endpoint().unwrap_or_default().to_owned();
                Err(Refused::EndpointNotFound(name).into())
            }
            None => Err(Error::transient(anyhow::anyhow!("notification {} vanished", request.id))),
        });
    }
    tx.point("notification.before_commit").await;
    let channels: HashSet<Channel> = outcomes.iter().flatten().flat_map(Sent::due).collect();
    let due = due.clone();
    tx.after_commit(move || channels.into_iter().for_each(|channel| due.wake(channel)));
    Ok(outcomes)
}

/// The webhook endpoints that requests name and that are not there.
async fn unknown_endpoints(tx: &mut Tx, requests: &[&Requested]) -> Result<HashSet<String>> {
    let mut named: HashSet<String> =
        requests.iter().filter_map(|request| request.endpoint()).map(str::to_owned).collect();
    if !named.is_empty() {
        let known: Vec<String> = webhook_endpoints::table
            .filter(webhook_endpoints::name.eq_any(&named))
            .select(webhook_endpoints::name)
            .load(tx)
            .await?;
        named.retain(|name| !known.contains(name));
    }
    Ok(named)
}

impl Sent {
    /// The channels that have something to send now.
    fn due(&self) -> Vec<Channel> {
        match self {
            Sent::New(stored) => stored.deliveries.iter().map(|(_, channel)| *channel).collect(),
            Sent::Replay(_) => Vec::new(),
        }
    }
}

impl Requested {
    /// The webhook endpoint that it names.
    fn endpoint(&self) -> Option<&str> {
        let webhook = self.deliveries.iter().find(|delivery| delivery.channel == Channel::Webhook)?;
        webhook.target.as_deref()
    }

    /// The deliveries that its user has not muted.
    fn deliveries_but<'a>(&'a self, muted: &'a HashSet<DeliveryId>) -> impl Iterator<Item = &'a RequestedDelivery> {
        self.deliveries.iter().filter(|delivery| !muted.contains(&delivery.id))
    }

    fn stored(&self, muted: &HashSet<DeliveryId>) -> Stored {
        let deliveries = self.deliveries_but(muted).map(|delivery| (delivery.id, delivery.channel)).collect();
        Stored { id: self.id, fingerprint: self.fingerprint.clone(), deliveries }
    }
}

/// Inserts the notifications that do not exist yet, with their deliveries. Returns their ids.
async fn insert(tx: &mut Tx, requests: &[&Requested], muted: &HashSet<DeliveryId>) -> Result<HashSet<NotificationId>> {
    let mut notifications = Vec::with_capacity(requests.len());
    let mut deliveries = Vec::with_capacity(requests.len());
    for request in requests {
        notifications.push(NewNotification {
            id: request.id,
            event_id: request.event_id,
            kind: &request.kind,
            user: request.user,
            data: &request.data,
            request: Some((request.by, &request.fingerprint)),
            traceparent: request.traceparent.as_deref(),
        });
        deliveries.extend(request.deliveries_but(muted).map(|delivery| NewDelivery {
            id: delivery.id,
            notification: request.id,
            channel: delivery.channel,
            target: delivery.target.as_deref(),
            message: &delivery.message,
            priority: request.priority.rank(),
            not_before: request.not_before,
            is_claimed: false,
        }));
    }
    insert_notifications(tx, &notifications, &deliveries, Duration::ZERO).await
}

/// What earlier requests have stored under these ids.
async fn load(conn: &mut AsyncPgConnection, ids: &[NotificationId]) -> Result<HashMap<NotificationId, Stored>> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows: Vec<(NotificationId, Option<Vec<u8>>)> = notifications::table
        .filter(notifications::id.eq_any(ids))
        .select((notifications::id, notifications::fingerprint))
        .load(conn)
        .await?;
    let stored = rows.into_iter().map(|(id, fingerprint)| {
        (id, Stored { id, fingerprint: fingerprint.unwrap_or_default(), deliveries: Vec::new() })
    });
    let mut stored: HashMap<NotificationId, Stored> = stored.collect();
    let rows: Vec<(NotificationId, DeliveryId, Channel)> = deliveries::table
        .filter(deliveries::notification_id.eq_any(ids))
        .select((deliveries::notification_id, deliveries::id, deliveries::channel))
        .load(conn)
        .await?;
    for (notification, delivery, channel) in rows {
        if let Some(stored) = stored.get_mut(&notification) {
            stored.deliveries.push((delivery, channel));
        }
    }
    stored.values_mut().for_each(|one| one.deliveries.sort_by_key(|(_, channel)| *channel));
    Ok(stored)
}
