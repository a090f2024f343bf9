//! `GET /admin/products/{productId}/restock-rounds`, `…/{round}` and `…/{round}/recipients`.

use actix_web::get;
use chrono::{DateTime, SubsecRound, Utc};
use common::Result;
use common::auth::Admin;
use common::http::{Data, Json, Path, Problem, Query};
use common::page::{Limit, Page, parse_cursor};
use contract::ids::{AccountId, NotificationId, ProductId, RestockRoundId};
use diesel::pg::Pg;
use diesel::{ExpressionMethods, JoinOnDsl, OptionalExtension, QueryDsl, Selectable, SelectableHelper};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::App;
use crate::notification::{DeliveryStatus, Refused};
use crate::restock::round::RoundStatus;
use crate::schema::{deliveries, product_notification_history, product_user_notification_history};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListRounds {
    /// `nextCursor` of the page before.
    cursor: Option<String>,
    limit: Option<i64>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestockRoundsPage {
    /// The newest first.
    items: Vec<RestockRoundView>,
    /// Null on the last page.
    next_cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestockRoundView {
    round_id: RestockRoundId,
    product_id: ProductId,
    round: i64,
    status: RoundStatus,
    /// The last subscription that an alert was written for; 0: none yet.
    last_subscription_id: i64,
    /// Subscribers who have an alert.
    recipient_count: i64,
    /// Alerts that went out at their first attempt.
    sent_count: i64,
    started_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
    /// Why it is `CANCELED_BY_ERROR`.
    error: Option<String>,
}

#[derive(diesel::Queryable, Selectable)]
#[diesel(table_name = product_notification_history, check_for_backend(Pg))]
struct RoundRow {
    id: RestockRoundId,
    product_id: ProductId,
    round: i64,
    status: RoundStatus,
    last_subscription_id: i64,
    recipient_count: i64,
    sent_count: i64,
    started_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
    error: Option<String>,
}

impl From<RoundRow> for RestockRoundView {
    fn from(row: RoundRow) -> Self {
        Self {
            round_id: row.id,
            product_id: row.product_id,
            round: row.round,
            status: row.status,
            last_subscription_id: row.last_subscription_id,
            recipient_count: row.recipient_count,
            sent_count: row.sent_count,
            started_at: row.started_at.trunc_subsecs(3),
            ended_at: row.ended_at.map(|instant| instant.trunc_subsecs(3)),
            error: row.error,
        }
    }
}

#[utoipa::path(
    tag = "restock",
    params(("productId" = ProductId, Path), ListRounds),
    responses((status = 200, body = RestockRoundsPage), (status = 400, body = Problem, description = "VALIDATION_ERROR"),
        (status = 403, body = Problem, description = "FORBIDDEN")),
    security(("bearer" = ["ADMIN"]))
)]
#[get("/admin/products/{productId}/restock-rounds")]
pub async fn list_rounds(
    app: Data<App>,
    _admin: Admin,
    product: Path<ProductId>,
    query: Query<ListRounds>,
) -> Result<Json<RestockRoundsPage>> {
    let limit = Limit::parse(query.limit, app.settings.page_default.into(), app.settings.page_max.into())?;
    let before: i64 = parse_cursor(query.cursor.as_deref())?.unwrap_or(i64::MAX);
    let rows: Vec<RoundRow> = product_notification_history::table
        .filter(product_notification_history::product_id.eq(*product))
        .filter(product_notification_history::round.lt(before))
        .order(product_notification_history::round.desc())
        .limit(limit.rows())
        .select(RoundRow::as_select())
        .load(&mut *app.db.read().await?)
        .await?;
    let Page { items, next_cursor } = Page::new(rows, limit, |row| row.round).map(RestockRoundView::from);
    Ok(Json(RestockRoundsPage { items, next_cursor }))
}

#[utoipa::path(
    tag = "restock",
    params(("productId" = ProductId, Path), ("round" = i64, Path)),
    responses((status = 200, body = RestockRoundView), (status = 403, body = Problem, description = "FORBIDDEN"),
        (status = 404, body = Problem, description = "ROUND_NOT_FOUND")),
    security(("bearer" = ["ADMIN"]))
)]
#[get("/admin/products/{productId}/restock-rounds/{round}")]
pub async fn read_round(app: Data<App>, _admin: Admin, path: Path<(ProductId, i64)>) -> Result<Json<RestockRoundView>> {
    let (product, round) = path.into_inner();
    let row = find(&mut *app.db.read().await?, product, round).await?;
    Ok(Json(row.into()))
}

async fn find(conn: &mut AsyncPgConnection, product: ProductId, round: i64) -> Result<RoundRow> {
    let found = product_notification_history::table.find((product, round)).select(RoundRow::as_select());
    Ok(found.first(conn).await.optional()?.ok_or(Refused::RoundNotFound { product, round })?)
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestockRecipientsPage {
    /// In the order in which they subscribed.
    items: Vec<RestockRecipient>,
    /// Null on the last page.
    next_cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestockRecipient {
    subscription_id: i64,
    user_id: AccountId,
    notification_id: NotificationId,
    /// Of the delivery: `SUCCESS` if it went out, `FAILED` if it was given up or the product had sold out.
    status: DeliveryStatus,
    last_error: Option<String>,
    /// When the round's runner handed it over; null if it did not, such as when it died and the alert went out later.
    attempted_at: Option<DateTime<Utc>>,
}

#[utoipa::path(
    tag = "restock",
    params(("productId" = ProductId, Path), ("round" = i64, Path), ListRounds),
    responses((status = 200, body = RestockRecipientsPage), (status = 400, body = Problem, description = "VALIDATION_ERROR"),
        (status = 403, body = Problem, description = "FORBIDDEN"), (status = 404, body = Problem, description = "ROUND_NOT_FOUND")),
    security(("bearer" = ["ADMIN"]))
)]
#[get("/admin/products/{productId}/restock-rounds/{round}/recipients")]
pub async fn list_recipients(
    app: Data<App>,
    _admin: Admin,
    path: Path<(ProductId, i64)>,
    query: Query<ListRounds>,
) -> Result<Json<RestockRecipientsPage>> {
    use product_user_notification_history as told;
    let (product, round) = path.into_inner();
    let limit = Limit::parse(query.limit, app.settings.page_default.into(), app.settings.page_max.into())?;
    let after: i64 = parse_cursor(query.cursor.as_deref())?.unwrap_or_default();
    let mut conn = app.db.read().await?;
    find(&mut conn, product, round).await?;
    type Row = (i64, AccountId, NotificationId, DeliveryStatus, Option<String>, Option<DateTime<Utc>>);
    let rows: Vec<Row> = told::table
        .inner_join(deliveries::table.on(deliveries::notification_id.eq(told::notification_id)))
        .filter(told::product_id.eq(product))
        .filter(told::round.eq(round))
        .filter(told::subscription_id.gt(after))
        .order(told::subscription_id)
        .limit(limit.rows())
        .select((
            told::subscription_id,
            told::user_id,
            told::notification_id,
            deliveries::status,
            deliveries::last_error,
            told::attempted_at,
        ))
        .load(&mut *conn)
        .await?;
    let page = Page::new(rows, limit, |row| row.0);
    let Page { items, next_cursor } =
        page.map(|(subscription_id, user_id, notification_id, status, last_error, at)| {
            let attempted_at = at.map(|instant| instant.trunc_subsecs(3));
            RestockRecipient { subscription_id, user_id, notification_id, status, last_error, attempted_at }
        });
    Ok(Json(RestockRecipientsPage { items, next_cursor }))
}
