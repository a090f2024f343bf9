//! `POST /admin/products/{productId}/stock-adjust`: goods arrived, or were lost.

use std::collections::BTreeMap;

use actix_web::{HttpResponse, post};
use common::auth::Admin;
use common::backoff::Backoff;
use common::db::Tx;
use common::http::{Data, Json, Path, Problem, detach};
use common::id::derive_uuid;
use common::idempotency::{IdempotencyKey, REPLAYED_HEADER, fingerprint, same_request};
use common::text::Text;
use common::{Error, Refused, Result};
use contract::ids::ProductId;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::App;
use crate::gate::{GateUpdate, Mark};
use crate::read_products::shown_key;
use crate::refused;
use crate::schema::product_stock_audit;
use crate::stock::{Move, Moves, ON_HAND_MAX, adjusted};
use crate::stock_rows::{MoveAttempt, NewAudit, StockFeed, insert_audit, lock_stocks, read_stocks, try_move_stocks};

/// Of the request's shape; see [`fingerprint`].
const FINGERPRINT_VERSION: u8 = 1;

#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StockAdjustment {
    /// Units that came (positive) or went.
    delta: i64,
    #[schema(value_type = String)]
    reason: Text<1, 200>,
    /// Of a delivery note, a ticket and the like.
    #[schema(value_type = Option<String>)]
    reference: Option<Text<1, 200>>,
}

/// The stock as this adjustment left it.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdjustedStock {
    product_id: ProductId,
    on_hand: i64,
    held: i64,
    available: i64,
    version: i64,
}

/// One request of one administrator.
struct Adjustment {
    id: Uuid,
    actor: Uuid,
    product: ProductId,
    wanted: StockAdjustment,
    fingerprint: Vec<u8>,
}

/// The same key and body give the same answer, marked `Idempotent-Replayed: true`, and move nothing again.
#[utoipa::path(tag = "products", params(("productId" = ProductId, Path), ("Idempotency-Key" = String, Header)),
    request_body = StockAdjustment, responses(
    (status = 200, body = AdjustedStock),
    (status = 400, body = Problem, description = "VALIDATION_ERROR, IDEMPOTENCY_KEY_REQUIRED"),
    (status = 404, body = Problem, description = "PRODUCT_NOT_FOUND"),
    (status = 409, body = Problem, description = "STOCK_BELOW_HELD, CONCURRENT_MODIFICATION"),
    (status = 422, body = Problem, description = "IDEMPOTENCY_KEY_REUSED, SEATS_REQUIRED: its units are its seats")
), security(("bearer" = ["ADMIN"])))]
#[post("/admin/products/{productId}/stock-adjust")]
pub async fn adjust_stock(
    app: Data<App>,
    admin: Admin,
    key: IdempotencyKey,
    id: Path<ProductId>,
    body: Json<StockAdjustment>,
) -> Result<HttpResponse> {
    let (product, wanted) = (id.into_inner(), body.into_inner());
    if wanted.delta == 0 || !(-ON_HAND_MAX..=ON_HAND_MAX).contains(&wanted.delta) {
        return Err(Refused::invalid("delta", format!("must be -{ON_HAND_MAX} to {ON_HAND_MAX}, and not 0")).into());
    }
    let actor = admin.0.account;
    let adjustment = Adjustment {
        id: derive_uuid("adjustment", &[actor.as_bytes(), key.as_bytes()]),
        actor,
        product,
        fingerprint: fingerprint(FINGERPRINT_VERSION, &(product, &wanted)),
        wanted,
    };
    let app = app.into_inner();
    let (stock, replayed) = detach(async move { adjust(&app, &adjustment).await }).await?;
    let mut response = HttpResponse::Ok();
    if replayed {
        response.insert_header((REPLAYED_HEADER, "true"));
    }
    Ok(response.json(stock))
}

