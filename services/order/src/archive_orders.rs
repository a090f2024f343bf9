//! Loop: each day, orders that ended long ago move to the archive, chunk by chunk. One replica at a time does it.
//!
//! It may die at any point: each chunk is one statement, which also counts it. The run stays, and whoever looks next goes on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use common::db::{Db, Prepared};
use common::{Error, Result};
use contract::ids::AccountId;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Bool, Double, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::Deserialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::App;
use crate::daily_time::DailyTime;
use crate::schema::archive_runs;

/// Section `[order.archive]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    daily_at: String,
    utc_offset_minutes: i32,
    after_days: u16,
    chunk: u16,
    pause_ms: u64,
    busy_percent: u32,
    quiet_percent: u32,
    quiet_after_seconds: u32,
    pub check_period_ms: u64,
}

/// The archive as it is set.
pub struct Archive {
    daily: DailyTime,
    pub after_days: u16,
    pub chunk: i64,
    pace: Pace,
    /// Has the loop look at once.
    pub requested: Arc<Notify>,
    stopping: CancellationToken,
}

impl Archive {
    pub fn new(settings: &Settings, stopping: CancellationToken) -> anyhow::Result<Archive> {
        anyhow::ensure!(settings.after_days > 0, "order.archive.after_days: an order stays for a day at least");
        anyhow::ensure!(settings.chunk > 0, "order.archive.chunk: a chunk has an order at least");
        let daily = DailyTime::parse(&settings.daily_at, settings.utc_offset_minutes)
            .map_err(|error| error.context("order.archive.daily_at, order.archive.utc_offset_minutes"))?;
        Ok(Archive {
            daily,
            after_days: settings.after_days,
            chunk: i64::from(settings.chunk),
            pace: Pace::new(settings)?,
            requested: Arc::new(Notify::new()),
            stopping,
        })
    }
}

/// However long a chunk has waited, the run goes on after this.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// How much of the time a run takes for itself.
#[derive(Debug, Clone, Copy)]
struct Pace {
    pause_min: Duration,
    /// Of the time, while people buy.
    busy_percent: u32,
    /// Of the time, while nobody does.
    quiet_percent: u32,
    /// So long after the newest event of an order nobody buys.
    quiet_after_seconds: u32,
}

impl Pace {
    fn new(settings: &Settings) -> anyhow::Result<Pace> {
        let Settings { pause_ms, busy_percent, quiet_percent, quiet_after_seconds, .. } = *settings;
        anyhow::ensure!((1..=100).contains(&busy_percent), "order.archive.busy_percent is from 1 to 100");
        anyhow::ensure!((1..=100).contains(&quiet_percent), "order.archive.quiet_percent is from 1 to 100");
        Ok(Pace { pause_min: Duration::from_millis(pause_ms), busy_percent, quiet_percent, quiet_after_seconds })
    }

    /// The pause after a chunk that has taken `busy`. Chunks take longer while many people buy, and so do the pauses.
    fn pause_after(&self, busy: Duration, is_quiet: bool) -> Duration {
        let percent = if is_quiet { self.quiet_percent } else { self.busy_percent };
        let whole = busy * 100 / percent;
        (whole - busy).min(PAUSE_MAX).max(self.pause_min)
    }
}

/// A row of `archive_runs`.
#[derive(Debug, Clone, Queryable, QueryableByName, Selectable)]
#[diesel(table_name = archive_runs, check_for_backend(diesel::pg::Pg))]
pub struct Run {
    pub id: Uuid,
    pub requested_by: Option<AccountId>,
    pub status: String,
    pub unchanged_since: DateTime<Utc>,
    pub orders: i64,
    pub items: i64,
    pub chunks: i64,
    pub error: Option<String>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
}

#[derive(QueryableByName)]
struct Look {
    #[diesel(sql_type = Timestamptz)]
    now: DateTime<Utc>,
    #[diesel(sql_type = Timestamptz)]
    done_until: DateTime<Utc>,
    #[diesel(sql_type = Bool)]
    has_run: bool,
}

#[derive(QueryableByName)]
struct Chunk {
    #[diesel(sql_type = BigInt)]
    orders: i64,
}

/// Makes the day's run when its time has come. Then does the run that has not ended, if no other replica does it.
pub async fn archive_orders(app: Arc<App>) -> Result<()> {
    let look: Look =
        Prepared(sql_query(include_str!("archive_orders_look.sql"))).get_result(&mut *app.db.read().await?).await?;
    match app.archive.daily.due(look.now, look.done_until) {
        Some(time) => schedule(&app, time).await?,
        None if !look.has_run => return Ok(()),
        None => {}
    }
    let Some(mut lock) = take_lock(&app.db).await? else { return Ok(()) };
    while let Some(run) = take_run(&app).await? {
        if perform(&app, &run, &mut lock).await? == Progress::CutOff {
            break;
        }
    }
    release_lock(lock).await;
    Ok(())
}

async fn schedule(app: &App, time: DateTime<Utc>) -> Result<()> {
    let days = f64::from(app.archive.after_days);
    app.db
        .tx("schedule_archive", async |tx| {
            let make = sql_query(include_str!("archive_orders_schedule.sql"))
                .bind::<Timestamptz, _>(time)
                .bind::<SqlUuid, _>(Uuid::now_v7())
                .bind::<Double, _>(days);
            Prepared(make).execute(tx).await?;
            Ok(())
        })
        .await
}

async fn take_run(app: &App) -> Result<Option<Run>> {
    app.db
        .tx("take_archive_run", async |tx| {
            let take = sql_query(include_str!("archive_orders_take.sql"));
            Ok(Prepared(take).get_result(tx).await.optional()?)
        })
        .await
}

#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Ended,
    /// This process is stopping. Another one goes on.
    CutOff,
}

