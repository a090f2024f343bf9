//! The Slack worker: turn → claim → send → settle, one message at a turn.
//!
//! Slack takes one message a second from a webhook, whoever sends it. So the replicas take turns at a row in the
//! database that also says when the next message may go. What is due at a turn goes in one message, so that a storm of
//! alerts is some messages long and not some hours.

use std::time::Duration;

use common::Result;
use common::db::{Prepared, Tx};
use diesel::sql_types::{Double, Text};
use diesel::{OptionalExtension, QueryableByName};
use diesel_async::RunQueryDsl;
use tokio::time::Instant;

use crate::App;
use crate::channel::Channel;
use crate::deliver::{Claimed, InHand, Settlement, claim, jitter, see_through};
use crate::notification::{Failure, Outcome};
use crate::slack::{Item, Webhook, message};

/// Sends whatever is due, at Slack's pace, and pauses as the e-mail worker does.
pub async fn deliver_slack(app: &App) -> Result<()> {
    let mut pause = app.settings.idle_poll_first();
    while !app.stopping.is_cancelled() {
        // Before the claim: the lease that the database counts can only end later than ours.
        let lease_end = Instant::now() + app.settings.lease();
        match take_turn(app).await? {
            Turn::Claimed(deliveries) => {
                see_through(app, InHand { channel: Channel::Slack, deliveries, lease_end }).await?;
                pause = app.settings.idle_poll_first();
            }
            Turn::NotYet(wait) => {
                tokio::select! {
                    () = app.stopping.cancelled() => {}
                    () = tokio::time::sleep(wait) => {}
                }
            }
            Turn::NothingDue if pause >= app.settings.idle_poll_max() => return Ok(()),
            Turn::NothingDue => {
                tokio::select! {
                    () = app.stopping.cancelled() => {}
                    () = tokio::time::sleep(pause.mul_f64(jitter())) => pause *= 2,
                    () = app.due.of(Channel::Slack).notified() => pause = app.settings.idle_poll_first(),
                }
            }
        }
    }
    Ok(())
}

enum Turn {
    /// What is to go in one message.
    Claimed(Vec<Claimed>),
    /// Too soon after the last message, or another replica is at it.
    NotYet(Duration),
    NothingDue,
}

async fn take_turn(app: &App) -> Result<Turn> {
    let (digest_max, lease) = (app.settings.slack.digest_max, app.settings.lease());
    let (interval, pause) = (app.settings.slack.interval(), app.settings.idle_poll_first());
    app.db
        .tx("claim_slack", async move |tx| {
            let Some(wait) = lock_pace(tx).await? else { return Ok(Turn::NotYet(pause)) };
            if !wait.is_zero() {
                return Ok(Turn::NotYet(wait));
            }
            let deliveries = claim(tx, Channel::Slack, digest_max, lease).await?;
            if deliveries.is_empty() {
                return Ok(Turn::NothingDue);
            }
            hold_back(tx, interval).await?;
            Ok(Turn::Claimed(deliveries))
        })
        .await
}

#[derive(QueryableByName)]
struct Pace {
    #[diesel(sql_type = Double)]
    wait_seconds: f64,
}

/// How long the next message has to wait. None: another replica has the turn.
async fn lock_pace(tx: &mut Tx) -> Result<Option<Duration>> {
    let query = diesel::sql_query(
        "select greatest(extract(epoch from next_send_at - clock_timestamp()), 0)::float8 as wait_seconds
         from channel_paces
         where channel = $1
         for update skip locked",
    );
    let pace: Option<Pace> = Prepared(query.bind::<Text, _>(Channel::Slack.name())).get_result(tx).await.optional()?;
    Ok(pace.map(|pace| Duration::from_secs_f64(pace.wait_seconds)))
}

/// Lets nobody send for `pause`.
async fn hold_back(tx: &mut Tx, pause: Duration) -> Result<()> {
    let query = diesel::sql_query(
        "update channel_paces
         set next_send_at = greatest(next_send_at, clock_timestamp() + $2 * interval '1 second')
         where channel = $1",
    );
    let query = query.bind::<Text, _>(Channel::Slack.name()).bind::<Double, _>(pause.as_secs_f64());
    Prepared(query).execute(tx).await?;
    Ok(())
}

