//! `GET /concerts`, `GET /concerts/{concertId}` and `GET /concerts/{concertId}/seats`.
//!
//! What is shown of seats is at most a second old: the seat map that everybody reloads asks PostgreSQL twice a second.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, get};
use chrono::{DateTime, Utc};
use common::Result;
use common::db::Prepared;
use common::http::{Data, Json, Path, Problem, Query};
use common::page::{Cursor, Limit, Page, parse_cursor};
use contract::ids::{ConcertId, ProductId, SeatId};
use contract::money::Money;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Nullable, Text, Timestamptz, Uuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::App;
use crate::hold::HoldState;
use crate::product::{StockView, time};
use crate::read_products::answer;
use crate::refused::Refused;
use crate::schema::{concert, products, stocks};
use crate::seat::SeatStatus;
use crate::stock_rows::read_units;

const PAGE: i64 = 20;
const PAGE_MAX: i64 = 100;

/// A concert without its seats.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = concert)]
pub struct Concert {
    pub concert_id: ConcertId,
    pub title: String,
    pub starts_at: DateTime<Utc>,
    pub max_per_user: Option<i32>,
    pub queue_manage_required: bool,
    pub created_at: DateTime<Utc>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConcertView {
    #[schema(value_type = String, format = Uuid)]
    concert_id: ConcertId,
    title: String,
    #[schema(example = "2026-01-01T00:00:00.000Z")]
    starts_at: String,
    /// Seats that one account may hold and own together; null: no limit.
    max_per_user: Option<i32>,
    /// Whether seats are reserved with a pass of its waiting room only: `X-Queue-Token`. By the concert, or by its sale event.
    queue_manage_required: bool,
    categories: Vec<CategoryView>,
}

/// The seats of one price.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CategoryView {
    #[schema(value_type = String, format = Uuid)]
    product_id: ProductId,
    sku: String,
    name: String,
    price: Money,
    stock: StockView,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Listing {
    /// 1 to 100; 20 unless told.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
    cursor: Option<String>,
}

/// List concerts, newest first.
#[utoipa::path(tag = "concerts", params(Listing), responses(
    (status = 200, body = Page<ConcertView>), (status = 400, body = Problem, description = "VALIDATION_ERROR")
))]
#[get("/concerts")]
pub async fn list_concerts(app: Data<App>, Query(listing): Query<Listing>) -> Result<Json<Page<ConcertView>>> {
    let limit = Limit::parse(listing.limit, PAGE, PAGE_MAX)?;
    let mut query = concert::table
        .order((concert::created_at.desc(), concert::concert_id.desc()))
        .select(Concert::as_select())
        .limit(limit.rows())
        .into_boxed();
    if let Some(after) = parse_cursor::<Cursor>(listing.cursor.as_deref())? {
        let older = concert::created_at.eq(after.at).and(concert::concert_id.lt(after.id));
        query = query.filter(concert::created_at.lt(after.at).or(older));
    }
    let mut conn = app.db.read().await?;
    let found: Vec<Concert> = query.load(&mut conn).await?;
    let page = Page::new(found, limit, |last| Cursor { at: last.created_at, id: last.concert_id.uuid() });
    let items = views(&app, &mut conn, page.items).await?;
    Ok(Json(Page { items, next_cursor: page.next_cursor }))
}

/// Read a concert. Units are at most a second old.
#[utoipa::path(tag = "concerts", params(("concertId" = String, Path)), responses(
    (status = 200, body = ConcertView), (status = 404, body = Problem, description = "CONCERT_NOT_FOUND")
))]
#[get("/concerts/{concertId}")]
pub async fn read_concert(app: Data<App>, id: Path<ConcertId>) -> Result<Json<ConcertView>> {
    let mut conn = app.db.read().await?;
    Ok(Json(read_view(&app, &mut conn, *id).await?))
}

/// A concert straight from PostgreSQL. Refuses with `CONCERT_NOT_FOUND`.
pub async fn read_view(app: &App, conn: &mut AsyncPgConnection, id: ConcertId) -> Result<ConcertView> {
    let found = concert::table.find(id).select(Concert::as_select()).first(conn).await.optional()?;
    let found = found.ok_or(Refused::ConcertNotFound(id))?;
    views(app, conn, vec![found]).await?.pop().ok_or_else(|| Refused::ConcertNotFound(id).into())
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = products)]
struct Category {
    id: ProductId,
    concert_id: Option<ConcertId>,
    sku: String,
    name: String,
    price_amount: i64,
}

