//! Rules of stock: which requests get units or seats, when a product sells out, and when it is back.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use contract::ids::{AccountId, ConcertId, HoldId, ProductId, SeatId};

use crate::hold::{Hold, HoldState, check_repeat};
use crate::refused::{Refused, Shortage};
use crate::seat::{Seat, Taken, TakenSeat};
use crate::wanted::{Wanted, WantedLine, What, seat_lines};

/// Units of one product. More are a typing error, and the sums in Lua stay exact.
pub const ON_HAND_MAX: i64 = 1_000_000_000;

/// A row of stock with its product.
#[derive(Debug, Clone)]
pub struct Stock {
    pub on_hand: i64,
    pub held: i64,
    pub version: i64,
    pub max_per_user: Option<i32>,
    pub unit_price: i64,
    pub currency: String,
    pub sku: String,
    pub name: String,
    /// Its units are seats of this concert.
    pub concert: Option<ConcertId>,
}

impl Stock {
    /// Units that may be held now.
    pub fn sellable(&self) -> i64 {
        self.on_hand - self.held
    }

    /// [`Stock::sellable`] after `moves`, if this is the stock of `product`.
    pub fn sellable_after(&self, moves: &Moves, product: ProductId) -> i64 {
        self.sellable() + moves.get(&product).map_or(0, Move::sellable)
    }
}

/// What becomes of one request of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Create,
    /// There was a hold of this id before the batch.
    Exists,
    /// An earlier request of the batch creates the hold of this id.
    Duplicate,
    /// The user has reserved the same seats already, by this hold.
    Same(HoldId),
}

/// What a batch decides by: all of it read after the rows of `stocks` were locked.
#[derive(Debug, Default)]
pub struct Facts {
    pub stocks: BTreeMap<ProductId, Stock>,
    /// Units that this transaction has taken over from expired holds; `stocks` still counts them as held.
    pub freed: Moves,
    /// Of the ids that are asked for, and the reservations that are to be ordered.
    pub holds: HashMap<HoldId, Hold>,
    /// Units that a user holds or has bought, for products with a limit.
    pub owned: HashMap<(AccountId, ProductId), i64>,
    pub seats: HashMap<SeatId, Seat>,
    /// Concerts with a limit for each account.
    pub seat_limits: HashMap<ConcertId, i32>,
    /// Seats that a user holds or has bought, for those concerts.
    pub owned_seats: HashMap<(AccountId, ConcertId), i64>,
}

/// Serves `requests` in the order of their arrival, each wholly or not at all. Never gives more units than are sellable,
/// nor a seat twice.
pub fn decide(requests: &[Wanted], facts: &Facts, now: DateTime<Utc>) -> Vec<Result<Decision, Refused>> {
    let mut left = Left::new(facts, now);
    let mut outcomes = Vec::with_capacity(requests.len());
    for wanted in requests {
        let outcome = left.judge(wanted);
        if outcome == Ok(Decision::Create) {
            left.grant(wanted);
        }
        outcomes.push(outcome);
    }
    // A refused buyer is told what is left after the batch, not in the middle of it.
    for outcome in &mut outcomes {
        if let Err(Refused::OutOfStock { shortages }) = outcome {
            for shortage in shortages {
                shortage.available = left.units(shortage.product).max(0);
            }
        }
    }
    outcomes
}

/// What the requests before have left.
struct Left<'a> {
    facts: &'a Facts,
    now: DateTime<Utc>,
    units: HashMap<ProductId, i64>,
    owned: HashMap<(AccountId, ProductId), i64>,
    owned_seats: HashMap<(AccountId, ConcertId), i64>,
    created: HashSet<HoldId>,
    /// By earlier requests of the batch.
    taken: HashMap<SeatId, Taken>,
    /// Reservations that earlier requests of the batch have ordered, with their orders' holds.
    moved: HashMap<HoldId, HoldId>,
}

