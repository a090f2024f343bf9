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
use contract::ids::{HoldId, ProductId};
use diesel::sql_types::{BigInt, Binary, Nullable, Text as SqlText, Uuid as SqlUuid};
use diesel::{OptionalExtension, QueryableByName, sql_query};
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::App;
use crate::gate::{Mark, Settlement};
use crate::ledger::{Moved, lock_stocks, peek_stocks, try_move_stocks};
use crate::read_products::shown_key;
use crate::refused;
use crate::stock::{Move, Moves, ON_HAND_MAX, adjusted};

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

/// One intent of one administrator.
struct Adjustment {
    id: Uuid,
    actor: Uuid,
    product: ProductId,
    asked: StockAdjustment,
    fingerprint: Vec<u8>,
}

/// The same key and body give the same answer, marked `Idempotent-Replayed: true`, and move nothing again.
#[utoipa::path(tag = "products", params(("productId" = ProductId, Path), ("Idempotency-Key" = String, Header)),
    request_body = StockAdjustment, responses(
    (status = 200, body = AdjustedStock),
    (status = 400, body = Problem, description = "VALIDATION_ERROR, IDEMPOTENCY_KEY_REQUIRED"),
    (status = 404, body = Problem, description = "PRODUCT_NOT_FOUND"),
    (status = 409, body = Problem, description = "STOCK_BELOW_HELD, CONCURRENT_MODIFICATION"),
    (status = 422, body = Problem, description = "IDEMPOTENCY_KEY_REUSED")
), security(("bearer" = [])))]
#[post("/admin/products/{productId}/stock-adjust")]
pub async fn adjust_stock(
    app: Data<App>,
    admin: Admin,
    key: IdempotencyKey,
    id: Path<ProductId>,
    body: Json<StockAdjustment>,
) -> Result<HttpResponse> {
    let (product, asked) = (id.into_inner(), body.into_inner());
    if asked.delta == 0 || !(-ON_HAND_MAX..=ON_HAND_MAX).contains(&asked.delta) {
        return Err(Refused::invalid("delta", format!("must be -{ON_HAND_MAX} to {ON_HAND_MAX}, and not 0")).into());
    }
    let actor = admin.0.account;
    let adjustment = Adjustment {
        id: derive_uuid("adjustment", &[actor.as_bytes(), key.as_bytes()]),
        actor,
        product,
        fingerprint: fingerprint(FINGERPRINT_VERSION, &(product, &asked)),
        asked,
    };
    let app = app.into_inner();
    let (stock, replayed) = detach(async move { adjust(&app, &adjustment).await }).await?;
    let mut response = HttpResponse::Ok();
    if replayed {
        response.insert_header((REPLAYED_HEADER, "true"));
    }
    Ok(response.json(stock))
}

/// Returns the stock, and whether it had been adjusted by an earlier request of the same key.
async fn adjust(app: &App, adjustment: &Adjustment) -> Result<(AdjustedStock, bool)> {
    for attempt in 1..=app.adjust_attempts_max {
        // During a sale the version changes with every batch, and a look that is compared later might never win. So
        // the last try takes its place in the row's queue.
        let waits = attempt == app.adjust_attempts_max;
        let outcome = app.db.tx("adjust_stock", async |tx| attempt_once(tx, adjustment, waits).await).await?;
        match outcome {
            Outcome::Adjusted(stock) => {
                let Adjustment { product, asked, .. } = adjustment;
                // A settlement of units names no hold.
                let (hold, mark) = (HoldId::from(Uuid::nil()), Mark::Units);
                app.gate.settle_later(vec![Settlement { product: *product, hold, quantity: asked.delta, mark }]);
                app.cache.invalidate(&[shown_key(*product).as_str()]).await;
                tracing::info!(product.id = %product, stock.delta = asked.delta, "Adjusted the stock of {product}");
                return Ok((stock, false));
            }
            Outcome::Replayed(stock) => return Ok((stock, true)),
            Outcome::Outrun => tokio::time::sleep(Backoff::CONFLICT.delay(attempt)).await,
        }
    }
    Err(refused::Refused::ConcurrentModification.into())
}

