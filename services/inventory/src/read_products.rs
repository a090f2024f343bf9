//! `GET /products`, `GET /products/{productId}`: from caches that know when they are wrong.
//!
//! A product is cached for long and its units for half a second. Units are read together with the product's version,
//! so a reader that was slow and put an old product back is found out by the next look: what is older than the version
//! is thrown away. No hold has to touch a cache, and a page that everybody reloads asks PostgreSQL twice a second.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use actix_web::http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use actix_web::{HttpRequest, HttpResponse, get};
use chrono::{DateTime, Utc};
use common::Result;
use common::db::Prepared;
use common::http::{Data, Path, Problem, Query};
use common::text::Text;
use contract::ids::ProductId;
use contract::money::Money;
use diesel::sql_types::{Array, BigInt, Integer, Nullable, Text as SqlText, Timestamptz, Uuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::App;
use crate::product::{Product, StockView, time};
use crate::refused::Refused;

/// More would make one answer too large.
const SIZE_MAX: i64 = 100;
const SIZE: i64 = 20;
/// Rows that a page may lie behind: PostgreSQL has to count through them.
const OFFSET_MAX: i64 = 10_000;

/// Section `[inventory.products]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProductSettings {
    pub product_cache_seconds: u64,
    pub list_cache_seconds: u64,
    pub stock_cache_ms: u64,
    pub low_stock_units: i64,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ProductsQuery {
    /// From 0.
    page: Option<i64>,
    size: Option<i64>,
    /// Part of the name or of the SKU.
    #[param(value_type = Option<String>)]
    q: Option<Text<1, 100>>,
    sort: Option<Sort>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
pub enum Sort {
    #[default]
    #[serde(rename = "newest")]
    Newest,
    #[serde(rename = "name")]
    Name,
    #[serde(rename = "price")]
    Cheapest,
    #[serde(rename = "-price")]
    Dearest,
}

/// A product as shown.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ProductView {
    #[serde(flatten)]
    pub product: Product,
    pub stock: StockView,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProductsPage {
    content: Vec<ProductView>,
    page: i64,
    size: i64,
    total_elements: i64,
    total_pages: i64,
}

/// Units are at most a second old.
#[utoipa::path(tag = "products", params(("productId" = ProductId, Path)), responses(
    (status = 200, body = ProductView), (status = 304, description = "unchanged since the ETag in If-None-Match"),
    (status = 404, body = Problem, description = "PRODUCT_NOT_FOUND")
))]
#[get("/products/{productId}")]
pub async fn read_product(app: Data<App>, request: HttpRequest, id: Path<ProductId>) -> Result<HttpResponse> {
    let id = id.into_inner();
    let shown_for = Duration::from_millis(app.products.stock_cache_ms);
    let load = || async { shown(&app, &[id]).await?.pop().ok_or_else(|| Refused::ProductNotFound(id).into()) };
    let view: ProductView = app.cache.get_or_load(&shown_key(id), shown_for, load).await?;
    Ok(answer(&request, &etag(&view), &view))
}

/// In pages, newest first unless `sort` says otherwise. Units are at most a second old.
#[utoipa::path(tag = "products", params(ProductsQuery), responses(
    (status = 200, body = ProductsPage), (status = 304, description = "unchanged since the ETag in If-None-Match"),
    (status = 400, body = Problem, description = "VALIDATION_ERROR")
))]
#[get("/products")]
pub async fn list_products(app: Data<App>, request: HttpRequest, query: Query<ProductsQuery>) -> Result<HttpResponse> {
    let wanted = Listing::new(query.into_inner())?;
    let shown_for = Duration::from_millis(app.products.stock_cache_ms);
    let page: ProductsPage = match wanted.key() {
        Some(key) => {
            let shown = format!("{key}:shown");
            app.cache.get_or_load(&shown, shown_for, || show_page(&app, &wanted)).await?
        }
        // What people search for is too various to be kept.
        None => show_page(&app, &wanted).await?,
    };
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(&page).map_err(common::Error::fault)?.hash(&mut hasher);
    Ok(answer(&request, &format!("\"{:016x}\"", hasher.finish()), &page))
}

/// The version leads, so that the tag of a read can be sent back in `If-Match`; the units follow, because they show too.
pub fn etag(view: &ProductView) -> String {
    format!("\"{}-{}-{}\"", view.product.version, view.stock.available, view.stock.held)
}

