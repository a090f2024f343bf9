//! Builds a room in Redis from what PostgreSQL has: when its sale opens, and whenever Redis has lost it.
//!
//! Numbers go on after all that may have been given, and the front stands where it was a moment ago, with the slots that were
//! offered. Whoever waits shows a ticket and has the same place again. A pass is good by its signature.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use common::Result;
use common::db::Tx;
use common::sql::clock_timestamp;
use contract::ids::SaleEventId;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::App;
use crate::draw_lobby::draw;
use crate::names::Status;
use crate::open_events::open_due;
use crate::refused::Refused;
use crate::room::{Cold, Snapshot, Turns};
use crate::run_rooms::{configure, rules};
use crate::sale_event::SaleEvent;
use crate::schema::{admissions, ended_passes, rooms, sale_events};

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
    pub offered_seqs: Vec<i64>,
    pub back_seqs: Vec<i64>,
    pub let_in: i64,
}

/// Why a room is built in place of an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Gone,
    /// What Redis has is older than what was saved of it.
    Older,
}

/// How long another replica may take to build a room before this one builds it.
const BUILDING_MAX: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Builds the room if it is not there, and tells it its rules. Refuses with `EVENT_NOT_OPEN` before the opening.
pub async fn restore_room(app: &App, event: &SaleEvent) -> Result<()> {
    // In this order: whoever raises the epoch after this has found the room gone as well, and builds it.
    let saved: (i64, Option<DateTime<Utc>>, DateTime<Utc>) = rooms::table
        .find(event.id)
        .select((rooms::epoch, rooms::raised_at, clock_timestamp()))
        .first(&mut *app.db.read().await?)
        .await?;
    let (epoch, raised_at, now) = saved;
    if app.rooms.epoch(event.id).await?.is_some() {
        return Ok(());
    }
    // Another is about to build it: a second room would have to be shown all tickets once more.
    let left = raised_at.and_then(|at| BUILDING_MAX.checked_sub((now - at).to_std().unwrap_or_default()));
    if let Some(left) = left
        && is_built(app, event, epoch, left).await?
    {
        return Ok(());
    }
    replace_room(app, event, epoch, Cause::Gone).await
}

/// Builds the room in place of whatever is there, unless another replica does so since it had this epoch.
pub async fn replace_room(app: &App, event: &SaleEvent, epoch: i64, cause: Cause) -> Result<()> {
    let numbers = app.numbers_reserved;
    // Whoever comes at the opening may be before the triggers.
    open_due(app, Some(event.id), "visitor").await?;
    let saved = app
        .db
        .tx("restore_room", async |tx| {
            check_begun(tx, event.id).await?;
            // The draw first: those who come now come after all who came early.
            draw(tx, event).await?;
            let room = rooms::table.find(event.id);
            let before: SavedRoom = room.select(SavedRoom::as_select()).for_update().first(tx).await?;
            if before.epoch != epoch {
                return Ok(None);
            }
            diesel::update(room)
                .set((
                    rooms::epoch.eq(before.epoch + 1),
                    rooms::reserved_to.eq(before.reserved_to + numbers),
                    rooms::raised_at.eq(clock_timestamp().nullable()),
                ))
                .execute(tx)
                .await?;
            let ended: Vec<i64> = ended_passes::table
                .filter(ended_passes::event_id.eq(event.id))
                .select(ended_passes::seq)
                .load(tx)
                .await?;
            let granted = granted(tx, event.id).await?;
            Ok(Some((before, ended, granted)))
        })
        .await?;
    let Some((before, ended, granted)) = saved else {
        // If the other has died, the next request builds it.
        is_built(app, event, epoch + 1, BUILDING_MAX).await?;
        return Ok(());
    };
    app.db.point("queue.before_load").await;
    let snapshot = Snapshot {
        epoch: before.epoch + 1,
        next: before.reserved_to + 1,
        ceil: before.reserved_to + numbers,
        front: before.front,
        floor: before.floor,
        hole: (before.issued + 1, before.reserved_to),
        granted,
        extra: (granted - before.let_in).max(0),
        turns: before.turns(&ended),
        ended,
    };
    let people = before.people(&snapshot.turns, Utc::now().timestamp_millis());
    app.rooms.build(event.id, &snapshot, &rules(app, event)).await?;
    if before.epoch > 0 {
        metrics::counter!("stampede_queue_rooms_restored_total").increment(1);
        tell_restored(event.id, snapshot.epoch, cause, people);
    }
    let (Ok(()) | Err(Cold)) = configure(app, event).await?;
    Ok(())
}

