//! The relay: one at a time per shard takes the new rows in order, sends them, waits, and marks them.
//!
//! Its locks, its reads and its marks use one database session. When the session ends, so do the locks, and a relay
//! that has lost them cannot read another row.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::DateTime;
use diesel::{QueryResult, QueryableByName, sql_types};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use futures_util::{FutureExt, StreamExt};
use tokio_util::sync::CancellationToken;

use super::send::{Producer, Report, Row};
use super::{OutboxSettings, SHARDS, reopen};
use crate::backoff::Backoff;
use crate::crash;
use crate::db::{Db, Tx};
use crate::error::{Error, Result};
use crate::kafka::Kafka;

/// Runs relays, one after the other, until `stopping`: each ends with its database session.
pub(super) async fn run(db: &Db, kafka: &Kafka, settings: &OutboxSettings, stopping: &CancellationToken) {
    let mut attempt = 0;
    while !stopping.is_cancelled() {
        let started = Instant::now();
        let ended = match Relay::open(db, kafka, settings).await {
            Ok(mut relay) => relay.run(stopping).await,
            Err(error) => Err(error),
        };
        let Err(error) = ended else { return };
        attempt = if started.elapsed() > Backoff::RECONNECT.max { 1 } else { attempt + 1 };
        tracing::warn!(%error, db.schema = db.schema(), "The relay lost its database session; it starts again");
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(Backoff::RECONNECT.delay(attempt)) => {}
        }
    }
}

/// Between looks for a broker that is away. A look is one question, so it need not be rare.
const AWAY: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(1) };

/// What a pass came to.
enum Pass {
    Sent,
    NothingToSend,
    /// Kafka is away or changed; the rows stay where they are.
    Away,
}

struct Relay<'a> {
    db: &'a Db,
    kafka: &'a Kafka,
    settings: &'a OutboxSettings,
    conn: AsyncPgConnection,
    /// Its notifications need not wake itself.
    backend_pid: i32,
    /// The LISTEN channel: the schema, quoted.
    channel: String,
    /// Longer than this without a statement, and the server ends the session.
    silence_max: Duration,
    held: BTreeSet<i16>,
    producer: Option<Producer>,
    /// The cluster that `outbox_broker` names, as far as this relay knows.
    cluster: Option<Arc<str>>,
    /// The broker gave reason to doubt that it is still the same one.
    doubted_at: Option<Instant>,
    told_at: Option<Instant>,
    /// Commits happened here that concern shards of other replicas.
    has_news: bool,
    away_attempt: u32,
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

