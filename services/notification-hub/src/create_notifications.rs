//! Writes notifications and their deliveries: each once, however often its event is handled.
//!
//! E-mails are claimed as they are written, as far as the worker that sends them has room. What goes over Slack waits
//! for its turn.

use std::collections::{HashMap, HashSet};

use common::db::Tx;
use common::inbox::Received;
use common::outbox::Event;
use common::{Error, Result, telemetry};
use contract::ids::{AccountId, DeliveryId, NotificationId};
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use crate::App;
use crate::channel::{Channel, Message};
use crate::claims::Claim;
use crate::delivery::Priority;
use crate::find_templates::{Texts, Wanted};
use crate::insert_notifications::{NewDelivery, NewNotification, insert_notifications};

/// What a notification is about and over which channels it goes, before it has a text.
pub struct Draft<'e> {
    /// The account it is for, as the event names it; none: it is for operators only.
    pub user_id: Option<&'e str>,
    /// What it is about, for whoever reads it over the API. The account it is for reads it too.
    pub data: Value,
    /// The variables of each channel's text; at most one for each channel.
    pub messages: Vec<(Channel, Value)>,
}

/// A draft with its ids: derived, so that whoever handles the same event names the same rows.
struct Drafted {
    id: NotificationId,
    event_id: Uuid,
    user: Option<AccountId>,
    data: Value,
    messages: Vec<(Channel, Value)>,
    traceparent: Option<String>,
}

impl App {
    /// Writes what `draft` makes of `events`. Their topic becomes the type of the notifications and the name of their texts.
    pub async fn create_notifications<E: Event>(
        &self,
        tx: &mut Tx,
        events: &[Received<E>],
        draft: for<'e> fn(&'e E) -> Option<Draft<'e>>,
    ) -> Result<()> {
        self.store_drafts(tx, E::TOPIC, drafted(events, draft)?).await
    }

    /// Writes an alert for operators, once for each `event_id`. `kind` is its type and the name of its text.
    pub async fn tell_operators(&self, tx: &mut Tx, kind: &'static str, event_id: Uuid, data: Value) -> Result<()> {
        let id = NotificationId::derive(&[event_id.as_bytes()]);
        let messages = vec![(Channel::Slack, data.clone())];
        let traceparent = telemetry::traceparent();
        self.store_drafts(tx, kind, vec![Drafted { id, event_id, user: None, data, messages, traceparent }]).await
    }

    async fn store_drafts(&self, tx: &mut Tx, kind: &'static str, drafts: Vec<Drafted>) -> Result<()> {
        if drafts.is_empty() {
            return Ok(());
        }
        let wanted: Vec<Wanted> =
            drafts.iter().map(|draft| Wanted { name: kind.to_owned(), user: draft.user }).collect();
        let texts = self.templates.find_in(tx, &wanted).await?;
        let messages = rendered(kind, &texts, &drafts)?;

        let emails = messages.iter().flatten().filter(|(channel, _)| *channel == Channel::Email).count();
        let reservation = self.handoff.reserve(emails);
        let (notifications, deliveries) = rows(kind, &drafts, &messages, reservation.count());
        // Read before the statement, so that the lease in the database can only end later than this one.
        let lease_end = Instant::now() + self.settings.new_lease();
        let stored = insert_notifications(tx, &notifications, &deliveries, self.settings.new_lease()).await?;
        tx.point("notification.before_commit").await;

        let left: HashSet<Channel> = deliveries.iter().filter(|one| !one.is_claimed).map(|one| one.channel).collect();
        let claimed = deliveries.iter().filter(|one| one.is_claimed && stored.contains(&one.notification));
        let drafts: HashMap<NotificationId, &Drafted> = drafts.iter().map(|draft| (draft.id, draft)).collect();
        let claimed = claimed.map(|one| {
            let Drafted { user, traceparent, .. } = drafts[&one.notification];
            one.claimed(*user, traceparent.clone())
        });
        let claim = Claim { deliveries: claimed.collect(), lease_end };
        let (handoff, due) = (self.handoff.clone(), self.due.clone());
        tx.after_commit(move || {
            handoff.add(claim, reservation);
            left.into_iter().for_each(|channel| due.wake(channel));
        });
        Ok(())
    }
}

fn drafted<E>(events: &[Received<E>], draft: for<'e> fn(&'e E) -> Option<Draft<'e>>) -> Result<Vec<Drafted>> {
    let mut drafts = Vec::with_capacity(events.len());
    for Received { event_id, event, traceparent, .. } in events {
        let Some(Draft { user_id, data, messages }) = draft(event) else { continue };
        let user = user_id.map(str::parse::<AccountId>).transpose().map_err(Error::fault)?;
        let id = NotificationId::derive(&[event_id.as_bytes()]);
        drafts.push(Drafted { id, event_id: *event_id, user, data, messages, traceparent: traceparent.clone() });
    }
    Ok(drafts)
}

/// The messages of each draft.
fn rendered(name: &'static str, texts: &Texts, drafts: &[Drafted]) -> Result<Vec<Vec<(Channel, Message)>>> {
    let of_draft = |draft: &Drafted| {
        let message = |(channel, variables): &(Channel, Value)| {
            Ok((*channel, texts.message_of_event(name, *channel, draft.user, variables)?))
        };
        draft.messages.iter().map(message).collect()
    };
    drafts.iter().map(of_draft).collect()
}

/// The first `claimed_max` e-mails are written as claimed.
fn rows<'a>(
    kind: &'static str,
    drafts: &'a [Drafted],
    messages: &'a [Vec<(Channel, Message)>],
    claimed_max: usize,
) -> (Vec<NewNotification<'a>>, Vec<NewDelivery<'a>>) {
    let (mut notifications, mut deliveries) = (Vec::new(), Vec::new());
    let mut claimed = 0;
    for (draft, messages) in drafts.iter().zip(messages) {
        let Drafted { id, event_id, user, data, traceparent, .. } = draft;
        notifications.push(NewNotification {
            id: *id,
            event_id: *event_id,
            kind,
            user: *user,
            data,
            request: None,
            traceparent: traceparent.as_deref(),
        });
        for (channel, message) in messages {
            let is_claimed = *channel == Channel::Email && claimed < claimed_max;
            claimed += usize::from(is_claimed);
            deliveries.push(NewDelivery {
                id: DeliveryId::derive(&[id.as_bytes(), channel.name().as_bytes(), b""]),
                notification: *id,
                channel: *channel,
                target: None,
                message,
                priority: Priority::Normal.rank(),
                not_before: None,
                is_claimed,
            });
        }
    }
    (notifications, deliveries)
}
