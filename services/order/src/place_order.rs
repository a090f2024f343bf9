//! `POST /orders`: hold the stock or take over the reserved seats, reserve the coupon if there is one, then store the order
//! and `ORDER_CREATED` in one transaction.

use std::sync::Arc;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, post};
use anyhow::Context as _;
use common::auth::Caller;
use common::http::{Data, Json, Problem, detach};
use common::idempotency::{IdempotencyKey, REPLAYED_HEADER, fingerprint, same_request};
use common::telemetry::Context;
use common::text::Text;
use common::{Error, Refused, Result, rpc};
use contract::ids::{AccountId, CouponIssueId, HoldId, OrderId, SaleEventId};
use contract::inventory::{Hold, HoldRequest, WantedLine};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use entry::{BYPASS_HEADER, Entry, PASS_HEADER, PassRule};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::App;
use crate::draft::{Draft, Intent, Limits, Wanted, WantedItem, check_items};
use crate::order::{Order, Shipping};
use crate::read_orders::{OrderView, view};
use crate::reserve_coupon::{release_hold, reserve_coupon};
use crate::schema::queue_bypasses;

/// The version of [`PlaceOrder`] in fingerprints. Raise it when a field is added.
const FINGERPRINT_VERSION: u8 = 1;
/// Inventory answers within one or two of its batches. No answer after this time means that it is down.
const HOLD_DEADLINE: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlaceOrder {
    /// 1 to 50 lines, one for each product; absent with `reservationId`.
    #[serde(default, deserialize_with = "common::object::list")]
    pub items: Vec<WantedItem>,
    /// Seats that this account has reserved: `reservationId` of `POST /reservations`. The order has them no longer than the
    /// reservation would have.
    // Left out of the fingerprint when absent, so that it stays what it was before there were seats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Uuid)]
    pub reservation_id: Option<HoldId>,
    #[serde(default, deserialize_with = "common::object::optional")]
    pub shipping_info: Option<ShippingInfo>,
    /// A coupon that was issued to this account: `issueId` of `POST /coupons/{couponId}/issue`.
    // Left out of the fingerprint when absent, so that it stays what it was before there were coupons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Uuid)]
    pub coupon_issue_id: Option<CouponIssueId>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ShippingInfo {
    pub recipient: Text<1, 100>,
    pub phone: Text<5, 30>,
    pub postal_code: Text<3, 12>,
    pub address: Text<3, 300>,
    #[serde(default)]
    pub memo: Option<Text<0, 300>>,
}

/// Place an order.
///
/// The units are held until `holdExpiresAt`. The same key and body give the same order and the same answer, marked
/// `Idempotent-Replayed: true`, for ever; a refusal stores nothing, so the same key may try again,
/// except after a refused coupon: then take a new key, and reserve the seats again if they were reserved.
#[utoipa::path(
    tag = "orders",
    request_body = PlaceOrder,
    params(("Idempotency-Key" = String, Header, description = "1 to 255 visible ASCII characters, chosen by the client for this intent"),
        ("X-Queue-Token" = Option<String>, Header, description = "The pass, where a product's sale event has a waiting room; a reservation needs none, it was asked for already")),
    responses(
        (status = 201, body = OrderView, description = "Stored and held; durable"),
        (status = 400, body = Problem, description = "VALIDATION_ERROR, IDEMPOTENCY_KEY_REQUIRED"),
        (status = 401, body = Problem, description = "UNAUTHORIZED"),
        (status = 403, body = Problem, description = "QUEUE_TOKEN_REQUIRED, QUEUE_TOKEN_INVALID"),
        (status = 404, body = Problem, description = "PRODUCT_NOT_FOUND, RESERVATION_NOT_FOUND, COUPON_ISSUE_NOT_FOUND"),
        (status = 409, body = Problem, description = "OUT_OF_STOCK, PURCHASE_LIMIT_EXCEEDED, COUPON_IN_USE, EVENT_NOT_OPEN, EVENT_CLOSED, RESERVATION_ORDERED, HOLD_ALREADY_RELEASED: its coupon was refused; use a new key"),
        (status = 410, body = Problem, description = "COUPON_EXPIRED; RESERVATION_ENDED; HOLD_EXPIRED, REDEMPTION_ENDED: this key's hold lapsed before its order was stored; use a new key"),
        (status = 422, body = Problem, description = "IDEMPOTENCY_KEY_REUSED, COUPON_NOT_APPLICABLE, SEATS_REQUIRED: reserve seats first"),
        (status = 429, body = Problem, description = "RATE_LIMITED"),
        (status = 503, body = Problem, description = "SERVICE_UNAVAILABLE, QUEUE_UNAVAILABLE: try again with the same key"),
    ),
    security(("bearer" = []))
)]
#[post("/orders")]
pub async fn place_order(
    app: Data<App>,
    caller: Caller,
    key: IdempotencyKey,
    request: HttpRequest,
    Json(body): Json<PlaceOrder>,
) -> Result<HttpResponse> {
    let pass = request.headers().get(PASS_HEADER).map(|value| value.to_str().unwrap_or_default().to_owned());
    let user_id = AccountId::from(caller.account);
    app.placements.check(user_id)?;
    let wanted = wanted(&body, &app.limits)?;
    // Detached: once the units are held, the order is stored even if the client disconnects.
    let (placement, entry) = detach(place(app.into_inner(), intent(user_id, &key, body, wanted), pass)).await?;
    let (order, is_replay) = match placement {
        Placement::New(order) => (order, false),
        Placement::Replay(order) => (order, true),
    };
    let mut response = HttpResponse::Created();
    response.insert_header(("Location", format!("/api/v1/orders/{}", order.id)));
    if !entry.bypassed.is_empty() {
        response.insert_header((BYPASS_HEADER, "true"));
    }
    if is_replay {
        response.insert_header((REPLAYED_HEADER, "true"));
    }
    // A replay is equal to the first answer to the byte, whatever happened to the order since.
    Ok(response.json(view(order.into_placed())))
}

