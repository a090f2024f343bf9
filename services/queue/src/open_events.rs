//! Opening: one compare-and-set with its `EVENT_OPEN`, in one transaction. The timer, the listener, the scan, the recovery
//! and administrators all call it, and whoever comes first opens the sale. The clock is the database's.

use actix_web::post;
use chrono::{DateTime, Utc};
use common::auth::Admin;
use common::db::Tx;
use common::http::{Data, Json, Path, Problem, detach};
use common::sql::clock_timestamp;
use common::{Result, outbox};
use contract::ids::SaleEventId;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use crate::App;
use crate::names::Status;
use crate::read_events::{EventView, lock_event, view};
use crate::refused::Refused;
use crate::sale_event::SaleEvent;
use crate::schedule;
use crate::schema::sale_events;

/// Opens those that are due, or this one if it is. Returns what it has opened. `trigger` is for people who ask which of the
/// triggers was first.
pub async fn open_due(app: &App, only: Option<SaleEventId>, trigger: &'static str) -> Result<Vec<SaleEvent>> {
    let opened = app
        .db
        .tx("open_events", async |tx| {
            let mut due = diesel::update(sale_events::table)
                .filter(sale_events::status.eq(Status::Pending))
                .filter(sale_events::opens_at.le(clock_timestamp()))
                .into_boxed();
            if let Some(only) = only {
                due = due.filter(sale_events::id.eq(only));
            }
            let set = (
                sale_events::status.eq(Status::Open),
                sale_events::opened_at.eq(clock_timestamp().nullable()),
                sale_events::version.eq(sale_events::version + 1),
                sale_events::updated_at.eq(clock_timestamp()),
            );
            let opened: Vec<SaleEvent> = due.set(set).returning(SaleEvent::as_returning()).get_results(tx).await?;
            if !opened.is_empty() {
                let events: Vec<_> = opened.iter().map(SaleEvent::as_open).collect();
                outbox::publish_all(tx, &events).await?;
                tx.point("open.before_commit").await;
            }
            Ok(opened)
        })
        .await?;
    for event in &opened {
        announce(app, event, trigger).await;
    }
    Ok(opened)
}

async fn announce(app: &App, event: &SaleEvent, trigger: &'static str) {
    let late = event.opened_at.map_or(0, |at| (at - event.opens_at).num_milliseconds());
    metrics::counter!("stampede_events_opened_total", "trigger" => trigger).increment(1);
    metrics::histogram!("stampede_event_open_late_seconds").record(late as f64 / 1000.0);
    tracing::info!(event.id = %event.id, trigger, late_ms = late, "Opened sale event {}", event.id);
    app.events.forget(event.id).await;
    schedule::disarm(app, event.id, "OPEN").await;
    app.rescheduled.notify_one();
    app.look_at_rooms.notify_one();
}

/// Opens a sale event now. A repeat changes nothing.
#[utoipa::path(tag = "events", params(("eventId" = SaleEventId, Path)), responses(
    (status = 200, body = EventView),
    (status = 403, body = Problem, description = "FORBIDDEN"),
    (status = 404, body = Problem, description = "EVENT_NOT_FOUND"),
    (status = 409, body = Problem, description = "EVENT_CLOSED")
), security(("bearer" = ["ADMIN"])))]
#[post("/admin/events/{eventId}/open")]
pub async fn open_event(app: Data<App>, _: Admin, id: Path<SaleEventId>) -> Result<Json<EventView>> {
    let (app, id) = (app.into_inner(), id.into_inner());
    let view = detach(async move {
        let (event, now, is_new) = app.db.tx("open_event", async |tx| open_now(tx, id).await).await?;
        if is_new {
            announce(&app, &event, "administrator").await;
        }
        Ok(view(&event, now))
    })
    .await?;
    Ok(Json(view))
}

/// Moves the opening to now, and opens. The third: whether it was not open before.
async fn open_now(tx: &mut Tx, id: SaleEventId) -> Result<(SaleEvent, DateTime<Utc>, bool)> {
    let (event, now) = lock_event(tx, id).await?;
    match event.status_at(now) {
        Status::Closed => return Err(Refused::Closed(id).into()),
        Status::Open if event.status == Status::Open => return Ok((event, now, false)),
        Status::Open | Status::Pending => {}
    }
    let opens_at = event.opens_at.min(now);
    let update = diesel::update(sale_events::table.find(id)).set((
        sale_events::status.eq(Status::Open),
        sale_events::opens_at.eq(opens_at),
        // Nobody can have come early to a sale that opens before they may.
        sale_events::prequeue_at.eq(event.prequeue_at.filter(|at| *at < opens_at)),
        sale_events::opened_at.eq(now),
        sale_events::version.eq(sale_events::version + 1),
        sale_events::updated_at.eq(clock_timestamp()),
    ));
    let opened: SaleEvent = update.returning(SaleEvent::as_returning()).get_result(tx).await?;
    outbox::publish(tx, &opened.as_open()).await?;
    Ok((opened, now, true))
}
