//! Reaction to `ORDER_CREATED`: the buyer is told by e-mail that the order has been taken.

use common::db::Tx;
use common::inbox::{Handle, Received};
use common::{Error, Result};
use contract::events::OrderCreated;
use contract::ids::{AccountId, DeliveryId, NotificationId};
use diesel::sql_types::{Array, Jsonb, SmallInt, Text, Uuid};
use diesel_async::RunQueryDsl;
use serde_json::Value;

use crate::App;
use crate::channel::Channel;
use crate::notification::PRIORITY_NORMAL;
use crate::order_created;

impl Handle<OrderCreated> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<OrderCreated>]) -> Result<()> {
        let mut drafts = Drafts::default();
        for received in events {
            drafts.add(received)?;
        }
        insert_notifications(tx, &drafts).await?;
        insert_deliveries(tx, &drafts).await?;
        tx.signal_after_commit(&self.due);
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

async fn insert_notifications(tx: &mut Tx, drafts: &Drafts) -> Result<()> {
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
    .bind::<Text, _>(order_created::TYPE)
    .execute(tx)
    .await?;
    Ok(())
}

async fn insert_deliveries(tx: &mut Tx, drafts: &Drafts) -> Result<()> {
    diesel::sql_query(
        "insert into deliveries (id, notification_id, channel, priority, subject, body)
         select draft.id, draft.notification_id, $5, $6, draft.subject, draft.body
         from unnest($1, $2, $3, $4) as draft (id, notification_id, subject, body)
         on conflict do nothing",
    )
    .bind::<Array<Uuid>, _>(&drafts.delivery_ids)
    .bind::<Array<Uuid>, _>(&drafts.notification_ids)
    .bind::<Array<Text>, _>(&drafts.subjects)
    .bind::<Array<Text>, _>(&drafts.bodies)
    .bind::<Text, _>(Channel::Email.name())
    .bind::<SmallInt, _>(PRIORITY_NORMAL)
    .execute(tx)
    .await?;
    Ok(())
}
