//! The relay: one at a time per shard takes the new rows in order, sends them, waits, and marks them.
//!
//! Per key, what is new to a reader of the log comes in order, however often a relay dies: each relay begins with the
//! oldest row that is not marked, so of two that overlap, both send in the same order from the same row on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::DateTime;
use diesel::sql_types;
use diesel_async::RunQueryDsl;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use super::reports::{BatchOutcome, Report};
use super::send::Producer;
use super::session::{Row, Selected, Session};
use super::{OutboxSettings, reopen};
use crate::backoff::Backoff;
use crate::db::{Db, Tx};
use crate::error::Result;
use crate::kafka::Kafka;
use crate::telemetry::{mark_failed, span_in_trace};

/// Runs relays, one after the other, until `stopping`: each ends with its database session.
pub(super) async fn run(db: &Db, kafka: &Kafka, settings: &OutboxSettings, stopping: &CancellationToken) {
    let mut attempt = 0;
    while !stopping.is_cancelled() {
        let started = Instant::now();
        let ended = match Relay::open(db, kafka, settings).await {
            Ok(relay) => relay.run(stopping).await,
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

/// How long a batch under way may hold up a stop. It is sent again by whoever relays next.
const STOP_GRACE: Duration = Duration::from_secs(2);

async fn is_overdue(stopping: &CancellationToken) {
    stopping.cancelled().await;
    tokio::time::sleep(STOP_GRACE).await;
}

/// What a pass came to.
enum Pass {
    /// There may be more to do, and nothing will wake the relay for it.
    Sent,
    /// All of what there was; whatever comes now wakes the relay.
    SentAll,
    NothingToSend,
    /// Kafka is away or changed; the rows stay where they are.
    Unavailable,
}

struct Relay<'a> {
    db: &'a Db,
    kafka: &'a Kafka,
    settings: &'a OutboxSettings,
    session: Session<'a>,
    producer: Option<Producer>,
    /// The cluster that `outbox_broker` names, as far as this relay knows.
    cluster: Option<Arc<str>>,
    /// The broker gave reason to doubt that it is still the same one.
    doubted_at: Option<Instant>,
    away_attempt: u32,
}

impl<'a> Relay<'a> {
    async fn open(db: &'a Db, kafka: &'a Kafka, settings: &'a OutboxSettings) -> Result<Relay<'a>> {
        // Three times as long as a relay ever waits between two statements: for a poll, for reports, or for two answers
        // about the cluster.
        let kafka_ms = kafka.settings().delivery_timeout_ms.max(2 * kafka.settings().request_timeout_ms);
        let silence_ms = 3 * settings.poll_ms.max(kafka_ms);
        let session = Session::open(db, settings, Duration::from_millis(silence_ms)).await?;
        Ok(Relay { db, kafka, settings, session, producer: None, cluster: None, doubted_at: None, away_attempt: 0 })
    }

    /// Ends with `Ok` when stopping, with an error when the session is lost.
    async fn run(mut self, stopping: &CancellationToken) -> Result<()> {
        while !stopping.is_cancelled() {
            let pass = tokio::select! {
                pass = self.pass() => pass?,
                // The session's end gives the shards up as well, only less politely.
                () = is_overdue(stopping) => return Ok(()),
            };
            let pause = match pass {
                Pass::Sent => continue,
                Pass::SentAll => {
                    self.pace(stopping).await;
                    Duration::from_millis(self.settings.poll_ms)
                }
                Pass::NothingToSend => Duration::from_millis(self.settings.poll_ms),
                Pass::Unavailable => AWAY.delay(self.away_attempt),
            };
            tokio::select! {
                () = stopping.cancelled() => {}
                waited = self.session.wait(pause, matches!(pass, Pass::Unavailable)) => waited?,
            }
        }
        self.session.hand_over().await
    }

    /// Lets a few events come together: each pass costs two statements, a commit and a request to the broker, and costs
    /// every consumer as much again. The first event after a silence does not wait.
    async fn pace(&self, stopping: &CancellationToken) {
        tokio::select! {
            () = stopping.cancelled() => {}
            () = tokio::time::sleep(Duration::from_millis(self.settings.pace_ms)) => {}
        }
    }

    async fn pass(&mut self) -> Result<Pass> {
        self.session.take_free_shards().await?;
        self.session.tell_others().await?;
        if self.session.holds_none() {
            return Ok(Pass::NothingToSend);
        }
        let Selected { rows, may_be_more } = self.session.select().await?;
        // An idle relay looks after the broker too: one that was replaced must get its events back.
        let before = self.cluster.clone();
        let Ok(missing) = self.prepare(&rows).await else { return Ok(Pass::Unavailable) };
        self.away_attempt = 0;
        if self.cluster != before {
            // Rows that were published to another broker may have become new again, and they come first.
            return Ok(Pass::Sent);
        }
        if rows.is_empty() {
            return Ok(Pass::NothingToSend);
        }
        self.db.point("relay.after_select").await;
        let found = rows.len();
        let rows: Vec<Row> = rows.into_iter().filter(|row| !missing.contains_key(&row.topic)).collect();
        // What was left out may have kept others from being found.
        let may_be_more = may_be_more || rows.len() < found;
        if !missing.is_empty() {
            self.session.leave_alone(missing.into_keys().collect());
        }
        if rows.is_empty() {
            return Ok(Pass::Sent);
        }
        match self.send(&rows).await? {
            Pass::SentAll if may_be_more => Ok(Pass::Sent),
            pass => Ok(pass),
        }
    }

    /// Makes sure that the broker is known, has the topics of `rows`, and that there is a producer for it. Returns the
    /// topics that it cannot have for now, and why.
    async fn prepare(&mut self, rows: &[Row]) -> Result<BTreeMap<String, String>> {
        let prepared = self.try_prepare(rows).await;
        if let Err(error) = &prepared {
            if self.away_attempt == 0 {
                tracing::warn!(%error, db.schema = self.db.schema(), "Events wait until Kafka can be reached");
            }
            self.away_attempt += 1;
        }
        prepared
    }

    async fn try_prepare(&mut self, rows: &[Row]) -> Result<BTreeMap<String, String>> {
        self.let_go_of_an_outdated_producer();
        let mut cluster = match self.doubted_at {
            Some(moment) => self.kafka.cluster_id_since(moment).await?,
            None => self.kafka.cluster_id().await?,
        };
        self.doubted_at = None;
        if self.cluster.as_ref() != Some(&cluster) {
            // Nothing older than this moment may be noted: another replica may have noted a newer cluster already.
            cluster = self.kafka.cluster_id_since(Instant::now()).await?;
            note_cluster(self.db, &cluster).await?;
            self.cluster = Some(cluster.clone());
        }
        let topics: BTreeSet<&str> = rows.iter().map(|row| row.topic.as_str()).collect();
        let missing = self.kafka.ensure_topics(&Vec::from_iter(topics)).await?;
        let usable = |producer: &Producer| *producer.cluster() == cluster && producer.fatal_error().is_none();
        if !rows.is_empty() && !self.producer.as_ref().is_some_and(usable) {
            self.producer = Some(Producer::new(self.kafka, cluster, self.db.schema())?);
        }
        Ok(missing)
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
        let Some(producer) = &self.producer else { return Ok(Pass::Unavailable) };
        let names: Vec<String> = rows.iter().map(|row| self.kafka.topic(&row.topic)).collect();
        let span = tracing::info_span!("outbox.send", db.schema = self.db.schema(), messages = rows.len());
        let sending = sends(rows);
        let reports = producer.send(rows, &names).instrument(span).await;
        end_sends(sending, &reports);
        self.db.point("relay.after_ack").await;
        let cluster = producer.cluster().clone();
        if self.let_go_of_an_outdated_producer() {
            return Ok(Pass::Unavailable);
        }
        let outcome = BatchOutcome::of(rows, &reports);
        if !self.session.mark(&outcome.acknowledged, &cluster).await? {
            // Another relay has met a new broker first and has made these rows new again.
            self.cluster = None;
            self.producer = None;
            self.doubted_at = Some(Instant::now());
            return Ok(Pass::Unavailable);
        }
        self.db.point("relay.after_mark").await;
        if outcome.acknowledged.len() == rows.len() {
            return Ok(Pass::SentAll);
        }
        self.settle_failures(&outcome, &cluster).await
    }

    /// Refused rows are charged an attempt, unless the broker that refused them is a new one that has none of the
    /// topics. After rows without a report the producer is replaced: nobody knows what it still holds.
    async fn settle_failures(&mut self, outcome: &BatchOutcome<'_>, cluster: &Arc<str>) -> Result<Pass> {
        let BatchOutcome { refused, has_unknown, .. } = outcome;
        if *has_unknown {
            if let Some(reason) = self.producer.as_ref().and_then(Producer::fatal_error) {
                tracing::warn!(
                    reason,
                    db.schema = self.db.schema(),
                    "Kafka's producer for the events of {} failed for good; a new one sends them again",
                    self.db.schema()
                );
            }
            self.producer = None;
        }
        let now = Instant::now();
        self.doubted_at = Some(now);
        let is_same = self.kafka.cluster_id_since(now).await.is_ok_and(|found| found == *cluster);
        if !refused.is_empty() {
            self.kafka.forget_topics();
            // It would go on refusing a topic that it once missed (ADR 11, no. 5).
            self.producer = None;
        }
        if is_same {
            self.session.charge(refused).await?;
        }
        if *has_unknown {
            if self.away_attempt == 0 {
                tracing::warn!(
                    db.schema = self.db.schema(),
                    "Kafka does not acknowledge the events of {} within kafka.delivery_timeout_ms; they are sent again",
                    self.db.schema()
                );
            }
            self.away_attempt += 1;
            return Ok(Pass::Unavailable);
        }
        Ok(Pass::Sent)
    }
}

/// For each event that belongs to a trace, that it is sent: in the terms of OpenTelemetry, as long as its batch takes. With
/// the index of its row.
fn sends(rows: &[Row]) -> Vec<(usize, Span)> {
    let send = |(index, row): (usize, &Row)| {
        let traceparent = row.headers.get("traceparent").and_then(|value| value.as_str());
        let span = span_in_trace(traceparent, || {
            tracing::info_span!(
                "send",
                otel.name = format!("send {}", row.topic),
                otel.kind = "producer",
                otel.status_code = tracing::field::Empty,
                error.r#type = tracing::field::Empty,
                messaging.system = "kafka",
                messaging.operation.name = "send",
                messaging.operation.r#type = "send",
                messaging.destination.name = row.topic,
                messaging.message.id = %row.event_id,
            )
        })?;
        Some((index, span))
    };
    rows.iter().enumerate().filter_map(send).collect()
}

/// Ends the spans of a batch with what the broker reported.
fn end_sends(spans: Vec<(usize, Span)>, reports: &[Report]) {
    for (index, span) in spans {
        let failure = match reports.get(index).unwrap_or(&Report::Unknown) {
            Report::Acknowledged => continue,
            Report::Refused(_) => "refused",
            Report::HeldBack => "held_back",
            Report::Unknown => "not_acknowledged",
        };
        mark_failed(&span, failure);
    }
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
            let changed =
                diesel::sql_query("update outbox_broker set cluster_id = $1, since = now() where cluster_id <> $1");
            if changed.bind::<sql_types::Text, _>(cluster).execute(tx).await? == 0 {
                return Ok(None);
            }
            tx.published = true;
            reopen(tx, DateTime::UNIX_EPOCH).await.map(Some)
        })
        .await?;
    if let Some(events) = again {
        tracing::warn!(
            db.schema = db.schema(),
            kafka.cluster = cluster,
            events,
            "The broker is a new one: all {events} retained events are published again"
        );
    }
    Ok(())
}
