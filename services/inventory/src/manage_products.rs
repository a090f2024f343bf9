//! `POST /admin/products`, `PATCH /admin/products/{productId}`.

use actix_web::http::header::{ETAG, IF_MATCH, LOCATION};
use actix_web::{HttpRequest, HttpResponse, patch, post};
use common::auth::Admin;
use common::http::{Data, Json, Path, Problem, detach};
use common::{Refused, Result};
use contract::ids::ProductId;
use contract::money::{KRW, Money};
use diesel::sql_types::{BigInt, Bool, Integer, Nullable, Text as SqlText, Uuid};
use diesel::{OptionalExtension, QueryableByName, sql_query};
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use crate::App;
use crate::product::{Name, Sku, check_limit, check_price};
use crate::read_products::{ProductView, etag, product_key, read_view, shown_key};
use crate::refused;
use crate::stock::ON_HAND_MAX;

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

/// Tells null from absent.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<i32>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// A repeat is refused by its SKU.
#[utoipa::path(tag = "products", request_body = NewProduct, responses(
    (status = 201, body = ProductView, headers(("Location" = String))),
    (status = 400, body = Problem, description = "VALIDATION_ERROR"),
    (status = 403, body = Problem, description = "FORBIDDEN"),
    (status = 409, body = Problem, description = "SKU_ALREADY_EXISTS")
), security(("bearer" = [])))]
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
    let view = app
        .db
        .tx("create_product", async |tx| {
            let inserted = sql_query(
                "insert into products (id, sku, name, price_amount, currency, max_per_user)
                 values ($1, $2, $3, $4, $5, $6)
                     on conflict (sku) do nothing",
            )
            .bind::<Uuid, _>(id)
            .bind::<SqlText, _>(new.sku.as_str())
            .bind::<SqlText, _>(new.name.as_str())
            .bind::<BigInt, _>(new.price.amount)
            .bind::<SqlText, _>(KRW)
            .bind::<Nullable<Integer>, _>(new.max_per_user)
            .execute(tx)
            .await?;
            if inserted == 0 {
                return Err(refused::Refused::SkuExists.into());
            }
            sql_query(
                "with stock as (
                    insert into stocks (product_id, on_hand)
                    values ($1, $2)
                    returning product_id, on_hand, held, version
                 ), changed as (
                    update catalogue set version = version + 1
                 )
                 insert into product_stock_audit
                        (product_id, kind, delta, on_hand_after, held_after, stock_version, actor)
                 select product_id, 'INITIAL', on_hand, on_hand, held, version, $3
                   from stock",
            )
            .bind::<Uuid, _>(id)
            .bind::<BigInt, _>(new.initial_stock)
            .bind::<Uuid, _>(admin.0.account)
            .execute(tx)
            .await?;
            read_view(tx, app, id).await
        })
        .await?;
    tracing::info!(product.id = %id, stock.units = new.initial_stock, "Created product {id}");
    Ok(view)
}

/// Refuses a change of anything but the version that `If-Match` names.
#[utoipa::path(tag = "products", params(("productId" = ProductId, Path), ("If-Match" = String, Header)),
    request_body = ProductChange, responses(
    (status = 200, body = ProductView),
    (status = 400, body = Problem, description = "VALIDATION_ERROR"),
    (status = 404, body = Problem, description = "PRODUCT_NOT_FOUND"),
    (status = 412, body = Problem, description = "VERSION_CONFLICT")
), security(("bearer" = [])))]
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
        let view = app.db.tx("change_product", async |tx| apply(tx, &app, id, version, &change).await).await?;
        // After the commit. A reader that read before it and writes after this is found out by the version.
        app.cache.invalidate(&[product_key(id).as_str(), shown_key(id).as_str()]).await;
        Ok(view)
    })
    .await?;
    Ok(HttpResponse::Ok().insert_header((ETAG, etag(&view))).json(view))
}

/// The version in `If-Match`: the tag of a read, or its first part alone. `*` matches whatever is there.
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

#[derive(QueryableByName)]
struct VersionRow {
    #[diesel(sql_type = BigInt)]
    version: i64,
}

async fn apply(
    tx: &mut common::db::Tx,
    app: &App,
    id: ProductId,
    expected: Option<i64>,
    change: &ProductChange,
) -> Result<ProductView> {
    let changed = sql_query(
        "with changed as (
            update products
               set name = coalesce($3, name),
                   price_amount = coalesce($4, price_amount),
                   max_per_user = case when $5 then $6 else max_per_user end,
                   version = version + 1,
                   updated_at = clock_timestamp()
             where id = $1
               and ($2 is null or version = $2)
            returning id
         )
         update catalogue
            set version = catalogue.version + 1
           from changed",
    )
    .bind::<Uuid, _>(id)
    .bind::<Nullable<BigInt>, _>(expected)
    .bind::<Nullable<SqlText>, _>(change.name.as_ref().map(Name::as_str))
    .bind::<Nullable<BigInt>, _>(change.price.as_ref().map(|price| price.amount))
    .bind::<Bool, _>(change.max_per_user.is_some())
    .bind::<Nullable<Integer>, _>(change.max_per_user.flatten())
    .execute(tx)
    .await?;
    if changed == 0 {
        let row: Option<VersionRow> = sql_query("select version from products where id = $1")
            .bind::<Uuid, _>(id)
            .get_result(tx)
            .await
            .optional()?;
        return Err(match row {
            None => refused::Refused::ProductNotFound(id).into(),
            Some(row) => refused::Refused::VersionConflict { current: row.version }.into(),
        });
    }
    read_view(tx, app, id).await
}
