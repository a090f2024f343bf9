//! Reaction to `ORDER_CREATED`: the buyer is told by e-mail that the order has been taken.

use std::collections::HashSet;
use std::time::Duration;

use common::db::{Prepared, Tx};
use common::inbox::{Handle, Received};
use common::{Error, Result};
use contract::events::OrderCreated;
use contract::ids::{AccountId, DeliveryId, NotificationId};
use diesel::QueryableByName;
use diesel::sql_types::{Array, BigInt, Bool, Double, Jsonb, SmallInt, Text, Uuid};
use diesel_async::RunQueryDsl;
use serde_json::Value;
use tokio::time::Instant;

use crate::App;
use crate::channel::Channel;
use crate::deliver::{Claimed, InHand};
use crate::notification::PRIORITY_NORMAL;
use crate::order_created;

impl Handle<OrderCreated> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<OrderCreated>]) -> Result<()> {
        let mut drafts = Drafts::default();
        for received in events {
            drafts.add(received)?;
        }
        insert_notifications(tx, &drafts).await?;
        // Before the statement that begins the lease: the one that the database counts can only end later than ours.
        let lease_end = Instant::now() + self.settings.new_lease();
        let claimed = insert_deliveries(tx, &drafts, self.room_in_hand(), self.settings.new_lease()).await?;
        let has_rest = claimed.len() < events.len();
        let batch = InHand { deliveries: drafts.into_claims(&claimed), lease_end };
        let (new, due) = (self.new.clone(), self.due.clone());
        tx.after_commit(move || {
            new.add(batch);
            if has_rest {
                due.notify_one();
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
    user_ids: Vec<AccountId>,
    data: Vec<Value>,
    delivery_ids: Vec<DeliveryId>,
    subjects: Vec<String>,
    bodies: Vec<String>,
}

impl Drafts {
    fn add(&mut self, received: &Received<OrderCreated>) -> Result<()> {
        let order = &received.event;
        let user = order.user_id.parse::<AccountId>().map_err(Error::fault)?;
        // Derived, so that whoever handles the same event names the same rows.
        let notification = NotificationId::derive(&[received.event_id.as_bytes()]);
        let delivery = DeliveryId::derive(&[notification.as_bytes(), Channel::Email.name().as_bytes(), b""]);
        let mail = order_created::mail(order);
        self.notification_ids.push(notification);
        self.event_ids.push(received.event_id);
        self.user_ids.push(user);
        self.data.push(order_created::data(order));
        self.delivery_ids.push(delivery);
        self.subjects.push(mail.subject);
        self.bodies.push(mail.body);
        Ok(())
    }
}

impl Drafts {
    /// Those of `claimed` as the delivery worker wants them.
    fn into_claims(self, claimed: &HashSet<DeliveryId>) -> Vec<Claimed> {
        let texts = self.subjects.into_iter().zip(self.bodies);
        let drafts = self.delivery_ids.into_iter().zip(self.user_ids).zip(texts);
        drafts
            .filter(|((id, _), _)| claimed.contains(id))
            .map(|((id, user_id), (subject, body))| Claimed::at_birth(id, Channel::Email, user_id, subject, body))
            .collect()
    }
}

async fn insert_notifications(tx: &mut Tx, drafts: &Drafts) -> Result<()> {
    Prepared(
        diesel::sql_query(
            "insert into notifications (id, event_id, type, user_id, data)
         select draft.id, draft.event_id, $5, draft.user_id, draft.data
         from unnest($1, $2, $3, $4) as draft (id, event_id, user_id, data)
         on conflict do nothing",
        )
        .bind::<Array<Uuid>, _>(&drafts.notification_ids)
        .bind::<Array<Uuid>, _>(&drafts.event_ids)
        .bind::<Array<Uuid>, _>(&drafts.user_ids)
        .bind::<Array<Jsonb>, _>(&drafts.data)
        .bind::<Text, _>(order_created::TYPE),
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

/// Inserts the deliveries, the first `claimed` of them claimed, and returns those that were and were not there before.
async fn insert_deliveries(
    tx: &mut Tx,
    drafts: &Drafts,
    claimed: usize,
    lease: Duration,
) -> Result<HashSet<DeliveryId>> {
    let inserted: Vec<Inserted> = Prepared(
        diesel::sql_query(include_str!("on_order.sql"))
            .bind::<Array<Uuid>, _>(&drafts.delivery_ids)
            .bind::<Array<Uuid>, _>(&drafts.notification_ids)
            .bind::<Array<Text>, _>(&drafts.subjects)
            .bind::<Array<Text>, _>(&drafts.bodies)
            .bind::<Text, _>(Channel::Email.name())
            .bind::<SmallInt, _>(PRIORITY_NORMAL)
            .bind::<BigInt, _>(claimed as i64)
            .bind::<Double, _>(lease.as_millis() as f64),
    )
    .load(tx)
    .await?;
    Ok(inserted.into_iter().filter(|delivery| delivery.is_claimed).map(|delivery| delivery.id).collect())
}
