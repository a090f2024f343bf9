//! `POST /admin/events`, `PATCH /admin/events/{eventId}`: schedule a sale event, and move it.

use actix_web::http::header::{ETAG, IF_MATCH, LOCATION};
use actix_web::{HttpRequest, HttpResponse, patch, post};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use chrono::{DateTime, Utc};
use common::auth::Admin;
use common::http::{Data, Json, Path, Problem, detach};
use common::idempotency::{IdempotencyKey, REPLAYED_HEADER, fingerprint, same_request};
use common::sql::clock_timestamp;
use common::text::Text;
use common::{Error, Refused, Result, outbox};
use contract::ids::{ProductId, SaleEventId};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::App;
use crate::names::{Mode, Status};
use crate::read_events::{EventView, etag, lock_event, view};
use crate::refused;
use crate::sale_event::{RoomRules, SaleEvent, Times, check_products};
use crate::schema::{rooms, sale_events};

/// Of the request's shape; see [`fingerprint`].
const FINGERPRINT_VERSION: u8 = 1;

#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewEvent {
    #[schema(value_type = String)]
    name: Text<1, 200>,
    opens_at: DateTime<Utc>,
    /// Absent: until an administrator closes it.
    closes_at: Option<DateTime<Utc>>,
    /// From here people may come early, and a draw puts them in order when the sale opens. Absent: nobody may.
    prequeue_at: Option<DateTime<Utc>>,
    product_ids: Vec<ProductId>,
    /// Whether buying needs a pass of the waiting room.
    queue_manage_required: bool,
    /// Absent: as the settings say.
    #[serde(default, deserialize_with = "common::object::optional")]
    queue: Option<RoomRules>,
}

/// Absent fields stay as they are.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EventChange {
    #[schema(value_type = Option<String>)]
    name: Option<Text<1, 200>>,
    opens_at: Option<DateTime<Utc>>,
    /// Null: until an administrator closes it.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<DateTime<Utc>>)]
    closes_at: Option<Option<DateTime<Utc>>>,
    /// Null: nobody may come early.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<DateTime<Utc>>)]
    prequeue_at: Option<Option<DateTime<Utc>>>,
}

/// Called only if the field is present: null becomes `Some(None)`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<DateTime<Utc>>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// The same key and body give the same event, marked `Idempotent-Replayed: true`, as it is now.
#[utoipa::path(tag = "events", params(("Idempotency-Key" = String, Header)), request_body = NewEvent, responses(
    (status = 201, body = EventView, headers(("Location" = String))),
    (status = 400, body = Problem, description = "VALIDATION_ERROR, IDEMPOTENCY_KEY_REQUIRED"),
    (status = 403, body = Problem, description = "FORBIDDEN"),
    (status = 422, body = Problem, description = "IDEMPOTENCY_KEY_REUSED")
), security(("bearer" = ["ADMIN"])))]
#[post("/admin/events")]
pub async fn schedule_event(
    app: Data<App>,
    admin: Admin,
    key: IdempotencyKey,
    body: Json<NewEvent>,
) -> Result<HttpResponse> {
    let new = body.into_inner();
    let event = new_event(&app, &admin, &key, &new)?;
    let app = app.into_inner();
    let (event, now, is_replay) = detach(async move {
        let stored = store(&app, event).await?;
        if !stored.2 {
            crate::schedule::arm(&app, &stored.0, stored.1).await;
            tracing::info!(event.id = %stored.0.id, opens_at = %stored.0.opens_at, "Scheduled sale event {}", stored.0.id);
        }
        Ok(stored)
    })
    .await?;
    let mut response = HttpResponse::Created();
    response.insert_header((LOCATION, format!("/api/v1/events/{}", event.id))).insert_header((ETAG, etag(&event)));
    if is_replay {
        response.insert_header((REPLAYED_HEADER, "true"));
    }
    Ok(response.json(view(&event, now)))
}

fn new_event(app: &App, admin: &Admin, key: &IdempotencyKey, new: &NewEvent) -> Result<SaleEvent> {
    let room = new.queue.clone().unwrap_or_else(|| app.room_rules.clone());
    room.check()?;
    let times = Times { opens_at: new.opens_at, closes_at: new.closes_at, prequeue_at: new.prequeue_at };
    times.check(Utc::now())?;
    let pair = Ed25519KeyPair::generate().map_err(Error::fault)?;
    let mut seed = vec![0; 32];
    aws_lc_rs::rand::fill(&mut seed).map_err(Error::fault)?;
    let created_by = admin.0.account;
    Ok(SaleEvent {
        id: SaleEventId::derive(&[created_by.as_bytes(), key.as_bytes()]),
        name: new.name.as_str().to_owned(),
        status: Status::Pending,
        sold_out: None,
        opens_at: new.opens_at,
        closes_at: new.closes_at,
        prequeue_at: new.prequeue_at,
        opened_at: None,
        closed_at: None,
        product_ids: check_products(new.product_ids.clone())?,
        queue_manage_required: new.queue_manage_required,
        room,
        mode: Mode::Running,
        pass_public_key: pair.public_key().as_ref().to_vec(),
        pass_private_key: pair.to_pkcs8().map_err(Error::fault)?.as_ref().to_vec(),
        draw_seed: seed,
        fingerprint: fingerprint(FINGERPRINT_VERSION, new),
        version: 1,
        created_by,
    })
}