enum Outcome {
    Adjusted(AdjustedStock),
    Replayed(AdjustedStock),
    /// Someone else changed the stock between the look and the write; nothing was written.
    Outrun,
}

async fn attempt_once(tx: &mut Tx, adjustment: &Adjustment, waits: bool) -> Result<Outcome> {
    let Adjustment { product, asked, .. } = adjustment;
    let stocks = if waits { lock_stocks(tx, &[*product]).await? } else { peek_stocks(tx, &[*product]).await? };
    let Some(stock) = stocks.get(product) else { return Err(refused::Refused::ProductNotFound(*product).into()) };
    // After the look at the stock: a twin of this request that commits later than this changes the version.
    if let Some(stock) = replay(tx, adjustment).await? {
        return Ok(Outcome::Replayed(stock));
    }
    adjusted(stock.on_hand, stock.held, asked.delta)?;
    let change = Move { on_hand: asked.delta, held: 0, restocked: asked.delta.max(0) };
    let moves: Moves = BTreeMap::from([(*product, change)]);
    let Some(moved) = try_move_stocks(tx, &stocks, &moves).await? else { return Ok(Outcome::Outrun) };
    let row =
        moved.as_slice().first().ok_or_else(|| Error::fault(anyhow::anyhow!("the adjusted stock was not returned")))?;
    insert_audit(tx, adjustment, row).await?;
    Ok(Outcome::Adjusted(AdjustedStock::new(*product, row.on_hand, row.held, row.version)))
}

impl AdjustedStock {
    fn new(product_id: ProductId, on_hand: i64, held: i64, version: i64) -> Self {
        Self { product_id, on_hand, held, available: on_hand - held, version }
    }
}

#[derive(QueryableByName)]
struct AuditRow {
    #[diesel(sql_type = SqlUuid)]
    product_id: ProductId,
    #[diesel(sql_type = BigInt)]
    on_hand_after: i64,
    #[diesel(sql_type = BigInt)]
    held_after: i64,
    #[diesel(sql_type = BigInt)]
    stock_version: i64,
    #[diesel(sql_type = Nullable<Binary>)]
    fingerprint: Option<Vec<u8>>,
}

/// What the first request of this key did. Refuses with `IDEMPOTENCY_KEY_REUSED` if it was another request.
async fn replay(tx: &mut Tx, adjustment: &Adjustment) -> Result<Option<AdjustedStock>> {
    let row: Option<AuditRow> = sql_query(
        "select product_id, on_hand_after, held_after, stock_version, fingerprint
           from product_stock_audit
          where adjustment_id = $1",
    )
    .bind::<SqlUuid, _>(adjustment.id)
    .get_result(tx)
    .await
    .optional()?;
    let Some(row) = row else { return Ok(None) };
    same_request(row.fingerprint.as_deref().unwrap_or_default(), &adjustment.fingerprint)?;
    Ok(Some(AdjustedStock::new(row.product_id, row.on_hand_after, row.held_after, row.stock_version)))
}

async fn insert_audit(tx: &mut Tx, adjustment: &Adjustment, row: &Moved) -> Result<()> {
    let Adjustment { id, actor, product, asked, fingerprint } = adjustment;
    sql_query(
        "insert into product_stock_audit
                (product_id, adjustment_id, kind, delta, on_hand_after, held_after, stock_version, reason, reference,
                 actor, fingerprint)
         values ($1, $2, 'ADJUST', $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind::<SqlUuid, _>(*product)
    .bind::<SqlUuid, _>(*id)
    .bind::<BigInt, _>(asked.delta)
    .bind::<BigInt, _>(row.on_hand)
    .bind::<BigInt, _>(row.held)
    .bind::<BigInt, _>(row.version)
    .bind::<SqlText, _>(asked.reason.as_str())
    .bind::<Nullable<SqlText>, _>(asked.reference.as_ref().map(Text::as_str))
    .bind::<SqlUuid, _>(*actor)
    .bind::<Binary, _>(fingerprint)
    .execute(tx)
    .await?;
    Ok(())
}
