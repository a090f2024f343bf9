//! `POST /queues/{eventId}/tickets`: a place in the line, one for each account.

use std::time::Duration;

use actix_web::http::header::LOCATION;
use actix_web::{HttpResponse, post};
use common::auth::Caller;
use common::http::{Data, OptionalJson, Path, Problem, detach};
use common::text::Text;
use common::{Error, Result};
use contract::ids::{AccountId, SaleEventId};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::App;
use crate::enter_lobby::Early;
use crate::names::{SoldOut, Status};
use crate::read_events::Known;
use crate::read_ticket::{TicketStatus, TicketView, look, refuse_ended, with_token};
use crate::refused::Refused;
use crate::restore_room::{reserve_numbers, restore_room};
use crate::room::{Cold, NoNumber, Number};
use crate::run_rooms::{configure, tick_room};
use crate::sale_event::Phase;
use crate::ticket::{Pass, Place, Ticket};

/// A room that is lost, or has no numbers left, is asked again so often.
const TRIES: usize = 5;
/// Numbers so near the front do not wait for the next tick.
const NEAR: i64 = 10;

#[derive(Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Entry {
    /// Before the opening: your own part of the ticket's id, so that nobody else chose it for the draw. Make it up.
    #[schema(value_type = Option<String>)]
    nonce: Option<Text<1, 64>>,
}

/// Enter the line, or come back to one's place in it.
///
/// Before the opening everybody who has come is put in order by a draw, afterwards it is first come, first served. If nobody
/// has to wait, the answer has the pass.
#[utoipa::path(tag = "queues", params(("eventId" = SaleEventId, Path)), request_body = Option<Entry>, responses(
    (status = 201, body = TicketView, description = "A new place"),
    (status = 200, body = TicketView, description = "The place that this account has"),
    (status = 400, body = Problem, description = "VALIDATION_ERROR"),
    (status = 401, body = Problem, description = "UNAUTHORIZED"),
    (status = 404, body = Problem, description = "EVENT_NOT_FOUND"),
    (status = 409, body = Problem, description = "EVENT_NOT_OPEN, EVENT_CLOSED, QUEUE_DRAINING"),
    (status = 410, body = Problem, description = "EVENT_SOLD_OUT"),
    (status = 429, body = Problem, description = "QUEUE_FULL, RATE_LIMITED"),
    (status = 503, body = Problem, description = "SERVICE_UNAVAILABLE")
), security(("bearer" = [])))]
#[post("/queues/{eventId}/tickets")]
pub async fn enter_queue(
    app: Data<App>,
    caller: Caller,
    id: Path<SaleEventId>,
    body: OptionalJson<Entry>,
) -> Result<HttpResponse> {
    let (id, account) = (id.into_inner(), AccountId::from(caller.account));
    app.entries.check(account)?;
    let nonce = body.0.and_then(|entry| entry.nonce).map(Text::into_string).unwrap_or_default();
    let app = app.into_inner();
    let (view, is_new) = detach(async move { enter(&app, id, account, &nonce).await }).await?;
    let mut response = if is_new { HttpResponse::Created() } else { HttpResponse::Ok() };
    response.insert_header((LOCATION, format!("/api/v1/queues/{id}/tickets/{}", view.ticket_id)));
    Ok(response.json(view))
}

async fn enter(app: &App, id: SaleEventId, account: AccountId, nonce: &str) -> Result<(TicketView, bool)> {
    let known = app.events.find(id).await?;
    let now = known.now();
    match known.event.phase(now) {
        Phase::Closed => Err(Refused::Closed(id).into()),
        Phase::Ahead => {
            let begins = known.event.prequeue_at.unwrap_or(known.event.opens_at);
            Err(Refused::NotOpen { event: id, begins_in: (begins - now).to_std().unwrap_or_default() }.into())
        }
        Phase::Prequeue => enter_early(app, &known, account, nonce).await,
        Phase::Open => enter_open(app, &known, account).await,
    }
}

