//! `GET /events`, `GET /events/{eventId}`: sale events, with the server's time for a countdown.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::http::header::CACHE_CONTROL;
use actix_web::{HttpRequest, HttpResponse, get};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use common::db::{Db, Tx};
use common::http::{Data, Json, Path, Problem, Query, answer_unless_known};
use common::page::{Cursor, Limit, Page, parse_cursor};
use common::sql::clock_timestamp;
use common::{Error, Result};
use contract::ids::{ProductId, SaleEventId};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use moka::future::Cache;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::App;
use crate::names::{Mode, SoldOut, Status};
use crate::refused::Refused;
use crate::sale_event::{RoomRules, SaleEvent};
use crate::schema::sale_events;
use crate::ticket::Signer;

const LIMIT_MAX: i64 = 100;
const LIMIT_DEFAULT: i64 = 50;

/// Sale events that a process keeps in memory; the least used go.
const EVENTS_MAX: u64 = 1_000;
/// How stale a sale event may be where another replica has changed it. What decides is read from the database.
const KNOWN_FOR: Duration = Duration::from_millis(500);

/// A sale event as everybody sees it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventView {
    event_id: SaleEventId,
    name: String,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    sold_out: Option<SoldOut>,
    opens_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    closes_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prequeue_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    opened_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    closed_at: Option<String>,
    product_ids: Vec<ProductId>,
    queue_manage_required: bool,
    queue: RoomRules,
    mode: Mode,
    /// SHA-256 over the draw's seed and the event's id, in hexadecimal digits.
    draw_commitment: String,
    version: i64,
    /// To count down by, whatever the client's clock says.
    server_time: String,
}

pub fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// `event` at `now`, which is the database's time.
pub fn view(event: &SaleEvent, now: DateTime<Utc>) -> EventView {
    EventView {
        event_id: event.id,
        name: event.name.clone(),
        status: event.status_at(now),
        sold_out: event.sold_out,
        opens_at: time(event.opens_at),
        closes_at: event.closes_at.map(time),
        prequeue_at: event.prequeue_at.map(time),
        opened_at: event.opened_at.map(time),
        closed_at: event.closed_at.map(time),
        product_ids: event.product_ids.clone(),
        queue_manage_required: event.queue_manage_required,
        queue: event.room.clone(),
        mode: event.mode,
        draw_commitment: event.draw_commitment(),
        version: event.version,
        server_time: time(now),
    }
}

/// For `If-Match`.
pub fn etag(event: &SaleEvent) -> String {
    format!("\"{}\"", event.version)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    /// 1 to 100; 50 unless told.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
    cursor: Option<String>,
}

/// Newest first.
#[utoipa::path(tag = "events", params(EventsQuery), responses(
    (status = 200, body = Page<EventView>),
    (status = 400, body = Problem, description = "VALIDATION_ERROR")
))]
#[get("/events")]
pub async fn list_events(app: Data<App>, query: Query<EventsQuery>) -> Result<Json<Page<EventView>>> {
    let EventsQuery { limit, cursor } = query.into_inner();
    let limit = Limit::parse(limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let mut query = sale_events::table
        .order((sale_events::created_at.desc(), sale_events::id.desc()))
        .select((SaleEvent::as_select(), sale_events::created_at, clock_timestamp()))
        .limit(limit.rows())
        .into_boxed();
    if let Some(after) = parse_cursor::<Cursor>(cursor.as_deref())? {
        let earlier = sale_events::created_at.eq(after.at).and(sale_events::id.lt(after.id));
        query = query.filter(sale_events::created_at.lt(after.at).or(earlier));
    }
    let rows: Vec<(SaleEvent, DateTime<Utc>, DateTime<Utc>)> = query.load(&mut *app.db.read().await?).await?;
    let page = Page::new(rows, limit, |(event, created_at, _)| Cursor { at: *created_at, id: event.id.uuid() });
    Ok(Json(page.map(|(event, _, now)| view(&event, now))))
}

/// At most a second old.
#[utoipa::path(tag = "events", params(("eventId" = SaleEventId, Path)), responses(
    (status = 200, body = EventView),
    (status = 304, description = "Unchanged since the ETag in If-None-Match"),
    (status = 404, body = Problem, description = "EVENT_NOT_FOUND")
))]
#[get("/events/{eventId}")]
pub async fn read_event(app: Data<App>, request: HttpRequest, id: Path<SaleEventId>) -> Result<HttpResponse> {
    let known = app.events.find(id.into_inner()).await?;
    let (mut response, is_known) = answer_unless_known(&request, &etag(&known.event));
    response.insert_header((CACHE_CONTROL, "public, max-age=1"));
    Ok(if is_known { response.finish() } else { response.json(view(&known.event, known.now())) })
}

