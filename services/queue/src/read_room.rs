//! `GET /queues/{eventId}/status`, `GET /queues/{eventId}/proof`, `GET /queues/ping`: what everybody may know of a line.

use actix_web::http::header::CACHE_CONTROL;
use actix_web::{HttpResponse, get};
use chrono::{DateTime, Utc};
use common::Result;
use common::http::{Data, Json, Path, Problem, Query};
use common::page::{Limit, Page, parse_cursor};
use contract::ids::{SaleEventId, TicketId};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use crate::App;
use crate::admission::room_state;
use crate::read_events::time;
use crate::run_rooms::tick_room;
use crate::sale_event::{Phase, hex};
use crate::schema::{lobby, rooms};

const LIMIT_MAX: i64 = 1_000;

/// The same for everybody, so that it can be kept by whatever lies between.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoomView {
    event_id: SaleEventId,
    /// `ahead`, `prequeue`, `open`, `paused`, `draining`, `final` (sold out) or `closed`.
    state: String,
    /// The last number that was given.
    issued_seq: i64,
    /// The last number whose turn has come: the difference to one's own is how far it is.
    serving_seq: i64,
    waiting: i64,
    active: i64,
    rate_per_minute: i32,
    server_time: String,
}

/// At most a second old.
#[utoipa::path(tag = "queues", params(("eventId" = SaleEventId, Path)), responses(
    (status = 200, body = RoomView),
    (status = 404, body = Problem, description = "EVENT_NOT_FOUND"),
    (status = 503, body = Problem, description = "SERVICE_UNAVAILABLE")
))]
#[get("/queues/{eventId}/status")]
pub async fn read_status(app: Data<App>, id: Path<SaleEventId>) -> Result<HttpResponse> {
    let view = status(&app, id.into_inner()).await?;
    Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, "public, max-age=1")).json(view))
}

async fn status(app: &App, id: SaleEventId) -> Result<RoomView> {
    let known = app.events.find(id).await?;
    let now = known.now();
    let mut view = RoomView {
        event_id: id,
        state: String::new(),
        issued_seq: 0,
        serving_seq: 0,
        waiting: 0,
        active: 0,
        rate_per_minute: known.event.room.rate_per_minute,
        server_time: time(now),
    };
    let has_room = known.event.queue_manage_required;
    view.state = match known.event.phase(now) {
        Phase::Ahead => "ahead".to_owned(),
        Phase::Prequeue => "prequeue".to_owned(),
        Phase::Closed => "closed".to_owned(),
        Phase::Open if !has_room => "open".to_owned(),
        Phase::Open => {
            let last = match app.rooms.last(id) {
                Some(last) => last,
                None => tick_room(app, id).await?.status,
            };
            view.issued_seq = last.issued;
            view.serving_seq = last.front;
            view.waiting = last.waiting();
            view.active = last.active;
            // Not the room's own: one that was built a moment ago admits nobody until its rules are there.
            room_state(known.event.mode, known.event.sold_out, true).to_owned()
        }
    };
    Ok(view)
}

/// What anybody needs to draw again.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProofView {
    event_id: SaleEventId,
    /// SHA-256 over the seed and the 16 bytes of the event's id, in hexadecimal digits; published with the sale event.
    commitment: String,
    /// In hexadecimal digits. Absent before the draw.
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    drawn_at: Option<String>,
    /// How a ticket gets its rank. The lowest is first.
    rank: &'static str,
    /// Tickets that were drawn.
    drawn: i64,
    /// In the order of the draw.
    tickets: Page<DrawnTicket>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DrawnTicket {
    seq: i64,
    ticket_id: TicketId,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ProofQuery {
    /// Tickets, 1 to 1000; 1000 unless told.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
    cursor: Option<String>,
}

/// The seed of the draw and the tickets in its order, so that anybody can check it.
#[utoipa::path(tag = "queues", params(("eventId" = SaleEventId, Path), ProofQuery), responses(
    (status = 200, body = ProofView),
    (status = 400, body = Problem, description = "VALIDATION_ERROR"),
    (status = 404, body = Problem, description = "EVENT_NOT_FOUND")
))]
#[get("/queues/{eventId}/proof")]
pub async fn read_proof(app: Data<App>, id: Path<SaleEventId>, query: Query<ProofQuery>) -> Result<Json<ProofView>> {
    let (id, ProofQuery { limit, cursor }) = (id.into_inner(), query.into_inner());
    let limit = Limit::parse(limit, LIMIT_MAX, LIMIT_MAX)?;
    let after = parse_cursor::<i64>(cursor.as_deref())?.unwrap_or(0);
    let event = app.events.find(id).await?.event;
    let mut conn = app.db.read().await?;
    let room = rooms::table.find(id).select((rooms::drawn_at, rooms::drawn));
    let (drawn_at, drawn): (Option<DateTime<Utc>>, i64) = room.first(&mut conn).await?;
    let tickets: Vec<(Option<i64>, TicketId)> = lobby::table
        .filter(lobby::event_id.eq(id))
        .filter(lobby::seq.gt(after))
        .order(lobby::seq)
        .limit(limit.rows())
        .select((lobby::seq, lobby::ticket_id))
        .load(&mut conn)
        .await?;
    let page = Page::new(tickets, limit, |(seq, _)| seq.unwrap_or_default());
    Ok(Json(ProofView {
        event_id: id,
        commitment: event.draw_commitment(),
        // Only after the draw: whoever knows it before can make up a good ticket.
        seed: drawn_at.map(|_| hex(&event.draw_seed)),
        drawn_at: drawn_at.map(time),
        rank: "HMAC-SHA256(key: seed, message: the 16 bytes of the ticket's id)",
        drawn,
        tickets: page.map(|(seq, ticket_id)| DrawnTicket { seq: seq.unwrap_or_default(), ticket_id }),
    }))
}

/// Whether this service is alive. Asks nobody else.
#[utoipa::path(tag = "queues", responses((status = 200, description = "`{\"status\": \"UP\"}`")))]
#[get("/queues/ping")]
pub async fn ping() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "UP" }))
}