async fn enter_early(app: &App, known: &Known, account: AccountId, nonce: &str) -> Result<(TicketView, bool)> {
    let event = &known.event;
    let asked = Ticket::early(event.id, account, nonce);
    let entered = app.lobby.submit(Early { event: event.id, account, ticket: asked.id }).await?;
    // The sale has begun between two looks at the clock: the next request joins the line.
    let Some(entered) = entered else {
        let wait = Duration::from_secs(1);
        return Err(Refused::NotOpen { event: event.id, begins_in: wait }.into());
    };
    let ticket = Ticket { id: entered.ticket, place: Place::Lobby };
    Ok((with_token(look(app, known, account, ticket).await?, known, account, ticket)?, entered.is_new))
}

async fn enter_open(app: &App, known: &Known, account: AccountId) -> Result<(TicketView, bool)> {
    let event = &known.event;
    if event.status == Status::Pending {
        // By its times it is open: whoever comes now need not wait until that is told.
        app.rescheduled.notify_one();
    }
    if !event.queue_manage_required {
        let ticket = Ticket::numbered(event.id, account, 0, 0);
        let view = look(app, known, account, ticket).await?;
        return Ok((with_token(view, known, account, ticket)?, true));
    }
    if event.prequeue_at.is_some()
        && let Some(ticket) = drawn(app, known, account).await?
        && let Some(view) = refuse_ended(look(app, known, account, ticket).await)?
    {
        return Ok((view, false));
    }
    let number = join(app, known, account).await?;
    let ticket = Ticket::numbered(event.id, account, number.seq, number.epoch);
    if number.seq <= number.front + NEAR {
        tick_room(app, event.id).await?;
    }
    let view = look(app, known, account, ticket).await?;
    Ok((with_token(view, known, account, ticket)?, number.is_new))
}

/// The place that the draw gave to this account. The room is built with the draw, so it is asked first.
async fn drawn(app: &App, known: &Known, account: AccountId) -> Result<Option<Ticket>> {
    if app.rooms.last(known.event.id).is_none() {
        tick_room(app, known.event.id).await?;
    }
    app.places.submit((known.event.id, account)).await
}

async fn join(app: &App, known: &Known, account: AccountId) -> Result<Number> {
    let event = &known.event;
    // After a restock the sale is open in the database a moment before its room hears of it.
    let mut may_have_begun_again = event.sold_out != Some(SoldOut::Final);
    for _ in 0..TRIES {
        match app.joins.submit((event.id, account)).await? {
            Err(Cold) => restore_room(app, event).await?,
            Ok(Err(NoNumber::SoldOut)) if may_have_begun_again => {
                may_have_begun_again = false;
                let (Ok(()) | Err(Cold)) = configure(app, event).await?;
            }
            Ok(Err(NoNumber::Reserve(ceil))) => reserve_numbers(app, event.id, ceil).await?,
            Ok(Err(no)) => {
                return Err(match no {
                    NoNumber::SoldOut => Refused::SoldOut { products: event.product_ids.clone() },
                    NoNumber::Draining => Refused::Draining(event.id),
                    NoNumber::Full => Refused::Full { waiting_max: event.room.waiting_max },
                    NoNumber::Closed | NoNumber::Reserve(_) => Refused::Closed(event.id),
                }
                .into());
            }
            Ok(Ok(number)) => {
                let outcome = if number.is_new { "new" } else { "known" };
                metrics::counter!("stampede_queue_entries_total", "outcome" => outcome).increment(1);
                return Ok(number);
            }
        }
    }
    Err(Error::transient(anyhow::anyhow!("the room of {} is being built", event.id)))
}

impl TicketView {
    /// With a pass.
    pub fn admitted(known: &Known, account: AccountId, ticket: Ticket, pass: Pass) -> Result<TicketView> {
        let now = known.now();
        let until = chrono::DateTime::from_timestamp_millis(pass.until_ms / 1000 * 1000).unwrap_or(now);
        Ok(TicketView {
            pass_token: Some(pass.sign(&known.signer, account, now)?),
            pass_expires_at: Some(crate::read_events::time(until)),
            ..TicketView::of(ticket, TicketStatus::Admitted)
        })
    }
}
