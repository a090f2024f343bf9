//! `POST /admin/products/{productId}/restock-rounds`: an operator begins a round, and
//! `POST …/{round}/resume`: has one go on that an error ended.

use actix_web::{HttpResponse, post};
use common::auth::Admin;
use common::db::Tx;
use common::http::{Data, Path, Problem, detach};
use common::{Error, Result};
use contract::codes;
use contract::ids::{ProductId, RestockRoundId};
use diesel::{ExpressionMethods, OptionalExtension, QueryDsl};
use diesel_async::RunQueryDsl;
use serde::Serialize;
use utoipa::ToSchema;

use crate::App;
use crate::notification::Refused;
use crate::restock::on_stock::{begin_round, newest_round};
use crate::restock::round::{RoundKey, RoundStatus, Start, resume};
use crate::schema::product_notification_history;

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StartedRound {
    round_id: RestockRoundId,
    product_id: ProductId,
    round: i64,
    status: RoundStatus,
}

impl From<RoundKey> for StartedRound {
    fn from(key: RoundKey) -> Self {
        let RoundKey { product, round } = key;
        Self { round_id: key.id(), product_id: product, round, status: RoundStatus::InProgress }
    }
}

/// Raises the product's restock round and tells all its subscribers. A repeat is refused for as long as that takes.
#[utoipa::path(
    tag = "restock",
    params(("productId" = ProductId, Path)),
    responses(
        (status = 202, body = StartedRound, description = "Begun"),
        (status = 403, body = Problem, description = "FORBIDDEN"),
        (status = 404, body = Problem, description = "PRODUCT_NOT_FOUND"),
        (status = 409, body = Problem, description = "ROUND_IN_PROGRESS, OUT_OF_STOCK"),
    ),
    security(("bearer" = ["ADMIN"]))
)]
#[post("/admin/products/{productId}/restock-rounds")]
pub async fn start_round(app: Data<App>, _admin: Admin, product: Path<ProductId>) -> Result<HttpResponse> {
    let product = product.into_inner();
    let key = detach(async move { start_by_hand(&app, product).await }).await?;
    Ok(HttpResponse::Accepted().json(StartedRound::from(key)))
}

/// A process that dies in between leaves a round that is raised and not begun. Nothing was promised: the next request
/// begins the one after it.
async fn start_by_hand(app: &App, product: ProductId) -> Result<RoundKey> {
    let newest = app.db.tx("read_restock_round", async move |tx| newest_round(tx, product).await).await?;
    if let Some((round, RoundStatus::InProgress)) = newest {
        return Err(Refused::RoundInProgress { product, round }.into());
    }
    let before = app.restock.stocks.get(product).await?.level.restock_round;
    let level = match app.restock.stocks.begin_round(product, before).await {
        // Another request has raised the round, or stock came back.
        Err(error) if error.reason() == Some(&codes::CONCURRENT_MODIFICATION.reason) => {
            return Err(Refused::RoundInProgress { product, round: before + 1 }.into());
        }
        begun => begun?,
    };
    let key = RoundKey { product, round: level.restock_round };
    let begun =
        app.db.tx("start_restock_round", async move |tx| begin_round(app, tx, key, level.version).await).await?;
    match begun {
        Start::Begin { .. } | Start::Known => {}
        Start::Late => return Err(Refused::RoundInProgress { product, round: key.round }.into()),
    }
    tracing::info!(product.id = %product, key.round, "An operator begins a restock round");
    Ok(key)
}

/// Goes on after the last subscriber that a batch was written for. Nobody is told twice.
#[utoipa::path(
    tag = "restock",
    params(("productId" = ProductId, Path), ("round" = i64, Path)),
    responses(
        (status = 202, body = StartedRound, description = "Goes on"),
        (status = 403, body = Problem, description = "FORBIDDEN"),
        (status = 404, body = Problem, description = "ROUND_NOT_FOUND"),
        (status = 409, body = Problem, description = "ROUND_NOT_RESUMABLE: it is not CANCELED_BY_ERROR, or a later round has begun"),
    ),
    security(("bearer" = ["ADMIN"]))
)]
#[post("/admin/products/{productId}/restock-rounds/{round}/resume")]
pub async fn resume_round(app: Data<App>, _admin: Admin, path: Path<(ProductId, i64)>) -> Result<HttpResponse> {
    let (product, round) = path.into_inner();
    let key = RoundKey { product, round };
    detach(async move {
        app.db.tx("resume_restock_round", async |tx| set_in_progress(&app, tx, key).await).await?;
        tracing::info!(product.id = %product, round, "An operator resumes a restock round");
        Ok(())
    })
    .await?;
    Ok(HttpResponse::Accepted().json(StartedRound::from(key)))
}

/// The next runner raises the epoch.
async fn set_in_progress(app: &App, tx: &mut Tx, key: RoundKey) -> Result<()> {
    let not_found = || Error::from(Refused::RoundNotFound { product: key.product, round: key.round });
    let (newest, _) = newest_round(tx, key.product).await?.ok_or_else(not_found)?;
    let status: RoundStatus = product_notification_history::table
        .find((key.product, key.round))
        .select(product_notification_history::status)
        .for_update()
        .first(tx)
        .await
        .optional()?
        .ok_or_else(not_found)?;
    resume(key, status, newest)?;
    diesel::update(product_notification_history::table.find((key.product, key.round)))
        .set((
            product_notification_history::status.eq(RoundStatus::InProgress),
            product_notification_history::error.eq(None::<String>),
            product_notification_history::ended_at.eq(None::<chrono::DateTime<chrono::Utc>>),
        ))
        .execute(tx)
        .await?;
    let wake = app.restock.wake.clone();
    tx.after_commit(move || wake.notify_one());
    Ok(())
}
