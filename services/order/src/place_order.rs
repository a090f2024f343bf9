//! `POST /orders`: hold the stock, then store the order and its announcement in one transaction.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use actix_web::{HttpResponse, post};
use anyhow::Context as _;
use chrono::{DateTime, Utc};
use common::auth::Caller;
use common::batch::{Batch, BatchSettings};
use common::db::{Db, Prepared, Tx};
use common::http::{Data, Json, Problem, detach};
use common::idempotency::{IdempotencyKey, REPLAYED_HEADER, fingerprint, reused, same_request};
use common::telemetry::Context;
use common::text::Text;
use common::{Error, Result, outbox, rpc};
use contract::events::{OrderCreated, OrderLine};
use contract::ids::{AccountId, OrderId, ProductId};
use contract::inventory::{Hold, HoldRequest, WantedLine};
use diesel::sql_types as sql;
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::App;
use crate::draft::{Draft, Item, Shipping, WantedItem, check_items, total};
use crate::order::{Order, Status};
use crate::read_orders::{OrderView, view};
use crate::rows;

/// The shape of [`PlaceOrder`] that fingerprints are made of; raised whenever a field is added.
const FINGERPRINT_VERSION: u8 = 1;
/// Inventory answers within a batch or two; a longer wait means it is away.
const HOLD_DEADLINE: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlaceOrder {
    /// 1 to 50 lines, one for each product.
    #[serde(deserialize_with = "common::object::list")]
    pub items: Vec<WantedItem>,
    #[serde(default, deserialize_with = "common::object::optional")]
    pub shipping_info: Option<ShippingInfo>,
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
/// `Idempotent-Replayed: true`, for ever; a refusal stores nothing, so the same key may try again.
#[utoipa::path(
    tag = "orders",
    request_body = PlaceOrder,
    params(("Idempotency-Key" = String, Header, description = "1 to 255 visible ASCII characters, chosen by the client for this intent")),
    responses(
        (status = 201, body = OrderView, description = "Stored and held; durable"),
        (status = 400, body = Problem, description = "VALIDATION_ERROR, IDEMPOTENCY_KEY_REQUIRED"),
        (status = 401, body = Problem, description = "UNAUTHORIZED"),
        (status = 404, body = Problem, description = "PRODUCT_NOT_FOUND"),
        (status = 409, body = Problem, description = "OUT_OF_STOCK, PURCHASE_LIMIT_EXCEEDED, HOLD_ALREADY_RELEASED"),
        (status = 410, body = Problem, description = "HOLD_EXPIRED: this key's hold lapsed before its order was stored; use a new key"),
        (status = 422, body = Problem, description = "IDEMPOTENCY_KEY_REUSED"),
        (status = 429, body = Problem, description = "RATE_LIMITED"),
        (status = 503, body = Problem, description = "SERVICE_UNAVAILABLE: try again with the same key"),
    ),
    security(("bearer" = []))
)]
#[post("/orders")]
pub async fn place_order(
    app: Data<App>,
    caller: Caller,
    key: IdempotencyKey,
    Json(body): Json<PlaceOrder>,
) -> Result<HttpResponse> {
    let user_id = AccountId::from(caller.account);
    app.placements.check(user_id)?;
    check_items(&body.items, &app.limits)?;
    let placed = detach(place(app.into_inner(), user_id, key, body)).await?;
    let (stored, replayed) = match placed {
        Stored::New(order) => (order, false),
        Stored::Existing(order) => (order, true),
    };
    let mut response = HttpResponse::Created();
    response.insert_header(("Location", format!("/api/v1/orders/{}", stored.id)));
    if replayed {
        response.insert_header((REPLAYED_HEADER, "true"));
    }
    // Rendered from what never changes, so a replay is equal to the first answer to the byte.
    Ok(response.json(view(stored.into_placed())))
}

/// What the key named: a new order, or the one that an earlier request with this key had placed.
#[derive(Debug, Clone)]
pub enum Stored {
    New(Order),
    Existing(Order),
}

