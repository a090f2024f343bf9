//! Coming before the opening: one row for each account, committed before it is answered, so that nobody is missing in the
//! draw. Everybody who is waiting shares a transaction.

use std::collections::HashMap;
use std::sync::Arc;

use common::Result;
use common::batch::{Batch, BatchSettings};
use common::db::{Db, Prepared, Tx};
use contract::ids::{AccountId, SaleEventId, TicketId};
use diesel::sql_types::{Array, BigInt, Nullable, Uuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;

use crate::ticket::{Place, Ticket};

/// Somebody who comes early.
#[derive(Debug, Clone, Copy)]
pub struct Early {
    pub event: SaleEventId,
    pub account: AccountId,
    pub ticket: TicketId,
}

/// What became of it.
#[derive(Debug, Clone, Copy)]
pub struct Entered {
    /// The account's first ticket, whichever was asked for.
    pub ticket: TicketId,
    pub is_new: bool,
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Uuid)]
    event_id: SaleEventId,
    #[diesel(sql_type = Uuid)]
    user_id: AccountId,
    #[diesel(sql_type = Uuid)]
    ticket_id: TicketId,
    #[diesel(sql_type = Nullable<BigInt>)]
    seq: Option<i64>,
}

/// None: the sale has begun meanwhile.
pub fn lobby_batch(db: &Db, settings: &BatchSettings) -> Batch<Early, Option<Entered>> {
    let db = db.clone();
    Batch::start("enter_lobby", settings, move |early: Arc<[Early]>| {
        let db = db.clone();
        async move { db.tx("enter_lobby", async |tx| enter_all(tx, &early).await).await }
    })
}

async fn enter_all(tx: &mut Tx, early: &[Early]) -> Result<Vec<Result<Option<Entered>>>> {
    let events: Vec<SaleEventId> = early.iter().map(|early| early.event).collect();
    let accounts: Vec<AccountId> = early.iter().map(|early| early.account).collect();
    let tickets: Vec<TicketId> = early.iter().map(|early| early.ticket).collect();
    // The draw waits for us, or we see it.
    let lock = sql_query(include_str!("enter_lobby_lock.sql")).bind::<Array<Uuid>, _>(&events);
    Prepared(lock).execute(tx).await?;
    let insert = sql_query(include_str!("enter_lobby.sql"))
        .bind::<Array<Uuid>, _>(&events)
        .bind::<Array<Uuid>, _>(&accounts)
        .bind::<Array<Uuid>, _>(&tickets);
    let inserted: Vec<Row> = Prepared(insert).load(tx).await?;
    let new: HashMap<_, _> = inserted.iter().map(|row| ((row.event_id, row.user_id), row.ticket_id)).collect();
    let stored = read_all(tx, &events, &accounts).await?;
    Ok(early
        .iter()
        .map(|early| {
            let key = (early.event, early.account);
            let row = stored.get(&key).filter(|row| row.seq.is_none());
            Ok(row.map(|row| Entered { ticket: row.ticket_id, is_new: new.get(&key) == Some(&early.ticket) }))
        })
        .collect())
}

async fn read_all(
    conn: &mut diesel_async::AsyncPgConnection,
    events: &[SaleEventId],
    accounts: &[AccountId],
) -> Result<HashMap<(SaleEventId, AccountId), Row>> {
    let read =
        sql_query(include_str!("enter_lobby_read.sql")).bind::<Array<Uuid>, _>(events).bind::<Array<Uuid>, _>(accounts);
    let rows: Vec<Row> = Prepared(read).load(conn).await?;
    Ok(rows.into_iter().map(|row| ((row.event_id, row.user_id), row)).collect())
}

/// The numbers that the draw gave to accounts. None: the account did not come early.
pub fn places_batch(db: &Db, settings: &BatchSettings) -> Batch<(SaleEventId, AccountId), Option<Ticket>> {
    let db = db.clone();
    Batch::start("drawn_places", settings, move |wanted: Arc<[(SaleEventId, AccountId)]>| {
        let db = db.clone();
        async move {
            let (events, accounts): (Vec<_>, Vec<_>) = wanted.iter().copied().unzip();
            let rows = read_all(&mut *db.read().await?, &events, &accounts).await?;
            let ticket = |key| {
                let row: &Row = rows.get(key)?;
                // Of no room's epoch: whichever room there is looks it up.
                Some(Ticket { id: row.ticket_id, place: Place::Number { seq: row.seq?, epoch: 0 } })
            };
            Ok(wanted.iter().map(|key| Ok(ticket(key))).collect())
        }
    })
}
