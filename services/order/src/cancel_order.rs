//! `POST /orders/{orderId}/cancel`: the owner ends an order that is not paid; its units go back on sale.

use std::sync::Arc;

use actix_web::{HttpResponse, post};
use chrono::{DateTime, Utc};
use common::auth::Caller;
use common::db::Tx;
use common::http::{Data, OptionalJson, Path, Problem, detach};
use common::text::Text;
use common::{Result, outbox, rpc};
use contract::events::OrderCancelled;
use contract::ids::{AccountId, OrderId};
use contract::inventory::ReleaseHoldRequest;
use diesel::dsl::now;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::App;
use crate::order::{self, Cancel, Order, Status};
use crate::read_orders::{OrderView, view};
use crate::rows::{self, OrderRow};
use crate::schema::orders;

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CancelOrder {
    #[serde(default)]
    pub reason: Option<Text<1, 200>>,
}

/// Cancel one of one's own orders.
///
/// Cancelling again gives the same answer. An order past its time is expired and can no longer be cancelled.
#[utoipa::path(
    tag = "orders",
    params(("orderId" = String, Path)),
    request_body(content = Option<CancelOrder>),
    responses(
        (status = 200, body = OrderView),
        (status = 404, body = Problem, description = "ORDER_NOT_FOUND"),
        (status = 409, body = Problem, description = "ORDER_NOT_CANCELLABLE"),
    ),
    security(("bearer" = []))
)]
#[post("/orders/{orderId}/cancel")]
pub async fn cancel_order(
    app: Data<App>,
    caller: Caller,
    id: Path<OrderId>,
    body: OptionalJson<CancelOrder>,
) -> Result<HttpResponse> {
    tracing::Span::current().record("orderId", tracing::field::display(*id));
    let reason =
        body.0.and_then(|body| body.reason).map_or_else(|| "cancelled by the buyer".to_owned(), Text::into_string);
    let user_id = AccountId::from(caller.account);
    let cancelled = detach(cancel(app.into_inner(), *id, user_id, reason)).await?;
    Ok(HttpResponse::Ok().json(view(cancelled)))
}

async fn cancel(app: Arc<App>, id: OrderId, user_id: AccountId, reason: String) -> Result<Order> {
    let order = app
        .db
        .tx("cancel_order", async |tx| {
            let order = lock_own(tx, id, user_id).await?;
            match order.status.cancel()? {
                Cancel::AlreadyDone => Ok(order),
                Cancel::Now => mark_cancelled(tx, order, &reason).await,
            }
        })
        .await?;
    // ORDER_CANCELLED releases the hold in any case; this only makes the units come back sooner.
    let release = ReleaseHoldRequest { hold_id: id.to_string(), reason };
    let inventory = app.inventory.clone();
    tokio::spawn(async move {
        let released = rpc::retrying(|| {
            let (mut inventory, release) = (inventory.clone(), release.clone());
            async move { inventory.release_hold(release).await }
        });
        if let Err(error) = released.await {
            tracing::debug!(%error, "The event will release the hold of order {id}");
        }
    });
    Ok(order)
}

async fn lock_own(tx: &mut Tx, id: OrderId, user_id: AccountId) -> Result<Order> {
    let found = orders::table
        .filter(orders::id.eq(id))
        .filter(orders::user_id.eq(user_id))
        .select(rows::columns())
        .for_update()
        .load::<OrderRow>(tx)
        .await?;
    rows::complete(tx, found).await?.pop().ok_or_else(|| order::Refused::NotFound.into())
}

async fn mark_cancelled(tx: &mut Tx, order: Order, reason: &str) -> Result<Order> {
    let (version, cancelled_at) = diesel::update(orders::table)
        .filter(orders::id.eq(order.id))
        .set((
            orders::status.eq(Status::Cancelled.as_str()),
            orders::version.eq(orders::version + 1),
            orders::updated_at.eq(now),
            orders::cancel_reason.eq(reason),
        ))
        .returning((orders::version, orders::updated_at))
        .get_result::<(i64, DateTime<Utc>)>(tx)
        .await?;
    let event = OrderCancelled {
        order_id: order.id.to_string(),
        user_id: order.user_id.to_string(),
        version,
        hold_id: order.id.to_string(),
        reason: reason.to_owned(),
        cancelled_at: Some(cancelled_at.into()),
    };
    outbox::publish(tx, &event).await?;
    metrics::counter!("stampede_orders_total", "outcome" => "cancelled").increment(1);
    Ok(Order { status: Status::Cancelled, version, ..order })
}