async fn place(app: Arc<App>, user_id: AccountId, key: IdempotencyKey, body: PlaceOrder) -> Result<Stored> {
    // The id comes from the key, so every retry of this request means the same order,
    // here and in every service that is told about it.
    let id = OrderId::derive(&[user_id.as_bytes(), b"order", key.as_bytes()]);
    tracing::Span::current().record("orderId", tracing::field::display(id));
    let fingerprint = fingerprint(FINGERPRINT_VERSION, &body);

    let hold = match hold(&app, id, user_id, &body.items).await {
        Ok(hold) => hold,
        Err(error) => return already_placed(&app, id, &fingerprint, error).await,
    };
    app.db.point("order.after_hold").await;
    let draft = draft(id, user_id, key, fingerprint, body, hold)?;
    let presented = draft.fingerprint.clone();
    let stored = app.inserts.submit(draft).await?;
    app.db.point("order.after_commit").await;
    match &stored {
        Stored::New(order) => {
            metrics::counter!("stampede_orders_total", "outcome" => "placed").increment(1);
            tracing::debug!(amount = order.amount, "Placed order {id}");
        }
        Stored::Existing(order) => {
            same_request(&order.fingerprint, &presented)?;
            metrics::counter!("stampede_orders_total", "outcome" => "replayed").increment(1);
        }
    }
    Ok(stored)
}

async fn hold(app: &App, id: OrderId, user_id: AccountId, items: &[WantedItem]) -> Result<Hold> {
    let lines = items
        .iter()
        .map(|item| WantedLine { product_id: item.product_id.to_string(), quantity: item.quantity })
        .collect();
    let wanted = HoldRequest { hold_id: id.to_string(), user_id: user_id.to_string(), lines };
    let response = rpc::retrying(|| {
        let mut request = tonic::Request::new(wanted.clone());
        request.set_timeout(HOLD_DEADLINE);
        let mut inventory = app.inventory.clone();
        async move { inventory.hold(request).await }
    })
    .await?;
    response.hold.context("inventory answered without a hold").map_err(Error::from)
}

/// Inventory said no, or nothing. If this key placed an order earlier, that is the answer all the same: its units may
/// be sold, cancelled or expired by now. Looked up only here, so that the way to a new order has no extra read.
async fn already_placed(app: &App, id: OrderId, fingerprint: &[u8], error: Error) -> Result<Stored> {
    match app.lookups.submit(id).await? {
        Some(order) => {
            same_request(&order.fingerprint, fingerprint)?;
            metrics::counter!("stampede_orders_total", "outcome" => "replayed").increment(1);
            Ok(Stored::Existing(order))
        }
        None => {
            let outcome = if error.reason().is_some() { "refused" } else { "failed" };
            metrics::counter!("stampede_orders_total", "outcome" => outcome).increment(1);
            Err(error)
        }
    }
}

fn draft(
    id: OrderId,
    user_id: AccountId,
    key: IdempotencyKey,
    fingerprint: Vec<u8>,
    body: PlaceOrder,
    hold: Hold,
) -> Result<Draft> {
    let held: HashMap<&str, i32> = hold.lines.iter().map(|line| (line.product_id.as_str(), line.quantity)).collect();
    let wanted: HashMap<String, i32> =
        body.items.iter().map(|item| (item.product_id.to_string(), item.quantity)).collect();
    let same =
        held.len() == wanted.len() && wanted.iter().all(|(id, quantity)| held.get(id.as_str()) == Some(quantity));
    if !same {
        // The first request with this key held other lines and died before it stored its order.
        return Err(reused().into());
    }
    // Lines keep the order in which the client sent them; names and prices come from the hold, never from the client.
    let mut lines: HashMap<String, contract::inventory::HoldLine> =
        hold.lines.into_iter().map(|line| (line.product_id.clone(), line)).collect();
    let mut items = Vec::with_capacity(body.items.len());
    let mut currency = contract::money::KRW.to_owned();
    for item in &body.items {
        let line = lines.remove(&item.product_id.to_string()).context("a held line is missing")?;
        currency = line.currency;
        items.push(Item {
            product_id: item.product_id,
            sku: line.sku,
            name: line.name,
            quantity: line.quantity,
            unit_price: line.unit_price,
        });
    }
    let expires_at = hold.expires_at.context("the hold has no expiry")?;
    let hold_expires_at = DateTime::<Utc>::try_from(expires_at).map_err(|_| anyhow::anyhow!("the hold's expiry"))?;
    let amount = total(&items).context("the order's total leaves the range of money")?;
    let shipping = body.shipping_info.map(|info| Shipping {
        recipient: info.recipient.into_string(),
        phone: info.phone.into_string(),
        postal_code: info.postal_code.into_string(),
        address: info.address.into_string(),
        memo: info.memo.map(Text::into_string),
    });
    Ok(Draft {
        id,
        user_id,
        idempotency_key: key.as_str().to_owned(),
        fingerprint,
        items,
        amount,
        currency,
        hold_expires_at,
        shipping,
        context: Context::outgoing(),
    })
}