impl<'a> Relay<'a> {
    async fn open(db: &'a Db, kafka: &'a Kafka, settings: &'a OutboxSettings) -> Result<Relay<'a>> {
        let mut conn = db.dedicated().await?;
        // A relay speaks at least this often, so the server may take silence for death. A replica that was frozen or
        // cut off loses its shards like one that ended; without this, the kernel would wait for two hours.
        let silence_max = 3 * Duration::from_millis(settings.poll_ms.max(kafka.settings().delivery_timeout_ms));
        let channel = format!("\"{}\"", db.schema());
        conn.batch_execute(&format!(
            "set idle_session_timeout = {}; set tcp_keepalives_idle = 5; set tcp_keepalives_interval = 5;
             set tcp_keepalives_count = 3; listen {channel}",
            silence_max.as_millis()
        ))
        .await?;
        let Backend { pid } = diesel::sql_query("select pg_backend_pid() as pid").get_result(&mut conn).await?;
        Ok(Relay {
            db,
            kafka,
            settings,
            conn,
            backend_pid: pid,
            channel,
            silence_max,
            held: BTreeSet::new(),
            producer: None,
            cluster: None,
            doubted_at: None,
            told_at: None,
            has_news: true,
            away_attempt: 0,
        })
    }

    /// Ends with `Ok` when stopping, with an error when the session is lost.
    async fn run(&mut self, stopping: &CancellationToken) -> Result<()> {
        while !stopping.is_cancelled() {
            let pass = self.pass().await?;
            let pause = match pass {
                Pass::Sent => continue,
                Pass::NothingToSend => Duration::from_millis(self.settings.poll_ms),
                Pass::Away => AWAY.delay(self.away_attempt),
            };
            tokio::select! {
                () = stopping.cancelled() => {}
                waited = self.wait(pause, matches!(pass, Pass::Away)) => waited?,
            }
        }
        // Another replica goes on at once.
        self.held.clear();
        self.conn.batch_execute(&format!("select pg_advisory_unlock_all(); notify {}", self.channel)).await?;
        Ok(())
    }

    async fn pass(&mut self) -> Result<Pass> {
        self.has_news |= self.db.wake().notified().now_or_never().is_some();
        if self.held.len() < usize::from(SHARDS) {
            self.take_free_shards().await?;
            self.tell_others().await?;
        }
        if self.held.is_empty() {
            return Ok(Pass::NothingToSend);
        }
        let rows = self.select().await?;
        // An idle relay looks after the broker too: one that was replaced must get its events back.
        let before = self.cluster.clone();
        let Ok(()) = self.prepare(&rows).await else { return Ok(Pass::Away) };
        self.away_attempt = 0;
        if self.cluster != before {
            // Rows that were published to another broker may have become new again, and they come first.
            return Ok(Pass::Sent);
        }
        if rows.is_empty() {
            return Ok(Pass::NothingToSend);
        }
        crash::point("relay.after_select");
        self.send(&rows).await
    }

    /// Session locks, so they are free again as soon as whoever holds them is gone.
    async fn take_free_shards(&mut self) -> Result<()> {
        let missing: Vec<i16> = (0..i16::from(SHARDS)).filter(|shard| !self.held.contains(shard)).collect();
        let taken = diesel::sql_query(
            "select shard
             from unnest($1) as s (shard)
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
    async fn tell_others(&mut self) -> Result<()> {
        let is_soon = self.told_at.is_some_and(|told| told.elapsed() < Duration::from_millis(self.settings.notify_ms));
        if self.has_news && !is_soon {
            self.has_news = false;
            self.told_at = Some(Instant::now());
            let notify = format!("notify {}", self.channel);
            within(self.silence_max, self.conn.batch_execute(&notify)).await?;
        }
        Ok(())
    }

    async fn select(&mut self) -> Result<Vec<Row>> {
        let per_shard = (self.settings.batch_max / self.held.len() as i64).max(1);
        let rows = diesel::sql_query(include_str!("select.sql"))
            .bind::<sql_types::Array<sql_types::SmallInt>, _>(Vec::from_iter(self.held.iter().copied()))
            .bind::<sql_types::BigInt, _>(per_shard)
            .load(&mut self.conn);
        within(self.silence_max, rows).await
    }

    /// Makes sure that the broker is known, has the topics of `rows`, and that there is a producer for it.
    async fn prepare(&mut self, rows: &[Row]) -> Result<()> {
        let prepared = self.try_prepare(rows).await;
        if let Err(error) = &prepared {
            if self.away_attempt == 0 {
                tracing::warn!(%error, db.schema = self.db.schema(), "Events wait until Kafka can be reached");
            }
            self.away_attempt += 1;
        }
        prepared
    }

    async fn try_prepare(&mut self, rows: &[Row]) -> Result<()> {
        self.let_go_of_an_outdated_producer();
        let cluster = match self.doubted_at {
            Some(moment) => self.kafka.cluster_id_since(moment).await?,
            None => self.kafka.cluster_id().await?,
        };
        self.doubted_at = None;
        if self.cluster.as_ref() != Some(&cluster) {
            note_cluster(self.db, &cluster).await?;
            self.cluster = Some(cluster.clone());
        }
        let topics: BTreeSet<&str> = rows.iter().map(|row| row.topic.as_str()).collect();
        self.kafka.ensure_topics(&Vec::from_iter(topics)).await?;
        let usable = |producer: &Producer| *producer.cluster() == cluster && producer.fatal_error().is_none();
        if !rows.is_empty() && !self.producer.as_ref().is_some_and(usable) {
            self.producer = Some(Producer::new(self.kafka, cluster, self.db.schema())?);
        }
        Ok(())
    }

    /// Returns whether there was one.
    fn let_go_of_an_outdated_producer(&mut self) -> bool {
        let is_outdated = self.producer.as_ref().is_some_and(Producer::is_outdated);
        if is_outdated {
            self.producer = None;
            self.doubted_at = Some(Instant::now());
        }
        is_outdated
    }

    async fn send(&mut self, rows: &[Row]) -> Result<Pass> {
        let Some(producer) = &self.producer else { return Ok(Pass::Away) };
        let names: Vec<String> = rows.iter().map(|row| self.kafka.topic(&row.topic)).collect();
        let reports = producer.send(rows, &names).await;
        crash::point("relay.after_ack");
        let cluster = producer.cluster().clone();
        if self.let_go_of_an_outdated_producer() {
            return Ok(Pass::Away);
        }
        let acknowledged = rows.iter().zip(&reports).filter(|(_, report)| **report == Report::Acknowledged);
        let acknowledged: Vec<i64> = acknowledged.map(|(row, _)| row.id).collect();
        if !self.mark(&acknowledged, &cluster).await? {
            // Another relay met the new broker first and has made these rows new again.
            self.cluster = None;
            self.producer = None;
            return Ok(Pass::Away);
        }
        crash::point("relay.after_mark");
        if acknowledged.len() == rows.len() {
            return Ok(Pass::Sent);
        }
        self.settle_failures(rows, &reports, &cluster).await
    }

    /// Returns false when the schema has got another broker meanwhile, and then marks nothing.
    async fn mark(&mut self, ids: &[i64], cluster: &str) -> Result<bool> {
        if ids.is_empty() {
            return Ok(true);
        }
        let marked = diesel::sql_query(include_str!("mark.sql"))
            .bind::<sql_types::Array<sql_types::BigInt>, _>(ids)
            .bind::<sql_types::Text, _>(cluster)
            .execute(&mut self.conn);
        let marked = within(self.silence_max, marked).await?;
        metrics::counter!("stampede_outbox_published_total", "schema" => self.db.schema().to_owned())
            .increment(marked as u64);
        Ok(marked > 0)
    }

    /// Refused messages are charged an attempt, unless the broker that refused them is a new one that has none of the
    /// topics. Messages without a report cost the producer its place: nobody knows what it still has in flight.
    async fn settle_failures(&mut self, rows: &[Row], reports: &[Report], cluster: &Arc<str>) -> Result<Pass> {
        if reports.contains(&Report::Unknown) {
            if let Some(reason) = self.producer.as_ref().and_then(Producer::fatal_error) {
                tracing::warn!(reason, db.schema = self.db.schema(), "Kafka's producer failed for good; a new one goes on");
            }
            self.producer = None;
        }
        let now = Instant::now();
        self.doubted_at = Some(now);
        let is_same = self.kafka.cluster_id_since(now).await.is_ok_and(|found| found == *cluster);
        let refused = rows.iter().zip(reports).filter_map(|(row, report)| match report {
            Report::Refused(error) => Some((row, error.as_str())),
            Report::Acknowledged | Report::HeldBack | Report::Unknown => None,
        });
        let refused: Vec<(&Row, &str)> = refused.collect();
        if !refused.is_empty() {
            self.kafka.forget_topics();
        }
        if is_same {
            self.charge(&refused).await?;
        }
        if reports.contains(&Report::Unknown) {
            self.away_attempt += 1;
            return Ok(Pass::Away);
        }
        Ok(Pass::Sent)
    }

    async fn charge(&mut self, refused: &[(&Row, &str)]) -> Result<()> {
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
             from unnest($1, $2, $3) as f (id, delay_ms, error)
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
    async fn wait(&mut self, pause: Duration, for_kafka: bool) -> Result<()> {
        let debt = Duration::from_millis(self.settings.notify_ms);
        let pause = if self.has_news && self.held.len() < usize::from(SHARDS) { pause.min(debt) } else { pause };
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

/// Remembers the cluster. When it is another one than before, its log is empty: everything that the schema still has
/// is published again. Whichever relay comes first does this, once.
async fn note_cluster(db: &Db, cluster: &str) -> Result<()> {
    let again = db
        .tx("outbox_broker", async |tx: &mut Tx| {
            let first = diesel::sql_query("insert into outbox_broker (cluster_id) values ($1) on conflict do nothing");
            if first.bind::<sql_types::Text, _>(cluster).execute(tx).await? == 1 {
                return Ok(None);
            }
            let changed = diesel::sql_query(
                "update outbox_broker set cluster_id = $1, since = now() where cluster_id <> $1",
            );
            if changed.bind::<sql_types::Text, _>(cluster).execute(tx).await? == 0 {
                return Ok(None);
            }
            tx.published = true;
            reopen(tx, DateTime::UNIX_EPOCH).await.map(Some)
        })
        .await?;
    if let Some(events) = again {
        tracing::warn!(db.schema = db.schema(), kafka.cluster = cluster, events, "The broker is a new one: all {events} retained events are published again");
    }
    Ok(())
}
