//! Writes notifications and their deliveries: each once, however often its event is handled.
//!
//! E-mails are claimed as they are written, as far as there is room in hand. What goes over Slack waits for its turn.

use std::collections::HashSet;
use std::time::Duration;

use common::db::{Prepared, Tx};
use common::inbox::Received;
use common::outbox::Event;
use common::{Error, Result};
use contract::ids::{AccountId, DeliveryId, NotificationId};
use diesel::QueryableByName;
use diesel::sql_types::{Array, Bool, Double, Jsonb, Nullable, SmallInt, Text, Uuid};
use diesel_async::RunQueryDsl;
use serde_json::Value;
use tokio::time::Instant;

use crate::App;
use crate::channel::{Channel, Message};
use crate::deliver::{Claimed, InHand};
use crate::draft::Draft;
use crate::notification::PRIORITY_NORMAL;

impl App {
    /// Writes what `draft` makes of `events`, named after them in `notifications.type`.
    pub async fn create_notifications<E: Event>(
        &self,
        tx: &mut Tx,
        events: &[Received<E>],
        draft: for<'e> fn(&'e E) -> Option<Draft<'e>>,
    ) -> Result<()> {
        let drafts = Drafts::of(events, draft, self.room_in_hand())?;
        if drafts.notification_ids.is_empty() {
            return Ok(());
        }
        insert_notifications(tx, E::TOPIC, &drafts).await?;
        // Before the statement that begins the lease: the one that the database counts can only end later than ours.
        let lease_end = Instant::now() + self.settings.new_lease();
        let inserted = insert_deliveries(tx, &drafts, self.settings.new_lease()).await?;
        let waiting: Vec<Channel> = Channel::ALL.into_iter().filter(|channel| drafts.leaves(*channel)).collect();
        let batch = InHand { channel: Channel::Email, deliveries: drafts.into_claims(&inserted), lease_end };
        let (new, due) = (self.new.clone(), self.due.clone());
        tx.after_commit(move || {
            new.add(batch);
            for channel in waiting {
                due.wake(channel);
            }
        });
        Ok(())
    }
}

/// The rows to insert, a column each, as `unnest` wants them.
#[derive(Default)]
struct Drafts {
    notification_ids: Vec<NotificationId>,
    event_ids: Vec<uuid::Uuid>,
    user_ids: Vec<Option<AccountId>>,
    data: Vec<Value>,
    deliveries: Deliveries,
}

#[derive(Default)]
struct Deliveries {
    ids: Vec<DeliveryId>,
    notification_ids: Vec<NotificationId>,
    user_ids: Vec<Option<AccountId>>,
    channels: Vec<Channel>,
    subjects: Vec<String>,
    bodies: Vec<String>,
    are_claimed: Vec<bool>,
}

impl Drafts {
    /// The first `room` e-mails are to be claimed.
    fn of<E>(events: &[Received<E>], draft: for<'e> fn(&'e E) -> Option<Draft<'e>>, mut room: usize) -> Result<Drafts> {
        let mut drafts = Drafts::default();
        for received in events {
            let Some(Draft { user_id, data, messages }) = draft(&received.event) else { continue };
            let user_id = user_id.map(str::parse::<AccountId>).transpose().map_err(Error::fault)?;
            // Derived, so that whoever handles the same event names the same rows.
            let notification = NotificationId::derive(&[received.event_id.as_bytes()]);
            drafts.notification_ids.push(notification);
            drafts.event_ids.push(received.event_id);
            drafts.user_ids.push(user_id);
            drafts.data.push(data);
            for (channel, message) in messages {
                let is_claimed = channel == Channel::Email && room > 0;
                room -= usize::from(is_claimed);
                drafts.deliveries.add(notification, user_id, channel, message, is_claimed);
            }
        }
        Ok(drafts)
    }

    /// Whether a delivery over `channel` is written that nobody claims with it.
    fn leaves(&self, channel: Channel) -> bool {
        let Deliveries { channels, are_claimed, .. } = &self.deliveries;
        channels.iter().zip(are_claimed).any(|(one, is_claimed)| *one == channel && !is_claimed)
    }

    /// Those of `claimed` as the delivery worker wants them.
    fn into_claims(self, claimed: &HashSet<DeliveryId>) -> Vec<Claimed> {
        let Deliveries { ids, notification_ids, user_ids, channels, subjects, bodies, .. } = self.deliveries;
        let messages = subjects.into_iter().zip(bodies).map(|(subject, body)| Message { subject, body });
        let drafts = ids.into_iter().zip(notification_ids).zip(user_ids).zip(channels).zip(messages);
        drafts
            .filter(|((((id, _), _), _), _)| claimed.contains(id))
            .map(|((((id, notification), user), channel), message)| {
                Claimed::at_birth(id, notification, user, channel, message)
            })
            .collect()
    }
}

impl Deliveries {
    fn add(
        &mut self,
        notification: NotificationId,
        user: Option<AccountId>,
        channel: Channel,
        message: Message,
        is_claimed: bool,
    ) {
        self.ids.push(DeliveryId::derive(&[notification.as_bytes(), channel.name().as_bytes(), b""]));
        self.notification_ids.push(notification);
        self.user_ids.push(user);
        self.channels.push(channel);
        self.subjects.push(message.subject);
        self.bodies.push(message.body);
        self.are_claimed.push(is_claimed);
    }
}

async fn insert_notifications(tx: &mut Tx, kind: &str, drafts: &Drafts) -> Result<()> {
    Prepared(
        diesel::sql_query(
            "insert into notifications (id, event_id, type, user_id, data)
         select draft.id, draft.event_id, $5, draft.user_id, draft.data
         from unnest($1, $2, $3, $4) as draft (id, event_id, user_id, data)
         on conflict do nothing",
        )
        .bind::<Array<Uuid>, _>(&drafts.notification_ids)
        .bind::<Array<Uuid>, _>(&drafts.event_ids)
        .bind::<Array<Nullable<Uuid>>, _>(&drafts.user_ids)
        .bind::<Array<Jsonb>, _>(&drafts.data)
        .bind::<Text, _>(kind),
    )
    .execute(tx)
    .await?;
    Ok(())
}

#[derive(QueryableByName)]
struct Inserted {
    #[diesel(sql_type = Uuid)]
    id: DeliveryId,
    #[diesel(sql_type = Bool)]
    is_claimed: bool,
}

/// Inserts the deliveries and returns those that are claimed and were not there before.
async fn insert_deliveries(tx: &mut Tx, drafts: &Drafts, lease: Duration) -> Result<HashSet<DeliveryId>> {
    let deliveries = &drafts.deliveries;
    let channels: Vec<_> = deliveries.channels.iter().map(|channel| channel.name()).collect();
    let inserted: Vec<Inserted> = Prepared(
        diesel::sql_query(include_str!("create_notifications.sql"))
            .bind::<Array<Uuid>, _>(&deliveries.ids)
            .bind::<Array<Uuid>, _>(&deliveries.notification_ids)
            .bind::<Array<Text>, _>(channels)
            .bind::<Array<Text>, _>(&deliveries.subjects)
            .bind::<Array<Text>, _>(&deliveries.bodies)
            .bind::<Array<Bool>, _>(&deliveries.are_claimed)
            .bind::<SmallInt, _>(PRIORITY_NORMAL)
            .bind::<Double, _>(lease.as_millis() as f64),
    )
    .load(tx)
    .await?;
    Ok(inserted.into_iter().filter(|delivery| delivery.is_claimed).map(|delivery| delivery.id).collect())
}
