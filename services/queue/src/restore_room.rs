//! Builds a room in Redis from what PostgreSQL has: when its sale opens, and whenever Redis has lost it.
//!
//! Numbers go on after all that may have been given, and the front stands where it was a moment ago. Whoever waits shows a
//! ticket and has the same place again. A pass is good by its signature.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use common::Result;
use contract::ids::SaleEventId;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use crate::App;
use crate::draw_lobby::draw;
use crate::room::{Cold, Snapshot};
use crate::run_rooms::{configure, rules};
use crate::sale_event::SaleEvent;
use crate::schema::{ended_passes, rooms};

/// The room of an event, as it was saved.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = rooms)]
pub struct SavedRoom {
    pub epoch: i64,
    pub reserved_to: i64,
    pub front: i64,
    pub issued: i64,
    pub floor: i64,
    pub active_seqs: Vec<i64>,
    pub active_until: Vec<i64>,
}

/// How long another replica may take to build a room before this one says that it is away.
const BUILDING_MAX: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Builds the room if it is not there, and tells it its rules.
pub async fn restore_room(app: &App, event: &SaleEvent) -> Result<()> {
    // In this order: whoever raises the epoch after this has found the room gone as well, and builds it.
    let epoch: i64 = rooms::table.find(event.id).select(rooms::epoch).first(&mut *app.db.read().await?).await?;
    if app.rooms.epoch(event.id).await?.is_some() {
        return Ok(());
    }
    replace_room(app, event, epoch).await
}

/// Builds the room in place of whatever is there, unless another replica does so since it had this epoch.
pub async fn replace_room(app: &App, event: &SaleEvent, epoch: i64) -> Result<()> {
    let numbers = app.numbers_reserved;
    let saved = app
        .db
        .tx("restore_room", async |tx| {
            // The draw first: those who come now come after all who came early.
            draw(tx, event).await?;
            let room = rooms::table.find(event.id);
            let before: SavedRoom = room.select(SavedRoom::as_select()).for_update().first(tx).await?;
            if before.epoch != epoch {
                return Ok(None);
            }
            diesel::update(room)
                .set((rooms::epoch.eq(before.epoch + 1), rooms::reserved_to.eq(before.reserved_to + numbers)))
                .execute(tx)
                .await?;
            let ended: Vec<i64> = ended_passes::table
                .filter(ended_passes::event_id.eq(event.id))
                .select(ended_passes::seq)
                .load(tx)
                .await?;
            Ok(Some((before, ended)))
        })
        .await?;
    let Some((before, ended)) = saved else { return until_built(app, event, epoch).await };
    app.db.point("queue.before_load").await;
    let snapshot = Snapshot {
        epoch: before.epoch + 1,
        next: before.reserved_to + 1,
        ceil: before.reserved_to + numbers,
        front: before.front,
        floor: before.floor,
        hole: (before.issued + 1, before.reserved_to),
        active: still_active(before.active_seqs.into_iter().zip(before.active_until), &ended),
        ended,
    };
    app.rooms.build(event.id, &snapshot, &rules(app, event)).await?;
    if before.epoch > 0 {
        metrics::counter!("stampede_queue_rooms_restored_total").increment(1);
        tracing::warn!(event.id = %event.id, epoch = snapshot.epoch, "Redis had lost the room of {}; it is built again", event.id);
    }
    let (Ok(()) | Err(Cold)) = configure(app, event).await?;
    Ok(())
}

/// The passes that were saved as in use, without those that have ended since: they would keep their slots until their clocks end.
fn still_active(saved: impl Iterator<Item = (i64, i64)>, ended: &[i64]) -> Vec<(i64, i64)> {
    let ended: HashSet<i64> = ended.iter().copied().collect();
    saved.filter(|(seq, _)| !ended.contains(seq)).collect()
}

/// Waits for another replica that builds the room. If that has died, the next request builds it.
async fn until_built(app: &App, event: &SaleEvent, epoch: i64) -> Result<()> {
    let started = Instant::now();
    while app.rooms.epoch(event.id).await?.is_none_or(|built| built <= epoch) && started.elapsed() < BUILDING_MAX {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// More numbers may be given than up to `ceil`. Each request for the same `ceil` gets the same ones.
pub async fn reserve_numbers(app: &App, event: SaleEventId, ceil: i64) -> Result<()> {
    let next = ceil + app.numbers_reserved;
    app.db
        .autocommit("reserve_numbers", async |conn| {
            let update = diesel::update(rooms::table.find(event)).filter(rooms::reserved_to.lt(next));
            Ok(update.set(rooms::reserved_to.eq(next)).execute(conn).await?)
        })
        .await?;
    app.db.point("queue.after_reserve").await;
    // A room that is gone meanwhile is built with them.
    let (Ok(()) | Err(Cold)) = app.rooms.raise_ceil(event, next).await?;
    Ok(())
}
