//! `POST /admin/coupons`, `PATCH /admin/coupons/{couponId}`.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::{ETAG, IF_MATCH, LOCATION};
use actix_web::{HttpRequest, HttpResponse, patch, post};
use chrono::{DateTime, Utc};
use common::auth::Admin;
use common::db::Tx;
use common::http::{Data, Json, Path, Problem, detach};
use common::idempotency::{IdempotencyKey, REPLAYED_HEADER, fingerprint, same_request};
use common::{Refused, Result};
use contract::ids::{CouponId, ProductId};
use contract::money::Currency;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Deserializer, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::App;
use crate::coupon::{Discount, DiscountKind, Name, Offer, Terms};
use crate::load_gate::load_in_time;
use crate::read_coupons::{CURRENCY, CouponRow, CouponView, etag, read_row, shown_key};
use crate::refused;
use crate::schema::coupons;

/// Of the request's shape; see [`fingerprint`].
const FINGERPRINT_VERSION: u8 = 1;

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewCoupon {
    #[schema(value_type = String)]
    name: Name,
    #[serde(deserialize_with = "common::object::one")]
    discount: Discount,
    currency: Currency,
    /// What the coupon's products must cost together; more than a FIXED discount. Absent: 0.
    #[serde(default)]
    minimum_amount: i64,
    /// Absent: no limit.
    maximum_discount: Option<i64>,
    /// At most 200. Absent: all products.
    #[serde(default)]
    product_ids: Vec<ProductId>,
    total: i64,
    #[schema(example = "2026-01-01T00:00:00.000Z")]
    starts_at: DateTime<Utc>,
    #[schema(example = "2026-01-02T00:00:00.000Z")]
    expires_at: DateTime<Utc>,
    /// Whether a refund of the order gives the coupon back.
    restored_on_refund: bool,
}

/// Absent fields stay as they are. Orders that have the coupon already keep what they were told.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CouponChange {
    #[schema(value_type = Option<String>)]
    name: Option<Name>,
    #[serde(default, deserialize_with = "common::object::optional")]
    discount: Option<Discount>,
    minimum_amount: Option<i64>,
    /// Null takes the limit away.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<i64>)]
    maximum_discount: Option<Option<i64>>,
    /// Empty: all products.
    product_ids: Option<Vec<ProductId>>,
    /// Not lower than what is issued.
    total: Option<i64>,
    starts_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
    restored_on_refund: Option<bool>,
    /// True: no more are issued.
    closed: Option<bool>,
}

/// Called only if the field is present: null becomes `Some(None)`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<i64>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// The same key and body give the same coupon, marked `Idempotent-Replayed: true`, as it is now.
#[utoipa::path(tag = "coupons", request_body = NewCoupon, params(("Idempotency-Key" = String, Header)), responses(
    (status = 201, body = CouponView, headers(("Location" = String))),
    (status = 400, body = Problem, description = "VALIDATION_ERROR, IDEMPOTENCY_KEY_REQUIRED"),
    (status = 403, body = Problem, description = "FORBIDDEN"),
    (status = 422, body = Problem, description = "IDEMPOTENCY_KEY_REUSED")
), security(("bearer" = ["ADMIN"])))]
#[post("/admin/coupons")]
pub async fn create_coupon(
    app: Data<App>,
    admin: Admin,
    key: IdempotencyKey,
    body: Json<NewCoupon>,
) -> Result<HttpResponse> {
    let new = body.into_inner();
    new.terms().check()?;
    new.offer().check()?;
    let id = CouponId::derive(&[admin.0.account.as_bytes(), key.as_bytes()]);
    let app = app.into_inner();
    let (row, is_new) =
        detach(async move { app.db.tx("create_coupon", async |tx| insert(tx, id, &new).await).await }).await?;
    let mut response = HttpResponse::Created();
    if !is_new {
        response.insert_header((REPLAYED_HEADER, "true"));
    }
    let view = CouponView::from(row);
    let location = format!("/api/v1/coupons/{id}");
    Ok(response.insert_header((LOCATION, location)).insert_header((ETAG, etag(&view))).json(view))
}