/// `concerts` with their price categories, the dearest first.
async fn views(app: &App, conn: &mut AsyncPgConnection, concerts: Vec<Concert>) -> Result<Vec<ConcertView>> {
    let ids: Vec<ConcertId> = concerts.iter().map(|concert| concert.concert_id).collect();
    let categories: Vec<Category> = products::table
        .filter(products::concert_id.eq_any(&ids))
        .order((products::price_amount.desc(), products::id))
        .select(Category::as_select())
        .load(conn)
        .await?;
    let product_ids: Vec<ProductId> = categories.iter().map(|category| category.id).collect();
    let units = read_units(conn, &product_ids).await?;
    let category = |category: &Category| {
        let units = units.get(&category.id)?;
        Some(CategoryView {
            product_id: category.id,
            sku: category.sku.clone(),
            name: category.name.clone(),
            price: Money::krw(category.price_amount),
            stock: StockView::new(units.on_hand, units.held, app.products.low_stock_units),
        })
    };
    let view = |concert: Concert| {
        let own = || categories.iter().filter(|category| category.concert_id == Some(concert.concert_id));
        ConcertView {
            concert_id: concert.concert_id,
            queue_manage_required: concert.queue_manage_required
                || own().any(|category| app.entrance.needs_pass(category.id)),
            categories: own().filter_map(category).collect(),
            title: concert.title,
            starts_at: time(concert.starts_at),
            max_per_user: concert.max_per_user,
        }
    };
    Ok(concerts.into_iter().map(view).collect())
}

/// All seats of a concert.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SeatMap {
    #[schema(value_type = String, format = Uuid)]
    concert_id: ConcertId,
    /// Grows with every reservation, sale and return; a reservation that expires is shown before it is counted.
    version: i64,
    seats: Vec<SeatView>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SeatView {
    #[schema(value_type = String, format = Uuid)]
    seat_id: SeatId,
    label: String,
    /// Its price category.
    #[schema(value_type = String, format = Uuid)]
    product_id: ProductId,
    status: SeatStatus,
}

/// The seat map. It is for looking only, at most a second old: whether a seat can be had, only `POST /reservations` says.
#[utoipa::path(tag = "concerts", params(("concertId" = String, Path)), responses(
    (status = 200, body = SeatMap), (status = 304, description = "unchanged since the ETag in If-None-Match"),
    (status = 404, body = Problem, description = "CONCERT_NOT_FOUND")
))]
#[get("/concerts/{concertId}/seats")]
pub async fn read_seat_map(app: Data<App>, request: HttpRequest, id: Path<ConcertId>) -> Result<HttpResponse> {
    let id = id.into_inner();
    let shown_for = Duration::from_millis(app.products.stock_cache_ms);
    let load = || async { load_seat_map(&mut *app.db.read().await?, id).await };
    let map: SeatMap = app.cache.get_or_load(&format!("concert:{id}:seats"), shown_for, load).await?;
    let mut hasher = DefaultHasher::new();
    map.version.hash(&mut hasher);
    map.seats.iter().for_each(|seat| (seat.status as u8).hash(&mut hasher));
    Ok(answer(&request, &format!("\"{:016x}\"", hasher.finish()), &map))
}

#[derive(QueryableByName)]
struct SeatRow {
    #[diesel(sql_type = Timestamptz)]
    now: DateTime<Utc>,
    #[diesel(sql_type = Uuid)]
    seat_id: SeatId,
    #[diesel(sql_type = Text)]
    label: String,
    #[diesel(sql_type = Uuid)]
    product_id: ProductId,
    #[diesel(sql_type = Nullable<Text>)]
    state: Option<HoldState>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    expires_at: Option<DateTime<Utc>>,
}

async fn load_seat_map(conn: &mut AsyncPgConnection, id: ConcertId) -> Result<SeatMap> {
    // The version first: if seats are taken between the statements, the map looks older than it is, never newer.
    let versions: Vec<i64> = stocks::table
        .inner_join(products::table)
        .filter(products::concert_id.eq(id))
        .select(stocks::version)
        .load(conn)
        .await?;
    let query = sql_query(include_str!("read_concerts_seats.sql")).bind::<Uuid, _>(id);
    let rows: Vec<SeatRow> = Prepared(query).load(conn).await?;
    if rows.is_empty() {
        let found: Option<ConcertId> =
            concert::table.find(id).select(concert::concert_id).first(conn).await.optional()?;
        found.ok_or(Refused::ConcertNotFound(id))?;
    }
    let seats = rows.into_iter().map(|row| SeatView {
        seat_id: row.seat_id,
        label: row.label,
        product_id: row.product_id,
        status: SeatStatus::of(row.state.zip(row.expires_at), row.now),
    });
    Ok(SeatMap { concert_id: id, version: versions.iter().sum(), seats: seats.collect() })
}