/// One transaction for all the orders that are waiting to be stored.
pub fn insert_batch(db: &Db, settings: &BatchSettings) -> Batch<Draft, Stored> {
    let db = db.clone();
    Batch::start("order_inserts", settings, move |drafts: Arc<[Draft]>| {
        let db = db.clone();
        async move { db.tx("place_orders", async |tx| insert_all(tx, &drafts).await).await }
    })
}

async fn insert_all(tx: &mut Tx, drafts: &[Draft]) -> Result<Vec<Result<Stored>>> {
    let created: HashMap<OrderId, DateTime<Utc>> =
        insert_orders(tx, drafts).await?.into_iter().map(|row| (row.id.into(), row.created_at)).collect();
    // Of two requests with one key in one batch, the first is the one that placed the order.
    let mut first = HashSet::new();
    let new: Vec<bool> = drafts.iter().map(|draft| created.contains_key(&draft.id) && first.insert(draft.id)).collect();

    let announced: Vec<outbox::EventWithContext<OrderCreated>> = drafts
        .iter()
        .zip(&new)
        .filter(|(_, new)| **new)
        .map(|(draft, _)| outbox::EventWithContext {
            event: announcement(draft, created[&draft.id]),
            context: draft.context.clone(),
        })
        .collect();
    outbox::publish_with_contexts(tx, &announced).await?;

    let repeated: Vec<OrderId> =
        drafts.iter().filter(|draft| !created.contains_key(&draft.id)).map(|draft| draft.id).collect();
    let mut existing: HashMap<OrderId, Order> = HashMap::new();
    if !repeated.is_empty() {
        existing.extend(rows::by_ids(tx, &repeated).await?.into_iter().map(|order| (order.id, order)));
    }
    tx.point("order.before_commit").await;
    Ok(drafts
        .iter()
        .zip(new)
        .map(|(draft, new)| match created.get(&draft.id) {
            Some(at) if new => Ok(Stored::New(stored(draft, *at))),
            Some(at) => Ok(Stored::Existing(stored(first_of(drafts, draft.id), *at))),
            None => existing.get(&draft.id).cloned().map(Stored::Existing).ok_or_else(|| {
                // Its owner's row was rolled back between our insert and our read: the retry will insert it.
                Error::transient(anyhow::anyhow!("order {} vanished", draft.id))
            }),
        })
        .collect())
}

#[derive(diesel::QueryableByName)]
struct Inserted {
    #[diesel(sql_type = sql::Uuid)]
    id: uuid::Uuid,
    #[diesel(sql_type = sql::Timestamptz)]
    created_at: DateTime<Utc>,
}

