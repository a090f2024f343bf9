//! Rules of what is wanted: units, seats or a reservation; and the hold that it becomes.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Duration, Utc};
use contract::ids::{AccountId, ConcertId, HoldId, ProductId, SeatId};

use crate::hold::{HeldSeat, Hold, HoldLine, HoldState};
use crate::seat::Seat;
use crate::stock::Facts;

/// A hold to be made, wholly or not at all.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub hold: HoldId,
    pub user: AccountId,
    pub what: What,
}

#[derive(Debug, Clone)]
pub enum What {
    /// Any units. [`Wanted::new`] has put them in product order, each product once.
    Units(Vec<WantedLine>),
    /// These seats, all of one concert: a reservation.
    Seats { concert: ConcertId, seats: Vec<SeatId> },
    /// The seats of a reservation, for an order.
    Reserved(HoldId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WantedLine {
    pub product: ProductId,
    pub quantity: i32,
}

impl Wanted {
    /// Refuses with `VALIDATION_ERROR`.
    pub fn new(
        hold: HoldId,
        user: AccountId,
        mut lines: Vec<WantedLine>,
        lines_max: usize,
        quantity_max: i32,
    ) -> Result<Wanted, common::Refused> {
        if lines.is_empty() || lines.len() > lines_max {
            return Err(common::Refused::invalid("lines", format!("must have 1 to {lines_max} lines")));
        }
        if let Some(index) = lines.iter().position(|line| !(1..=quantity_max).contains(&line.quantity)) {
            let field = format!("lines[{index}].quantity");
            return Err(common::Refused::invalid(&field, format!("must be 1 to {quantity_max}")));
        }
        // The order in which stock is locked.
        lines.sort_by_key(|line| line.product);
        if lines.windows(2).any(|pair| pair[0].product == pair[1].product) {
            return Err(common::Refused::invalid("lines", "must name each product once"));
        }
        Ok(Wanted { hold, user, what: What::Units(lines) })
    }

    /// The units that it asks for; none if it asks for seats.
    pub fn lines(&self) -> &[WantedLine] {
        match &self.what {
            What::Units(lines) => lines,
            What::Seats { .. } | What::Reserved(_) => &[],
        }
    }

    pub fn seats(&self) -> &[SeatId] {
        match &self.what {
            What::Seats { seats, .. } => seats,
            What::Units(_) | What::Reserved(_) => &[],
        }
    }

    pub fn reservation(&self) -> Option<HoldId> {
        match self.what {
            What::Reserved(reservation) => Some(reservation),
            What::Units(_) | What::Seats { .. } => None,
        }
    }
}

/// One line for each price category, in product order, with its seats.
pub fn seat_lines(wanted: &[SeatId], seats: &HashMap<SeatId, Seat>) -> Vec<(WantedLine, Vec<HeldSeat>)> {
    let mut lines: BTreeMap<ProductId, Vec<HeldSeat>> = BTreeMap::new();
    for id in wanted {
        let Some(seat) = seats.get(id) else { continue };
        lines.entry(seat.product).or_default().push(HeldSeat { seat_id: *id, label: seat.label.clone() });
    }
    let line = |(product, seats): (ProductId, Vec<HeldSeat>)| {
        let quantity = i32::try_from(seats.len()).unwrap_or(i32::MAX);
        (WantedLine { product, quantity }, seats)
    };
    lines.into_iter().map(line).collect()
}

/// How long new holds live.
#[derive(Debug, Clone, Copy)]
pub struct Lives {
    pub units: Duration,
    /// Reservations of seats.
    pub seats: Duration,
}

/// The hold that a request creates, at the prices of now. That of a reservation keeps its prices and its end: to order
/// buys no time.
pub fn new_hold(wanted: &Wanted, facts: &Facts, lives: Lives, now: DateTime<Utc>) -> Hold {
    let line = |(line, seats): (WantedLine, Vec<HeldSeat>)| {
        let stock = facts.stocks.get(&line.product)?;
        Some(HoldLine {
            product: line.product,
            quantity: line.quantity,
            unit_price: stock.unit_price,
            currency: stock.currency.clone(),
            sku: stock.sku.clone(),
            name: stock.name.clone(),
            seats,
        })
    };
    let (concert, expires_at, lines) = match &wanted.what {
        What::Units(lines) => {
            (None, now + lives.units, lines.iter().filter_map(|wanted| line((*wanted, Vec::new()))).collect())
        }
        What::Seats { concert, seats } => {
            let lines = seat_lines(seats, &facts.seats).into_iter().filter_map(line).collect();
            (Some(*concert), now + lives.seats, lines)
        }
        What::Reserved(reservation) => match facts.holds.get(reservation) {
            Some(reservation) => (None, reservation.expires_at, reservation.lines.clone()),
            None => (None, now, Vec::new()),
        },
    };
    Hold {
        id: wanted.hold,
        user: Some(wanted.user),
        state: HoldState::Held,
        expires_at,
        pin: None,
        unpinned_by: Vec::new(),
        order_version: None,
        concert,
        moved_to: None,
        lines,
    }
}
