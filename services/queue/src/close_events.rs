//! Closing: as opening, at `closesAt` or when an administrator says so.

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
use crate::sale_event::SaleEvent;
use crate::schedule;
use crate::schema::sale_events;

/// Closes those whose time is up.
pub async fn close_due(app: &App) -> Result<()> {
    let closed = app
        .db
        .tx("close_events", async |tx| {
            let due = diesel::update(sale_events::table)
                .filter(sale_events::status.eq(Status::Open))
                .filter(sale_events::closes_at.le(clock_timestamp().nullable()));
            let set = (
                sale_events::status.eq(Status::Closed),
                sale_events::closed_at.eq(clock_timestamp().nullable()),
                sale_events::version.eq(sale_events::version + 1),
                sale_events::updated_at.eq(clock_timestamp()),
            );
            let closed: Vec<SaleEvent> = due.set(set).returning(SaleEvent::as_returning()).get_results(tx).await?;
            let events: Vec<_> = closed.iter().map(SaleEvent::as_closed).collect();
            outbox::publish_all(tx, &events).await?;
            Ok(closed)
        })
        .await?;
    for event in &closed {
        announce(app, event).await;
    }
    Ok(())
}

async fn announce(app: &App, event: &SaleEvent) {
    tracing::info!(event.id = %event.id, "Closed sale event {}", event.id);
    app.events.forget(event.id).await;
    schedule::disarm(app, event.id, "CLOSED").await;
    app.look_at_rooms.notify_one();
}

/// Closes a sale event, or calls it off before it has opened. A repeat changes nothing.
#[utoipa::path(tag = "events", params(("eventId" = SaleEventId, Path)), responses(
    (status = 200, body = EventView),
    (status = 403, body = Problem, description = "FORBIDDEN"),
    (status = 404, body = Problem, description = "EVENT_NOT_FOUND")
), security(("bearer" = ["ADMIN"])))]
#[post("/admin/events/{eventId}/close")]
pub async fn close_event(app: Data<App>, _: Admin, id: Path<SaleEventId>) -> Result<Json<EventView>> {
    let (app, id) = (app.into_inner(), id.into_inner());
    let view = detach(async move {
        let (event, now, is_new) = app.db.tx("close_event", async |tx| close_now(tx, id).await).await?;
        if is_new {
            announce(&app, &event).await;
        }
        Ok(view(&event, now))
    })
    .await?;
    Ok(Json(view))
}

async fn close_now(tx: &mut Tx, id: SaleEventId) -> Result<(SaleEvent, DateTime<Utc>, bool)> {
    let (event, now) = lock_event(tx, id).await?;
    if event.status == Status::Closed {
        return Ok((event, now, false));
    }
    let update = diesel::update(sale_events::table.find(id)).set((
        sale_events::status.eq(Status::Closed),
        sale_events::closed_at.eq(now),
        sale_events::version.eq(sale_events::version + 1),
        sale_events::updated_at.eq(clock_timestamp()),
    ));
    let closed: SaleEvent = update.returning(SaleEvent::as_returning()).get_result(tx).await?;
    outbox::publish(tx, &closed.as_closed()).await?;
    Ok((closed, now, true))
}
