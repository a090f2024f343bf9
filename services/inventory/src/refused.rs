//! Why inventory says no. Callers can act on each of these.

use common::error::{IDEMPOTENCY_KEY_REUSED, VERSION_CONFLICT};
use common::{Code, Refusal};
use contract::codes;
use contract::ids::{ConcertId, HoldId, ProductId, SeatId};
use serde_json::{Value, json};

use crate::seat::{Own, TakenSeat, taken_text};

/// A line that cannot be held, with the units that were left after the batch that refused it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    pub product: ProductId,
    pub requested: i32,
    pub available: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("There are not enough units left.")]
    OutOfStock { shortages: Vec<Shortage> },
    #[error("There is no product {0}.")]
    ProductNotFound(ProductId),
    #[error("One buyer may have {max} units of this product; {have} are held or bought already.")]
    LimitExceeded { product: ProductId, requested: i32, have: i64, max: i32 },
    #[error("Hold {0} has expired.")]
    HoldExpired(HoldId),
    #[error("Hold {0} has been given back.")]
    HoldReleased(HoldId),
    #[error("Hold {0} has become a sale.")]
    HoldConfirmed(HoldId),
    #[error("Hold {0} has not become a sale.")]
    HoldNotConfirmed(HoldId),
    #[error("There is no hold {0}.")]
    HoldNotFound(HoldId),
    #[error("Another attempt to pay has hold {0}, or this attempt has ended.")]
    PaymentInProgress(HoldId),
    #[error("Product {0} is sold by the seat: reserve seats, and order the reservation.")]
    SeatsRequired(ProductId),
    #[error("There is no concert {0}.")]
    ConcertNotFound(ConcertId),
    #[error("There is no seat {0} in this concert.")]
    SeatNotFound(SeatId),
    #[error("A seat with label {0} exists in this concert.")]
    SeatExists(String),
    #[error("{}", taken_text(seats))]
    SeatsTaken { seats: Vec<TakenSeat> },
    #[error("One buyer may have {max} seats in this concert; {have} are reserved or bought already.")]
    SeatLimitExceeded { concert: ConcertId, requested: usize, have: i64, max: i32 },
    #[error("Hold {0} was made by a request for something else.")]
    OtherRequest(HoldId),
    #[error("There is no reservation {0}.")]
    ReservationNotFound(HoldId),
    #[error("Reservation {0} has expired or was cancelled.")]
    ReservationEnded(HoldId),
    #[error("Reservation {reservation} has been ordered, as order {taken_by}.")]
    ReservationOrdered { reservation: HoldId, taken_by: HoldId },
    #[error("A product with this SKU exists.")]
    SkuExists,
    #[error("The product has changed since; read it again.")]
    VersionConflict { current: i64 },
    #[error("{held} units are held by buyers; the stock cannot fall below that.")]
    BelowHeld { on_hand: i64, held: i64, delta: i64 },
    #[error("Others keep changing this stock; try again with the same key.")]
    ConcurrentModification,
}

impl Refused {
    pub fn shortages(&self) -> &[Shortage] {
        match self {
            Refused::OutOfStock { shortages } => shortages,
            _ => &[],
        }
    }
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Refused::OutOfStock { .. } => codes::OUT_OF_STOCK,
            Refused::ProductNotFound(_) => codes::PRODUCT_NOT_FOUND,
            Refused::LimitExceeded { .. } => codes::PURCHASE_LIMIT_EXCEEDED,
            Refused::HoldExpired(_) => codes::HOLD_EXPIRED,
            Refused::HoldReleased(_) => codes::HOLD_ALREADY_RELEASED,
            Refused::HoldConfirmed(_) => codes::HOLD_ALREADY_CONFIRMED,
            Refused::HoldNotConfirmed(_) => codes::HOLD_NOT_CONFIRMED,
            Refused::HoldNotFound(_) => codes::HOLD_NOT_FOUND,
            Refused::PaymentInProgress(_) => codes::PAYMENT_IN_PROGRESS,
            Refused::SeatsRequired(_) => codes::SEATS_REQUIRED,
            Refused::ConcertNotFound(_) => codes::CONCERT_NOT_FOUND,
            Refused::SeatNotFound(_) => codes::SEAT_NOT_FOUND,
            Refused::SeatExists(_) => codes::SEAT_ALREADY_EXISTS,
            Refused::SeatsTaken { .. } => codes::SEAT_ALREADY_RESERVED,
            Refused::SeatLimitExceeded { .. } => codes::PURCHASE_LIMIT_EXCEEDED,
            Refused::OtherRequest(_) => IDEMPOTENCY_KEY_REUSED,
            Refused::ReservationNotFound(_) => codes::RESERVATION_NOT_FOUND,
            Refused::ReservationEnded(_) => codes::RESERVATION_ENDED,
            Refused::ReservationOrdered { .. } => codes::RESERVATION_ORDERED,
            Refused::SkuExists => codes::SKU_ALREADY_EXISTS,
            Refused::VersionConflict { .. } => VERSION_CONFLICT,
            Refused::BelowHeld { .. } => codes::STOCK_BELOW_HELD,
            Refused::ConcurrentModification => codes::CONCURRENT_MODIFICATION,
        }
    }

    fn details(&self) -> Vec<Value> {
        match self {
            Refused::OutOfStock { shortages } => shortages
                .iter()
                .map(|short| {
                    let Shortage { product, requested, available } = short;
                    json!({ "productId": product, "requested": requested, "available": available })
                })
                .collect(),
            Refused::ProductNotFound(product) | Refused::SeatsRequired(product) => {
                vec![json!({ "productId": product })]
            }
            Refused::SeatNotFound(seat) => vec![json!({ "seatId": seat })],
            Refused::SeatExists(label) => vec![json!({ "label": label })],
            Refused::SeatsTaken { seats } => seats.iter().map(taken_details).collect(),
            Refused::SeatLimitExceeded { concert, requested, have, max } => {
                vec![json!({ "concertId": concert, "requested": requested, "have": have, "max": max })]
            }
            Refused::ReservationOrdered { taken_by, .. } => vec![json!({ "orderId": taken_by })],
            Refused::LimitExceeded { product, requested, have, max } => {
                vec![json!({ "productId": product, "requested": requested, "have": have, "max": max })]
            }
            Refused::VersionConflict { current } => vec![json!({ "version": current })],
            Refused::BelowHeld { on_hand, held, delta } => {
                vec![json!({ "onHand": on_hand, "held": held, "delta": delta })]
            }
            Refused::HoldExpired(_)
            | Refused::HoldReleased(_)
            | Refused::HoldConfirmed(_)
            | Refused::HoldNotConfirmed(_)
            | Refused::HoldNotFound(_)
            | Refused::PaymentInProgress(_)
            | Refused::ConcertNotFound(_)
            | Refused::OtherRequest(_)
            | Refused::ReservationNotFound(_)
            | Refused::ReservationEnded(_)
            | Refused::SkuExists
            | Refused::ConcurrentModification => Vec::new(),
        }
    }
}

/// With what has the seat where it is the caller's own.
fn taken_details(taken: &TakenSeat) -> Value {
    let TakenSeat { seat, label, own } = taken;
    match own {
        None => json!({ "seatId": seat, "label": label }),
        Some(Own::Reservation(id)) => json!({ "seatId": seat, "label": label, "reservationId": id }),
        Some(Own::Order(id)) => json!({ "seatId": seat, "label": label, "orderId": id }),
    }
}
