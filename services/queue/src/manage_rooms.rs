//! `PUT /admin/queues/{eventId}`, `POST /admin/queues/{eventId}/{pause, resume, drain, admit}`: what administrators do with a room
//! while a sale goes on.

use actix_web::{HttpResponse, post, put};
use chrono::{DateTime, Utc};
use common::auth::Admin;
use common::http::{Data, Json, Path, Problem, detach};
use common::id::derive_uuid;
use common::idempotency::{IdempotencyKey, REPLAYED_HEADER, fingerprint, same_request};
use common::sql::clock_timestamp;
use common::{Refused, Result, outbox};
use contract::ids::SaleEventId;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::App;
use crate::names::{Mode, Status};
use crate::read_events::{EventView, lock_event, view};
use crate::refused;
use crate::restore_room::{granted, restore_room};
use crate::room::Cold;
use crate::run_rooms::{configure, tick_room};
use crate::sale_event::{RoomRules, SaleEvent};
use crate::schema::{admissions, rooms, sale_events};

/// Of the request's shape; see [`fingerprint`].
const FINGERPRINT_VERSION: u8 = 1;
const ADMIT_MAX: i32 = 100_000;

/// What a change does to the stored event.
#[derive(Clone)]
enum Change {
    Rules(RoomRules),
    Mode(Mode),
}

/// Replaces the rules of a room. They hold at once.
#[utoipa::path(tag = "queues", params(("eventId" = SaleEventId, Path)), request_body = RoomRules, responses(
    (status = 200, body = EventView),
    (status = 400, body = Problem, description = "VALIDATION_ERROR"),
    (status = 403, body = Problem, description = "FORBIDDEN"),
    (status = 404, body = Problem, description = "EVENT_NOT_FOUND"),
    (status = 409, body = Problem, description = "EVENT_CLOSED")
), security(("bearer" = ["ADMIN"])))]
#[put("/admin/queues/{eventId}")]
pub async fn configure_room(
    app: Data<App>,
    _: Admin,
    id: Path<SaleEventId>,
    body: Json<RoomRules>,
) -> Result<Json<EventView>> {
    let rules = body.into_inner();
    rules.check()?;
    change_room(app, id.into_inner(), Change::Rules(rules)).await
}

/// Nobody is admitted until it goes on; people may still come. A repeat changes nothing.
#[utoipa::path(tag = "queues", params(("eventId" = SaleEventId, Path)), responses(
    (status = 200, body = EventView),
    (status = 403, body = Problem, description = "FORBIDDEN"),
    (status = 404, body = Problem, description = "EVENT_NOT_FOUND"),
    (status = 409, body = Problem, description = "EVENT_CLOSED")
), security(("bearer" = ["ADMIN"])))]
#[post("/admin/queues/{eventId}/pause")]
pub async fn pause_room(app: Data<App>, _: Admin, id: Path<SaleEventId>) -> Result<Json<EventView>> {
    change_room(app, id.into_inner(), Change::Mode(Mode::Paused)).await
}

/// A repeat changes nothing.
#[utoipa::path(tag = "queues", params(("eventId" = SaleEventId, Path)), responses(
    (status = 200, body = EventView),
    (status = 403, body = Problem, description = "FORBIDDEN"),
    (status = 404, body = Problem, description = "EVENT_NOT_FOUND"),
    (status = 409, body = Problem, description = "EVENT_CLOSED")
), security(("bearer" = ["ADMIN"])))]
#[post("/admin/queues/{eventId}/resume")]
pub async fn resume_room(app: Data<App>, _: Admin, id: Path<SaleEventId>) -> Result<Json<EventView>> {
    change_room(app, id.into_inner(), Change::Mode(Mode::Running)).await
}

/// Those who wait are admitted, and nobody may come any more. A repeat changes nothing.
#[utoipa::path(tag = "queues", params(("eventId" = SaleEventId, Path)), responses(
    (status = 200, body = EventView),
    (status = 403, body = Problem, description = "FORBIDDEN"),
    (status = 404, body = Problem, description = "EVENT_NOT_FOUND"),
    (status = 409, body = Problem, description = "EVENT_CLOSED")
), security(("bearer" = ["ADMIN"])))]
#[post("/admin/queues/{eventId}/drain")]
pub async fn drain_room(app: Data<App>, _: Admin, id: Path<SaleEventId>) -> Result<Json<EventView>> {
    change_room(app, id.into_inner(), Change::Mode(Mode::Draining)).await
}

async fn change_room(app: Data<App>, id: SaleEventId, change: Change) -> Result<Json<EventView>> {
    let app = app.into_inner();
    let view = detach(async move {
        let (event, now) = app.db.tx("change_room", async |tx| store(tx, id, change).await).await?;
        app.events.forget(id).await;
        if event.status == Status::Open && event.queue_manage_required {
            apply(&app, &event).await?;
        }
        tracing::info!(event.id = %id, mode = ?event.mode, version = event.version, "Changed the room of {id}");
        Ok(view(&event, now))
    })
    .await?;
    Ok(Json(view))
}

/// A Redis that is away hears of it with the next look.
async fn apply(app: &App, event: &SaleEvent) -> Result<()> {
    match configure(app, event).await {
        Ok(Ok(())) => {}
        Ok(Err(Cold)) => restore_room(app, event).await?,
        Err(error) => {
            tracing::warn!(event.id = %event.id, %error, "The room of {} hears of its new rules with the next look", event.id);
        }
    }
    Ok(())
}

