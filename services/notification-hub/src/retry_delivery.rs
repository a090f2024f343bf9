//! `POST /notifications/{id}/deliveries/{deliveryId}/retry`: an operator has a delivery tried again at once.

use actix_web::{HttpResponse, post};
use common::auth::Admin;
use common::http::{Data, Path, Problem, detach};
use contract::ids::{DeliveryId, NotificationId};
use diesel::{ExpressionMethods, OptionalExtension, QueryDsl, SelectableHelper};
use diesel_async::RunQueryDsl;
use serde::Serialize;
use utoipa::ToSchema;

use crate::App;
use crate::channel::Channel;
use crate::notification::{DeliveryStatus, Refused, retry};
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
        (status = 404, body = Problem, description = "DELIVERY_NOT_FOUND"),
        (status = 409, body = Problem, description = "DELIVERY_NOT_RETRYABLE: it is sent or being sent"),
    ),
    security(("bearer" = []))
)]
#[post("/notifications/{id}/deliveries/{delivery_id}/retry")]
pub async fn retry_delivery(
    app: Data<App>,
    _admin: Admin,
    path: Path<(NotificationId, DeliveryId)>,
) -> common::Result<HttpResponse> {
    let (notification, delivery) = path.into_inner();
    detach(async move {
        let channel = app
            .db
            .tx("retry_delivery", async move |tx| {
                let found = deliveries::table
                    .filter(deliveries::id.eq(delivery))
                    .filter(deliveries::notification_id.eq(notification))
                    .select(Found::as_select())
                    .for_update()
                    .first(tx)
                    .await
                    .optional()?
                    .ok_or(Refused::DeliveryNotFound(delivery))?;
                let attempt = retry(delivery, found.status, found.attempt)?;
                diesel::update(deliveries::table)
                    .filter(deliveries::id.eq(delivery))
                    .set((
                        deliveries::status.eq(DeliveryStatus::Pending.name()),
                        deliveries::attempt.eq(attempt),
                        deliveries::next_attempt_at.eq(diesel::dsl::now),
                        deliveries::dead_lettered_at.eq(None::<chrono::DateTime<chrono::Utc>>),
                        deliveries::updated_at.eq(diesel::dsl::now),
                    ))
                    .execute(tx)
                    .await?;
                Ok(found.channel)
            })
            .await?;
        app.due.wake(channel);
        tracing::info!(deliveryId = %delivery, "An operator has a delivery tried again");
        Ok(())
    })
    .await?;
    Ok(HttpResponse::Accepted().json(RetriedDelivery { delivery_id: delivery, status: DeliveryStatus::Pending }))
}

#[derive(diesel::Queryable, diesel::Selectable)]
#[diesel(table_name = deliveries, check_for_backend(diesel::pg::Pg))]
struct Found {
    channel: Channel,
    status: DeliveryStatus,
    attempt: i32,
}
