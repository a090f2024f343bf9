//! Applying messages: one transaction for a whole batch; one by one, and parking, for a batch with a bad one in it.

use std::borrow::Cow;
use std::collections::HashSet;
use std::time::Duration;

use chrono::Utc;
use diesel::{QueryableByName, sql_types};
use diesel_async::RunQueryDsl;
use tracing::Span;
use uuid::Uuid;

use super::{Consumer, InboxSettings, Message, Reaction, park};
use crate::backoff::Backoff;
use crate::db::{Prepared, Tx};
use crate::error::{Error, Result};
use crate::telemetry::{Context, mark_failed, span_in_trace};

#[derive(QueryableByName)]
struct New {
    #[diesel(sql_type = sql_types::Uuid)]
    event_id: Uuid,
}

/// What a transaction did with a batch: indices into it.
struct Applied {
    applied: Vec<usize>,
    /// They wait behind an earlier event of their key.
    parked: Vec<usize>,
}

impl Consumer {
    /// Applies or parks all of `messages`. Fails only for transient reasons, and may then simply be called again.
    pub(super) async fn settle(&self, messages: &[Message], settings: &InboxSettings) -> Result<()> {
        match self.apply(messages).await {
            Err(error) if !error.is_transient() => {
                tracing::debug!(%error, inbox.consumer = self.group, "A batch cannot be applied as a whole");
            }
            outcome => return outcome,
        }
        for message in messages {
            self.settle_one(message, settings).await?;
        }
        Ok(())
    }