/// Refuses with `VALIDATION_ERROR` what names neither items nor a reservation, or both.
fn wanted(body: &PlaceOrder, limits: &Limits) -> Result<Wanted, Refused> {
    match body.reservation_id {
        Some(_) if !body.items.is_empty() => {
            Err(Refused::invalid("items", "An order has items or a reservation, not both."))
        }
        Some(reservation) => Ok(Wanted::Reservation(reservation)),
        None => check_items(&body.items, limits).map(|()| Wanted::Items(body.items.clone())),
    }
}

fn intent(user_id: AccountId, key: &IdempotencyKey, body: PlaceOrder, wanted: Wanted) -> Intent {
    Intent {
        // The id is derived from the key: every retry of this request names the same order and the same hold.
        order_id: OrderId::derive(&[user_id.as_bytes(), b"order", key.as_bytes()]),
        user_id,
        idempotency_key: key.as_str().to_owned(),
        fingerprint: fingerprint(FINGERPRINT_VERSION, &body),
        wanted,
        coupon: body.coupon_issue_id,
        shipping: body.shipping_info.map(|info| Shipping {
            recipient: info.recipient.into_string(),
            phone: info.phone.into_string(),
            postal_code: info.postal_code.into_string(),
            address: info.address.into_string(),
            memo: info.memo.map(Text::into_string),
        }),
    }
}

/// The order that a key names.
#[derive(Debug, Clone)]
pub enum Placement {
    New(Order),
    /// An earlier request with this key placed the order.
    Replay(Order),
}

/// Lets the buyer in first: nothing is held for somebody whose turn it is not.
async fn place(app: Arc<App>, intent: Intent, pass: Option<String>) -> Result<(Placement, Entry)> {
    tracing::Span::current().record("orderId", tracing::field::display(intent.order_id));
    match check_entry(&app, &intent, pass.as_deref()).await {
        Ok(entry) => Ok((place_admitted(app, intent).await?, entry)),
        Err(error) => {
            let placed = placed_before(&app, &intent).await?.ok_or_else(|| not_placed(error))?;
            Ok((placed, Entry::default()))
        }
    }
}

/// Whoever has reserved seats has been let in already, and keeps them as long as the reservation says.
async fn check_entry(app: &App, intent: &Intent, pass: Option<&str>) -> Result<Entry> {
    let Wanted::Items(items) = &intent.wanted else { return Ok(Entry::default()) };
    let entry = app
        .entrance
        .check(intent.user_id, items.iter().map(|item| item.product_id), PassRule::AsSalesSay, pass)
        .await?;
    for event in &entry.bypassed {
        note_bypass(app, intent, *event).await?;
    }
    Ok(entry)
}

