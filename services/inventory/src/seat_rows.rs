//! The rows of seats: who has one. They are changed only by transactions that have locked the stock of the seats.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use common::db::{Prepared, Tx};
use common::{Error, Result};
use contract::ids::{AccountId, ConcertId, HoldId, ProductId, SeatId};
use diesel::sql_types::{Array, BigInt, Bool, Integer, Nullable, Text, Timestamptz, Uuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::hold::{Hold, HoldState};
use crate::seat::{Seat, Taken};

#[derive(QueryableByName)]
struct SeatRow {
    #[diesel(sql_type = Uuid)]
    seat_id: SeatId,
    #[diesel(sql_type = Uuid)]
    concert_id: ConcertId,
    #[diesel(sql_type = Uuid)]
    product_id: ProductId,
    #[diesel(sql_type = Text)]
    label: String,
    #[diesel(sql_type = Bool)]
    queue_manage_required: bool,
    #[diesel(sql_type = Nullable<Uuid>)]
    hold_id: Option<HoldId>,
    #[diesel(sql_type = Nullable<Uuid>)]
    user_id: Option<AccountId>,
    #[diesel(sql_type = Nullable<Text>)]
    state: Option<HoldState>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    expires_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Bool)]
    is_reservation: bool,
    #[diesel(sql_type = BigInt)]
    seats: i64,
}

/// Those of `ids` that exist, each with the hold that has it.
pub async fn read_seats(conn: &mut AsyncPgConnection, ids: &[SeatId]) -> Result<HashMap<SeatId, Seat>> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let query = sql_query(include_str!("seat_rows_read.sql")).bind::<Array<Uuid>, _>(ids);
    let rows: Vec<SeatRow> = Prepared(query).load(conn).await?;
    let seat = |row: SeatRow| {
        let SeatRow { seat_id, concert_id: concert, product_id: product, label, is_reservation, seats, .. } = row;
        let queue_manage_required = row.queue_manage_required;
        let hold = row.hold_id.zip(row.state).zip(row.expires_at);
        let user = row.user_id;
        let taken =
            hold.map(|((hold, state), expires_at)| Taken { hold, user, state, expires_at, is_reservation, seats });
        (seat_id, Seat { concert, product, label, queue_manage_required, taken })
    };
    Ok(rows.into_iter().map(seat).collect())
}

/// A concert with a limit, and all its price categories.
#[derive(QueryableByName)]
pub struct LimitedConcert {
    #[diesel(sql_type = Uuid)]
    pub concert_id: ConcertId,
    #[diesel(sql_type = Integer)]
    pub max_per_user: i32,
    #[diesel(sql_type = Array<Uuid>)]
    pub product_ids: Vec<ProductId>,
}

/// Those of `concerts` in which one account may have so many seats only.
pub async fn read_limits(conn: &mut AsyncPgConnection, concerts: &BTreeSet<ConcertId>) -> Result<Vec<LimitedConcert>> {
    if concerts.is_empty() {
        return Ok(Vec::new());
    }
    let query = sql_query(include_str!("seat_rows_limits.sql")).bind::<Array<Uuid>, _>(Vec::from_iter(concerts));
    Ok(Prepared(query).load(conn).await?)
}

#[derive(QueryableByName)]
struct OwnedRow {
    #[diesel(sql_type = Uuid)]
    user_id: AccountId,
    #[diesel(sql_type = Uuid)]
    concert_id: ConcertId,
    #[diesel(sql_type = BigInt)]
    seats: i64,
}

/// How many seats users hold and have bought in concerts. It cannot change before the commit if the stock of all their
/// price categories is locked.
pub async fn owned_seats(
    tx: &mut Tx,
    pairs: BTreeSet<(AccountId, ConcertId)>,
    now: DateTime<Utc>,
) -> Result<HashMap<(AccountId, ConcertId), i64>> {
    if pairs.is_empty() {
        return Ok(HashMap::new());
    }
    let (users, concerts): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    let query = sql_query(include_str!("seat_rows_owned.sql"))
        .bind::<Array<Uuid>, _>(users)
        .bind::<Array<Uuid>, _>(concerts)
        .bind::<Timestamptz, _>(now);
    let rows: Vec<OwnedRow> = Prepared(query).load(tx).await?;
    Ok(rows.into_iter().map(|row| ((row.user_id, row.concert_id), row.seats)).collect())
}

/// Gives each of `holds` its seats. Fails if the rules have promised a seat that another living hold has: then nothing
/// may commit.
pub async fn take_seats(tx: &mut Tx, holds: &[&Hold], now: DateTime<Utc>) -> Result<()> {
    let seats: Vec<_> = holds
        .iter()
        .filter_map(|hold| Some((*hold, hold.user?)))
        .flat_map(|(hold, user)| hold.seats().map(move |seat| (seat.seat_id, hold.id, user)))
        .collect();
    if seats.is_empty() {
        return Ok(());
    }
    let query = sql_query(include_str!("seat_rows_take.sql"))
        .bind::<Timestamptz, _>(now)
        .bind::<Array<Uuid>, _>(seats.iter().map(|(seat, ..)| *seat).collect::<Vec<_>>())
        .bind::<Array<Uuid>, _>(seats.iter().map(|(_, hold, _)| *hold).collect::<Vec<_>>())
        .bind::<Array<Uuid>, _>(seats.iter().map(|(.., user)| *user).collect::<Vec<_>>());
    let taken = Prepared(query).execute(tx).await?;
    if taken != seats.len() {
        let missing = seats.len() - taken;
        return Err(Error::fault(anyhow::anyhow!("{missing} of {} free seats were not free", seats.len())));
    }
    Ok(())
}
