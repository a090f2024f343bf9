//! Which rows a batch of holds has to lock and read, before it locks any.

use std::collections::{BTreeSet, HashMap};

use common::Result;
use common::db::Tx;
use contract::ids::{AccountId, ConcertId, HoldId, ProductId, SeatId};

use crate::hold::{Hold, HoldState};
use crate::hold_rows::{HoldsRead, lock_holds, read_holds};
use crate::seat::Seat;
use crate::seat_rows::{read_limits, read_seats};
use crate::wanted::Wanted;

/// Which rows a batch has to lock and read.
pub struct Places {
    pub products: BTreeSet<ProductId>,
    pub seats: Vec<SeatId>,
    pub seat_limits: HashMap<ConcertId, i32>,
    /// Their products are among `products`, which are locked first.
    pub reservations: Vec<HoldId>,
}

/// Only a look, at what never changes: the products of seats and of holds, and the limits of concerts. Whoever has a wanted seat
/// and is not paying may have expired by then: their other seats become free with it.
pub async fn find_places(tx: &mut Tx, requests: &[Wanted]) -> Result<Places> {
    let mut products: BTreeSet<_> = requests.iter().flat_map(Wanted::lines).map(|line| line.product).collect();
    let seats: BTreeSet<SeatId> = requests.iter().flat_map(Wanted::seats).copied().collect();
    let seats = Vec::from_iter(seats);
    let looked_at = read_seats(tx, &seats).await?;
    products.extend(looked_at.values().map(|seat| seat.product));
    // A limit spans the price categories of its concert: with all of them locked, nobody else counts.
    let concerts: BTreeSet<ConcertId> = looked_at.values().map(|seat| seat.concert).collect();
    let limits = read_limits(tx, &concerts).await?;
    products.extend(limits.iter().flat_map(|limit| limit.product_ids.iter().copied()));
    let seat_limits = limits.iter().map(|limit| (limit.concert_id, limit.max_per_user)).collect();

    let reservations: BTreeSet<HoldId> = requests.iter().filter_map(Wanted::reservation).collect();
    let takers = looked_at.values().filter_map(|seat| seat.taken).filter(|taker| taker.state == HoldState::Held);
    let holds: BTreeSet<HoldId> = takers.map(|taker| taker.hold).chain(reservations.iter().copied()).collect();
    let reservations = Vec::from_iter(reservations);
    if !holds.is_empty() {
        let HoldsRead { holds, .. } = read_holds(tx, &Vec::from_iter(holds)).await?;
        products.extend(holds.values().flat_map(|hold| &hold.lines).map(|line| line.product));
    }
    Ok(Places { products, seats, seat_limits, reservations })
}

/// After the stock of their products: see `stock_rows.rs`.
pub async fn lock_reservations(tx: &mut Tx, ids: &[HoldId]) -> Result<HashMap<HoldId, Hold>> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    Ok(lock_holds(tx, ids).await?.holds)
}

/// The accounts that want seats of concerts with a limit.
pub fn limited_pairs(
    requests: &[Wanted],
    seats: &HashMap<SeatId, Seat>,
    limits: &HashMap<ConcertId, i32>,
) -> BTreeSet<(AccountId, ConcertId)> {
    let concert = |seat: &SeatId| seats.get(seat).map(|seat| seat.concert).filter(|id| limits.contains_key(id));
    let pairs = requests.iter().flat_map(|wanted| wanted.seats().iter().map(|seat| (wanted.user, concert(seat))));
    pairs.filter_map(|(user, concert)| Some((user, concert?))).collect()
}
