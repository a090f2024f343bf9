//! The one statement that stores notifications and their deliveries, whoever leads to them.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use common::Result;
use common::db::{Prepared, Tx};
use contract::ids::{AccountId, DeliveryId, NotificationId};
use diesel::QueryableByName;
use diesel::sql_types as sql;
use diesel_async::RunQueryDsl;
use serde_json::Value;
use uuid::Uuid;

use crate::channel::{Channel, Message};
use crate::claims::{Attempt, Claimed};

/// A notification as it is stored.
pub struct NewNotification<'a> {
    pub id: NotificationId,
    pub event_id: Uuid,
    pub kind: &'a str,
    /// None: it is for operators only.
    pub user: Option<AccountId>,
    pub data: &'a Value,
    /// Who asked for it, and the fingerprint of the request. None: an event of this system led to it.
    pub request: Option<(Uuid, &'a [u8])>,
    /// Of the trace that its deliveries belong to.
    pub traceparent: Option<&'a str>,
}

/// One of its deliveries.
pub struct NewDelivery<'a> {
    pub id: DeliveryId,
    pub notification: NotificationId,
    pub channel: Channel,
    /// None: what is known at the time of sending.
    pub target: Option<&'a str>,
    pub message: &'a Message,
    pub priority: i16,
    pub not_before: Option<DateTime<Utc>>,
    /// This process sends it: it is written as claimed.
    pub is_claimed: bool,
}

impl NewDelivery<'_> {
    /// As the statement writes what is claimed.
    pub fn claimed(&self, user: Option<AccountId>, traceparent: Option<String>) -> Claimed {
        let Message { subject, body, is_markup } = self.message.clone();
        Claimed {
            attempt: Attempt { delivery: self.id, channel: self.channel, number: 1, lock_token: 1 },
            notification: self.notification,
            last_error: None,
            target: self.target.map(str::to_owned),
            subject,
            body,
            is_markup,
            user,
            traceparent,
        }
    }
}

#[derive(QueryableByName)]
struct Inserted {
    #[diesel(sql_type = sql::Uuid)]
    id: NotificationId,
}

/// Inserts the notifications that do not exist yet, with their deliveries, and returns their ids. `lease` is that of the
/// deliveries that are written as claimed.
pub async fn insert_notifications(
    tx: &mut Tx,
    notifications: &[NewNotification<'_>],
    deliveries: &[NewDelivery<'_>],
    lease: Duration,
) -> Result<HashSet<NotificationId>> {
    let insert = diesel::sql_query(include_str!("insert_notifications.sql"))
        .bind::<sql::Array<sql::Uuid>, _>(column(notifications, |n| n.id))
        .bind::<sql::Array<sql::Uuid>, _>(column(notifications, |n| n.event_id))
        .bind::<sql::Array<sql::Text>, _>(column(notifications, |n| n.kind))
        .bind::<sql::Array<sql::Nullable<sql::Uuid>>, _>(column(notifications, |n| n.user))
        .bind::<sql::Array<sql::Jsonb>, _>(column(notifications, |n| n.data))
        .bind::<sql::Array<sql::Nullable<sql::Uuid>>, _>(column(notifications, |n| n.request.map(|(by, _)| by)))
        .bind::<sql::Array<sql::Nullable<sql::Bytea>>, _>(column(notifications, |n| {
            n.request.map(|(_, fingerprint)| fingerprint)
        }))
        .bind::<sql::Array<sql::Nullable<sql::Text>>, _>(column(notifications, |n| n.traceparent))
        .bind::<sql::Array<sql::Uuid>, _>(column(deliveries, |d| d.id))
        .bind::<sql::Array<sql::Uuid>, _>(column(deliveries, |d| d.notification))
        .bind::<sql::Array<sql::Text>, _>(column(deliveries, |d| d.channel))
        .bind::<sql::Array<sql::Nullable<sql::Text>>, _>(column(deliveries, |d| d.target))
        .bind::<sql::Array<sql::Text>, _>(column(deliveries, |d| d.message.subject.as_str()))
        .bind::<sql::Array<sql::Text>, _>(column(deliveries, |d| d.message.body.as_str()))
        .bind::<sql::Array<sql::Bool>, _>(column(deliveries, |d| d.message.is_markup))
        .bind::<sql::Array<sql::SmallInt>, _>(column(deliveries, |d| d.priority))
        .bind::<sql::Array<sql::Nullable<sql::Timestamptz>>, _>(column(deliveries, |d| d.not_before))
        .bind::<sql::Array<sql::Bool>, _>(column(deliveries, |d| d.is_claimed))
        .bind::<sql::Double, _>(lease.as_millis() as f64);
    let inserted: Vec<Inserted> = Prepared(insert).load(tx).await?;
    Ok(inserted.into_iter().map(|row| row.id).collect())
}

/// One value of each row, as `unnest` wants them.
fn column<'a, R, T>(rows: &'a [R], value: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}
