//! Draws: in the transaction that builds the room, so that whoever comes after the opening comes after all who came before.

use common::db::{Prepared, Tx};
use common::sql::clock_timestamp;
use common::{Error, Result};
use contract::ids::{SaleEventId, TicketId};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Uuid};
use diesel_async::RunQueryDsl;

use crate::draw::draw_order;
use crate::sale_event::SaleEvent;
use crate::schema::{lobby, rooms};

/// Places that one statement writes.
const CHUNK: usize = 10_000;

/// Gives those in the lobby their numbers, once.
pub async fn draw(tx: &mut Tx, event: &SaleEvent) -> Result<()> {
    let room = rooms::table.find(event.id);
    let drawn_at: Option<chrono::DateTime<chrono::Utc>> = room.select(rooms::drawn_at).for_update().first(tx).await?;
    if drawn_at.is_some() {
        return Ok(());
    }
    let early: Vec<TicketId> =
        lobby::table.filter(lobby::event_id.eq(event.id)).select(lobby::ticket_id).load(tx).await?;
    tx.point("queue.lobby_read").await;
    let order = draw_order(&event.draw_seed, &early);
    let mut seq = 0;
    for chunk in order.chunks(CHUNK) {
        write_places(tx, event.id, seq, chunk).await?;
        seq += chunk.len() as i64;
    }
    tx.point("queue.drawn").await;
    let count = i64::try_from(order.len()).map_err(Error::fault)?;
    diesel::update(room)
        .set((
            rooms::drawn_at.eq(clock_timestamp().nullable()),
            rooms::drawn.eq(count),
            rooms::reserved_to.eq(count),
            rooms::issued.eq(count),
        ))
        .execute(tx)
        .await?;
    tracing::info!(event.id = %event.id, tickets = count, "Drew the order of those who came early to {}", event.id);
    Ok(())
}

async fn write_places(tx: &mut Tx, event: SaleEventId, before: i64, tickets: &[TicketId]) -> Result<()> {
    let query = diesel::sql_query(include_str!("draw_lobby.sql"))
        .bind::<Uuid, _>(event)
        .bind::<BigInt, _>(before)
        .bind::<Array<Uuid>, _>(tickets);
    Prepared(query).execute(tx).await?;
    Ok(())
}