/// Inserts those of `drafts` that do not exist yet, with items and shipping, and returns them.
async fn insert_orders(tx: &mut Tx, drafts: &[Draft]) -> Result<Vec<Inserted>> {
    let items: Vec<(&Draft, i16, &Item)> = drafts
        .iter()
        .flat_map(|draft| (0_i16..).zip(&draft.items).map(move |(line, item)| (draft, line, item)))
        .collect();
    let shipping: Vec<(OrderId, &Shipping)> =
        drafts.iter().filter_map(|draft| draft.shipping.as_ref().map(|info| (draft.id, info))).collect();
    let insert = diesel::sql_query(include_str!("place_order.sql"))
        .bind::<sql::Array<sql::Uuid>, _>(drafts.iter().map(|d| d.id).collect::<Vec<OrderId>>())
        .bind::<sql::Array<sql::Uuid>, _>(drafts.iter().map(|d| d.user_id).collect::<Vec<AccountId>>())
        .bind::<sql::Array<sql::BigInt>, _>(drafts.iter().map(|d| d.amount).collect::<Vec<_>>())
        .bind::<sql::Array<sql::Text>, _>(drafts.iter().map(|d| d.currency.as_str()).collect::<Vec<_>>())
        .bind::<sql::Array<sql::Bytea>, _>(drafts.iter().map(|d| d.fingerprint.as_slice()).collect::<Vec<_>>())
        .bind::<sql::Array<sql::Text>, _>(drafts.iter().map(|d| d.idempotency_key.as_str()).collect::<Vec<_>>())
        .bind::<sql::Array<sql::Timestamptz>, _>(drafts.iter().map(|d| d.hold_expires_at).collect::<Vec<_>>())
        .bind::<sql::Array<sql::Uuid>, _>(items.iter().map(|(d, ..)| d.id).collect::<Vec<OrderId>>())
        .bind::<sql::Array<sql::SmallInt>, _>(items.iter().map(|(_, line, _)| *line).collect::<Vec<_>>())
        .bind::<sql::Array<sql::Uuid>, _>(items.iter().map(|(.., i)| i.product_id).collect::<Vec<ProductId>>())
        .bind::<sql::Array<sql::Text>, _>(items.iter().map(|(.., i)| i.sku.as_str()).collect::<Vec<_>>())
        .bind::<sql::Array<sql::Text>, _>(items.iter().map(|(.., i)| i.name.as_str()).collect::<Vec<_>>())
        .bind::<sql::Array<sql::Integer>, _>(items.iter().map(|(.., i)| i.quantity).collect::<Vec<_>>())
        .bind::<sql::Array<sql::BigInt>, _>(items.iter().map(|(.., i)| i.unit_price).collect::<Vec<_>>())
        .bind::<sql::Array<sql::Uuid>, _>(shipping.iter().map(|(id, _)| *id).collect::<Vec<OrderId>>())
        .bind::<sql::Array<sql::Text>, _>(shipping.iter().map(|(_, s)| s.recipient.as_str()).collect::<Vec<_>>())
        .bind::<sql::Array<sql::Text>, _>(shipping.iter().map(|(_, s)| s.phone.as_str()).collect::<Vec<_>>())
        .bind::<sql::Array<sql::Text>, _>(shipping.iter().map(|(_, s)| s.postal_code.as_str()).collect::<Vec<_>>())
        .bind::<sql::Array<sql::Text>, _>(shipping.iter().map(|(_, s)| s.address.as_str()).collect::<Vec<_>>())
        .bind::<sql::Array<sql::Nullable<sql::Text>>, _>(
            shipping.iter().map(|(_, s)| s.memo.as_deref()).collect::<Vec<_>>(),
        );
    Ok(Prepared(insert).load::<Inserted>(tx).await?)
}

fn announcement(draft: &Draft, created_at: DateTime<Utc>) -> OrderCreated {
    OrderCreated {
        order_id: draft.id.to_string(),
        user_id: draft.user_id.to_string(),
        version: 1,
        items: draft
            .items
            .iter()
            .map(|item| OrderLine {
                product_id: item.product_id.to_string(),
                name: item.name.clone(),
                quantity: item.quantity,
                unit_price: item.unit_price,
            })
            .collect(),
        amount: draft.amount,
        currency: draft.currency.clone(),
        hold_expires_at: Some(draft.hold_expires_at.into()),
        created_at: Some(created_at.into()),
    }
}

fn stored(draft: &Draft, created_at: DateTime<Utc>) -> Order {
    Order {
        id: draft.id,
        user_id: draft.user_id,
        status: Status::Created,
        version: 1,
        amount: draft.amount,
        currency: draft.currency.clone(),
        fingerprint: draft.fingerprint.clone(),
        hold_expires_at: draft.hold_expires_at,
        first_hold_expires_at: draft.hold_expires_at,
        created_at,
        cancel_reason: None,
        reservation: None,
        ended_attempt_ids: Vec::new(),
        returned_payment_ids: Vec::new(),
        paid_payment_id: None,
        items: draft.items.clone(),
        shipping: draft.shipping.clone(),
    }
}

fn first_of(drafts: &[Draft], id: OrderId) -> &Draft {
    drafts.iter().find(|draft| draft.id == id).expect("the id was taken from these drafts")
}
