//! Writes notifications and their deliveries: each once, however often its event is handled.
//!
//! E-mails are claimed as they are written, as far as the worker that sends them has room. What goes over Slack waits
//! for its turn.

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
use strum::VariantArray;
use tokio::time::Instant;

use crate::App;
use crate::channel::{Channel, Message};
use crate::claims::{Attempt, Claim, Claimed};
use crate::delivery::Priority;

/// What a notification is to say and over which channels, before it has ids.
pub struct Draft<'e> {
    /// The account it is for, as the event names it; none: it is for operators only.
    pub user_id: Option<&'e str>,
    /// What it is about, for whoever reads it over the API. The account it is for reads it too.
    pub data: Value,
    /// At most one for each channel.
    pub messages: Vec<(Channel, Message)>,
}

impl App {
    /// Writes what `draft` makes of `events`. Their topic becomes the type of the notifications.
    pub async fn create_notifications<E: Event>(
        &self,
        tx: &mut Tx,
        events: &[Received<E>],
        draft: for<'e> fn(&'e E) -> Option<Draft<'e>>,
    ) -> Result<()> {
        let (notifications, mut deliveries) = rows(events, draft)?;
        if notifications.is_empty() {
            return Ok(());
        }
        let emails = deliveries.iter_mut().filter(|delivery| delivery.channel == Channel::Email);
        let mut emails: Vec<&mut NewDelivery> = emails.collect();
        let reservation = self.handoff.reserve(emails.len());
        emails.iter_mut().take(reservation.count()).for_each(|email| email.is_claimed = true);

        insert_notifications(tx, E::TOPIC, &notifications).await?;
        // Read before the statement, so that the lease in the database can only end later than this one.
        let lease_end = Instant::now() + self.settings.new_lease();
        let claimed = insert_deliveries(tx, &deliveries, self.settings.new_lease()).await?;
        tx.point("notification.before_commit").await;

        let is_left = |channel: Channel| deliveries.iter().any(|one| one.channel == channel && !one.is_claimed);
        let left: Vec<Channel> = Channel::VARIANTS.iter().copied().filter(|channel| is_left(*channel)).collect();
        let deliveries = deliveries.into_iter().filter(|delivery| claimed.contains(&delivery.id));
        let claim = Claim { deliveries: deliveries.map(NewDelivery::into_claimed).collect(), lease_end };
        let (handoff, due) = (self.handoff.clone(), self.due.clone());
        tx.after_commit(move || {
            handoff.add(claim, reservation);
            left.into_iter().for_each(|channel| due.wake(channel));
        });
        Ok(())
    }
}

struct NewNotification {
    id: NotificationId,
    event_id: uuid::Uuid,
    user: Option<AccountId>,
    data: Value,
}

struct NewDelivery {
    id: DeliveryId,
    notification: NotificationId,
    user: Option<AccountId>,
    channel: Channel,
    message: Message,
    is_claimed: bool,
}

impl NewDelivery {
    /// As `insert_deliveries.sql` writes it.
    fn into_claimed(self) -> Claimed {
        let NewDelivery { id, notification, user, channel, message: Message { subject, body }, .. } = self;
        let attempt = Attempt { delivery: id, channel, number: 1, lock_token: 1 };
        Claimed { attempt, notification, last_error: None, target: None, subject, body, user }
    }
}

/// Ids are derived, so that whoever handles the same event names the same rows.
fn rows<E>(
    events: &[Received<E>],
    draft: for<'e> fn(&'e E) -> Option<Draft<'e>>,
) -> Result<(Vec<NewNotification>, Vec<NewDelivery>)> {
    let (mut notifications, mut deliveries) = (Vec::new(), Vec::new());
    for Received { event_id, event, .. } in events {
        let Some(Draft { user_id, data, messages }) = draft(event) else { continue };
        let user = user_id.map(str::parse::<AccountId>).transpose().map_err(Error::fault)?;
        let notification = NotificationId::derive(&[event_id.as_bytes()]);
        notifications.push(NewNotification { id: notification, event_id: *event_id, user, data });
        deliveries.extend(messages.into_iter().map(|(channel, message)| {
            let id = DeliveryId::derive(&[notification.as_bytes(), channel.name().as_bytes(), b""]);
            NewDelivery { id, notification, user, channel, message, is_claimed: false }
        }));
    }
    Ok((notifications, deliveries))
}

async fn insert_notifications(tx: &mut Tx, kind: &str, rows: &[NewNotification]) -> Result<()> {
    Prepared(
        diesel::sql_query(include_str!("insert_notifications.sql"))
            .bind::<Text, _>(kind)
            .bind::<Array<Uuid>, _>(column(rows, |row| row.id))
            .bind::<Array<Uuid>, _>(column(rows, |row| row.event_id))
            .bind::<Array<Nullable<Uuid>>, _>(column(rows, |row| row.user))
            .bind::<Array<Jsonb>, _>(column(rows, |row| &row.data)),
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
async fn insert_deliveries(tx: &mut Tx, rows: &[NewDelivery], lease: Duration) -> Result<HashSet<DeliveryId>> {
    let inserted: Vec<Inserted> = Prepared(
        diesel::sql_query(include_str!("insert_deliveries.sql"))
            .bind::<Array<Uuid>, _>(column(rows, |row| row.id))
            .bind::<Array<Uuid>, _>(column(rows, |row| row.notification))
            .bind::<Array<Text>, _>(column(rows, |row| row.channel))
            .bind::<Array<Text>, _>(column(rows, |row| &row.message.subject))
            .bind::<Array<Text>, _>(column(rows, |row| &row.message.body))
            .bind::<Array<Bool>, _>(column(rows, |row| row.is_claimed))
            .bind::<SmallInt, _>(Priority::Normal.rank())
            .bind::<Double, _>(lease.as_millis() as f64),
    )
    .load(tx)
    .await?;
    Ok(inserted.into_iter().filter(|row| row.is_claimed).map(|row| row.id).collect())
}

/// One value of each row, as `unnest` wants them.
fn column<'a, R, T>(rows: &'a [R], value: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}