fn answer(request: &HttpRequest, etag: &str, body: &impl Serialize) -> HttpResponse {
    let known = request.headers().get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let unchanged = known.is_some_and(|known| known.split(',').any(|tag| tag.trim() == etag || tag.trim() == "*"));
    let mut response = if unchanged { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    // A second in browsers and edges: as fresh as the units are anyway.
    response.insert_header((ETAG, etag)).insert_header((CACHE_CONTROL, "public, max-age=1"));
    if unchanged { response.finish() } else { response.json(body) }
}

/// What a checked query asks for.
#[derive(Debug)]
struct Listing {
    page: i64,
    size: i64,
    q: Option<String>,
    sort: Sort,
}

impl Listing {
    fn new(query: ProductsQuery) -> Result<Listing, common::Refused> {
        let ProductsQuery { page, size, q, sort } = query;
        let (page, size) = (page.unwrap_or(0), size.unwrap_or(SIZE));
        if !(1..=SIZE_MAX).contains(&size) {
            return Err(common::Refused::invalid("size", format!("must be 1 to {SIZE_MAX}")));
        }
        if page < 0 || page.checked_mul(size).is_none_or(|offset| offset > OFFSET_MAX) {
            return Err(common::Refused::invalid("page", format!("must be 0 to {}", OFFSET_MAX / size)));
        }
        Ok(Listing { page, size, q: q.map(Text::into_string), sort: sort.unwrap_or_default() })
    }

    fn key(&self) -> Option<String> {
        let Listing { page, size, q, sort } = self;
        match (q, sort) {
            (Some(_), _) => None,
            (None, Sort::Newest) => Some(format!("product:list:{page}:{size}")),
            (None, sort) => Some(format!("product:list:{page}:{size}:{sort:?}")),
        }
    }
}

pub fn product_key(id: ProductId) -> String {
    format!("product:{id}")
}

/// Where a product is kept together with its units.
pub fn shown_key(id: ProductId) -> String {
    format!("product:{id}:shown")
}

/// Products with their units as of now, in the order of `ids`; unknown ones are left out.
async fn shown(app: &App, ids: &[ProductId]) -> Result<Vec<ProductView>> {
    let units = read_units(&mut *app.db.read().await?, ids).await?;
    let mut views = Vec::with_capacity(ids.len());
    for id in ids {
        let Some(units) = units.get(id) else { continue };
        let stock = StockView::new(units.on_hand, units.held, app.products.low_stock_units);
        views.push(ProductView { product: product_at(app, *id, units.product_version).await?, stock });
    }
    Ok(views)
}

/// The cached product, unless it is older than `version`.
async fn product_at(app: &App, id: ProductId, version: i64) -> Result<Product> {
    let (key, kept_for) = (product_key(id), Duration::from_secs(app.products.product_cache_seconds));
    let load = || async { read_row(app, id).await };
    let cached: Product = app.cache.get_or_load(&key, kept_for, load).await?;
    if cached.version >= version {
        return Ok(cached);
    }
    app.cache.invalidate(&[key.as_str()]).await;
    app.cache.get_or_load(&key, kept_for, load).await
}

async fn read_row(app: &App, id: ProductId) -> Result<Product> {
    let mut products = read_products_by_id(&mut *app.db.read().await?, &[id]).await?;
    products.pop().ok_or_else(|| Refused::ProductNotFound(id).into())
}

/// One page of the catalogue without units, and the version of the catalogue it was read from.
#[derive(Clone, Serialize, Deserialize)]
struct CataloguePage {
    catalogue: i64,
    total: i64,
    products: Vec<Product>,
}

async fn show_page(app: &App, wanted: &Listing) -> Result<ProductsPage> {
    let CataloguePage { total, products, .. } = catalogue_page(app, wanted).await?;
    let ids: Vec<ProductId> = products.iter().map(|product| product.product_id).collect();
    let units = read_units(&mut *app.db.read().await?, &ids).await?;
    let view = |product: Product| {
        let units = units.get(&product.product_id)?;
        let stock = StockView::new(units.on_hand, units.held, app.products.low_stock_units);
        Some(ProductView { product, stock })
    };
    Ok(ProductsPage {
        content: products.into_iter().filter_map(view).collect(),
        page: wanted.page,
        size: wanted.size,
        total_elements: total,
        total_pages: (total + wanted.size - 1) / wanted.size,
    })
}

/// The cached page, unless the catalogue has changed since: any page may be moved by one new product, so pages are not
/// deleted one by one but carry the version they were read at.
async fn catalogue_page(app: &App, wanted: &Listing) -> Result<CataloguePage> {
    let load = || async { read_catalogue_page(&mut *app.db.read().await?, wanted).await };
    let Some(key) = wanted.key() else { return load().await };
    let kept_for = Duration::from_secs(app.products.list_cache_seconds);
    let cached: CataloguePage = app.cache.get_or_load(&key, kept_for, load).await?;
    let version = read_catalogue_version(&mut *app.db.read().await?).await?;
    if cached.catalogue >= version {
        return Ok(cached);
    }
    app.cache.invalidate(&[key.as_str()]).await;
    app.cache.get_or_load(&key, kept_for, load).await
}

#[derive(QueryableByName)]
struct UnitsRow {
    #[diesel(sql_type = Uuid)]
    product_id: ProductId,
    #[diesel(sql_type = BigInt)]
    product_version: i64,
    #[diesel(sql_type = BigInt)]
    on_hand: i64,
    #[diesel(sql_type = BigInt)]
    held: i64,
}

/// Units and product versions. What has lapsed is not held any more, whether or not the sweeper has come.
async fn read_units(conn: &mut AsyncPgConnection, ids: &[ProductId]) -> Result<HashMap<ProductId, UnitsRow>> {
    let rows: Vec<UnitsRow> = Prepared(
        sql_query(
            "select stocks.product_id, products.version as product_version, stocks.on_hand,
                (stocks.held - coalesce(lapsed.units, 0))::bigint as held
           from stocks
           join products on products.id = stocks.product_id
           left join (
                select hold_lines.product_id, sum(hold_lines.quantity) as units
                  from holds
                  join hold_lines on hold_lines.hold_id = holds.hold_id
                 where holds.state = 'HELD' and holds.expires_at <= statement_timestamp()
                 group by hold_lines.product_id
                ) as lapsed on lapsed.product_id = stocks.product_id
          where stocks.product_id = any($1)",
        )
        .bind::<Array<Uuid>, _>(ids),
    )
    .load(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.product_id, row)).collect())
}

