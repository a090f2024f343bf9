//! Rules of seats: which are free, and how they are shown.

use chrono::{DateTime, Utc};
use common::Refused;
use contract::ids::{AccountId, ConcertId, HoldId, ProductId, SeatId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::hold::HoldState;

/// A seat, and who has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    pub concert: ConcertId,
    /// Its price category.
    pub product: ProductId,
    pub label: String,
    /// Its concert's: it is had with a pass only.
    pub queue_manage_required: bool,
    /// The hold that has it, although its time may be up; None: it is free.
    pub taken: Option<Taken>,
}

/// The hold that has a seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    pub hold: HoldId,
    pub user: Option<AccountId>,
    pub state: HoldState,
    pub expires_at: DateTime<Utc>,
    /// It has not been ordered yet.
    pub is_reservation: bool,
    /// How many seats the hold has.
    pub seats: i64,
}

impl Taken {
    /// Its time is up, and whoever wants the seat may take the hold over.
    pub fn is_due(&self, now: DateTime<Utc>) -> bool {
        self.state == HoldState::Held && self.expires_at <= now
    }

    /// Whether it is what `user` asks for once more: a reservation of theirs, of `seats` seats in all.
    pub fn is_same(&self, user: AccountId, seats: usize, now: DateTime<Utc>) -> bool {
        let is_alive = self.state == HoldState::Held && !self.is_due(now);
        is_alive && self.is_reservation && self.user == Some(user) && self.seats == seats as i64
    }

    /// By what `user` has the seat. None: somebody else has it, or its time is up.
    pub fn own(&self, user: AccountId, now: DateTime<Utc>) -> Option<Own> {
        let is_theirs = self.user == Some(user) && !self.is_due(now);
        is_theirs.then_some(if self.is_reservation { Own::Reservation(self.hold) } else { Own::Order(self.hold) })
    }
}

/// By what a buyer has a seat. The hold of an order has the order's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    Reservation(HoldId),
    Order(HoldId),
}

/// A seat that cannot be reserved, because somebody has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenSeat {
    pub seat: SeatId,
    pub label: String,
    /// None: somebody else has it.
    pub own: Option<Own>,
}

/// What a buyer is told who asks for these.
pub fn taken_text(seats: &[TakenSeat]) -> String {
    match seats.iter().map(|taken| taken.own).collect::<Option<Vec<Own>>>().as_deref() {
        Some([Own::Reservation(id), ..]) => format!(
            "You have a seat of these already, by reservation {id}: ask for its seats alone to get it again, or cancel it first."
        ),
        Some([Own::Order(id), ..]) => format!("You have a seat of these already, by order {id}."),
        Some([]) | None => "Somebody else has taken a seat of these.".to_owned(),
    }
}

/// Refuses with `VALIDATION_ERROR`.
pub fn check_wanted(seats: &[SeatId], seats_max: usize) -> Result<(), Refused> {
    if seats.is_empty() || seats.len() > seats_max {
        return Err(Refused::invalid("seatIds", format!("Must be 1 to {seats_max} seats.")));
    }
    if let Some(index) = (1..seats.len()).find(|index| seats[..*index].contains(&seats[*index])) {
        return Err(Refused::invalid(&format!("seatIds[{index}]"), "Must name each seat once."));
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum SeatStatus {
    Available,
    /// Reserved, or being paid.
    Held,
    Sold,
}

impl SeatStatus {
    /// As shown at `now`, by the hold that has or had the seat.
    pub fn of(hold: Option<(HoldState, DateTime<Utc>)>, now: DateTime<Utc>) -> SeatStatus {
        match hold {
            Some((HoldState::Held, expires_at)) if expires_at <= now => SeatStatus::Available,
            Some((HoldState::Held | HoldState::Pinned, _)) => SeatStatus::Held,
            Some((HoldState::Confirmed, _)) => SeatStatus::Sold,
            Some((HoldState::Released | HoldState::Expired | HoldState::Returned, _)) | None => SeatStatus::Available,
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn seats(count: u128) -> Vec<SeatId> {
        (0..count).map(|n| uuid::Uuid::from_u128(n).into()).collect()
    }

    #[test]
    fn a_request_names_a_few_seats_each_once() {
        assert!(check_wanted(&seats(1), 2).is_ok() && check_wanted(&seats(2), 2).is_ok());
        let twice = [seats(1), seats(1)].concat();
        for wrong in [seats(0), seats(3), twice] {
            assert!(check_wanted(&wrong, 2).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_seat_is_free_from_the_instant_its_holds_time_is_up() {
        let now = DateTime::UNIX_EPOCH;
        let later = now + TimeDelta::milliseconds(1);
        for (state, ends, status) in [
            (HoldState::Held, later, SeatStatus::Held),
            (HoldState::Held, now, SeatStatus::Available),
            // While it is being paid, its time is not asked for.
            (HoldState::Pinned, now, SeatStatus::Held),
            (HoldState::Confirmed, now, SeatStatus::Sold),
            (HoldState::Released, later, SeatStatus::Available),
            (HoldState::Expired, now, SeatStatus::Available),
            (HoldState::Returned, later, SeatStatus::Available),
        ] {
            assert_eq!(SeatStatus::of(Some((state, ends)), now), status, "{state:?}");
        }
        assert_eq!(SeatStatus::of(None, now), SeatStatus::Available);
    }

    #[test]
    fn the_same_request_is_that_of_the_same_user_for_the_same_seats() {
        let (now, ann, ben) = (DateTime::UNIX_EPOCH, AccountId::generate(), AccountId::generate());
        let taken = Taken {
            hold: HoldId::generate(),
            user: Some(ann),
            state: HoldState::Held,
            expires_at: now + TimeDelta::seconds(1),
            is_reservation: true,
            seats: 2,
        };
        assert!(taken.is_same(ann, 2, now));
        assert!(!taken.is_same(ben, 2, now) && !taken.is_same(ann, 1, now));
        assert!(!taken.is_same(ann, 2, taken.expires_at), "its time is up");
        for other in [Taken { is_reservation: false, ..taken }, Taken { state: HoldState::Pinned, ..taken }] {
            assert!(!other.is_same(ann, 2, now), "{other:?}");
        }
        assert_eq!(taken.own(ann, now), Some(Own::Reservation(taken.hold)));
        assert_eq!(Taken { is_reservation: false, ..taken }.own(ann, now), Some(Own::Order(taken.hold)));
        assert_eq!((taken.own(ben, now), taken.own(ann, taken.expires_at)), (None, None));
    }

    #[test]
    fn only_who_has_all_the_taken_seats_is_told_so() {
        let (reservation, order) = (HoldId::generate(), HoldId::generate());
        let seat = |own| TakenSeat { seat: SeatId::generate(), label: "A-1".to_owned(), own };
        let (others, reserved) = (seat(None), seat(Some(Own::Reservation(reservation))));
        let told = taken_text(std::slice::from_ref(&reserved));
        assert!(told.contains(&format!("You have a seat of these already, by reservation {reservation}")), "{told}");
        let told = taken_text(&[seat(Some(Own::Order(order))), reserved.clone()]);
        assert_eq!(told, format!("You have a seat of these already, by order {order}."));
        assert_eq!(taken_text(&[reserved, others]), "Somebody else has taken a seat of these.");
    }
}
