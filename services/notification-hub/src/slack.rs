//! Slack, over the incoming webhook of the operators' channel: one message at a turn.
//!
//! Slack takes one message a second from a webhook, whoever sends it. So the replicas take turns at a row in the
//! database that also says when the next message may go. What is due at a turn goes in one message, so that a storm of
//! alerts is some messages long and not some hours.

mod message;
mod webhook;

use std::time::Duration;

use common::Result;
use common::db::{Prepared, Tx};
use diesel::sql_types::{Double, Text};
use diesel::{OptionalExtension, QueryableByName};
use diesel_async::RunQueryDsl;
use tokio::time::Instant;

use crate::App;
use crate::channel::Channel;
use crate::claims::{AttemptResult, Claimed, Turn, claim_deliveries};
use crate::delivery::{Failure, Outcome};
use crate::delivery_trace::in_first_trace;

pub use message::DIGEST_MAX;
pub use webhook::{SlackSettings, Webhook};

/// Claims what goes into the next message, if the pace allows one now.
pub async fn take_turn(app: &App) -> Result<Turn> {
    app.db.point("slack.before_turn").await;
    let (digest_max, lease) = (app.settings.claim_max(Channel::Slack), app.settings.lease());
    let (interval, pause) = (app.settings.slack.interval(), app.settings.idle_poll_first());
    app.db
        .tx("claim_slack", async move |tx| {
            let Some(wait) = lock_pace(tx).await? else { return Ok(Turn::NotYet(pause)) };
            tx.point("slack.in_turn").await;
            if !wait.is_zero() {
                return Ok(Turn::NotYet(wait));
            }
            let claim = claim_deliveries(tx, Channel::Slack, digest_max, lease).await?;
            if !claim.deliveries.is_empty() {
                delay_next_message(tx, interval).await?;
            }
            Ok(claim.into())
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
    let pace: Option<Pace> =
        Prepared(diesel::sql_query(include_str!("slack/lock_pace.sql")).bind::<Text, _>(Channel::Slack))
            .get_result(tx)
            .await
            .optional()?;
    Ok(pace.map(|pace| Duration::from_secs_f64(pace.wait_seconds)))
}

/// Lets nobody send for `pause`, whichever replica asks.
async fn delay_next_message(tx: &mut Tx, pause: Duration) -> Result<()> {
    Prepared(
        diesel::sql_query(include_str!("slack/delay_next_message.sql"))
            .bind::<Double, _>(pause.as_secs_f64())
            .bind::<Text, _>(Channel::Slack),
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Sends one message, outside any transaction.
pub async fn send(app: &App, claimed: Vec<Claimed>, deadline: Instant) -> Vec<AttemptResult> {
    let (together, later) = divide(claimed);
    let turn = app.targets.admit(Channel::Slack, &[""]).await.pop().flatten();
    let outcome = match (&app.slack, turn) {
        _ if Instant::now() >= deadline => Outcome::HandedBack,
        (Some(_), Some(pause)) => Outcome::HeldBack(pause),
        (Some(webhook), None) => in_first_trace(&together, post(webhook, &together)).await,
        (None, _) => write_to_log(&together).await,
    };
    if let Outcome::Throttled(pause) = outcome {
        // The limit is the webhook's: every replica waits.
        let delayed = app.db.tx("hold_back_slack", async move |tx| delay_next_message(tx, pause).await).await;
        if let Err(error) = delayed {
            tracing::warn!(
                %error, ?pause,
                "The pause that Slack asks for cannot be recorded for all replicas; only the deliveries that it refused wait"
            );
        }
    }
    let retry_delays = app.settings.retry_delays(Channel::Slack);
    let sent = together.iter().map(|delivery| delivery.attempt.result(outcome, &retry_delays));
    let mut results: Vec<AttemptResult> = sent.collect();
    // One call, however many were in it.
    app.targets.record(Channel::Slack, results.iter().take(1).map(|result| ("", result)));
    results.extend(later.iter().map(|delivery| delivery.attempt.result(Outcome::HandedBack, &retry_delays)));
    results
}

/// What goes into one message, and what has to wait for another.
///
/// All goes into one, unless a part was refused in a digest before. That goes alone, so that it is found out which part is
/// refused, and one bad part does not take good ones along for ever.
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
        .map(|delivery| message::Item {
            notification: delivery.notification,
            delivery: delivery.attempt.delivery,
            subject: &delivery.subject,
            body: &delivery.body,
            is_markup: delivery.is_markup,
        })
        .collect();
    let Err(not_taken) = webhook.post(&message::message(&items)).await else { return Outcome::Sent };
    let outcome = match not_taken.outcome {
        Outcome::NotSent(Failure::MessageRefused) if items.len() > 1 => Outcome::NotSent(Failure::DigestRefused),
        outcome => outcome,
    };
    let first = together.iter().map(|delivery| delivery.attempt.delivery.to_string()).next();
    tracing::warn!(
        deliveryId = first,
        deliveries = items.len(),
        reason = not_taken.reason,
        ?outcome,
        "Slack did not take a message; its deliveries are tried again, or given up where the outcome is final"
    );
    outcome
}

/// Without a webhook operators read the log: one line each, under the target `slack`; the body at debug only.
async fn write_to_log(together: &[Claimed]) -> Outcome {
    for delivery in together {
        let Claimed { attempt, subject, body, .. } = delivery;
        let lines = async {
            tracing::info!(target: "slack", deliveryId = %attempt.delivery, subject, "Told operators");
            tracing::debug!(target: "slack", deliveryId = %attempt.delivery, body, "Its text");
        };
        delivery.in_trace(lines).await;
    }
    Outcome::Sent
}

#[cfg(test)]
mod tests {
    use contract::ids::{DeliveryId, NotificationId};

    use super::*;
    use crate::claims::Attempt;

    fn claimed(name: &str, last_error: Option<Failure>) -> Claimed {
        let delivery = DeliveryId::derive(&[name.as_bytes()]);
        Claimed {
            attempt: Attempt { delivery, channel: Channel::Slack, number: 1, lock_token: 1 },
            notification: NotificationId::derive(&[name.as_bytes()]),
            last_error: last_error.map(|failure| failure.name().to_owned()),
            target: None,
            subject: name.to_owned(),
            body: String::new(),
            is_markup: false,
            user: None,
            traceparent: None,
        }
    }

    #[test]
    fn a_part_of_a_refused_digest_goes_alone() {
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
