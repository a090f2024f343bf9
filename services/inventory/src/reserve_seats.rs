//! `POST /reservations`: a buyer takes seats, and nobody else can have them until the reservation's time is up.

use actix_web::{HttpRequest, HttpResponse, post};
use chrono::{DateTime, Utc};
use common::Result;
use common::auth::Caller;
use common::http::{Data, Json, Problem, detach};
use contract::ids::{AccountId, ConcertId, HoldId, OrderId, ProductId, SaleEventId, SeatId};
use contract::money::Money;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use entry::{BYPASS_HEADER, Entry, PASS_HEADER, PassRule};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::App;
use crate::hold::{Hold, HoldLine, HoldState};
use crate::hold_stock::hold_stock;
use crate::product::time;
use crate::refused::Refused;
use crate::schema::queue_bypasses;
use crate::seat::{Seat, TakenSeat, check_wanted};
use crate::seat_rows::read_seats;
use crate::wanted::{Wanted, What};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReserveSeats {
    #[schema(value_type = String, format = Uuid)]
    concert_id: ConcertId,
    /// 1 to 10, each once.
    #[schema(value_type = Vec<String>)]
    seat_ids: Vec<SeatId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum ReservationStatus {
    Held,
    /// An order has its seats.
    Ordered,
    Expired,
    Cancelled,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReservationView {
    #[schema(value_type = String, format = Uuid)]
    reservation_id: HoldId,
    #[schema(value_type = Option<String>, format = Uuid)]
    concert_id: Option<ConcertId>,
    status: ReservationStatus,
    seats: Vec<ReservedSeat>,
    /// What the seats cost together.
    amount: Money,
    /// To the instant; an order of the reservation has no more time than this.
    #[schema(example = "2026-01-01T00:00:00.000Z")]
    expires_at: String,
    /// The order that has the seats; absent until there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Uuid)]
    order_id: Option<OrderId>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReservedSeat {
    #[schema(value_type = String, format = Uuid)]
    seat_id: SeatId,
    label: String,
    /// The price category.
    #[schema(value_type = String, format = Uuid)]
    product_id: ProductId,
    price: Money,
}

/// Reserve seats.
///
/// All of them or none. Who asks for the same seats again gets the same reservation. They are held until `expiresAt`; order
/// them by `reservationId` of `POST /orders`.
#[utoipa::path(tag = "concerts", request_body = ReserveSeats,
    params(("X-Queue-Token" = Option<String>, Header, description = "The pass, where the concert's sale event has a waiting room")),
    responses(
    (status = 200, body = ReservationView, description = "Reserved; durable"),
    (status = 400, body = Problem, description = "VALIDATION_ERROR"),
    (status = 401, body = Problem, description = "UNAUTHORIZED"),
    (status = 403, body = Problem, description = "QUEUE_TOKEN_REQUIRED, QUEUE_TOKEN_INVALID"),
    (status = 404, body = Problem, description = "SEAT_NOT_FOUND"),
    (status = 409, body = Problem, description = "SEAT_ALREADY_RESERVED: `details` say which, and by what where it is by the caller; PURCHASE_LIMIT_EXCEEDED, EVENT_NOT_OPEN, EVENT_CLOSED"),
    (status = 429, body = Problem, description = "RATE_LIMITED"),
    (status = 503, body = Problem, description = "SERVICE_UNAVAILABLE, QUEUE_UNAVAILABLE")
), security(("bearer" = [])))]
#[post("/reservations")]
pub async fn reserve_seats(
    app: Data<App>,
    caller: Caller,
    request: HttpRequest,
    Json(body): Json<ReserveSeats>,
) -> Result<HttpResponse> {
    let pass = request.headers().get(PASS_HEADER).map(|value| value.to_str().unwrap_or_default().to_owned());
    let user = AccountId::from(caller.account);
    app.reservations.check(user)?;
    check_wanted(&body.seat_ids, app.reservation_seats_max)?;
    let app = app.into_inner();
    // Detached: once the seats are taken, the answer is prepared even if the client disconnects.
    let (view, entry) = detach(async move { reserve(&app, user, body, pass.as_deref()).await }).await?;
    let mut response = HttpResponse::Ok();
    if !entry.bypassed.is_empty() {
        response.insert_header((BYPASS_HEADER, "true"));
    }
    Ok(response.json(view))
}

async fn reserve(
    app: &App,
    user: AccountId,
    body: ReserveSeats,
    pass: Option<&str>,
) -> Result<(ReservationView, Entry)> {
    let ReserveSeats { concert_id: concert, seat_ids } = body;
    let seats = read_seats(&mut *app.db.read().await?, &seat_ids).await?;
    let mut wanted: Vec<(SeatId, &Seat)> = Vec::with_capacity(seat_ids.len());
    for id in &seat_ids {
        let seat = seats.get(id).filter(|seat| seat.concert == concert).ok_or(Refused::SeatNotFound(*id))?;
        wanted.push((*id, seat));
    }
    let rule = match wanted.iter().any(|(_, seat)| seat.queue_manage_required) {
        true => PassRule::Always,
        false => PassRule::AsSalesSay,
    };
    let entry = app.entrance.check(user, wanted.iter().map(|(_, seat)| seat.product), rule, pass).await?;
    refuse_taken(&wanted, user, Utc::now())?;
    let hold = HoldId::generate();
    note_bypasses(app, hold, user, &entry.bypassed).await?;
    let wanted = Wanted { hold, user, what: What::Seats { concert, seats: seat_ids } };
    let held = hold_stock(app, wanted).await?;
    Ok((view(held.hold, Utc::now()), entry))
}

/// Most of those who come too late are told so by this look, without a lock. It is never a promise: who gets past it is
/// decided about by the transaction.
///
/// Whatever may be over by then, or be the buyer's own, gets past: `now` is not the database's.
fn refuse_taken(wanted: &[(SeatId, &Seat)], user: AccountId, now: DateTime<Utc>) -> Result<(), Refused> {
    /// Clocks differ by less.
    const MARGIN: chrono::TimeDelta = chrono::TimeDelta::seconds(5);
    let taken = wanted.iter().filter(|(_, seat)| {
        let others = seat.taken.filter(|taken| taken.user != Some(user));
        others.is_some_and(|taken| !taken.is_due(now + MARGIN))
    });
    let seats = taken.map(|(id, seat)| TakenSeat { seat: *id, label: seat.label.clone(), own: None });
    let seats: Vec<TakenSeat> = seats.collect();
    if seats.is_empty() { Ok(()) } else { Err(Refused::SeatsTaken { seats }) }
}

/// Whoever comes in without a pass is written down first.
async fn note_bypasses(app: &App, reservation: HoldId, user: AccountId, events: &[SaleEventId]) -> Result<()> {
    for event in events {
        let row = (
            queue_bypasses::reservation_id.eq(reservation),
            queue_bypasses::event_id.eq(event),
            queue_bypasses::user_id.eq(user),
        );
        let insert = diesel::insert_into(queue_bypasses::table).values(row);
        app.db.tx("note_bypass", async |tx| Ok(insert.execute(tx).await?)).await?;
        tracing::warn!(
            reservation.id = %reservation, event.id = %event,
            "Reservation {reservation} is let in without a pass: the queue of sale event {event} is dead; it stands in queue_bypasses"
        );
    }
    Ok(())
}

/// The reservation as its owner sees it at `now`.
pub fn view(hold: Hold, now: DateTime<Utc>) -> ReservationView {
    let status = match (hold.moved_to, hold.state_at(now)) {
        (Some(_), _) => ReservationStatus::Ordered,
        (None, HoldState::Released | HoldState::Returned) => ReservationStatus::Cancelled,
        (None, HoldState::Expired) => ReservationStatus::Expired,
        (None, HoldState::Held | HoldState::Pinned | HoldState::Confirmed) => ReservationStatus::Held,
    };
    let amount = hold.lines.iter().map(|line| line.unit_price * i64::from(line.quantity)).sum();
    let seats = hold.lines.into_iter().flat_map(|line| {
        let HoldLine { product, unit_price, seats, .. } = line;
        seats.into_iter().map(move |seat| ReservedSeat {
            seat_id: seat.seat_id,
            label: seat.label,
            product_id: product,
            price: Money::krw(unit_price),
        })
    });
    ReservationView {
        reservation_id: hold.id,
        concert_id: hold.concert,
        status,
        seats: seats.collect(),
        amount: Money::krw(amount),
        expires_at: time(hold.expires_at),
        // The hold of an order has the order's id.
        order_id: hold.moved_to.map(|order| order.uuid().into()),
    }
}
