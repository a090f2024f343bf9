//! `GET /reservations/{reservationId}` and `DELETE /reservations/{reservationId}`: one's own reservations of seats.

use actix_web::{HttpResponse, delete, get};
use chrono::{DateTime, Utc};
use common::Result;
use common::auth::Caller;
use common::http::{Data, Json, Path, Problem, detach};
use contract::ids::{AccountId, HoldId};

use crate::App;
use crate::hold::{Hold, Step};
use crate::hold_rows::{HoldsRead, read_holds};
use crate::refused::Refused;
use crate::reserve_seats::{ReservationView, view};
use crate::settle_hold::settle_hold;

/// Read one of one's own reservations.
#[utoipa::path(tag = "concerts", params(("reservationId" = String, Path)), responses(
    (status = 200, body = ReservationView),
    (status = 401, body = Problem, description = "UNAUTHORIZED"),
    (status = 404, body = Problem, description = "RESERVATION_NOT_FOUND")
), security(("bearer" = [])))]
#[get("/reservations/{reservationId}")]
pub async fn read_reservation(app: Data<App>, caller: Caller, id: Path<HoldId>) -> Result<Json<ReservationView>> {
    let (hold, now) = find(&app, *id, AccountId::from(caller.account)).await?;
    Ok(Json(view(hold, now)))
}

/// Give the seats back.
///
/// A repeat is a success, and so is cancelling what has expired.
#[utoipa::path(tag = "concerts", params(("reservationId" = String, Path)), responses(
    (status = 204, description = "The seats are free"),
    (status = 401, body = Problem, description = "UNAUTHORIZED"),
    (status = 404, body = Problem, description = "RESERVATION_NOT_FOUND"),
    (status = 409, body = Problem, description = "RESERVATION_ORDERED: cancel the order instead")
), security(("bearer" = [])))]
#[delete("/reservations/{reservationId}")]
pub async fn cancel_reservation(app: Data<App>, caller: Caller, id: Path<HoldId>) -> Result<HttpResponse> {
    find(&app, *id, AccountId::from(caller.account)).await?;
    let (app, id) = (app.into_inner(), *id);
    let step = Step::Release { reason: "reservation cancelled".to_owned(), order_version: None };
    let hold = detach(async move { settle_hold(&app, id, step).await }).await?;
    match hold.moved_to {
        Some(taken_by) => Err(Refused::ReservationOrdered { reservation: id, taken_by }.into()),
        None => Ok(HttpResponse::NoContent().finish()),
    }
}

/// Refuses with `RESERVATION_NOT_FOUND` also what is another account's, and the hold of an order.
async fn find(app: &App, id: HoldId, user: AccountId) -> Result<(Hold, DateTime<Utc>)> {
    let HoldsRead { now, mut holds } = read_holds(&mut *app.db.read().await?, &[id]).await?;
    let own = holds.remove(&id).filter(|hold| hold.concert.is_some() && hold.user == Some(user));
    Ok((own.ok_or(Refused::ReservationNotFound(id))?, now))
}
