//! The delivery workers: claim → send → record.
//!
//! A new e-mail is claimed by the transaction that writes it, and one worker sends what this replica has written. For
//! each channel another worker claims what is left: what there was no room for, what is to be tried again, and what
//! others have lost. Each channel has its own, so that a provider that hangs delays nobody else's messages.

use std::time::Duration;

use common::Result;
use common::backoff::Backoff;
use common::telemetry::Context;
use tokio::time::Instant;
use tracing::Span;

use crate::App;
use crate::channel::Channel;
use crate::claims::{self, AttemptResult, Claim, Claimed, Turn};
use crate::delivery::Outcome;
use crate::settings::LEASE_MARGIN;
use crate::{delivery_trace, email, restock, slack, webhook};

/// Sends whatever is due over `channel`. Full claims follow each other; then a claim follows each signal and each pause.
///
/// The pauses double while nothing is due. Once they are as long as the loop's own period it returns, and the loop takes
/// over.
pub async fn deliver_due(app: &App, channel: Channel) -> Result<()> {
    let mut idle = app.settings.idle_poll_first();
    while !app.stopping.is_cancelled() {
        let pause = match take_turn(app, channel).await? {
            Turn::Claimed(claim) => {
                let is_full = claim.deliveries.len() >= app.settings.claim_max(channel) as usize;
                let claim = give_up_refused(app, channel, claim).await?;
                send_and_record(app, channel, claim).await?;
                idle = app.settings.idle_poll_first();
                if is_full {
                    continue;
                }
                idle
            }
            // The pace may be changed by others meanwhile, so it is looked at as often as for new work.
            Turn::NotYet(wait) => wait.min(app.settings.idle_poll_max()),
            Turn::NothingDue if idle >= app.settings.idle_poll_max() => return Ok(()),
            Turn::NothingDue => {
                idle *= 2;
                (idle / 2).mul_f64(claims::jitter())
            }
        };
        tokio::select! {
            () = app.stopping.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
            () = app.due.of(channel).notified() => idle = app.settings.idle_poll_first(),
        }
    }
    Ok(())
}

/// Of a claim what may be sent; the rest is given up.
async fn give_up_refused(app: &App, channel: Channel, Claim { deliveries, lease_end }: Claim) -> Result<Claim> {
    let (deliveries, refused) = restock::admit::admit(app, channel, deliveries, lease_end - LEASE_MARGIN).await;
    if !refused.is_empty() {
        record(app, &refused, lease_end).await?;
    }
    Ok(Claim { deliveries, lease_end })
}

async fn take_turn(app: &App, channel: Channel) -> Result<Turn> {
    match channel {
        Channel::Email | Channel::Webhook | Channel::Inapp => claims::take_turn(app, channel).await,
        Channel::Slack => slack::take_turn(app).await,
    }
}

/// Sends the new e-mails that this replica claimed as it wrote them. Returns when the host stops, once no transaction can
/// claim any more: what is claimed until then is handed back.
pub async fn deliver_new(app: &App) -> Result<()> {
    let closed = async {
        app.stopping.cancelled().await;
        app.handoff.close().await;
    };
    tokio::pin!(closed);
    loop {
        while let Some(claim) = app.handoff.take() {
            send_and_record(app, Channel::Email, claim).await?;
        }
        tokio::select! {
            () = app.handoff.arrived.notified() => {}
            () = &mut closed => return Ok(()),
        }
    }
}

/// What cannot be started well before the lease ends is handed back.
async fn send_and_record(app: &App, channel: Channel, Claim { mut deliveries, lease_end }: Claim) -> Result<()> {
    app.db.point("delivery.after_claim").await;
    let spans = delivery_trace::begin(&mut deliveries);
    // Of a claim of one all that is done is for that one.
    let context = match &deliveries[..] {
        [only] => only.context(),
        _ => Context::default(),
    };
    let work = async {
        let deadline = lease_end - LEASE_MARGIN;
        let results = match channel {
            Channel::Email => email::send(app, deliveries, deadline).await,
            Channel::Slack => slack::send(app, deliveries, deadline).await,
            Channel::Webhook => webhook::send(app, deliveries, deadline).await,
            Channel::Inapp => put_into_inbox(app, &deliveries),
        };
        app.db.point("delivery.after_send").await;
        let recorded = record(app, &results, lease_end).await;
        spans.end(&results);
        recorded
    };
    context.scope(Span::none(), work).await
}

/// The row is the message: the inbox shows it once it is recorded as sent.
fn put_into_inbox(app: &App, deliveries: &[Claimed]) -> Vec<AttemptResult> {
    let retry_delays = app.settings.retry_delays(Channel::Inapp);
    deliveries.iter().map(|delivery| delivery.attempt.result(Outcome::Sent, &retry_delays)).collect()
}

/// Records in a transaction of its own, and keeps trying while the lease lasts: these messages are out, and forgetting
/// that means sending them again.
async fn record(app: &App, results: &[AttemptResult], lease_end: Instant) -> Result<()> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let recorded = app.db.tx("settle_deliveries", async move |tx| claims::record_results(tx, results).await).await;
        match recorded {
            Ok(recorded) => {
                claims::count_results(results, &recorded);
                return Ok(());
            }
            Err(error) if error.is_transient() && Instant::now() < lease_end => {
                let pause: Duration = Backoff::RECONNECT.delay(attempt);
                let first = results.first().map(|result| result.attempt.delivery.to_string());
                tracing::warn!(
                    %error, deliveryId = first, deliveries = results.len(), ?pause,
                    "The results of deliveries cannot be recorded; tried again after the pause. When their leases end first, \
                     their messages are sent again"
                );
                tokio::time::sleep(pause).await;
            }
            Err(error) => return Err(error),
        }
    }
}
