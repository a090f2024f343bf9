//! `DELETE /queues/{eventId}/tickets/{ticketId}`: somebody gives up their place, or their pass.

use actix_web::{HttpRequest, HttpResponse, delete};
use common::Result;
use common::auth::Caller;
use common::http::{Data, Path, Problem, detach};
use contract::ids::{AccountId, SaleEventId, TicketId};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use crate::App;
use crate::end_pass::EndedPass;
use crate::read_ticket::{TicketPath, presented};
use crate::schema::lobby;
use crate::ticket::{Place, Ticket};

/// A repeat changes nothing.
#[utoipa::path(tag = "queues", params(("eventId" = SaleEventId, Path), ("ticketId" = TicketId, Path),
    ("X-Queue-Ticket" = String, Header)), responses(
    (status = 204, description = "The place, or the pass, is given up"),
    (status = 401, body = Problem, description = "UNAUTHORIZED"),
    (status = 404, body = Problem, description = "EVENT_NOT_FOUND, TICKET_NOT_FOUND")
), security(("bearer" = [])))]
#[delete("/queues/{eventId}/tickets/{ticketId}")]
pub async fn leave_queue(
    app: Data<App>,
    caller: Caller,
    request: HttpRequest,
    path: Path<TicketPath>,
) -> Result<HttpResponse> {
    let account = AccountId::from(caller.account);
    let known = app.events.find(path.event).await?;
    let ticket = presented(&app, &request, &known, account, path.ticket)?;
    let (app, event) = (app.into_inner(), path.event);
    detach(async move { leave(&app, event, account, ticket).await }).await?;
    Ok(HttpResponse::NoContent().finish())
}

async fn leave(app: &App, event: SaleEventId, account: AccountId, ticket: Ticket) -> Result<()> {
    let seq = match ticket.place {
        Place::Number { seq, .. } => Some(seq),
        Place::Lobby => {
            let place = lobby::table.find((event, account)).filter(lobby::ticket_id.eq(ticket.id));
            let removed =
                diesel::delete(place.filter(lobby::seq.is_null())).execute(&mut *app.db.read().await?).await?;
            let drawn = app.places.submit((event, account)).await?;
            match drawn {
                Some(Ticket { place: Place::Number { seq, .. }, .. }) if removed == 0 => Some(seq),
                _ => None,
            }
        }
    };
    let Some(seq) = seq else { return Ok(()) };
    // A room that is lost forgets nobody who shows no ticket.
    if let Ok(Some(seq)) = app.rooms.end(event, account, Some(seq), "LEFT").await? {
        app.ended.submit(EndedPass { event, seq, account }).await?;
    }
    Ok(())
}
