//! Passes end when they are used or given back: in Redis, which frees the slot, and in PostgreSQL, so that a signature that is
//! still good does not open the door again after Redis was lost.

use std::sync::Arc;

use actix_web::{HttpResponse, post};
use common::Result;
use common::auth::Caller;
use common::batch::{Batch, BatchSettings};
use common::db::{Db, Prepared};
use common::http::{Data, Path, Problem, detach};
use contract::ids::{AccountId, SaleEventId};
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, Uuid};
use diesel_async::RunQueryDsl;

use crate::App;
use crate::read_events::Known;
use crate::restore_room::restore_room;
use crate::room::{Cold, End};
use crate::sale_event::Phase;

#[derive(Debug, Clone, Copy)]
pub struct EndedPass {
    pub event: SaleEventId,
    pub seq: i64,
    pub account: AccountId,
}

/// Stores passes that have ended. Everybody who is waiting shares a statement.
pub fn ended_batch(db: &Db, settings: &BatchSettings) -> Batch<EndedPass, ()> {
    let db = db.clone();
    Batch::start("ended_passes", settings, move |ended: Arc<[EndedPass]>| {
        let db = db.clone();
        async move {
            db.tx("end_passes", async |tx| {
                let events: Vec<_> = ended.iter().map(|pass| pass.event).collect();
                let seqs: Vec<_> = ended.iter().map(|pass| pass.seq).collect();
                let accounts: Vec<_> = ended.iter().map(|pass| pass.account).collect();
                let query = sql_query(include_str!("end_pass.sql"))
                    .bind::<Array<Uuid>, _>(events)
                    .bind::<Array<BigInt>, _>(seqs)
                    .bind::<Array<Uuid>, _>(accounts);
                Ok(Prepared(query).execute(tx).await?)
            })
            .await?;
            Ok(ended.iter().map(|_| Ok(())).collect())
        }
    })
}

/// The account has bought. False: it had no pass.
pub async fn complete_pass(app: &App, event: SaleEventId, account: AccountId) -> Result<bool> {
    let known = app.events.find(event).await?;
    let is_ended = end_number(app, &known, account, None, "COMPLETED").await?;
    if is_ended {
        metrics::counter!("stampede_queue_passes_total", "outcome" => "completed").increment(1);
    }
    Ok(is_ended)
}

/// Ends a number of the account, or the one that it has, in a room that is built again if need be. False: it had ended, or there
/// is none.
pub async fn end_number(
    app: &App,
    known: &Known,
    account: AccountId,
    seq: Option<i64>,
    why: &'static str,
) -> Result<bool> {
    let event = &known.event;
    let ended = match app.rooms.end(event.id, account, seq, why).await? {
        Ok(ended) => ended,
        Err(Cold) if seq.is_some() || event.phase(known.now()) == Phase::Open => {
            restore_room(app, event).await?;
            app.rooms.end(event.id, account, seq, why).await?.unwrap_or_default()
        }
        // Before the opening nobody has a pass, and after the end none is worth anything.
        Err(Cold) => None,
    };
    let Some(End { seq, is_new }) = ended else { return Ok(false) };
    app.db.point("queue.after_end").await;
    // Also of one that had ended: whoever ended it may have died before it was stored.
    app.ended.submit(EndedPass { event: event.id, seq, account }).await?;
    Ok(is_new)
}

/// Gives one's pass back when one is done: the next in line has the slot at once. A repeat changes nothing.
#[utoipa::path(tag = "queues", params(("eventId" = SaleEventId, Path)), responses(
    (status = 204, description = "The pass has ended, or there was none"),
    (status = 401, body = Problem, description = "UNAUTHORIZED"),
    (status = 404, body = Problem, description = "EVENT_NOT_FOUND")
), security(("bearer" = [])))]
#[post("/queues/{eventId}/passes/complete")]
pub async fn give_pass_back(app: Data<App>, caller: Caller, id: Path<SaleEventId>) -> Result<HttpResponse> {
    let (app, id) = (app.into_inner(), id.into_inner());
    detach(async move { complete_pass(&app, id, caller.account.into()).await }).await?;
    Ok(HttpResponse::NoContent().finish())
}
