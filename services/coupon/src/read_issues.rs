//! `GET /me/coupons`, `GET /coupons/{couponId}/issues/me`: what the caller has.

use actix_web::{HttpResponse, get};
use chrono::{DateTime, Utc};
use common::Result;
use common::auth::Caller;
use common::db::Prepared;
use common::http::{Data, Path, Problem, Query};
use common::page::{Cursor, Limit, Page, parse_cursor};
use contract::ids::{AccountId, CouponId, CouponIssueId, OrderId, ProductId};
use contract::money::Currency;
use diesel::sql_types::{Array, BigInt, Nullable, Text, Timestamptz, Uuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;
use serde::Serialize;
use utoipa::ToSchema;

use crate::App;
use crate::coupon::{Discount, DiscountKind, IssueStatus, time};
use crate::read_coupons::ListCoupons;
use crate::redemption::RedemptionState;
use crate::refused::Refused;

const PAGE: i64 = 50;
const PAGE_MAX: i64 = 100;

/// A coupon in the caller's hands.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct IssueView {
    issue_id: CouponIssueId,
    coupon_id: CouponId,
    name: String,
    status: IssueStatus,
    /// Of the order that has it; null unless the status is RESERVED or REDEEMED.
    order_id: Option<OrderId>,
    discount: Discount,
    currency: Currency,
    minimum_amount: i64,
    maximum_discount: Option<i64>,
    /// Empty: all.
    product_ids: Vec<ProductId>,
    #[schema(example = "2026-01-01T00:00:00.000Z")]
    issued_at: String,
    /// Until then it can be used.
    #[schema(example = "2026-01-02T00:00:00.000Z")]
    expires_at: String,
}

#[derive(Debug, QueryableByName)]
struct Row {
    #[diesel(sql_type = Timestamptz)]
    now: DateTime<Utc>,
    #[diesel(sql_type = Uuid)]
    id: CouponIssueId,
    #[diesel(sql_type = Uuid)]
    coupon_id: CouponId,
    #[diesel(sql_type = Timestamptz)]
    issued_at: DateTime<Utc>,
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    discount_kind: DiscountKind,
    #[diesel(sql_type = BigInt)]
    discount_value: i64,
    #[diesel(sql_type = BigInt)]
    minimum_amount: i64,
    #[diesel(sql_type = Nullable<BigInt>)]
    maximum_discount: Option<i64>,
    #[diesel(sql_type = Array<Uuid>)]
    product_ids: Vec<ProductId>,
    #[diesel(sql_type = Timestamptz)]
    expires_at: DateTime<Utc>,
    #[diesel(sql_type = Nullable<Uuid>)]
    order_id: Option<OrderId>,
    #[diesel(sql_type = Nullable<Text>)]
    state: Option<RedemptionState>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    reserved_until: Option<DateTime<Utc>>,
}

impl From<Row> for IssueView {
    fn from(row: Row) -> Self {
        let status = IssueStatus::at(row.now, row.state.zip(row.reserved_until), row.expires_at);
        let has_order = matches!(status, IssueStatus::Reserved | IssueStatus::Redeemed);
        Self {
            issue_id: row.id,
            coupon_id: row.coupon_id,
            name: row.name,
            status,
            order_id: row.order_id.filter(|_| has_order),
            discount: Discount { kind: row.discount_kind, value: row.discount_value },
            currency: Currency::Krw,
            minimum_amount: row.minimum_amount,
            maximum_discount: row.maximum_discount,
            product_ids: row.product_ids,
            issued_at: time(row.issued_at),
            expires_at: time(row.expires_at),
        }
    }
}

/// The caller's coupons, the newest first.
#[utoipa::path(tag = "coupons", params(ListCoupons), responses(
    (status = 200, body = Page<IssueView>), (status = 400, body = Problem, description = "VALIDATION_ERROR"),
    (status = 401, body = Problem, description = "UNAUTHORIZED")
), security(("bearer" = [])))]
#[get("/me/coupons")]
pub async fn list_my_coupons(app: Data<App>, caller: Caller, query: Query<ListCoupons>) -> Result<HttpResponse> {
    let limit = Limit::parse(query.limit, PAGE, PAGE_MAX)?;
    let after = parse_cursor::<Cursor>(query.cursor.as_deref())?;
    let rows = read(&app, caller.account.into(), None, after, limit.rows()).await?;
    let page = Page::new(rows, limit, |row| Cursor { at: row.issued_at, id: row.id.uuid() });
    Ok(HttpResponse::Ok().json(page.map(IssueView::from)))
}

/// The caller's coupon of this kind.
#[utoipa::path(tag = "coupons", params(("couponId" = CouponId, Path)), responses(
    (status = 200, body = IssueView), (status = 401, body = Problem, description = "UNAUTHORIZED"),
    (status = 404, body = Problem, description = "COUPON_ISSUE_NOT_FOUND")
), security(("bearer" = [])))]
#[get("/coupons/{couponId}/issues/me")]
pub async fn read_my_issue(app: Data<App>, caller: Caller, id: Path<CouponId>) -> Result<HttpResponse> {
    let row = read(&app, caller.account.into(), Some(id.into_inner()), None, 1).await?.pop();
    Ok(HttpResponse::Ok().json(IssueView::from(row.ok_or(Refused::NotIssued)?)))
}

async fn read(
    app: &App,
    user: AccountId,
    coupon: Option<CouponId>,
    after: Option<Cursor>,
    rows_max: i64,
) -> Result<Vec<Row>> {
    let query = sql_query(include_str!("read_issues.sql"))
        .bind::<Uuid, _>(user)
        .bind::<Nullable<Uuid>, _>(coupon)
        .bind::<Nullable<Timestamptz>, _>(after.map(|cursor| cursor.at))
        .bind::<Nullable<Uuid>, _>(after.map(|cursor| cursor.id))
        .bind::<BigInt, _>(rows_max);
    Ok(Prepared(query).load(&mut *app.db.read().await?).await?)
}