/// Whoever comes in without a pass is written down first.
async fn note_bypass(app: &App, intent: &Intent, event: SaleEventId) -> Result<()> {
    let order = intent.order_id;
    let row = (
        queue_bypasses::order_id.eq(order),
        queue_bypasses::event_id.eq(event),
        queue_bypasses::user_id.eq(intent.user_id),
    );
    let insert = diesel::insert_into(queue_bypasses::table).values(row).on_conflict_do_nothing();
    app.db.tx("note_bypass", async |tx| Ok(insert.execute(tx).await?)).await?;
    tracing::warn!(
        orderId = %order, event.id = %event,
        "Order {order} is let in without a pass: the queue of sale event {event} is dead; it stands in queue_bypasses"
    );
    Ok(())
}

async fn place_admitted(app: Arc<App>, intent: Intent) -> Result<Placement> {
    let (order_id, fingerprint) = (intent.order_id, intent.fingerprint.clone());
    let hold = match hold(&app, &intent).await {
        Ok(hold) => hold,
        Err(error) => return placed_before(&app, &intent).await?.ok_or_else(|| not_placed(error)),
    };
    app.db.point("order.after_hold").await;
    let redemption = match intent.coupon {
        None => None,
        Some(issue) => match reserve_coupon(&app, &intent, &hold, issue).await {
            Ok(redemption) => Some(redemption),
            Err(error) => {
                let placed = placed_before(&app, &intent).await?;
                if placed.is_none() && matches!(error, Error::Refused(_)) {
                    // No request with this key can place the order any more: the refusal is final for its id.
                    release_hold(&app, intent.order_id).await;
                }
                return placed.ok_or_else(|| not_placed(error));
            }
        },
    };
    app.db.point("order.after_coupon").await;
    let placement = app.inserts.submit(Draft::new(intent, hold, redemption, Context::outgoing())?).await?;
    app.db.point("order.after_commit").await;
    match placement {
        Placement::New(order) => {
            count("placed");
            tracing::debug!(amount = order.amount, "Placed order {order_id}");
            Ok(Placement::New(order))
        }
        Placement::Replay(order) => replay(order, &fingerprint),
    }
}

/// Takes the units of all lines out of sale, or the seats of the reservation. Idempotent by the order's id.
async fn hold(app: &App, intent: &Intent) -> Result<Hold> {
    let line = |item: &WantedItem| WantedLine { product_id: item.product_id.to_string(), quantity: item.quantity };
    let (lines, reservation) = match &intent.wanted {
        Wanted::Items(items) => (items.iter().map(line).collect(), None),
        Wanted::Reservation(reservation) => (Vec::new(), Some(reservation)),
    };
    let wanted = HoldRequest {
        hold_id: intent.order_id.to_string(),
        user_id: intent.user_id.to_string(),
        lines,
        reservation_id: reservation.map(ToString::to_string).unwrap_or_default(),
    };
    let response = rpc::retrying(|| {
        let mut request = tonic::Request::new(wanted.clone());
        request.set_timeout(HOLD_DEADLINE);
        let mut inventory = app.inventory.clone();
        async move { inventory.hold(request).await }
    })
    .await?;
    response.hold.context("inventory answered without a hold").map_err(Error::from)
}

/// Inventory or coupon refused or did not answer. If the key has an order already, the answer is that order: its units may
/// be sold, cancelled or expired by now. Read only in this case, so that a new order costs no extra read.
async fn placed_before(app: &App, intent: &Intent) -> Result<Option<Placement>> {
    let found = app.lookups.submit(intent.order_id).await?;
    found.map(|order| replay(order, &intent.fingerprint)).transpose()
}

/// There is no order, because of `error`.
fn not_placed(error: Error) -> Error {
    count(if error.reason().is_some() { "refused" } else { "failed" });
    error
}

/// Refuses with `IDEMPOTENCY_KEY_REUSED` if another request placed `order`.
fn replay(order: Order, fingerprint: &[u8]) -> Result<Placement> {
    same_request(&order.fingerprint, fingerprint)?;
    count("replayed");
    Ok(Placement::Replay(order))
}

fn count(outcome: &'static str) {
    metrics::counter!("stampede_orders_total", "outcome" => outcome).increment(1);
}
