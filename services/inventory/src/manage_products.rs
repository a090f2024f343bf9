//! `POST /admin/products`, `PATCH /admin/products/{productId}`.

use actix_web::http::header::{ETAG, IF_MATCH, LOCATION};
use actix_web::{HttpRequest, HttpResponse, patch, post};
use common::auth::Admin;
use common::db::Tx;
use common::http::{Data, Json, Path, Problem, detach};
use common::{Refused, Result};
use contract::ids::{ConcertId, ProductId};
use contract::money::{KRW, Money};
use diesel::dsl::now;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::App;
use crate::product::{Name, Sku, check_limit, check_price};
use crate::read_products::{ProductView, etag, product_key, read_view, shown_key};
use crate::refused;
use crate::schema::{catalogue, products, stocks};
use crate::stock::ON_HAND_MAX;
use crate::stock_rows::{NewAudit, insert_audit};

#[derive(Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewProduct {
    /// Unique.
    #[schema(value_type = String)]
    sku: Sku,
    #[schema(value_type = String)]
    name: Name,
    #[serde(deserialize_with = "common::object::one")]
    price: Money,
    initial_stock: i64,
    /// Units that one buyer may hold and own together; absent: no limit.
    max_per_user: Option<i32>,
}

/// Absent fields stay as they are. Holds that exist keep their price.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProductChange {
    #[schema(value_type = Option<String>)]
    name: Option<Name>,
    #[serde(default, deserialize_with = "common::object::optional")]
    price: Option<Money>,
    /// Null takes the limit away.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<i32>)]
    max_per_user: Option<Option<i32>>,
}

/// Called only if the field is present: null becomes `Some(None)`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<i32>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// A repeat is refused, because its SKU exists.
#[utoipa::path(tag = "products", request_body = NewProduct, responses(
    (status = 201, body = ProductView, headers(("Location" = String))),
    (status = 400, body = Problem, description = "VALIDATION_ERROR"),
    (status = 403, body = Problem, description = "FORBIDDEN"),
    (status = 409, body = Problem, description = "SKU_ALREADY_EXISTS")
), security(("bearer" = ["ADMIN"])))]
#[post("/admin/products")]
pub async fn create_product(app: Data<App>, admin: Admin, body: Json<NewProduct>) -> Result<HttpResponse> {
    let new = body.into_inner();
    check_price(&new.price)?;
    check_limit(new.max_per_user)?;
    if !(0..=ON_HAND_MAX).contains(&new.initial_stock) {
        return Err(Refused::invalid("initialStock", format!("must be 0 to {ON_HAND_MAX}")).into());
    }
    let app = app.into_inner();
    let view = detach(async move { create(&app, &new, admin).await }).await?;
    let location = format!("/api/v1/products/{}", view.product.product_id);
    Ok(HttpResponse::Created().insert_header((LOCATION, location)).insert_header((ETAG, etag(&view))).json(view))
}

async fn create(app: &App, new: &NewProduct, admin: Admin) -> Result<ProductView> {
    let id = ProductId::generate();
    let view = app.db.tx("create_product", async |tx| insert(tx, app, id, new, admin.0.account).await).await?;
    tracing::info!(product.id = %id, stock.units = new.initial_stock, "Created product {id}");
    Ok(view)
}

#[derive(Insertable)]
#[diesel(table_name = products)]
pub struct ProductRow<'a> {
    pub id: ProductId,
    pub sku: &'a str,
    pub name: &'a str,
    pub price_amount: i64,
    pub currency: &'static str,
    pub max_per_user: Option<i32>,
    pub concert_id: Option<ConcertId>,
}

async fn insert(tx: &mut Tx, app: &App, id: ProductId, new: &NewProduct, actor: Uuid) -> Result<ProductView> {
    let row = ProductRow {
        id,
        sku: new.sku.as_str(),
        name: new.name.as_str(),
        price_amount: new.price.amount,
        currency: KRW,
        max_per_user: new.max_per_user,
        concert_id: None,
    };
    insert_product(tx, &row, new.initial_stock, actor).await?;
    read_view(tx, app, id).await
}

