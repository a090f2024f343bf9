//! `POST /orders/{orderId}/cancel`: releases the units of an unpaid order, and refunds a paid one.

use std::sync::Arc;

use actix_web::{HttpResponse, post};
use common::auth::Caller;
use common::http::{Data, OptionalJson, Path, Problem, detach};
use common::telemetry::carried;
use common::text::Text;
use common::{Result, rpc};
use contract::ids::{AccountId, OrderId};
use contract::inventory::ReleaseHoldRequest;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::App;
use crate::change_order::change_order;
use crate::order::{Action, Order};
use crate::read_orders::{OrderView, view};
use crate::status::Status;

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CancelOrder {
    #[serde(default)]
    pub reason: Option<Text<1, 200>>,
}

/// Cancel one of one's own orders.
///
/// An order that is not paid is `CANCELLED` at once. One that is paid becomes `REFUND_PENDING`, and `REFUNDED` when all of
/// the money is back. Cancelling again gives the same answer. An order past its time is expired and can no longer be
/// cancelled, and while a payment of it is being approved, the outcome of that decides.
#[utoipa::path(
    tag = "orders",
    params(("orderId" = String, Path)),
    request_body(content = Option<CancelOrder>),
    responses(
        (status = 200, body = OrderView, description = "It is CANCELLED, or REFUNDED"),
        (status = 202, body = OrderView, description = "It is REFUND_PENDING: the money is on its way back"),
        (status = 404, body = Problem, description = "ORDER_NOT_FOUND"),
        (status = 409, body = Problem, description = "ORDER_NOT_CANCELLABLE, PAYMENT_IN_PROGRESS"),
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
    let order = detach(cancel(app.into_inner(), *id, user_id, reason)).await?;
    let mut response = match order.status {
        Status::RefundPending => HttpResponse::Accepted(),
        _ => HttpResponse::Ok(),
    };
    Ok(response.json(view(order)))
}

async fn cancel(app: Arc<App>, id: OrderId, user_id: AccountId, reason: String) -> Result<Order> {
    let order = change_order(&app, id, Some(user_id), Action::Cancel { reason: reason.clone() }).await?;
    if order.status == Status::Cancelled {
        release_early(&app, id, reason);
    }
    Ok(order)
}

/// ORDER_CANCELLED releases the hold in any case. This call makes the units available sooner.
fn release_early(app: &App, id: OrderId, reason: String) {
    let release = ReleaseHoldRequest { hold_id: id.to_string(), reason };
    let inventory = app.inventory.clone();
    tokio::spawn(carried(async move {
        let released = rpc::retrying(|| {
            let (mut inventory, release) = (inventory.clone(), release.clone());
            async move { inventory.release_hold(release).await }
        });
        if let Err(error) = released.await {
            tracing::debug!(%error, "The hold of order {id} was not released; ORDER_CANCELLED will release it");
        }
    }));
}