    async fn settle_one(&self, message: &Message, settings: &InboxSettings) -> Result<()> {
        let backoff = Backoff {
            first: Duration::from_millis(settings.retry_first_ms),
            max: Duration::from_millis(settings.retry_max_ms),
        };
        let mut attempt = 1;
        loop {
            match self.apply(std::slice::from_ref(message)).await {
                Err(error) if error.is_transient() => return Err(error),
                Err(error) if attempt >= settings.attempts_max => {
                    return self.park(message, &error).await;
                }
                Err(_) => {
                    tokio::time::sleep(backoff.delay(attempt)).await;
                    attempt += 1;
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    async fn park(&self, message: &Message, error: &Error) -> Result<()> {
        let text = error.to_string();
        self.db
            .tx("inbox_park", async |tx: &mut Tx| {
                if self.enter(tx, std::slice::from_ref(message)).await?.is_empty() {
                    return Ok(());
                }
                park::insert(tx, self.group, &[message], &text).await
            })
            .await?;
        tracing::error!(
            inbox.consumer = self.group, event.id = %message.event_id, topic = message.topic, error = text,
            "Parked an event that cannot be applied; later events of its key wait behind it"
        );
        Ok(())
    }

    /// One transaction for all of `messages`.
    async fn apply(&self, messages: &[Message]) -> Result<()> {
        let Applied { applied, parked } = self.apply_traced(messages).await?;
        self.db.point("inbox.after_commit").await;

        let now = Utc::now();
        let delay = metrics::histogram!("stampede_inbox_delay_seconds", "consumer" => self.group);
        for occurred_at in applied.iter().filter_map(|index| messages[*index].occurred_at()) {
            delay.record((now - occurred_at).to_std().unwrap_or_default());
        }
        metrics::counter!("stampede_inbox_applied_total", "consumer" => self.group).increment(applied.len() as u64);
        metrics::counter!("stampede_inbox_duplicates_total", "consumer" => self.group)
            .increment((messages.len() - applied.len() - parked.len()) as u64);
        Ok(())
    }

    /// The transaction, with a span for each event that belongs to a trace.
    async fn apply_traced(&self, messages: &[Message]) -> Result<Applied> {
        let (span, context, spans) = match messages {
            [only] => {
                let context = Context {
                    request_id: only.header("requestid").unwrap_or_default().to_owned(),
                    traceparent: only.traceparent().map(str::to_owned),
                };
                let span = self.process(only);
                (span.clone(), context, vec![(0, span)])
            }
            // Many requests led here: the batch is work of its own, and each event carries its own context.
            _ => {
                let batch = tracing::info_span!("inbox.batch", inbox.consumer = self.group, messages = messages.len());
                // Each event of a batch is processed as long as the batch is.
                let traced = messages.iter().enumerate().filter_map(|(index, message)| {
                    Some((index, span_in_trace(message.traceparent(), || self.process(message))?))
                });
                (batch, Context::default(), traced.collect())
            }
        };
        let work = self.db.tx("inbox", async |tx: &mut Tx| self.apply_in(tx, messages).await);
        let outcome = context.scope(span, work).await;
        for (index, span) in &spans {
            if let Some(failure) = failure(&outcome, *index) {
                mark_failed(span, &failure);
            }
        }
        outcome
    }

    /// An event that is processed, in the terms of OpenTelemetry.
    fn process(&self, message: &Message) -> Span {
        tracing::info_span!(
            "inbox.handle",
            otel.name = format!("process {}", message.topic),
            otel.kind = "consumer",
            otel.status_code = tracing::field::Empty,
            error.r#type = tracing::field::Empty,
            messaging.system = "kafka",
            messaging.operation.name = "process",
            messaging.operation.r#type = "process",
            messaging.destination.name = message.topic,
            messaging.consumer.group.name = self.group,
            messaging.message.id = %message.event_id,
            inbox.consumer = self.group,
            messages = 1,
        )
    }

    async fn apply_in(&self, tx: &mut Tx, messages: &[Message]) -> Result<Applied> {
        let mut new = self.enter(tx, messages).await?;
        tx.point("inbox.after_insert").await;
        // Of two deliveries in one batch the first counts.
        let fresh: Vec<usize> = (0..messages.len()).filter(|index| new.remove(&messages[*index].event_id)).collect();
        let (behind, applied) = self.split(tx, messages, fresh).await?;
        let parked: Vec<&Message> = behind.iter().map(|index| &messages[*index]).collect();
        park::insert(tx, self.group, &parked, "behind an earlier event of its key").await?;

        for Reaction { topic, handle, .. } in &self.reactions {
            let of_topic = applied.iter().map(|index| &messages[*index]).filter(|message| message.topic == *topic);
            let of_topic: Vec<&Message> = of_topic.collect();
            if !of_topic.is_empty() {
                handle(tx, &of_topic).await?;
            }
        }
        Ok(Applied { applied, parked: behind })
    }

    /// Writes the ids of `messages` into the inbox and returns those that were not there.
    async fn enter(&self, tx: &mut Tx, messages: &[Message]) -> Result<HashSet<Uuid>> {
        // In order, or two consumers with overlapping batches could wait for each other.
        let mut ids: Vec<Uuid> = messages.iter().map(|message| message.event_id).collect();
        ids.sort_unstable();
        ids.dedup();
        let new: Vec<New> = Prepared(
            diesel::sql_query(
                "insert into inbox (consumer, event_id)
             select $1, e.event_id
             from unnest($2::uuid[]) with ordinality as e (event_id, place)
             order by e.place
             on conflict do nothing
             returning event_id",
            )
            .bind::<sql_types::Text, _>(self.group)
            .bind::<sql_types::Array<sql_types::Uuid>, _>(ids),
        )
        .load(tx)
        .await?;
        Ok(new.into_iter().map(|new| new.event_id).collect())
    }

    /// Divides `fresh` into those that must wait behind a parked event of their key and those that may be applied.
    async fn split(&self, tx: &mut Tx, messages: &[Message], fresh: Vec<usize>) -> Result<(Vec<usize>, Vec<usize>)> {
        let keys = fresh.iter().filter_map(|index| {
            let Message { topic, key, .. } = &messages[*index];
            Some((topic.as_str(), key.as_deref()?))
        });
        // Asked after the ids were written. Had another replica just parked an event of this batch, writing its id
        // would have waited for that, and this is a later statement that sees it.
        let blocked = park::blocked(tx, self.group, keys).await?;
        let is_blocked = |index: &usize| {
            let Message { topic, key, .. } = &messages[*index];
            key.as_ref().is_some_and(|key| blocked.contains(&(topic.clone(), key.clone())))
        };
        Ok(fresh.into_iter().partition(is_blocked))
    }
}

/// Why the event at `index` is not applied, as `error.type` of its span. A batch is rolled back as a whole.
fn failure(outcome: &Result<Applied>, index: usize) -> Option<Cow<'static, str>> {
    match outcome {
        Ok(Applied { parked, .. }) => parked.contains(&index).then_some(Cow::Borrowed("parked")),
        Err(error) => Some(error.public().code.reason),
    }
}