/// A sale event as it was a moment ago.
#[derive(Clone)]
pub struct Known {
    pub event: Arc<SaleEvent>,
    pub signer: Arc<Signer>,
    /// The database's time when it was read.
    read_at: DateTime<Utc>,
    /// The same moment by a clock that only runs forward.
    since: Instant,
}

impl Known {
    /// The database's time now.
    pub fn now(&self) -> DateTime<Utc> {
        self.read_at + TimeDelta::from_std(self.since.elapsed()).unwrap_or_default()
    }
}

/// Sale events in memory, so that a crowd that asks for one does not ask the database. Cheap to clone.
#[derive(Clone)]
pub struct Events {
    db: Db,
    /// Of many who miss one, one reads it.
    known: Cache<SaleEventId, Known>,
    /// The same. A look here costs a tenth of one there, and everybody who waits has one made again and again.
    read: Arc<RwLock<HashMap<SaleEventId, Known>>>,
}

impl Events {
    pub fn new(db: &Db) -> Events {
        let known = Cache::builder().max_capacity(EVENTS_MAX).time_to_live(KNOWN_FOR).build();
        Events { db: db.clone(), known, read: Arc::default() }
    }

    /// Refuses with `EVENT_NOT_FOUND`.
    pub async fn find(&self, id: SaleEventId) -> Result<Known> {
        if let Some(known) = self.read.read().get(&id).filter(|known| known.since.elapsed() < KNOWN_FOR) {
            return Ok(known.clone());
        }
        let read = async {
            let query = sale_events::table.find(id).select((SaleEvent::as_select(), clock_timestamp()));
            let row = query.first(&mut *self.db.read().await?).await.optional()?;
            // Afterwards: a clock that runs ahead of the database's would open a sale too early.
            let since = Instant::now();
            let (event, read_at) = row.ok_or(Refused::EventNotFound(id))?;
            let signer = Arc::new(Signer::of(&event)?);
            let known = Known { event: Arc::new(event), signer, read_at, since };
            self.remember(id, known.clone());
            Ok::<_, Error>(known)
        };
        self.known.try_get_with(id, read).await.map_err(|error| (*error).clone())
    }

    fn remember(&self, id: SaleEventId, known: Known) {
        let mut read = self.read.write();
        read.retain(|_, known| known.since.elapsed() < KNOWN_FOR);
        if (read.len() as u64) < EVENTS_MAX {
            read.insert(id, known);
        }
    }

    pub async fn forget(&self, id: SaleEventId) {
        self.read.write().remove(&id);
        self.known.invalidate(&id).await;
    }
}

/// The event, locked, and the database's time. Refuses with `EVENT_NOT_FOUND`.
pub async fn lock_event(tx: &mut Tx, id: SaleEventId) -> Result<(SaleEvent, DateTime<Utc>)> {
    let event: Option<SaleEvent> =
        sale_events::table.find(id).select(SaleEvent::as_select()).for_update().first(tx).await.optional()?;
    // Afterwards: the lock may have been waited for.
    let now = diesel::select(clock_timestamp()).get_result(tx).await?;
    Ok((event.ok_or(Refused::EventNotFound(id))?, now))
}