impl NewCoupon {
    fn terms(&self) -> Terms {
        Terms {
            discount: self.discount,
            currency: self.currency,
            minimum_amount: self.minimum_amount,
            maximum_discount: self.maximum_discount,
            products: self.product_ids.clone(),
            restored_on_refund: self.restored_on_refund,
        }
    }

    fn offer(&self) -> Offer {
        let NewCoupon { total, starts_at, expires_at, .. } = *self;
        Offer { total, issued: 0, starts_at, expires_at, closed: false }
    }
}

#[derive(Insertable)]
#[diesel(table_name = coupons)]
struct NewRow<'a> {
    id: CouponId,
    name: &'a str,
    discount_kind: DiscountKind,
    discount_value: i64,
    currency: &'static str,
    minimum_amount: i64,
    maximum_discount: Option<i64>,
    product_ids: &'a [ProductId],
    total: i64,
    starts_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    restored_on_refund: bool,
    fingerprint: Vec<u8>,
}

/// The coupon, and whether it is new. Refuses with `IDEMPOTENCY_KEY_REUSED` if the key belongs to another request.
async fn insert(tx: &mut Tx, id: CouponId, new: &NewCoupon) -> Result<(CouponRow, bool)> {
    let fingerprint = fingerprint(FINGERPRINT_VERSION, new);
    let row = NewRow {
        id,
        name: new.name.as_str(),
        discount_kind: new.discount.kind,
        discount_value: new.discount.value,
        currency: CURRENCY,
        minimum_amount: new.minimum_amount,
        maximum_discount: new.maximum_discount,
        product_ids: &new.product_ids,
        total: new.total,
        starts_at: new.starts_at,
        expires_at: new.expires_at,
        restored_on_refund: new.restored_on_refund,
        fingerprint: fingerprint.clone(),
    };
    let inserted = diesel::insert_into(coupons::table).values(&row).on_conflict_do_nothing().execute(tx).await?;
    let row = read_row(tx, id).await?;
    same_request(&row.fingerprint, &fingerprint)?;
    if inserted > 0 {
        tracing::info!(coupon.id = %id, coupon.total = new.total, "Created coupon {id}");
    }
    Ok((row, inserted > 0))
}

/// Changes only the version that `If-Match` names.
#[utoipa::path(tag = "coupons", params(("couponId" = CouponId, Path), ("If-Match" = String, Header)),
    request_body = CouponChange, responses(
    (status = 200, body = CouponView),
    (status = 400, body = Problem, description = "VALIDATION_ERROR"),
    (status = 403, body = Problem, description = "FORBIDDEN"),
    (status = 404, body = Problem, description = "COUPON_NOT_FOUND"),
    (status = 412, body = Problem, description = "VERSION_CONFLICT")
), security(("bearer" = ["ADMIN"])))]
#[patch("/admin/coupons/{couponId}")]
pub async fn change_coupon(
    app: Data<App>,
    request: HttpRequest,
    _: Admin,
    id: Path<CouponId>,
    body: Json<CouponChange>,
) -> Result<HttpResponse> {
    let (id, change) = (id.into_inner(), body.into_inner());
    let version = expected_version(&request)?;
    let app = app.into_inner();
    let view = detach(async move { change_and_load(&app, id, version, &change).await }).await?;
    Ok(HttpResponse::Ok().insert_header((ETAG, etag(&view))).json(view))
}

async fn change_and_load(
    app: &Arc<App>,
    id: CouponId,
    version: Option<i64>,
    change: &CouponChange,
) -> Result<CouponView> {
    let (row, epoch) = app.db.tx("change_coupon", async |tx| update(tx, id, version, change).await).await?;
    // What the old gate lets through is refused by PostgreSQL from here on, and its requests wait for the new one.
    app.gate.note_epoch(id, epoch);
    app.db.point("coupon.after_change").await;
    if let Err(error) = load_since(app, id, epoch).await {
        tracing::warn!(
            coupon.id = %id, %error,
            "The gate of coupon {id} is not loaded after a change; the loop load_old_gates tries again"
        );
    }
    app.cache.invalidate(&[shown_key(id).as_str()]).await;
    Ok(CouponView::from(row))
}

