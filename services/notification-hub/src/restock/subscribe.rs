//! `POST` and `DELETE /products/{productId}/restock-subscriptions`, `GET /me/restock-subscriptions`.

use actix_web::{HttpResponse, delete, get, post};
use chrono::{DateTime, SubsecRound, Utc};
use common::auth::Caller;
use common::http::{Data, Json, Path, Problem, Query, detach};
use common::page::{Limit, Page, parse_cursor};
use common::{Error, Result};
use contract::ids::{AccountId, ProductId};
use diesel::pg::Pg;
use diesel::{ExpressionMethods, OptionalExtension, QueryDsl, Selectable, SelectableHelper};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::App;
use crate::notification::Refused;
use crate::schema::product_user_notification;

/// How often a subscription is looked for and added while somebody else adds and removes the same one.
const ATTEMPTS_MAX: u32 = 5;

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestockSubscription {
    /// The place in the order in which subscribers are told.
    subscription_id: i64,
    product_id: ProductId,
    created_at: DateTime<Utc>,
}

#[derive(diesel::Queryable, Selectable)]
#[diesel(table_name = product_user_notification, check_for_backend(Pg))]
struct SubscriptionRow {
    id: i64,
    product_id: ProductId,
    created_at: DateTime<Utc>,
}

impl From<SubscriptionRow> for RestockSubscription {
    fn from(row: SubscriptionRow) -> Self {
        Self { subscription_id: row.id, product_id: row.product_id, created_at: row.created_at.trunc_subsecs(3) }
    }
}

/// Asks to be told at each restock of the product, after those who have asked before.
#[utoipa::path(
    tag = "restock",
    params(("productId" = ProductId, Path)),
    responses(
        (status = 201, body = RestockSubscription, description = "Subscribed"),
        (status = 200, body = RestockSubscription, description = "Subscribed before"),
        (status = 404, body = Problem, description = "PRODUCT_NOT_FOUND"),
        (status = 409, body = Problem, description = "PRODUCT_IN_STOCK, where the shop takes no subscriptions then"),
    ),
    security(("bearer" = []))
)]
#[post("/products/{productId}/restock-subscriptions")]
pub async fn subscribe(app: Data<App>, caller: Caller, product: Path<ProductId>) -> Result<HttpResponse> {
    let (product, user) = (product.into_inner(), AccountId::from(caller.account));
    let (row, is_new) = detach(async move { add(&app, product, user).await }).await?;
    let mut answer = if is_new { HttpResponse::Created() } else { HttpResponse::Ok() };
    Ok(answer.json(RestockSubscription::from(row)))
}

/// The subscription of `user`, and whether it was added now.
async fn add(app: &App, product: ProductId, user: AccountId) -> Result<(SubscriptionRow, bool)> {
    if let Some(found) = find(&mut *app.db.read().await?, product, user).await? {
        return Ok((found, false));
    }
    let stock = app.restock.stocks.get(product).await?;
    if stock.level.available > 0 && !app.settings.restock.subscribe_in_stock {
        return Err(Refused::ProductInStock(product).into());
    }
    for _ in 0..ATTEMPTS_MAX {
        let added = app.db.tx("subscribe_restock", async move |tx| insert(tx, product, user).await).await?;
        if let Some(added) = added {
            return Ok((added, true));
        }
        if let Some(found) = find(&mut *app.db.read().await?, product, user).await? {
            return Ok((found, false));
        }
    }
    Err(Error::transient(anyhow::anyhow!("user {user} subscribes to and unsubscribes from product {product} at once")))
}

async fn find(conn: &mut AsyncPgConnection, product: ProductId, user: AccountId) -> Result<Option<SubscriptionRow>> {
    let found = product_user_notification::table
        .filter(product_user_notification::user_id.eq(user))
        .filter(product_user_notification::product_id.eq(product))
        .select(SubscriptionRow::as_select())
        .first(conn)
        .await;
    Ok(found.optional()?)
}

/// None: there is one already.
async fn insert(conn: &mut AsyncPgConnection, product: ProductId, user: AccountId) -> Result<Option<SubscriptionRow>> {
    let added = diesel::insert_into(product_user_notification::table)
        .values((product_user_notification::user_id.eq(user), product_user_notification::product_id.eq(product)))
        .on_conflict_do_nothing()
        .returning(SubscriptionRow::as_returning())
        .get_result(conn)
        .await;
    Ok(added.optional()?)
}

/// Takes the subscription back. There need not be one.
#[utoipa::path(
    tag = "restock",
    params(("productId" = ProductId, Path)),
    responses((status = 204, description = "Not subscribed any more")),
    security(("bearer" = []))
)]
#[delete("/products/{productId}/restock-subscriptions")]
pub async fn unsubscribe(app: Data<App>, caller: Caller, product: Path<ProductId>) -> Result<HttpResponse> {
    let (product, user) = (product.into_inner(), AccountId::from(caller.account));
    detach(async move { app.db.tx("unsubscribe_restock", async move |tx| remove(tx, product, user).await).await })
        .await?;
    Ok(HttpResponse::NoContent().finish())
}

async fn remove(conn: &mut AsyncPgConnection, product: ProductId, user: AccountId) -> Result<()> {
    diesel::delete(product_user_notification::table)
        .filter(product_user_notification::user_id.eq(user))
        .filter(product_user_notification::product_id.eq(product))
        .execute(conn)
        .await?;
    Ok(())
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListSubscriptions {
    /// `nextCursor` of the page before.
    cursor: Option<String>,
    limit: Option<i64>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubscriptionsPage {
    /// The oldest first.
    items: Vec<RestockSubscription>,
    /// Null on the last page.
    next_cursor: Option<String>,
}

#[utoipa::path(
    tag = "restock",
    params(ListSubscriptions),
    responses((status = 200, body = SubscriptionsPage), (status = 400, body = Problem, description = "VALIDATION_ERROR")),
    security(("bearer" = []))
)]
#[get("/me/restock-subscriptions")]
pub async fn list_subscriptions(
    app: Data<App>,
    caller: Caller,
    query: Query<ListSubscriptions>,
) -> Result<Json<SubscriptionsPage>> {
    let (default, max) = (app.settings.page_default, app.settings.page_max);
    let limit = Limit::parse(query.limit, default.into(), max.into())?;
    let after: i64 = parse_cursor(query.cursor.as_deref())?.unwrap_or_default();
    let rows: Vec<SubscriptionRow> = product_user_notification::table
        .filter(product_user_notification::user_id.eq(AccountId::from(caller.account)))
        .filter(product_user_notification::id.gt(after))
        .order(product_user_notification::id)
        .limit(limit.rows())
        .select(SubscriptionRow::as_select())
        .load(&mut *app.db.read().await?)
        .await?;
    let Page { items, next_cursor } = Page::new(rows, limit, |row| row.id).map(RestockSubscription::from);
    Ok(Json(SubscriptionsPage { items, next_cursor }))
}