impl<'a> Left<'a> {
    fn new(facts: &'a Facts, now: DateTime<Utc>) -> Left<'a> {
        let sellable = |(id, stock): (&ProductId, &Stock)| (*id, stock.sellable_after(&facts.freed, *id));
        Left {
            facts,
            now,
            units: facts.stocks.iter().map(sellable).collect(),
            owned: facts.owned.clone(),
            owned_seats: facts.owned_seats.clone(),
            created: HashSet::new(),
            taken: HashMap::new(),
            moved: HashMap::new(),
        }
    }

    fn units(&self, product: ProductId) -> i64 {
        self.units.get(&product).copied().unwrap_or(0)
    }

    fn judge(&self, wanted: &Wanted) -> Result<Decision, Refused> {
        let exists = self.created.contains(&wanted.hold) || self.facts.holds.contains_key(&wanted.hold);
        if exists && wanted.reservation().is_some_and(|reservation| !self.has_seats_of(wanted.hold, reservation)) {
            return Err(Refused::OtherRequest(wanted.hold));
        }
        if self.created.contains(&wanted.hold) {
            return Ok(Decision::Duplicate);
        }
        if let Some(hold) = self.facts.holds.get(&wanted.hold) {
            return check_repeat(hold, wanted.user, self.now).map(|()| Decision::Exists);
        }
        match &wanted.what {
            What::Units(lines) => {
                let is_seated =
                    |product: &ProductId| self.facts.stocks.get(product).is_some_and(|s| s.concert.is_some());
                match lines.iter().map(|line| line.product).find(is_seated) {
                    Some(product) => Err(Refused::SeatsRequired(product)),
                    None => self.check_units(wanted.user, lines).map(|()| Decision::Create),
                }
            }
            What::Seats { concert, seats } => self.check_seats(wanted.user, *concert, seats),
            What::Reserved(reservation) => self.check_reservation(wanted.user, *reservation).map(|()| Decision::Create),
        }
    }

    /// Whether `hold` was made from `reservation`.
    fn has_seats_of(&self, hold: HoldId, reservation: HoldId) -> bool {
        let before = || self.facts.holds.get(&reservation).and_then(|reservation| reservation.moved_to);
        self.moved.get(&reservation).copied().or_else(before) == Some(hold)
    }

    fn check_units(&self, user: AccountId, lines: &[WantedLine]) -> Result<(), Refused> {
        let mut shortages = Vec::new();
        for line in lines {
            let product = line.product;
            let stock = self.facts.stocks.get(&product).ok_or(Refused::ProductNotFound(product))?;
            let have = self.owned.get(&(user, product)).copied().unwrap_or(0);
            if let Some(max) = stock.max_per_user
                && have + i64::from(line.quantity) > i64::from(max)
            {
                return Err(Refused::LimitExceeded { product, requested: line.quantity, have, max });
            }
            let available = self.units(product);
            if i64::from(line.quantity) > available {
                shortages.push(Shortage { product, requested: line.quantity, available });
            }
        }
        if shortages.is_empty() { Ok(()) } else { Err(Refused::OutOfStock { shortages }) }
    }

    /// The hold that has the seat, although its time may be up: then the caller takes it over and asks again.
    fn taker(&self, seat: SeatId) -> Option<&Taken> {
        self.taken.get(&seat).or_else(|| self.facts.seats.get(&seat)?.taken.as_ref())
    }

    fn check_seats(&self, user: AccountId, concert: ConcertId, seats: &[SeatId]) -> Result<Decision, Refused> {
        let (mut taken, mut takers) = (Vec::new(), Vec::new());
        for id in seats {
            let seat = self.facts.seats.get(id).filter(|seat| seat.concert == concert);
            let seat = seat.ok_or(Refused::SeatNotFound(*id))?;
            if let Some(taker) = self.taker(*id) {
                taken.push(TakenSeat { seat: *id, label: seat.label.clone(), own: taker.own(user, self.now) });
                takers.push(taker);
            }
        }
        if let Some(first) = takers.first()
            && first.is_same(user, seats.len(), self.now)
            && takers.len() == seats.len()
            && takers.iter().all(|taker| taker.hold == first.hold)
        {
            return Ok(Decision::Same(first.hold));
        }
        if !taken.is_empty() {
            return Err(Refused::SeatsTaken { seats: taken });
        }
        let have = self.owned_seats.get(&(user, concert)).copied().unwrap_or(0);
        if let Some(max) = self.facts.seat_limits.get(&concert).copied()
            && have + seats.len() as i64 > i64::from(max)
        {
            return Err(Refused::SeatLimitExceeded { concert, requested: seats.len(), have, max });
        }
        let lines: Vec<_> = seat_lines(seats, &self.facts.seats).into_iter().map(|(line, _)| line).collect();
        self.check_units(user, &lines).map(|()| Decision::Create)
    }

    fn check_reservation(&self, user: AccountId, id: HoldId) -> Result<(), Refused> {
        let reservation = self.facts.holds.get(&id).filter(|hold| hold.concert.is_some() && hold.user == Some(user));
        let reservation = reservation.ok_or(Refused::ReservationNotFound(id))?;
        if let Some(taken_by) = reservation.moved_to.or_else(|| self.moved.get(&id).copied()) {
            return Err(Refused::ReservationOrdered { reservation: id, taken_by });
        }
        match reservation.state_at(self.now) {
            HoldState::Held => Ok(()),
            _ => Err(Refused::ReservationEnded(id)),
        }
    }

    fn grant(&mut self, wanted: &Wanted) {
        self.created.insert(wanted.hold);
        let lines: Vec<WantedLine> = match &wanted.what {
            What::Units(lines) => lines.clone(),
            What::Seats { concert, seats } => {
                let taken = Taken {
                    hold: wanted.hold,
                    user: Some(wanted.user),
                    state: HoldState::Held,
                    // Not now, so not in this batch.
                    expires_at: DateTime::<Utc>::MAX_UTC,
                    is_reservation: true,
                    seats: seats.len() as i64,
                };
                self.taken.extend(seats.iter().map(|seat| (*seat, taken)));
                *self.owned_seats.entry((wanted.user, *concert)).or_default() += seats.len() as i64;
                seat_lines(seats, &self.facts.seats).into_iter().map(|(line, _)| line).collect()
            }
            // Its units were held before.
            What::Reserved(reservation) => {
                self.moved.insert(*reservation, wanted.hold);
                Vec::new()
            }
        };
        for line in &lines {
            *self.units.entry(line.product).or_default() -= i64::from(line.quantity);
            *self.owned.entry((wanted.user, line.product)).or_default() += i64::from(line.quantity);
        }
    }
}

/// The expired holds that have seats which somebody was refused.
pub fn due_takers<T>(outcomes: &[Result<T, Refused>], facts: &Facts, now: DateTime<Utc>) -> BTreeSet<HoldId> {
    let refused = outcomes.iter().filter_map(|outcome| match outcome {
        Err(Refused::SeatsTaken { seats }) => Some(seats),
        _ => None,
    });
    let takers = refused.flatten().filter_map(|taken| facts.seats.get(&taken.seat)?.taken);
    takers.filter(|taker| taker.is_due(now)).map(|taker| taker.hold).collect()
}

/// The products that somebody was refused for want of units, in order.
pub fn short_products<T>(outcomes: &[Result<T, Refused>]) -> Vec<ProductId> {
    let shortages = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).flat_map(Refused::shortages);
    let short: BTreeSet<ProductId> = shortages.map(|shortage| shortage.product).collect();
    short.into_iter().collect()
}

