//! `POST /notifications/{id}/deliveries/{deliveryId}/retry`: an operator has a delivery tried again at once.

use actix_web::{HttpResponse, post};
use chrono::{DateTime, Utc};
use common::Result;
use common::auth::Admin;
use common::db::Tx;
use common::http::{Data, Path, Problem, detach};
use contract::ids::{DeliveryId, NotificationId};
use diesel::dsl::now;
use diesel::pg::Pg;
use diesel::{AsChangeset, ExpressionMethods, OptionalExtension, QueryDsl, Queryable, Selectable, SelectableHelper};
use diesel_async::RunQueryDsl;
use serde::Serialize;
use utoipa::ToSchema;

use crate::App;
use crate::channel::Channel;
use crate::delivery::retry;
use crate::notification::{DeliveryStatus, Refused};
use crate::schema::deliveries;

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetriedDelivery {
    delivery_id: DeliveryId,
    status: DeliveryStatus,
}

#[utoipa::path(
    tag = "notifications",
    params(("id" = NotificationId, Path), ("delivery_id" = DeliveryId, Path)),
    responses(
        (status = 202, body = RetriedDelivery, description = "Due now"),
        (status = 403, body = Problem, description = "FORBIDDEN"),
        (status = 404, body = Problem, description = "DELIVERY_NOT_FOUND"),
        (status = 409, body = Problem, description = "DELIVERY_NOT_RETRYABLE: it is sent or being sent"),
    ),
    security(("bearer" = ["ADMIN"]))
)]
#[post("/notifications/{id}/deliveries/{delivery_id}/retry")]
pub async fn retry_delivery(
    app: Data<App>,
    _admin: Admin,
    path: Path<(NotificationId, DeliveryId)>,
) -> Result<HttpResponse> {
    let (notification, delivery) = path.into_inner();
    detach(async move {
        let channel = app.db.tx("retry_delivery", async move |tx| make_due(tx, notification, delivery).await).await?;
        app.due.wake(channel);
        tracing::info!(deliveryId = %delivery, "An operator has a delivery tried again");
        Ok(())
    })
    .await?;
    Ok(HttpResponse::Accepted().json(RetriedDelivery { delivery_id: delivery, status: DeliveryStatus::Pending }))
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = deliveries, check_for_backend(Pg))]
struct Found {
    channel: Channel,
    status: DeliveryStatus,
    attempt: i32,
}

#[derive(AsChangeset)]
#[diesel(table_name = deliveries)]
struct Due {
    status: DeliveryStatus,
    attempt: i32,
    /// Set to null where it was a dead letter.
    dead_lettered_at: Option<Option<DateTime<Utc>>>,
}

/// Makes the delivery due now and returns its channel.
async fn make_due(tx: &mut Tx, notification: NotificationId, delivery: DeliveryId) -> Result<Channel> {
    let found: Found = deliveries::table
        .filter(deliveries::id.eq(delivery))
        .filter(deliveries::notification_id.eq(notification))
        .select(Found::as_select())
        .for_update()
        .first(tx)
        .await
        .optional()?
        .ok_or(Refused::DeliveryNotFound(delivery))?;
    let attempt = retry(delivery, found.status, found.attempt)?;
    diesel::update(deliveries::table.find(delivery))
        .set((
            Due { status: DeliveryStatus::Pending, attempt, dead_lettered_at: Some(None) },
            deliveries::next_attempt_at.eq(now),
            deliveries::updated_at.eq(now),
        ))
        .execute(tx)
        .await?;
    Ok(found.channel)
}