/// Loads the gate that follows the change. Another process may be loading one that it has counted before.
async fn load_since(app: &Arc<App>, id: CouponId, epoch: i64) -> Result<()> {
    let deadline = Instant::now() + Duration::from_millis(app.gate.settings.wait_ms);
    while app.gate.epoch(id) <= epoch {
        load_in_time(app, id, epoch, deadline).await?;
    }
    Ok(())
}

/// The version in `If-Match`: the ETag of a read, or its first part alone. None: `*`, any version.
fn expected_version(request: &HttpRequest) -> Result<Option<i64>, Refused> {
    let header = request.headers().get(IF_MATCH).and_then(|value| value.to_str().ok()).map(str::trim);
    let invalid = || Refused::invalid("If-Match", "Send the ETag of the coupon as you read it.");
    match header.ok_or_else(invalid)? {
        "*" => Ok(None),
        tag => {
            let tag = tag.trim_start_matches("W/").trim_matches('"');
            let version = tag.split_once('-').map_or(tag, |(version, _)| version);
            version.parse().map(Some).map_err(|_| invalid())
        }
    }
}

/// The changed coupon, and its new epoch.
async fn update(tx: &mut Tx, id: CouponId, expected: Option<i64>, change: &CouponChange) -> Result<(CouponRow, i64)> {
    let old = coupons::table.find(id).select(CouponRow::as_select()).for_no_key_update().first(tx).await.optional()?;
    let old = old.ok_or(refused::Refused::CouponNotFound(id))?;
    if expected.is_some_and(|expected| expected != old.version) {
        return Err(refused::Refused::VersionConflict { current: old.version }.into());
    }
    let terms = Terms {
        discount: change.discount.unwrap_or(Discount { kind: old.discount_kind, value: old.discount_value }),
        currency: Currency::Krw,
        minimum_amount: change.minimum_amount.unwrap_or(old.minimum_amount),
        maximum_discount: change.maximum_discount.unwrap_or(old.maximum_discount),
        products: change.product_ids.clone().unwrap_or(old.product_ids),
        restored_on_refund: change.restored_on_refund.unwrap_or(old.restored_on_refund),
    };
    let offer = Offer {
        total: change.total.unwrap_or(old.total),
        issued: old.issued,
        starts_at: change.starts_at.unwrap_or(old.starts_at),
        expires_at: change.expires_at.unwrap_or(old.expires_at),
        closed: change.closed.unwrap_or(old.closed),
    };
    terms.check()?;
    offer.check()?;
    let columns = (
        coupons::name.eq(change.name.as_ref().map_or(old.name.as_str(), Name::as_str)),
        coupons::discount_kind.eq(terms.discount.kind),
        coupons::discount_value.eq(terms.discount.value),
        coupons::minimum_amount.eq(terms.minimum_amount),
        coupons::maximum_discount.eq(terms.maximum_discount),
        coupons::product_ids.eq(&terms.products),
        coupons::restored_on_refund.eq(terms.restored_on_refund),
        coupons::total.eq(offer.total),
        coupons::starts_at.eq(offer.starts_at),
        coupons::expires_at.eq(offer.expires_at),
        coupons::closed.eq(offer.closed),
        coupons::epoch.eq(coupons::epoch + 1),
        coupons::version.eq(coupons::version + 1),
        coupons::updated_at.eq(diesel::dsl::now),
    );
    let epoch = diesel::update(coupons::table.find(id)).set(columns).returning(coupons::epoch).get_result(tx).await?;
    Ok((read_row(tx, id).await?, epoch))
}