/// Redis keeps nothing when it restarts, as it is meant to. That is worth a warning only where somebody notices it.
fn tell_restored(event: SaleEventId, epoch: i64, cause: Cause, people: i64) {
    match (cause, people) {
        (Cause::Gone, 0) => tracing::info!(
            event.id = %event, epoch,
            "The waiting room of sale event {event} is not in Redis, as after a restart of Redis, which keeps nothing on its disk. \
             It was empty when it was last saved, and is built again from PostgreSQL"
        ),
        (Cause::Gone, _) => tracing::warn!(
            event.id = %event, epoch, people,
            "Redis has lost the waiting room of sale event {event} with up to {people} people in it, as it does when it restarts. \
             The room is built again from PostgreSQL: who shows a ticket or a pass keeps the place, and nobody has to do \
             anything. If Redis has not restarted, run `stampede doctor`"
        ),
        (Cause::Older, _) => tracing::warn!(
            event.id = %event, epoch, people,
            "Redis has an older waiting room of sale event {event} than was saved, as after a restart from a copy on its disk. The \
             room is built again from PostgreSQL; run `stampede doctor`, which names the settings by which Redis writes to its disk"
        ),
    }
}

/// Refuses with `EVENT_NOT_OPEN` unless the sale was opened. What this process knows of the event may be older than its last
/// change, and a draw cannot be taken back. A sale that is open is never pending again, so its row need not be locked.
async fn check_begun(tx: &mut Tx, id: SaleEventId) -> Result<()> {
    let event = sale_events::table.find(id).select((sale_events::status, sale_events::opens_at, clock_timestamp()));
    let (status, opens_at, now): (Status, DateTime<Utc>, DateTime<Utc>) = event.first(tx).await?;
    if status == Status::Pending {
        let begins_in = (opens_at - now).to_std().unwrap_or_default();
        return Err(Refused::NotOpen { event: id, begins_in }.into());
    }
    Ok(())
}

/// How many people administrators let in beyond the rate, in all.
pub async fn granted(conn: &mut AsyncPgConnection, event: SaleEventId) -> Result<i64> {
    let counts = admissions::table.filter(admissions::event_id.eq(event)).select(diesel::dsl::sum(admissions::count));
    Ok(counts.first::<Option<i64>>(conn).await?.unwrap_or(0))
}

impl SavedRoom {
    /// How many people were in it when it was saved, at the most: some of those who wait may have left. `now_ms` ends passes.
    fn people(&self, turns: &Turns, now_ms: i64) -> i64 {
        let passes = turns.active.iter().filter(|(_, until)| *until > now_ms).count();
        let turns = passes + turns.offered.len() + turns.back.len();
        (self.issued - self.front).max(0) + turns as i64
    }

    /// Whose turn it is still: passes that have ended since would keep their slots until their clocks end.
    fn turns(&self, ended: &[i64]) -> Turns {
        let ended: HashSet<i64> = ended.iter().copied().collect();
        let still = |seqs: &[i64]| seqs.iter().copied().filter(|seq| !ended.contains(seq)).collect();
        let passes = self.active_seqs.iter().copied().zip(self.active_until.iter().copied());
        Turns {
            active: passes.filter(|(seq, _)| !ended.contains(seq)).collect(),
            offered: still(&self.offered_seqs),
            back: still(&self.back_seqs),
        }
    }
}

/// Waits for another replica that builds the room of this epoch. False: it is not there in time.
async fn is_built(app: &App, event: &SaleEvent, epoch: i64, wait: Duration) -> Result<bool> {
    let started = Instant::now();
    while started.elapsed() < wait {
        if app.rooms.epoch(event.id).await?.is_some_and(|built| built >= epoch) {
            return Ok(true);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(false)
}

/// More numbers may be given than up to `ceil`. Each request for the same `ceil` gets the same ones.
pub async fn reserve_numbers(app: &App, event: SaleEventId, ceil: i64) -> Result<()> {
    let next = ceil + app.numbers_reserved;
    app.db
        .tx("reserve_numbers", async |tx| {
            let update = diesel::update(rooms::table.find(event)).filter(rooms::reserved_to.lt(next));
            Ok(update.set(rooms::reserved_to.eq(next)).execute(tx).await?)
        })
        .await?;
    app.db.point("queue.after_reserve").await;
    // A room that is gone meanwhile is built with them.
    let (Ok(()) | Err(Cold)) = app.rooms.raise_ceil(event, next).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_is_empty_when_nobody_waits_and_each_pass_has_ended() {
        let room = SavedRoom {
            epoch: 1,
            reserved_to: 2000,
            front: 5,
            issued: 5,
            floor: 0,
            active_seqs: vec![3, 4],
            active_until: vec![1000, 900],
            offered_seqs: vec![],
            back_seqs: vec![],
            let_in: 0,
        };
        let people = |room: &SavedRoom, now_ms| room.people(&room.turns(&[3]), now_ms);
        assert_eq!(people(&room, 899), 1, "the fourth has a pass, the third has used it");
        assert_eq!(people(&room, 900), 0);
        let waiting = SavedRoom { issued: 8, offered_seqs: vec![5], back_seqs: vec![2], ..room };
        assert_eq!(people(&waiting, 900), 5);
    }
}