#[derive(QueryableByName)]
struct ProductRow {
    #[diesel(sql_type = Uuid)]
    id: ProductId,
    #[diesel(sql_type = SqlText)]
    sku: String,
    #[diesel(sql_type = SqlText)]
    name: String,
    #[diesel(sql_type = BigInt)]
    price_amount: i64,
    #[diesel(sql_type = Nullable<Integer>)]
    max_per_user: Option<i32>,
    #[diesel(sql_type = BigInt)]
    version: i64,
    #[diesel(sql_type = Timestamptz)]
    created_at: DateTime<Utc>,
    #[diesel(sql_type = Timestamptz)]
    updated_at: DateTime<Utc>,
}

impl From<ProductRow> for Product {
    fn from(row: ProductRow) -> Product {
        Product {
            product_id: row.id,
            sku: row.sku,
            name: row.name,
            price: Money::krw(row.price_amount),
            max_per_user: row.max_per_user,
            version: row.version,
            created_at: time(row.created_at),
            updated_at: time(row.updated_at),
        }
    }
}

/// In no particular order.
pub async fn read_products_by_id(conn: &mut AsyncPgConnection, ids: &[ProductId]) -> Result<Vec<Product>> {
    let rows: Vec<ProductRow> = Prepared(
        sql_query(
            "select id, sku, name, price_amount, max_per_user, version, created_at, updated_at
               from products
              where id = any($1)",
        )
        .bind::<Array<Uuid>, _>(ids),
    )
    .load(conn)
    .await?;
    Ok(rows.into_iter().map(Product::from).collect())
}

/// A product and its units straight from PostgreSQL.
pub async fn read_view(conn: &mut AsyncPgConnection, app: &App, id: ProductId) -> Result<ProductView> {
    let product = read_products_by_id(conn, &[id]).await?.pop().ok_or(Refused::ProductNotFound(id))?;
    let units = read_units(conn, &[id]).await?.remove(&id).ok_or(Refused::ProductNotFound(id))?;
    let stock = StockView::new(units.on_hand, units.held, app.products.low_stock_units);
    Ok(ProductView { product, stock })
}

#[derive(QueryableByName)]
struct NumberRow {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

async fn read_catalogue_version(conn: &mut AsyncPgConnection) -> Result<i64> {
    let row: NumberRow = Prepared(sql_query("select version as number from catalogue")).get_result(conn).await?;
    Ok(row.number)
}

async fn read_catalogue_page(conn: &mut AsyncPgConnection, wanted: &Listing) -> Result<CataloguePage> {
    // The version first: a change that commits between the statements makes the page look older than it is, never newer.
    let catalogue = read_catalogue_version(conn).await?;
    let pattern = wanted.q.as_deref().map(|q| format!("%{}%", escape_like(q)));
    let total: NumberRow =
        sql_query("select count(*) as number from products where $1 is null or name ilike $1 or sku ilike $1")
            .bind::<Nullable<SqlText>, _>(&pattern)
            .get_result(conn)
            .await?;
    let order = match wanted.sort {
        Sort::Newest => "created_at desc, id desc",
        Sort::Name => "name, id",
        Sort::Cheapest => "price_amount, id",
        Sort::Dearest => "price_amount desc, id",
    };
    let rows: Vec<ProductRow> = sql_query(format!(
        "select id, sku, name, price_amount, max_per_user, version, created_at, updated_at
           from products
          where $1 is null or name ilike $1 or sku ilike $1
          order by {order}
          limit $2 offset $3"
    ))
    .bind::<Nullable<SqlText>, _>(&pattern)
    .bind::<BigInt, _>(wanted.size)
    .bind::<BigInt, _>(wanted.page * wanted.size)
    .load(conn)
    .await?;
    Ok(CataloguePage { catalogue, total: total.number, products: rows.into_iter().map(Product::from).collect() })
}

/// What a person types is text, not a pattern.
fn escape_like(text: &str) -> String {
    text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")
}