/// How many units a transaction adds to one row of stock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Move {
    pub on_hand: i64,
    pub held: i64,
    /// Units that an adjustment or a return brought: only these can be a restock.
    pub restocked: i64,
}

impl Move {
    fn sellable(&self) -> i64 {
        self.on_hand - self.held
    }
}

/// The changes of all rows of one transaction, in product order.
pub type Moves = BTreeMap<ProductId, Move>;

/// Whether the sellable units of a product ran out or came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crossing {
    Depleted,
    /// A new restock round begins.
    Replenished,
    Nothing,
}

/// Units of an expired or released hold are not a restock.
pub fn crossing(sellable_before: i64, change: Move) -> Crossing {
    let sellable_after = sellable_before + change.sellable();
    if sellable_before > 0 && sellable_after <= 0 {
        Crossing::Depleted
    } else if sellable_before <= 0 && sellable_after > 0 && change.restocked > 0 {
        Crossing::Replenished
    } else {
        Crossing::Nothing
    }
}

/// The units on hand after an adjustment. Refuses with `STOCK_BELOW_HELD` and `VALIDATION_ERROR`.
pub fn adjusted(on_hand: i64, held: i64, delta: i64) -> Result<i64, common::Error> {
    let after = on_hand + delta;
    if after < held {
        return Err(Refused::BelowHeld { on_hand, held, delta }.into());
    }
    if after > ON_HAND_MAX {
        return Err(common::Refused::invalid("delta", format!("a stock may have {ON_HAND_MAX} units at most")).into());
    }
    Ok(after)
}

#[cfg(test)]
mod tests;
