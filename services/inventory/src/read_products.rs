//! `GET /products`, `GET /products/{productId}`: from caches that notice when they are outdated.
//!
//! A product is cached for a minute, its units for half a second. Units are read together with the product's version: a
//! cached product with an older version, as a slow reader may leave one, is thrown away. No hold touches a cache, and a
//! page that everybody reloads asks PostgreSQL twice a second.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use actix_web::http::header::CACHE_CONTROL;
use actix_web::{HttpRequest, HttpResponse, get};
use chrono::{DateTime, Utc};
use common::Result;
use common::http::{Data, Path, Problem, Query, answer_unless_known};
use common::text::Text;
use contract::ids::{ConcertId, ProductId};
use contract::money::Money;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::App;
use crate::product::{Product, StockView, time};
use crate::refused::Refused;
use crate::schema::{catalogue, products};
use crate::stock_rows::read_units;

/// More would make one answer too large.
const SIZE_MAX: i64 = 100;
const SIZE: i64 = 20;
/// Rows before a page: PostgreSQL reads them all.
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
    /// `newest` unless told.
    #[param(inline)]
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
        // Searches differ too much to be cached.
        None => show_page(&app, &wanted).await?,
    };
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(&page).map_err(common::Error::fault)?.hash(&mut hasher);
    Ok(answer(&request, &format!("\"{:016x}\"", hasher.finish()), &page))
}

/// The version comes first, for `If-Match`; then the units, because they are shown as well.
pub fn etag(view: &ProductView) -> String {
    format!("\"{}-{}-{}\"", view.product.version, view.stock.available, view.stock.held)
}

/// `body` with its `ETag`, or 304 if the client has it.
pub fn answer(request: &HttpRequest, etag: &str, body: &impl Serialize) -> HttpResponse {
    let (mut response, is_known) = answer_unless_known(request, etag);
    // A second in browsers and proxies: the units may be as old anyway.
    response.insert_header((CACHE_CONTROL, "public, max-age=1"));
    if is_known { response.finish() } else { response.json(body) }
}

/// A checked query.
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

/// Of a product with its units.
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
        total_pages: readable_pages(total, wanted.size),
    })
}

/// The pages that a list announces: no more than can be asked for.
fn readable_pages(total: i64, size: i64) -> i64 {
    ((total + size - 1) / size).min(OFFSET_MAX / size + 1)
}

/// The cached page, unless the catalogue has changed since. One new product moves all pages, so each page carries the
/// version of the catalogue that it was read from.
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

#[derive(Queryable, Selectable)]
#[diesel(table_name = products)]
struct ProductRow {
    id: ProductId,
    sku: String,
    name: String,
    price_amount: i64,
    max_per_user: Option<i32>,
    concert_id: Option<ConcertId>,
    version: i64,
    created_at: DateTime<Utc>,
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
            concert_id: row.concert_id,
            version: row.version,
            created_at: time(row.created_at),
            updated_at: time(row.updated_at),
        }
    }
}

/// In no particular order.
pub async fn read_products_by_id(conn: &mut AsyncPgConnection, ids: &[ProductId]) -> Result<Vec<Product>> {
    let query = products::table.filter(products::id.eq_any(ids)).select(ProductRow::as_select());
    let rows: Vec<ProductRow> = query.load(conn).await?;
    Ok(rows.into_iter().map(Product::from).collect())
}

/// A product and its units straight from PostgreSQL.
pub async fn read_view(conn: &mut AsyncPgConnection, app: &App, id: ProductId) -> Result<ProductView> {
    let product = read_products_by_id(conn, &[id]).await?.pop().ok_or(Refused::ProductNotFound(id))?;
    let units = read_units(conn, &[id]).await?.remove(&id).ok_or(Refused::ProductNotFound(id))?;
    let stock = StockView::new(units.on_hand, units.held, app.products.low_stock_units);
    Ok(ProductView { product, stock })
}

async fn read_catalogue_version(conn: &mut AsyncPgConnection) -> Result<i64> {
    Ok(catalogue::table.select(catalogue::version).first(conn).await?)
}

async fn read_catalogue_page(conn: &mut AsyncPgConnection, wanted: &Listing) -> Result<CataloguePage> {
    // The version first: if a product changes between the statements, the page looks older than it is, never newer.
    let catalogue = read_catalogue_version(conn).await?;
    let mut total = products::table.count().into_boxed();
    let mut page = products::table.select(ProductRow::as_select()).into_boxed();
    if let Some(q) = &wanted.q {
        let pattern = format!("%{}%", escape_like(q));
        total = total.filter(products::name.ilike(pattern.clone()).or(products::sku.ilike(pattern.clone())));
        page = page.filter(products::name.ilike(pattern.clone()).or(products::sku.ilike(pattern)));
    }
    page = match wanted.sort {
        Sort::Newest => page.order((products::created_at.desc(), products::id.desc())),
        // Unicode's order with Korean first, whatever the server's locale; case decides only between equals.
        Sort::Name => page.order((sql::<diesel::sql_types::Text>("products.name collate \"ko-x-icu\""), products::id)),
        Sort::Cheapest => page.order((products::price_amount, products::id)),
        Sort::Dearest => page.order((products::price_amount.desc(), products::id)),
    };
    let total = total.get_result(conn).await?;
    let rows: Vec<ProductRow> = page.limit(wanted.size).offset(wanted.page * wanted.size).load(conn).await?;
    Ok(CataloguePage { catalogue, total, products: rows.into_iter().map(Product::from).collect() })
}

/// `LIKE` takes the text literally then.
fn escape_like(text: &str) -> String {
    text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_page_is_announced_that_is_refused() {
        assert_eq!((readable_pages(0, 20), readable_pages(20, 20), readable_pages(21, 20)), (0, 1, 2));
        for size in [1, 7, 20, 100] {
            let last = readable_pages(1_000_000, size) - 1;
            let query = |page| ProductsQuery { page: Some(page), size: Some(size), q: None, sort: None };
            assert!(Listing::new(query(last)).is_ok() && Listing::new(query(last + 1)).is_err(), "{size}");
        }
    }
}
