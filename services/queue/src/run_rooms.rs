//! Every replica runs every room: a tick four times a second, and once a second what ties the room to PostgreSQL and to the
//! stock. Who runs it does not matter, since both follow from what is stored.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use common::Result;
use contract::ids::SaleEventId;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt};
use diesel_async::RunQueryDsl;
use futures_util::future::join_all;

use crate::App;
use crate::admission::{room_state, window};
use crate::names::{SoldOut, Status};
use crate::note_stock::note_stock;
use crate::place::RoomStatus;
use crate::restore_room::{Cause, SavedRoom, granted, replace_room, restore_room};
use crate::room::{Answer, Checkpoint, Cold, Rules, Told};
use crate::sale_event::SaleEvent;
use crate::schema::{rooms, sale_events};

pub async fn tick_rooms(app: Arc<App>) -> Result<()> {
    let live = app.live.lock().clone();
    for event in live {
        if let Err(error) = tick_room(&app, event).await {
            tracing::warn!(event.id = %event, %error, "The room of {event} stands still; the next tick tries again");
        }
    }
    Ok(())
}

/// Offers free slots. A room that is lost is built first.
pub async fn tick_room(app: &App, event: SaleEventId) -> Result<Told> {
    if let Ok(told) = app.rooms.tick(event, app.scan_max).await? {
        return Ok(told);
    }
    let known = app.events.find(event).await?;
    restore_room(app, &known.event).await?;
    let told = app.rooms.tick(event, app.scan_max).await?;
    told.map_err(|Cold| common::Error::transient(anyhow::anyhow!("Redis loses the room of {event}")))
}

pub async fn sync_rooms(app: Arc<App>) -> Result<()> {
    let lately = diesel::dsl::sql::<diesel::sql_types::Bool>("closed_at > clock_timestamp() - interval '1 minute'");
    let closed_lately = sale_events::status.eq(Status::Closed).and(lately);
    let events: Vec<SaleEvent> = sale_events::table
        .filter(sale_events::queue_manage_required)
        .filter(sale_events::status.eq(Status::Open).or(closed_lately))
        .select(SaleEvent::as_select())
        .load(&mut *app.db.read().await?)
        .await?;
    let (open, closed): (Vec<_>, Vec<_>) = events.into_iter().partition(|event| event.status == Status::Open);
    let live: Vec<SaleEventId> = open.iter().map(|event| event.id).collect();
    app.live.lock().clone_from(&live);
    app.rooms.retain(&live);
    metrics::gauge!("stampede_queue_rooms").set(live.len() as f64);
    for event in &closed {
        // Gone is as good as closed.
        let (Ok(()) | Err(Cold)) = configure(&app, event).await?;
    }
    // A new room admits nobody for whom there may be nothing. All others are saved before inventory is asked, which may not answer.
    let stocks: HashSet<SaleEventId> = app.stocks.lock().keys().copied().collect();
    let (mut open, new): (Vec<_>, Vec<_>) = open.into_iter().partition(|event| stocks.contains(&event.id));
    open.extend(look_at_stocks(&app, new).await);
    let (mut waiting, mut active) = (0, 0);
    for event in &open {
        let id = event.id;
        match sync_room(&app, event).await {
            Ok(told) => {
                waiting += told.waiting();
                active += told.active;
            }
            Err(error) => {
                tracing::warn!(event.id = %id, %error, "The room of {id} is not saved; the next look tries again");
            }
        }
    }
    metrics::gauge!("stampede_queue_waiting").set(waiting as f64);
    metrics::gauge!("stampede_queue_active").set(active as f64);
    look_at_stocks(&app, open).await;
    Ok(())
}

/// Returns the events after that.
async fn look_at_stocks(app: &App, events: Vec<SaleEvent>) -> Vec<SaleEvent> {
    /// Looks at a time.
    const TOGETHER: usize = 16;
    let mut looked = Vec::with_capacity(events.len());
    for events in events.chunks(TOGETHER) {
        looked.extend(join_all(events.iter().map(|event| look_at_stock(app, event.clone()))).await);
    }
    looked
}

