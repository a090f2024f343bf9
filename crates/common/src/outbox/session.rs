//! The database session of a relay: its locks, its reads, its marks, and what wakes it.
//!
//! When the session ends, so do the locks, and a relay that has lost them cannot read another row. So the session must
//! be a real one: a pooler that lends connections by the transaction must not stand between the relay and PostgreSQL
//! (14 or later).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use diesel::{QueryResult, QueryableByName, sql_types};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use futures_util::{FutureExt, StreamExt};
use uuid::Uuid;

use super::{OutboxSettings, SHARDS};
use crate::backoff::Backoff;
use crate::db::{Db, Prepared};
use crate::error::{Error, Result};

pub(super) struct Session<'a> {
    db: &'a Db,
    settings: &'a OutboxSettings,
    conn: AsyncPgConnection,
    /// Its notifications need not wake itself.
    backend_pid: i32,
    /// The LISTEN channel: the schema, quoted.
    channel: String,
    /// The server ends the session after this long without a statement, and this side gives a statement as long.
    ///
    /// A relay speaks more often, so silence may be taken for death: a replica that was frozen or cut off loses its
    /// shards like one that ended. Without this, the kernel would wait for two hours.
    silence_max: Duration,
    held: BTreeSet<i16>,
    told_at: Option<Instant>,
    /// Topics that cannot be had for now, and until when their rows are left alone.
    missing: Option<(Vec<String>, Instant)>,
    /// Commits happened here that may concern shards of other replicas.
    has_news: bool,
}

#[derive(QueryableByName)]
struct Backend {
    #[diesel(sql_type = sql_types::Integer)]
    pid: i32,
}

#[derive(QueryableByName)]
struct Shard {
    #[diesel(sql_type = sql_types::SmallInt)]
    shard: i16,
}

/// An event that is to be sent.
#[derive(Debug, QueryableByName)]
pub(super) struct Row {
    #[diesel(sql_type = sql_types::BigInt)]
    pub(super) id: i64,
    #[diesel(sql_type = sql_types::Uuid)]
    pub(super) event_id: Uuid,
    #[diesel(sql_type = sql_types::Text)]
    pub(super) topic: String,
    #[diesel(sql_type = sql_types::Text)]
    pub(super) key: String,
    #[diesel(sql_type = sql_types::BigInt)]
    pub(super) aggregate_version: i64,
    #[diesel(sql_type = sql_types::Text)]
    pub(super) payload: String,
    #[diesel(sql_type = sql_types::Jsonb)]
    pub(super) headers: serde_json::Value,
    #[diesel(sql_type = sql_types::Integer)]
    pub(super) attempts: i32,
    #[diesel(sql_type = sql_types::Timestamptz)]
    pub(super) created_at: DateTime<Utc>,
}

/// What one look at the outbox found.
pub(super) struct Selected {
    pub(super) rows: Vec<Row>,
    /// A shard had as many as one look takes.
    pub(super) may_be_more: bool,
}

