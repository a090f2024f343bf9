//! `DELETE /queues/{eventId}/tickets/{ticketId}`: somebody gives up their place, or their pass.

use actix_web::{HttpRequest, HttpResponse, delete};
use common::Result;
use common::auth::Caller;
use common::http::{Data, Path, Problem, detach};
use contract::ids::{AccountId, SaleEventId, TicketId};
use diesel::sql_query;
use diesel::sql_types::Uuid;
use diesel_async::RunQueryDsl;

use crate::App;
use crate::end_pass::end_number;
use crate::read_events::Known;
use crate::read_ticket::{TicketPath, presented};
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
    let app = app.into_inner();
    detach(async move { leave(&app, &known, account, ticket).await }).await?;
    Ok(HttpResponse::NoContent().finish())
}

async fn leave(app: &App, known: &Known, account: AccountId, ticket: Ticket) -> Result<()> {
    let event = known.event.id;
    let seq = match ticket.place {
        Place::Number { seq, .. } => Some(seq),
        Place::Lobby => {
            let leave = sql_query(include_str!("leave_queue.sql"))
                .bind::<Uuid, _>(event)
                .bind::<Uuid, _>(account)
                .bind::<Uuid, _>(ticket.id);
            let removed = app.db.tx("leave_lobby", async |tx| Ok(leave.execute(tx).await?)).await?;
            let drawn = app.places.submit((event, account)).await?;
            match drawn {
                Some(Ticket { place: Place::Number { seq, .. }, .. }) if removed == 0 => Some(seq),
                _ => None,
            }
        }
    };
    let Some(seq) = seq else { return Ok(()) };
    end_number(app, known, account, Some(seq), "LEFT").await?;
    Ok(())
}