/// Moves chunk after chunk until none is left. A fault ends the run; what passes by itself leaves it for the next look.
async fn perform(app: &App, run: &Run, lock: &mut AsyncPgConnection) -> Result<Progress> {
    loop {
        let pace = app.archive.pace;
        let is_quiet = is_quiet(lock, pace, run).await?;
        let began = Instant::now();
        let moved = match move_chunk(app, run).await {
            Ok(moved) => moved,
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => {
                end(app, run, Some(&error.to_string())).await?;
                return Err(error);
            }
        };
        let pause = pace.pause_after(began.elapsed(), is_quiet);
        app.db.point("archive_orders.after_commit").await;
        metrics::counter!("stampede_orders_archived_total").increment(moved.unsigned_abs());
        if moved < app.archive.chunk {
            end(app, run, None).await?;
            return Ok(Progress::Ended);
        }
        let stopping = app.archive.stopping.cancelled();
        if tokio::time::timeout(pause, stopping).await.is_ok() {
            tracing::info!(run.id = %run.id, "Archive run {} is cut off; another process goes on with it", run.id);
            return Ok(Progress::CutOff);
        }
    }
}

async fn move_chunk(app: &App, run: &Run) -> Result<i64> {
    let (id, unchanged_since, chunk) = (run.id, run.unchanged_since, app.archive.chunk);
    app.db
        .tx("archive_orders", async |tx| {
            let statement = sql_query(include_str!("archive_orders.sql"))
                .bind::<SqlUuid, _>(id)
                .bind::<Timestamptz, _>(unchanged_since)
                .bind::<BigInt, _>(chunk);
            let moved: Chunk = Prepared(statement).get_result(tx).await?;
            if moved.orders > 0 {
                tx.point("archive_orders.before_commit").await;
            }
            Ok(moved.orders)
        })
        .await
}

async fn end(app: &App, run: &Run, error: Option<&str>) -> Result<()> {
    let id = run.id;
    let ended: Option<Run> = app
        .db
        .tx("end_archive_run", async |tx| {
            let end = sql_query(include_str!("archive_orders_end.sql"))
                .bind::<SqlUuid, _>(id)
                .bind::<Nullable<Text>, _>(error);
            Ok(Prepared(end).get_result(tx).await.optional()?)
        })
        .await?;
    // Another process has ended it: this one had lost the lock for a moment.
    let Some(run) = ended else { return Ok(()) };
    metrics::counter!("stampede_archive_runs_total", "outcome" => run.status.to_lowercase()).increment(1);
    let Run { id, orders, items, chunks, .. } = run;
    let seconds = run.ended_at.zip(run.started_at).map_or(0.0, |(to, from)| (to - from).as_seconds_f64());
    tracing::info!(
        run.id = %id, run.orders = orders, run.items = items, run.chunks = chunks, run.seconds = seconds,
        "Archive run {id} ends, {}: moved {orders} orders with {items} items in {chunks} chunks and {seconds:.1} s; \
         none of them had changed since {}",
        run.status, run.unchanged_since
    );
    Ok(())
}

#[derive(QueryableByName)]
struct Locked {
    #[diesel(sql_type = Bool)]
    is_locked: bool,
}

/// A session that holds the lock of the archive. None: another replica has it. It ends with the session, however that ends.
///
/// The lock spares work. Without it every order would still be moved once: each chunk locks its rows.
async fn take_lock(db: &Db) -> Result<Option<AsyncPgConnection>> {
    let mut session = db.dedicated().await?;
    let lock =
        sql_query("select pg_try_advisory_lock(hashtextextended('archive of ' || current_schema(), 0)) as is_locked");
    let Locked { is_locked } = lock.get_result(&mut session).await?;
    Ok(is_locked.then_some(session))
}

#[derive(QueryableByName)]
struct Quiet {
    #[diesel(sql_type = Bool)]
    is_quiet: bool,
}

/// Whether nobody buys. Fails when the session is gone, and the lock with it.
async fn is_quiet(lock: &mut AsyncPgConnection, pace: Pace, run: &Run) -> Result<bool> {
    let query = sql_query(include_str!("archive_orders_quiet.sql"));
    let asked = Prepared(query.bind::<Double, _>(f64::from(pace.quiet_after_seconds))).get_result(lock).await;
    asked.map(|Quiet { is_quiet }| is_quiet).map_err(|error| {
        Error::transient(anyhow::anyhow!(
            "archive run {} has lost its lock, and goes on with the next look: {error}",
            run.id
        ))
    })
}

/// Sooner than the end of the session, which PostgreSQL notices a moment later.
async fn release_lock(mut lock: AsyncPgConnection) {
    if let Err(error) = sql_query("select pg_advisory_unlock_all()").execute(&mut lock).await {
        tracing::debug!(%error, "The session with the lock of the archive has ended before the run");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_takes_its_share_of_the_time_however_long_chunks_take() {
        let pace =
            Pace { pause_min: Duration::from_millis(100), busy_percent: 2, quiet_percent: 25, quiet_after_seconds: 10 };
        for (busy, while_people_buy, while_nobody_does) in
            [(0, 100, 100), (5, 245, 100), (20, 980, 100), (500, 24_500, 1_500), (30_000, 60_000, 60_000)]
        {
            let pause = |is_quiet| pace.pause_after(Duration::from_millis(busy), is_quiet);
            let expected = (Duration::from_millis(while_people_buy), Duration::from_millis(while_nobody_does));
            assert_eq!((pause(false), pause(true)), expected, "{busy} ms");
        }
        let whole = Pace { pause_min: Duration::ZERO, busy_percent: 100, quiet_percent: 100, ..pace };
        assert_eq!(whole.pause_after(Duration::from_secs(3), false), Duration::ZERO);
    }
}