impl<'a> Session<'a> {
    pub(super) async fn open(db: &'a Db, settings: &'a OutboxSettings, silence_max: Duration) -> Result<Session<'a>> {
        let mut conn = db.dedicated().await?;
        let channel = format!("\"{}\"", db.schema());
        conn.batch_execute(&format!(
            "set idle_session_timeout = {}; set tcp_keepalives_idle = 5; set tcp_keepalives_interval = 5;
             set tcp_keepalives_count = 3; listen {channel}",
            silence_max.as_millis()
        ))
        .await?;
        let Backend { pid } = diesel::sql_query("select pg_backend_pid() as pid").get_result(&mut conn).await?;
        Ok(Session {
            db,
            settings,
            conn,
            backend_pid: pid,
            channel,
            silence_max,
            held: BTreeSet::new(),
            told_at: None,
            missing: None,
            has_news: true,
        })
    }

    pub(super) fn holds_none(&self) -> bool {
        self.held.is_empty()
    }

    fn holds_all(&self) -> bool {
        self.held.len() == usize::from(SHARDS)
    }

    /// Gives the shards up and lets another replica know, so that it goes on at once.
    pub(super) async fn hand_over(mut self) -> Result<()> {
        let farewell = format!("select pg_advisory_unlock_all(); notify {}", self.channel);
        within(self.silence_max, self.conn.batch_execute(&farewell)).await
    }

    /// Session locks, so they are free again as soon as whoever holds them is gone.
    pub(super) async fn take_free_shards(&mut self) -> Result<()> {
        if self.holds_all() {
            return Ok(());
        }
        let missing: Vec<i16> = (0..i16::from(SHARDS)).filter(|shard| !self.held.contains(shard)).collect();
        let taken = diesel::sql_query(
            "select shard
             from unnest($1::smallint[]) as s (shard)
             where pg_try_advisory_lock(hashtext('outbox of ' || current_schema()), shard)",
        )
        .bind::<sql_types::Array<sql_types::SmallInt>, _>(missing)
        .load::<Shard>(&mut self.conn);
        let taken = within(self.silence_max, taken).await?;
        if !taken.is_empty() {
            self.held.extend(taken.iter().map(|taken| taken.shard));
            tracing::info!(db.schema = self.db.schema(), shards = ?self.held, "This replica relays the events of {}", self.db.schema());
        }
        Ok(())
    }

    /// Wakes the relays of other replicas: outside any transaction, where NOTIFY delays nobody's commit, and not for
    /// each commit.
    pub(super) async fn tell_others(&mut self) -> Result<()> {
        let is_soon = self.told_at.is_some_and(|told| told.elapsed() < Duration::from_millis(self.settings.notify_ms));
        self.has_news |= self.db.wake().notified().now_or_never().is_some();
        if self.has_news && !is_soon && !self.holds_all() {
            self.has_news = false;
            self.told_at = Some(Instant::now());
            let notify = format!("notify {}", self.channel);
            within(self.silence_max, self.conn.batch_execute(&notify)).await?;
        }
        Ok(())
    }

    /// The rows of these topics are not selected again before the next look that nothing has woken: they wait uncharged, and
    /// as many as there may be of them, keep no others from being sent.
    pub(super) fn leave_alone(&mut self, topics: Vec<String>) {
        self.missing = Some((topics, Instant::now() + Duration::from_millis(self.settings.poll_ms)));
    }

    /// The rows of the held shards that may be sent, in order.
    pub(super) async fn select(&mut self) -> Result<Selected> {
        self.missing.take_if(|(_, until)| *until <= Instant::now());
        let missing = self.missing.as_ref().map_or(&[][..], |(topics, _)| topics);
        let per_shard = (self.settings.batch_max / self.held.len() as i64).max(1);
        let rows = Prepared(
            diesel::sql_query(include_str!("select.sql"))
                .bind::<sql_types::Array<sql_types::SmallInt>, _>(Vec::from_iter(self.held.iter().copied()))
                .bind::<sql_types::BigInt, _>(per_shard)
                .bind::<sql_types::Array<sql_types::Text>, _>(missing),
        )
        .load(&mut self.conn);
        let rows: Vec<Row> = within(self.silence_max, rows).await?;
        // With fewer rows than that, none of the shards can have had its share.
        let may_be_more = rows.len() as i64 >= per_shard;
        Ok(Selected { rows, may_be_more })
    }

    /// Returns false when the schema has got another broker meanwhile, and then marks nothing.
    pub(super) async fn mark(&mut self, ids: &[i64], cluster: &str) -> Result<bool> {
        if ids.is_empty() {
            return Ok(true);
        }
        let marked = Prepared(
            diesel::sql_query(include_str!("mark.sql"))
                .bind::<sql_types::Array<sql_types::BigInt>, _>(ids)
                .bind::<sql_types::Text, _>(cluster),
        )
        .execute(&mut self.conn);
        let marked = within(self.silence_max, marked).await?;
        metrics::counter!("stampede_outbox_published_total", "schema" => self.db.schema().to_owned())
            .increment(marked as u64);
        Ok(marked > 0)
    }

    /// Counts a refusal. The rows are due again later, or dead.
    pub(super) async fn charge(&mut self, refused: &[(&Row, &str)]) -> Result<()> {
        let backoff = Backoff {
            first: Duration::from_millis(self.settings.retry_first_ms),
            max: Duration::from_millis(self.settings.retry_max_ms),
        };
        let delay_ms = |row: &Row| backoff.delay(row.attempts as u32 + 1).as_millis() as i64;
        let charged = diesel::sql_query(
            "update outbox_events as e
             set attempts = e.attempts + 1,
                 due_at = clock_timestamp() + f.delay_ms * interval '1 millisecond',
                 status = case when e.attempts + 1 >= $4 then 'DEAD' else 'NEW' end,
                 last_error = f.error
             from unnest($1::bigint[], $2::bigint[], $3::text[]) as f (id, delay_ms, error)
             where e.id = f.id and e.status = 'NEW'",
        )
        .bind::<sql_types::Array<sql_types::BigInt>, _>(Vec::from_iter(refused.iter().map(|(row, _)| row.id)))
        .bind::<sql_types::Array<sql_types::BigInt>, _>(Vec::from_iter(refused.iter().map(|(row, _)| delay_ms(row))))
        .bind::<sql_types::Array<sql_types::Text>, _>(Vec::from_iter(refused.iter().map(|(_, error)| *error)))
        .bind::<sql_types::Integer, _>(self.settings.attempts_max)
        .execute(&mut self.conn);
        within(self.silence_max, charged).await?;
        for (row, error) in refused {
            let Row { event_id, topic, key, attempts, .. } = row;
            if attempts + 1 < self.settings.attempts_max {
                tracing::warn!(event.id = %event_id, topic, key, error, "Kafka refused an event; its key waits");
                continue;
            }
            metrics::counter!("stampede_outbox_dead_total", "schema" => self.db.schema().to_owned()).increment(1);
            tracing::error!(event.id = %event_id, topic, key, error, "Kafka refused an event for good; its key is blocked until a redrive");
        }
        Ok(())
    }

    /// Until a commit here, a notification from elsewhere, or `pause`. With `for_kafka`, events do not end the wait.
    pub(super) async fn wait(&mut self, pause: Duration, for_kafka: bool) -> Result<()> {
        let owes_news = self.has_news && !self.holds_all();
        let debt = Duration::from_millis(self.settings.notify_ms);
        let pause = if owes_news { pause.min(debt) } else { pause };
        let wake = self.db.wake();
        let ended = tokio::time::sleep(pause);
        tokio::pin!(ended);
        let mut notifications = std::pin::pin!(self.conn.notifications_stream());
        loop {
            tokio::select! {
                () = &mut ended => return Ok(()),
                () = wake.notified(), if !for_kafka => {
                    self.has_news = true;
                    return Ok(());
                }
                Some(notification) = notifications.next() => {
                    if notification?.process_id != self.backend_pid && !for_kafka {
                        // Those that came along are answered by the same pass.
                        while notifications.next().now_or_never().flatten().is_some() {}
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// A statement that takes longer than the server lets the session live has lost its connection.
async fn within<T>(limit: Duration, statement: impl Future<Output = QueryResult<T>>) -> Result<T> {
    let outcome = tokio::time::timeout(limit, statement).await;
    Ok(outcome.map_err(|_| Error::transient(anyhow::anyhow!("the database does not answer")))??)
}
