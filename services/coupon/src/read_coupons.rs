//! `GET /coupons`, `GET /coupons/{couponId}`: from a cache of half a second, since everybody looks while a coupon is issued.

use std::time::Duration;

use actix_web::http::header::CACHE_CONTROL;
use actix_web::{HttpRequest, HttpResponse, get};
use chrono::{DateTime, Utc};
use common::Result;
use common::http::{Data, Path, Problem, Query, answer_unless_known};
use common::page::{Cursor, Limit, Page, parse_cursor};
use contract::ids::{CouponId, ProductId};
use contract::money::{Currency, KRW};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::App;
use crate::coupon::{Discount, DiscountKind, time};
use crate::refused::Refused;
use crate::schema::coupons;

/// Coupons on a page when the client does not say, and at most.
const PAGE: i64 = 50;
const PAGE_MAX: i64 = 100;

/// How old what is shown may be, beside as much in each process's memory.
const SHOWN_FOR: Duration = Duration::from_millis(500);

/// A coupon as shown.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CouponView {
    pub coupon_id: CouponId,
    pub name: String,
    pub discount: Discount,
    pub currency: Currency,
    /// What the coupon's products must cost together.
    pub minimum_amount: i64,
    pub maximum_discount: Option<i64>,
    /// Empty: all.
    pub product_ids: Vec<ProductId>,
    pub total: i64,
    /// As of a second ago.
    pub remaining: i64,
    #[schema(example = "2026-01-01T00:00:00.000Z")]
    pub starts_at: String,
    /// Until then it is issued, and can be used.
    #[schema(example = "2026-01-02T00:00:00.000Z")]
    pub expires_at: String,
    pub restored_on_refund: bool,
    /// No more are issued.
    pub closed: bool,
    /// For `If-Match`.
    pub version: i64,
    #[schema(example = "2026-01-01T00:00:00.000Z")]
    pub created_at: String,
    #[schema(example = "2026-01-01T00:00:00.000Z")]
    pub updated_at: String,
}

#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = coupons)]
pub struct CouponRow {
    pub id: CouponId,
    pub name: String,
    pub discount_kind: DiscountKind,
    pub discount_value: i64,
    pub minimum_amount: i64,
    pub maximum_discount: Option<i64>,
    pub product_ids: Vec<ProductId>,
    pub total: i64,
    pub issued: i64,
    pub starts_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub restored_on_refund: bool,
    pub closed: bool,
    pub version: i64,
    pub fingerprint: Vec<u8>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl From<CouponRow> for CouponView {
    fn from(row: CouponRow) -> Self {
        Self {
            coupon_id: row.id,
            name: row.name,
            discount: Discount { kind: row.discount_kind, value: row.discount_value },
            currency: Currency::Krw,
            minimum_amount: row.minimum_amount,
            maximum_discount: row.maximum_discount,
            product_ids: row.product_ids,
            total: row.total,
            remaining: row.total - row.issued,
            starts_at: time(row.starts_at),
            expires_at: time(row.expires_at),
            restored_on_refund: row.restored_on_refund,
            closed: row.closed,
            version: row.version,
            created_at: time(row.created_at),
            updated_at: time(row.updated_at),
        }
    }
}

/// The column of [`Currency`].
pub const CURRENCY: &str = KRW;

pub fn shown_key(id: CouponId) -> String {
    format!("coupon:{id}:shown")
}

/// The version comes first, for `If-Match`; then what remains, because it is shown as well.
pub fn etag(view: &CouponView) -> String {
    format!("\"{}-{}\"", view.version, view.remaining)
}

/// A coupon. `remaining` is at most a second old.
#[utoipa::path(tag = "coupons", params(("couponId" = CouponId, Path)), responses(
    (status = 200, body = CouponView), (status = 304, description = "Unchanged since the ETag in If-None-Match"),
    (status = 404, body = Problem, description = "COUPON_NOT_FOUND")
))]
#[get("/coupons/{couponId}")]
pub async fn read_coupon(app: Data<App>, request: HttpRequest, id: Path<CouponId>) -> Result<HttpResponse> {
    let id = id.into_inner();
    let load = || async { Ok(CouponView::from(read_row(&mut *app.db.read().await?, id).await?)) };
    let view: CouponView = app.cache.get_or_load(&shown_key(id), SHOWN_FOR, load).await?;
    let (mut response, is_known) = answer_unless_known(&request, &etag(&view));
    response.insert_header((CACHE_CONTROL, "public, max-age=1"));
    Ok(if is_known { response.finish() } else { response.json(view) })
}

/// Refuses with `COUPON_NOT_FOUND`.
pub async fn read_row(conn: &mut AsyncPgConnection, id: CouponId) -> Result<CouponRow> {
    let row = coupons::table.find(id).select(CouponRow::as_select()).first(conn).await.optional()?;
    Ok(row.ok_or(Refused::CouponNotFound(id))?)
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListCoupons {
    /// `nextCursor` of the page before.
    pub cursor: Option<String>,
    /// 1 to 100; 50 unless told.
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<i64>,
}

/// All coupons, the newest first.
#[utoipa::path(tag = "coupons", params(ListCoupons), responses(
    (status = 200, body = Page<CouponView>), (status = 400, body = Problem, description = "VALIDATION_ERROR")
))]
#[get("/coupons")]
pub async fn list_coupons(app: Data<App>, query: Query<ListCoupons>) -> Result<HttpResponse> {
    let limit = Limit::parse(query.limit, PAGE, PAGE_MAX)?;
    let after = parse_cursor::<Cursor>(query.cursor.as_deref())?;
    let mut rows = coupons::table
        .select(CouponRow::as_select())
        .order((coupons::created_at.desc(), coupons::id.desc()))
        .limit(limit.rows())
        .into_boxed();
    if let Some(Cursor { at, id }) = after {
        // The first condition alone is what the index can use.
        rows = rows.filter(coupons::created_at.le(at));
        rows = rows.filter(coupons::created_at.lt(at).or(coupons::id.lt(CouponId::from(id))));
    }
    let rows: Vec<CouponRow> = rows.load(&mut *app.db.read().await?).await?;
    let page = Page::new(rows, limit, |row| Cursor { at: row.created_at, id: row.id.uuid() });
    Ok(HttpResponse::Ok().json(page.map(CouponView::from)))
}
