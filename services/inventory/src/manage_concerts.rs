//! `POST /admin/concerts`, `POST /admin/concerts/{concertId}/seats:bulk`.

use std::collections::HashSet;

use actix_web::http::header::LOCATION;
use actix_web::{HttpResponse, post};
use chrono::{DateTime, Utc};
use common::auth::Admin;
use common::db::{Prepared, Tx};
use common::http::{Data, Json, Path, Problem, detach};
use common::text::Text;
use common::{Refused, Result};
use contract::ids::{ConcertId, ProductId, SeatId};
use contract::money::{KRW, Money};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, Text as SqlText, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::App;
use crate::manage_products::{ProductRow, insert_product};
use crate::product::{Name, Sku, check_limit, check_price};
use crate::read_concerts::{ConcertView, read_view};
use crate::refused;
use crate::schema::{concert, seat};

/// Seats of one request. Their labels fit into the largest body.
const SEATS_MAX: usize = 5_000;

#[derive(Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewConcert {
    #[schema(value_type = String)]
    title: Text<1, 100>,
    #[schema(example = "2026-12-24T10:00:00Z")]
    starts_at: DateTime<Utc>,
    /// Seats that one account may hold and own together; absent: no limit.
    max_per_user: Option<i32>,
    /// Seats are had through the waiting room of a sale event only: before one is open, nobody has any. Without it, they are
    /// on sale at once, and a sale event that is scheduled later counts from when it is heard of.
    #[serde(default)]
    queue_manage_required: bool,
}

/// The seats of one price. They become one product.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewSeats {
    /// Of the product; unique.
    #[schema(value_type = String)]
    sku: Sku,
    #[schema(value_type = String)]
    name: Name,
    #[serde(deserialize_with = "common::object::one")]
    price: Money,
    /// 1 to 5,000 labels such as `A-1`, each once in the concert, in the order in which they are shown.
    #[schema(value_type = Vec<String>)]
    labels: Vec<Text<1, 20>>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddedSeats {
    #[schema(value_type = String, format = Uuid)]
    concert_id: ConcertId,
    #[schema(value_type = String, format = Uuid)]
    product_id: ProductId,
    /// How many.
    seats: usize,
}

/// Create a concert. Its seats come with `POST /admin/concerts/{concertId}/seats:bulk`.
#[utoipa::path(tag = "concerts", request_body = NewConcert, responses(
    (status = 201, body = ConcertView, headers(("Location" = String))),
    (status = 400, body = Problem, description = "VALIDATION_ERROR"),
    (status = 403, body = Problem, description = "FORBIDDEN")
), security(("bearer" = ["ADMIN"])))]
#[post("/admin/concerts")]
pub async fn create_concert(app: Data<App>, _: Admin, body: Json<NewConcert>) -> Result<HttpResponse> {
    let new = body.into_inner();
    check_limit(new.max_per_user)?;
    let (app, id) = (app.into_inner(), ConcertId::generate());
    let view = detach(async move {
        let row = (
            concert::concert_id.eq(id),
            concert::title.eq(new.title.as_str()),
            concert::starts_at.eq(new.starts_at),
            concert::max_per_user.eq(new.max_per_user),
            concert::queue_manage_required.eq(new.queue_manage_required),
        );
        let insert = diesel::insert_into(concert::table).values(row);
        app.db.tx("create_concert", async |tx| Ok(insert.execute(tx).await?)).await?;
        read_view(&app, &mut *app.db.read().await?, id).await
    })
    .await?;
    tracing::info!(concert.id = %id, "Created concert {id}");
    Ok(HttpResponse::Created().insert_header((LOCATION, format!("/api/v1/concerts/{id}"))).json(view))
}

/// Add the seats of one price category, all or none.
///
/// A repeat is refused, because its SKU exists.
#[utoipa::path(tag = "concerts", params(("concertId" = String, Path)), request_body = NewSeats, responses(
    (status = 201, body = AddedSeats),
    (status = 400, body = Problem, description = "VALIDATION_ERROR"),
    (status = 403, body = Problem, description = "FORBIDDEN"),
    (status = 404, body = Problem, description = "CONCERT_NOT_FOUND"),
    (status = 409, body = Problem, description = "SKU_ALREADY_EXISTS, SEAT_ALREADY_EXISTS")
), security(("bearer" = ["ADMIN"])))]
#[post("/admin/concerts/{concertId}/seats:bulk")]
pub async fn add_seats(
    app: Data<App>,
    admin: Admin,
    id: Path<ConcertId>,
    body: Json<NewSeats>,
) -> Result<HttpResponse> {
    let (concert, new) = (id.into_inner(), body.into_inner());
    check_price(&new.price)?;
    check_labels(&new.labels)?;
    let app = app.into_inner();
    let product = ProductId::generate();
    let added = detach(async move {
        let seats = new.labels.len();
        app.db.tx("add_seats", async |tx| insert(tx, concert, product, &new, admin.0.account).await).await?;
        Ok(AddedSeats { concert_id: concert, product_id: product, seats })
    })
    .await?;
    tracing::info!(
        concert.id = %concert, product.id = %product, seats = added.seats,
        "Added {} seats to concert {concert} as product {product}", added.seats
    );
    Ok(HttpResponse::Created().json(added))
}

fn check_labels(labels: &[Text<1, 20>]) -> Result<(), Refused> {
    if labels.is_empty() || labels.len() > SEATS_MAX {
        return Err(Refused::invalid("labels", format!("Must be 1 to {SEATS_MAX} labels.")));
    }
    let mut known = HashSet::new();
    match labels.iter().position(|label| !known.insert(label.as_str())) {
        Some(twice) => Err(Refused::invalid(&format!("labels[{twice}]"), "Must be each label once.")),
        None => Ok(()),
    }
}

async fn insert(tx: &mut Tx, concert: ConcertId, product: ProductId, new: &NewSeats, actor: Uuid) -> Result<()> {
    // Whoever adds seats to one concert waits for the other.
    let found: Option<ConcertId> =
        concert::table.find(concert).select(concert::concert_id).for_update().first(tx).await.optional()?;
    found.ok_or(refused::Refused::ConcertNotFound(concert))?;
    let row = ProductRow {
        id: product,
        sku: new.sku.as_str(),
        name: new.name.as_str(),
        price_amount: new.price.amount,
        currency: KRW,
        max_per_user: None,
        concert_id: Some(concert),
    };
    insert_product(tx, &row, new.labels.len() as i64, actor).await?;
    let labels: Vec<&str> = new.labels.iter().map(Text::as_str).collect();
    let exists: Option<String> = seat::table
        .filter(seat::concert_id.eq(concert))
        .filter(seat::label.eq_any(&labels))
        .select(seat::label)
        .first(tx)
        .await
        .optional()?;
    if let Some(label) = exists {
        return Err(refused::Refused::SeatExists(label).into());
    }
    let before: i64 = seat::table.filter(seat::concert_id.eq(concert)).count().get_result(tx).await?;
    let ids: Vec<SeatId> = labels.iter().map(|_| SeatId::generate()).collect();
    let insert = sql_query(include_str!("manage_concerts_seats.sql"))
        .bind::<SqlUuid, _>(concert)
        .bind::<SqlUuid, _>(product)
        .bind::<BigInt, _>(before)
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<Array<SqlText>, _>(labels);
    Prepared(insert).execute(tx).await?;
    Ok(())
}