/// Sends one message, outside any transaction.
pub async fn send(app: &App, claimed: Vec<Claimed>, deadline: Instant) -> Vec<Settlement> {
    let (together, later) = divide(claimed);
    let outcome = match &app.slack {
        _ if Instant::now() >= deadline => Outcome::HandedBack,
        Some(webhook) => post(webhook, &together).await,
        None => write_to_log(&together),
    };
    if let Outcome::Throttled(pause) = outcome {
        // The limit is the webhook's: everybody waits.
        let held = app.db.tx("hold_back_slack", async move |tx| hold_back(tx, pause).await).await;
        if let Err(error) = held {
            tracing::warn!(%error, "The pause that Slack asks for could not be recorded for all");
        }
    }
    let retry_delays = app.settings.retry_delays(Channel::Slack);
    let sent = together.iter().map(|delivery| delivery.settle(outcome, &retry_delays));
    let handed_back = later.iter().map(|delivery| delivery.settle(Outcome::HandedBack, &retry_delays));
    sent.chain(handed_back).collect()
}

/// What goes into one message, and what has to wait for another.
///
/// All goes into one, unless there is something that was refused in company. That goes alone, so that it is found out
/// which part is refused, and one bad part does not take good ones along for ever.
fn divide(mut claimed: Vec<Claimed>) -> (Vec<Claimed>, Vec<Claimed>) {
    let is_suspect = |delivery: &Claimed| delivery.last_error.as_deref() == Some(Failure::DigestRefused.name());
    match claimed.iter().position(is_suspect) {
        Some(suspect) => {
            let alone = vec![claimed.remove(suspect)];
            (alone, claimed)
        }
        None => (claimed, Vec::new()),
    }
}

async fn post(webhook: &Webhook, together: &[Claimed]) -> Outcome {
    let items: Vec<_> = together
        .iter()
        .map(|delivery| Item {
            notification: delivery.notification_id,
            delivery: delivery.id,
            subject: &delivery.subject,
            body: &delivery.body,
        })
        .collect();
    match webhook.post(&message(&items)).await {
        Outcome::NotSent(Failure::MessageRefused) if items.len() > 1 => Outcome::NotSent(Failure::DigestRefused),
        outcome => outcome,
    }
}

/// Without a webhook operators read the log: one line each, under the target `slack`; the body at debug only.
fn write_to_log(together: &[Claimed]) -> Outcome {
    for Claimed { id, subject, body, .. } in together {
        tracing::info!(target: "slack", deliveryId = %id, subject, "Told operators");
        tracing::debug!(target: "slack", deliveryId = %id, body, "Its text");
    }
    Outcome::Sent
}

#[cfg(test)]
mod tests {
    use contract::ids::{DeliveryId, NotificationId};

    use super::*;
    use crate::channel::Message;

    fn claimed(name: &str, last_error: Option<Failure>) -> Claimed {
        let notification = NotificationId::derive(&[name.as_bytes()]);
        let message = Message { subject: name.to_owned(), body: String::new() };
        let id = DeliveryId::derive(&[name.as_bytes()]);
        let last_error = last_error.map(|failure| failure.name().to_owned());
        Claimed { last_error, ..Claimed::at_birth(id, notification, None, Channel::Slack, message) }
    }

    #[test]
    fn what_was_refused_in_company_goes_alone() {
        use Failure::{DigestRefused, Unavailable};
        for (errors, expected) in [
            (&[None, Some(Unavailable), None][..], (&["0", "1", "2"][..], &[][..])),
            (&[None, Some(DigestRefused), Some(DigestRefused)], (&["1"], &["0", "2"])),
            (&[Some(DigestRefused)], (&["0"], &[])),
        ] {
            let all = errors.iter().enumerate().map(|(name, error)| claimed(&name.to_string(), *error));
            let (together, later) = divide(all.collect());
            let names = |claimed: &[Claimed]| claimed.iter().map(|one| one.subject.clone()).collect::<Vec<_>>();
            let (expected_together, expected_later): (&[&str], &[&str]) = expected;
            assert_eq!(names(&together), expected_together);
            assert_eq!(names(&later), expected_later);
        }
    }
}