/// Notes what is left to sell, and tells the room. Returns the event after that.
async fn look_at_stock(app: &App, event: SaleEvent) -> SaleEvent {
    let noted = async {
        let noted = note_stock(app, event.clone()).await?;
        // A room that is lost is built by the next tick.
        configure(app, &noted).await.map(|_| noted)
    };
    match noted.await {
        Ok(noted) => noted,
        Err(error) => {
            let id = event.id;
            tracing::warn!(event.id = %id, %error, "The stock of sale event {id} is not noted; the next look tries again");
            event
        }
    }
}

async fn sync_room(app: &App, event: &SaleEvent) -> Result<Arc<RoomStatus>> {
    let room = rooms::table.find(event.id);
    let (saved, granted) = {
        let mut conn = app.db.read().await?;
        let saved: SavedRoom = room.select(SavedRoom::as_select()).first(&mut *conn).await?;
        (saved, granted(&mut conn, event.id).await?)
    };
    if let Err(Cold) = configure(app, event).await? {
        restore_room(app, event).await?;
    }
    // Whoever stored this may have died before the room heard of it.
    let (Ok(()) | Err(Cold)) = app.rooms.let_in(event.id, granted).await?;
    let told = tick_room(app, event.id).await?.status;
    // Redis came back with an older memory: numbers would be given twice.
    if told.epoch < saved.epoch || (told.epoch == saved.epoch && told.issued < saved.issued) {
        replace_room(app, event, saved.epoch, Cause::Older).await?;
    } else {
        save(app, event).await?;
    }
    Ok(told)
}

/// Half a second apart, whoever does it.
async fn save(app: &App, event: &SaleEvent) -> Result<()> {
    // Lost again: the next look builds it.
    let Ok(Checkpoint { epoch, issued, front, let_in, turns }) = app.rooms.checkpoint(event.id).await? else {
        return Ok(());
    };
    let (seqs, until): (Vec<i64>, Vec<i64>) = turns.active.into_iter().unzip();
    let floor = if event.sold_out == Some(SoldOut::Final) { issued } else { 0 };
    let id = event.id;
    app.db
        .tx("save_room", async |tx| {
            let query = diesel::sql_query(include_str!("run_rooms_save.sql"))
                .bind::<diesel::sql_types::Uuid, _>(id)
                .bind::<BigInt, _>(epoch)
                .bind::<BigInt, _>(front)
                .bind::<BigInt, _>(issued)
                .bind::<BigInt, _>(floor)
                .bind::<Array<BigInt>, _>(&seqs)
                .bind::<Array<BigInt>, _>(&until)
                .bind::<Array<BigInt>, _>(&turns.offered)
                .bind::<Array<BigInt>, _>(&turns.back)
                .bind::<BigInt, _>(let_in);
            Ok(common::db::Prepared(query).execute(tx).await?)
        })
        .await?;
    Ok(())
}

/// Tells the room its rules.
pub async fn configure(app: &App, event: &SaleEvent) -> Result<Answer<()>> {
    app.rooms.configure(event.id, &rules(app, event)).await
}

/// What a room follows, with the stock as it was last looked at.
pub fn rules(app: &App, event: &SaleEvent) -> Rules {
    let known = app.stocks.lock().get(&event.id).copied();
    let stock = known.map(|known| known.stock.passes(app.passes_per_100_units));
    let stock_age = known.map_or(Duration::ZERO, |known| known.asked.elapsed());
    let second = |seconds: i32| i64::from(seconds) * 1000;
    Rules {
        version: event.version,
        stock: stock.unwrap_or(-1),
        stock_age_ms: stock_age.as_millis() as i64,
        state: room_state(event.mode, event.sold_out, event.status != Status::Closed),
        cap: event.room.max_active.into(),
        rate_per_minute: event.room.rate_per_minute.into(),
        session_ms: second(event.room.session_seconds),
        claim_ms: second(event.room.claim_seconds),
        alive_ms: app.presence.alive_ms,
        grace_ms: app.presence.grace_ms,
        window: window(event.room.rate_per_minute, app.presence.alive_ms),
        waiting_max: event.room.waiting_max,
    }
}