/// Stores a product with its stock and its first movement of units. Refuses with `SKU_ALREADY_EXISTS`.
pub async fn insert_product(tx: &mut Tx, row: &ProductRow<'_>, units: i64, actor: Uuid) -> Result<()> {
    let insert = diesel::insert_into(products::table).values(row).on_conflict(products::sku).do_nothing();
    if insert.execute(tx).await? == 0 {
        return Err(refused::Refused::SkuExists.into());
    }
    let stock_version = diesel::insert_into(stocks::table)
        .values((stocks::product_id.eq(row.id), stocks::on_hand.eq(units)))
        .returning(stocks::version)
        .get_result(tx)
        .await?;
    let audit = NewAudit {
        product_id: row.id,
        adjustment_id: None,
        kind: "INITIAL",
        delta: units,
        on_hand_after: units,
        held_after: 0,
        stock_version,
        reason: None,
        reference: None,
        actor,
        fingerprint: None,
    };
    insert_audit(tx, &audit).await?;
    raise_catalogue_version(tx).await
}

/// Last in its transaction, because all changes of products wait for this one row.
async fn raise_catalogue_version(tx: &mut Tx) -> Result<()> {
    diesel::update(catalogue::table).set(catalogue::version.eq(catalogue::version + 1)).execute(tx).await?;
    Ok(())
}

/// Changes only the version that `If-Match` names.
#[utoipa::path(tag = "products", params(("productId" = ProductId, Path), ("If-Match" = String, Header)),
    request_body = ProductChange, responses(
    (status = 200, body = ProductView),
    (status = 400, body = Problem, description = "VALIDATION_ERROR"),
    (status = 404, body = Problem, description = "PRODUCT_NOT_FOUND"),
    (status = 412, body = Problem, description = "VERSION_CONFLICT")
), security(("bearer" = ["ADMIN"])))]
#[patch("/admin/products/{productId}")]
pub async fn change_product(
    app: Data<App>,
    request: HttpRequest,
    _: Admin,
    id: Path<ProductId>,
    body: Json<ProductChange>,
) -> Result<HttpResponse> {
    let (id, change) = (id.into_inner(), body.into_inner());
    let version = expected_version(&request)?;
    if let Some(price) = &change.price {
        check_price(price)?;
    }
    check_limit(change.max_per_user.flatten())?;
    let app = app.into_inner();
    let view = detach(async move {
        let view = app.db.tx("change_product", async |tx| update(tx, &app, id, version, &change).await).await?;
        // After the commit. A reader that still puts the old product into the cache is found out by its version.
        app.cache.invalidate(&[product_key(id).as_str(), shown_key(id).as_str()]).await;
        Ok(view)
    })
    .await?;
    Ok(HttpResponse::Ok().insert_header((ETAG, etag(&view))).json(view))
}

/// The version in `If-Match`: the ETag of a read, or its first part alone. None: `*`, any version.
fn expected_version(request: &HttpRequest) -> Result<Option<i64>, Refused> {
    let header = request.headers().get(IF_MATCH).and_then(|value| value.to_str().ok()).map(str::trim);
    let invalid = || Refused::invalid("If-Match", "Send the ETag of the product as you read it.");
    match header.ok_or_else(invalid)? {
        "*" => Ok(None),
        tag => {
            let bare = tag.trim_start_matches("W/").trim_matches('"');
            let version = bare.split('-').next().and_then(|version| version.parse().ok());
            version.map(Some).ok_or_else(invalid)
        }
    }
}

#[derive(AsChangeset)]
#[diesel(table_name = products)]
struct ProductColumns<'a> {
    name: Option<&'a str>,
    price_amount: Option<i64>,
    max_per_user: Option<Option<i32>>,
}

async fn update(
    tx: &mut Tx,
    app: &App,
    id: ProductId,
    expected: Option<i64>,
    change: &ProductChange,
) -> Result<ProductView> {
    let columns = ProductColumns {
        name: change.name.as_ref().map(Name::as_str),
        price_amount: change.price.as_ref().map(|price| price.amount),
        max_per_user: change.max_per_user,
    };
    let mut update = diesel::update(products::table)
        .filter(products::id.eq(id))
        .set((columns, products::version.eq(products::version + 1), products::updated_at.eq(now)))
        .into_boxed();
    if let Some(version) = expected {
        update = update.filter(products::version.eq(version));
    }
    if update.execute(tx).await? == 0 {
        let current = products::table.find(id).select(products::version).first(tx).await.optional()?;
        return Err(match current {
            None => refused::Refused::ProductNotFound(id).into(),
            Some(current) => refused::Refused::VersionConflict { current }.into(),
        });
    }
    raise_catalogue_version(tx).await?;
    read_view(tx, app, id).await
}