async fn store(tx: &mut common::db::Tx, id: SaleEventId, change: Change) -> Result<(SaleEvent, DateTime<Utc>)> {
    let (event, now) = lock_event(tx, id).await?;
    if event.status_at(now) == Status::Closed {
        return Err(refused::Refused::Closed(id).into());
    }
    let (room, mode) = match change {
        Change::Rules(room) => (room, event.mode),
        Change::Mode(mode) => (event.room.clone(), mode),
    };
    if (&room, mode) == (&event.room, event.mode) {
        return Ok((event, now));
    }
    let update = diesel::update(sale_events::table.find(id)).set((
        room,
        sale_events::mode.eq(mode),
        sale_events::version.eq(sale_events::version + 1),
        sale_events::updated_at.eq(clock_timestamp()),
    ));
    let changed: SaleEvent = update.returning(SaleEvent::as_returning()).get_result(tx).await?;
    outbox::publish(tx, &changed.as_scheduled()).await?;
    Ok((changed, now))
}

#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Admission {
    /// People.
    #[schema(minimum = 1, maximum = 100_000)]
    count: i32,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdmissionView {
    event_id: SaleEventId,
    count: i32,
}

#[derive(Clone, Insertable, Queryable, Selectable)]
#[diesel(table_name = admissions)]
struct AdmissionRow {
    id: Uuid,
    event_id: SaleEventId,
    count: i32,
    fingerprint: Vec<u8>,
    admitted_by: Uuid,
}

/// Lets this many in beyond the rate, as soon as there are slots for them, even while the room is paused. The same key lets
/// nobody in again.
#[utoipa::path(tag = "queues", params(("eventId" = SaleEventId, Path), ("Idempotency-Key" = String, Header)),
    request_body = Admission, responses(
    (status = 200, body = AdmissionView),
    (status = 400, body = Problem, description = "VALIDATION_ERROR, IDEMPOTENCY_KEY_REQUIRED"),
    (status = 403, body = Problem, description = "FORBIDDEN"),
    (status = 404, body = Problem, description = "EVENT_NOT_FOUND"),
    (status = 409, body = Problem, description = "EVENT_NOT_OPEN, EVENT_CLOSED"),
    (status = 422, body = Problem, description = "IDEMPOTENCY_KEY_REUSED"),
    (status = 503, body = Problem, description = "SERVICE_UNAVAILABLE: try again with the same key")
), security(("bearer" = ["ADMIN"])))]
#[post("/admin/queues/{eventId}/admit")]
pub async fn admit(
    app: Data<App>,
    admin: Admin,
    key: IdempotencyKey,
    id: Path<SaleEventId>,
    body: Json<Admission>,
) -> Result<HttpResponse> {
    let (id, wanted) = (id.into_inner(), body.into_inner());
    if !(1..=ADMIT_MAX).contains(&wanted.count) {
        return Err(Refused::invalid("count", format!("must be 1 to {ADMIT_MAX}")).into());
    }
    let admitted_by = admin.0.account;
    let row = AdmissionRow {
        id: derive_uuid("admission", &[admitted_by.as_bytes(), key.as_bytes()]),
        event_id: id,
        count: wanted.count,
        fingerprint: fingerprint(FINGERPRINT_VERSION, &(id, &wanted)),
        admitted_by,
    };
    let app = app.into_inner();
    let replayed = detach(async move { let_in(&app, row).await }).await?;
    let mut response = HttpResponse::Ok();
    if replayed {
        response.insert_header((REPLAYED_HEADER, "true"));
    }
    Ok(response.json(AdmissionView { event_id: id, count: wanted.count }))
}

/// Returns whether an earlier request with this key has been stored. The room may not have heard of that, so it is told again.
async fn let_in(app: &App, row: AdmissionRow) -> Result<bool> {
    let known = app.events.find(row.event_id).await?;
    let event = known.event.clone();
    let now = known.now();
    match event.status_at(now) {
        Status::Closed => return Err(refused::Refused::Closed(event.id).into()),
        Status::Pending => {
            let begins_in = (event.opens_at - now).to_std().unwrap_or_default();
            return Err(refused::Refused::NotOpen { event: event.id, begins_in }.into());
        }
        Status::Open => {}
    }
    let (is_replay, granted) = app
        .db
        .tx("admit", async |tx| {
            // The sum of all is what the room is told, so one comes after the other.
            let room = rooms::table.find(row.event_id).select(rooms::event_id);
            let _: SaleEventId = room.for_update().first(tx).await?;
            let insert = diesel::insert_into(admissions::table).values(&row).on_conflict_do_nothing();
            let is_replay = insert.execute(tx).await? == 0;
            if is_replay {
                let stored: AdmissionRow =
                    admissions::table.find(row.id).select(AdmissionRow::as_select()).first(tx).await?;
                same_request(&stored.fingerprint, &row.fingerprint)?;
            }
            Ok((is_replay, granted(tx, row.event_id).await?))
        })
        .await?;
    if let Err(Cold) = app.rooms.let_in(event.id, granted).await? {
        restore_room(app, &event).await?;
        // Another replica may have begun to build it before they were stored. Lost again: the next look tells it.
        let (Ok(()) | Err(Cold)) = app.rooms.let_in(event.id, granted).await?;
    }
    tick_room(app, event.id).await?;
    tracing::info!(event.id = %event.id, count = row.count, "{} more are let in to {}", row.count, event.id);
    Ok(is_replay)
}