/// The event, the database's time, and whether an earlier request with this key had made it.
async fn store(app: &App, event: SaleEvent) -> Result<(SaleEvent, DateTime<Utc>, bool)> {
    app.db
        .tx("schedule_event", async |tx| {
            let insert = diesel::insert_into(sale_events::table).values(&event).on_conflict_do_nothing();
            let is_new = insert.execute(tx).await? == 1;
            let (stored, now) = lock_event(tx, event.id).await?;
            if is_new {
                diesel::insert_into(rooms::table).values(rooms::event_id.eq(event.id)).execute(tx).await?;
                outbox::publish(tx, &stored.as_scheduled()).await?;
            } else {
                same_request(&stored.fingerprint, &event.fingerprint)?;
            }
            Ok((stored, now, !is_new))
        })
        .await
}

/// Changes only the version that `If-Match` names. What has begun cannot be put off; its end can.
#[utoipa::path(tag = "events", params(("eventId" = SaleEventId, Path), ("If-Match" = String, Header)),
    request_body = EventChange, responses(
    (status = 200, body = EventView),
    (status = 400, body = Problem, description = "VALIDATION_ERROR"),
    (status = 403, body = Problem, description = "FORBIDDEN"),
    (status = 404, body = Problem, description = "EVENT_NOT_FOUND"),
    (status = 409, body = Problem, description = "EVENT_ALREADY_OPEN, EVENT_CLOSED"),
    (status = 412, body = Problem, description = "VERSION_CONFLICT")
), security(("bearer" = ["ADMIN"])))]
#[patch("/admin/events/{eventId}")]
pub async fn move_event(
    app: Data<App>,
    request: HttpRequest,
    _: Admin,
    id: Path<SaleEventId>,
    body: Json<EventChange>,
) -> Result<HttpResponse> {
    let (id, change) = (id.into_inner(), body.into_inner());
    let expected = expected_version(&request)?;
    let app = app.into_inner();
    let (event, now) = detach(async move {
        let moved = change_stored(&app, id, expected, change).await?;
        app.events.forget(id).await;
        crate::schedule::arm(&app, &moved.0, moved.1).await;
        tracing::info!(event.id = %id, opens_at = %moved.0.opens_at, "Moved sale event {id}");
        Ok(moved)
    })
    .await?;
    Ok(HttpResponse::Ok().insert_header((ETAG, etag(&event))).json(view(&event, now)))
}

/// The version in `If-Match`. None: `*`, any version.
pub fn expected_version(request: &HttpRequest) -> Result<Option<i64>, Refused> {
    let header = request.headers().get(IF_MATCH).and_then(|value| value.to_str().ok()).map(str::trim);
    let invalid = || Refused::invalid("If-Match", "Send the ETag of the sale event as you read it.");
    match header.ok_or_else(invalid)? {
        "*" => Ok(None),
        tag => tag.trim_start_matches("W/").trim_matches('"').parse().map(Some).map_err(|_| invalid()),
    }
}

async fn change_stored(
    app: &App,
    id: SaleEventId,
    expected: Option<i64>,
    change: EventChange,
) -> Result<(SaleEvent, DateTime<Utc>)> {
    app.db
        .tx("move_event", async |tx| {
            let (event, now) = lock_event(tx, id).await?;
            if expected.is_some_and(|expected| expected != event.version) {
                return Err(refused::Refused::VersionConflict { current: event.version }.into());
            }
            let times = Times {
                opens_at: change.opens_at.unwrap_or(event.opens_at),
                closes_at: change.closes_at.unwrap_or(event.closes_at),
                prequeue_at: change.prequeue_at.unwrap_or(event.prequeue_at),
            };
            event.may_move(&times, now)?;
            times.check(now)?;
            let name = change.name.as_ref().map_or(event.name.as_str(), Text::as_str);
            let update = diesel::update(sale_events::table.find(id)).set((
                sale_events::name.eq(name),
                sale_events::opens_at.eq(times.opens_at),
                sale_events::closes_at.eq(times.closes_at),
                sale_events::prequeue_at.eq(times.prequeue_at),
                sale_events::version.eq(sale_events::version + 1),
                sale_events::updated_at.eq(clock_timestamp()),
            ));
            let moved: SaleEvent = update.returning(SaleEvent::as_returning()).get_result(tx).await?;
            outbox::publish(tx, &moved.as_scheduled()).await?;
            Ok((moved, now))
        })
        .await
}