/// Returns the stock, and whether an earlier request with this key had adjusted it.
async fn adjust(app: &App, adjustment: &Adjustment) -> Result<(AdjustedStock, bool)> {
    for attempt in 1..=app.adjust_attempts_max {
        // During a sale the version changes with every batch, and a comparison of versions might never succeed. So the
        // last attempt locks the row.
        let locks = attempt == app.adjust_attempts_max;
        match app.db.tx("adjust_stock", async |tx| adjust_once(tx, &app.feed, adjustment, locks).await).await? {
            Attempt::Adjusted(stock) => {
                let Adjustment { product, wanted, .. } = adjustment;
                app.gate.apply_later(vec![GateUpdate { product: *product, quantity: wanted.delta, mark: Mark::Units }]);
                app.cache.invalidate(&[shown_key(*product).as_str()]).await;
                tracing::info!(
                    product.id = %product, stock.delta = wanted.delta,
                    "Adjusted the stock of product {product} by {}", wanted.delta
                );
                return Ok((stock, false));
            }
            Attempt::Replayed(stock) => return Ok((stock, true)),
            Attempt::Conflict => tokio::time::sleep(Backoff::CONFLICT.delay(attempt)).await,
        }
    }
    Err(refused::Refused::ConcurrentModification.into())
}

enum Attempt {
    Adjusted(AdjustedStock),
    Replayed(AdjustedStock),
    /// The stock has changed between its reading and its writing. Nothing was written.
    Conflict,
}

async fn adjust_once(tx: &mut Tx, feed: &StockFeed, adjustment: &Adjustment, locks: bool) -> Result<Attempt> {
    let Adjustment { product, wanted, .. } = adjustment;
    let stocks = if locks { lock_stocks(tx, &[*product]).await? } else { read_stocks(tx, &[*product]).await? };
    let Some(stock) = stocks.get(product) else { return Err(refused::Refused::ProductNotFound(*product).into()) };
    if stock.concert.is_some() {
        // Its units are its seats.
        return Err(refused::Refused::SeatsRequired(*product).into());
    }
    // After the stock was read: if another request with this key commits now, it changes the version.
    if let Some(stock) = find_replay(tx, adjustment).await? {
        return Ok(Attempt::Replayed(stock));
    }
    adjusted(stock.on_hand, stock.held, wanted.delta)?;
    let change = Move { on_hand: wanted.delta, held: 0, restocked: wanted.delta.max(0) };
    let moves: Moves = BTreeMap::from([(*product, change)]);
    let moved = match try_move_stocks(tx, feed, &stocks, &moves).await? {
        MoveAttempt::Moved(moved) => moved,
        MoveAttempt::Conflict => return Ok(Attempt::Conflict),
    };
    let row = moved.as_slice().first();
    let row = row.ok_or_else(|| Error::fault(anyhow::anyhow!("the moved stock of {product} was not returned")))?;
    let audit = NewAudit {
        product_id: *product,
        adjustment_id: Some(adjustment.id),
        kind: "ADJUST",
        delta: wanted.delta,
        on_hand_after: row.on_hand,
        held_after: row.held,
        stock_version: row.version,
        reason: Some(wanted.reason.as_str()),
        reference: wanted.reference.as_ref().map(Text::as_str),
        actor: adjustment.actor,
        fingerprint: Some(&adjustment.fingerprint),
    };
    insert_audit(tx, &audit).await?;
    Ok(Attempt::Adjusted(AdjustedStock::new(*product, row.on_hand, row.held, row.version)))
}

impl AdjustedStock {
    fn new(product_id: ProductId, on_hand: i64, held: i64, version: i64) -> Self {
        Self { product_id, on_hand, held, available: on_hand - held, version }
    }
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = product_stock_audit)]
struct AuditRow {
    product_id: ProductId,
    on_hand_after: i64,
    held_after: i64,
    stock_version: i64,
    fingerprint: Option<Vec<u8>>,
}

/// What the first request with this key did. Refuses with `IDEMPOTENCY_KEY_REUSED` if it was another request.
async fn find_replay(tx: &mut Tx, adjustment: &Adjustment) -> Result<Option<AdjustedStock>> {
    let row = product_stock_audit::table
        .filter(product_stock_audit::adjustment_id.eq(adjustment.id))
        .select(AuditRow::as_select())
        .first(tx)
        .await
        .optional()?;
    let Some(row) = row else { return Ok(None) };
    same_request(row.fingerprint.as_deref().unwrap_or_default(), &adjustment.fingerprint)?;
    Ok(Some(AdjustedStock::new(row.product_id, row.on_hand_after, row.held_after, row.stock_version)))
}
