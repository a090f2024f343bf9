//! `GET /queues/{eventId}/tickets/{ticketId}`: how far it is. Asking counts as being here.
//!
//! Far from the front the answer is made from the room's last tick, in memory: a hundred thousand who wait cost no call to
//! Redis. Near it each look is one script, which also turns an offered slot into a pass.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::Method;
use actix_web::http::header::{CACHE_CONTROL, ETAG};
use actix_web::{FromRequest, HttpRequest, HttpResponse, get};
use chrono::{DateTime, TimeDelta, Utc};
use common::auth::Caller;
use common::http::{Data, Direct, DirectAnswer, Path, Problem, answer_unless_known};
use common::{Error, Result};
use contract::codes::{EVENT_NOT_OPEN, TICKET_EXPIRED};
use contract::ids::{AccountId, SaleEventId, TicketId};
use futures_util::FutureExt;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::App;
use crate::names::SoldOut;
use crate::place::{RoomStatus, eta_seconds, poll_after, poll_before_opening};
use crate::read_events::Known;
use crate::refused::Refused;
use crate::restore_room::restore_room;
use crate::room::{Cold, Looked, Standing};
use crate::run_rooms::tick_room;
use crate::sale_event::{Phase, SaleEvent};
use crate::ticket::{Pass, Place, Ticket};

/// The header with the ticket.
pub const TICKET_HEADER: &str = "X-Queue-Ticket";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TicketStatus {
    Waiting,
    /// `passToken` lets this account buy, until `passExpiresAt`.
    Admitted,
    /// The pass has been used.
    Completed,
    /// Everything is sold.
    SoldOut,
}

/// A place in the line, as its owner sees it.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TicketView {
    pub ticket_id: TicketId,
    /// Show it with each question, the newest that you were given. It is your place, even if we lose it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ticket_token: Option<String>,
    pub status: TicketStatus,
    /// Absent before the draw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<i64>,
    /// Numbers before this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ahead: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<i64>,
    /// When to ask again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub poll_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass_expires_at: Option<String>,
    /// `TENTATIVE`: all that is left is held, and may come back; stay in line, or leave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sold_out: Option<SoldOut>,
    /// Units that are held, while nothing else is left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<i64>,
    /// Where to ask to be told when there is more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!(["/api/v1/products/6e598908-1bb6-5d4c-91d1-879169201f20/restock-subscriptions"]))]
    pub restock_subscriptions: Vec<String>,
}

impl TicketView {
    pub fn of(ticket: Ticket, status: TicketStatus) -> TicketView {
        let seq = match ticket.place {
            Place::Lobby => None,
            Place::Number { seq, .. } => Some(seq),
        };
        TicketView {
            ticket_id: ticket.id,
            ticket_token: None,
            status,
            seq,
            ahead: None,
            eta_seconds: None,
            poll_after_ms: None,
            pass_token: None,
            pass_expires_at: None,
            sold_out: None,
            held: None,
            restock_subscriptions: Vec::new(),
        }
    }

    fn etag(&self) -> String {
        let mut hasher = DefaultHasher::new();
        (self.status, self.seq, self.ahead, self.sold_out.map(<&str>::from), self.ticket_token.is_some())
            .hash(&mut hasher);
        (self.held, &self.pass_expires_at).hash(&mut hasher);
        format!("\"{:016x}\"", hasher.finish())
    }
}

#[derive(Deserialize)]
pub struct TicketPath {
    #[serde(rename = "eventId")]
    pub event: SaleEventId,
    #[serde(rename = "ticketId")]
    pub ticket: TicketId,
}

/// How far it is to one's turn. With the turn the pass comes.
///
/// Ask again after `pollAfterMs`. Whoever does not ask for 45 seconds near the front is passed over, and has five minutes to
/// come back and be next.
#[utoipa::path(tag = "queues", params(("eventId" = SaleEventId, Path), ("ticketId" = TicketId, Path),
    ("X-Queue-Ticket" = String, Header, description = "The newest `ticketToken`"),
    ("If-None-Match" = Option<String>, Header)), responses(
    (status = 200, body = TicketView, headers(("ETag" = String))),
    (status = 304, description = "Nothing has changed since the ETag in If-None-Match"),
    (status = 401, body = Problem, description = "UNAUTHORIZED"),
    (status = 404, body = Problem, description = "EVENT_NOT_FOUND, TICKET_NOT_FOUND"),
    (status = 409, body = Problem, description = "EVENT_CLOSED"),
    (status = 410, body = Problem, description = "TICKET_EXPIRED"),
    (status = 503, body = Problem, description = "SERVICE_UNAVAILABLE")
), security(("bearer" = [])))]
#[get("/queues/{eventId}/tickets/{ticketId}")]
pub async fn read_ticket(
    app: Data<App>,
    caller: Caller,
    request: HttpRequest,
    path: Path<TicketPath>,
) -> Result<HttpResponse> {
    answer(&app, &caller, &request, path.into_inner()).await
}

/// The same, without the framework's routing.
pub fn direct(app: &Arc<App>) -> Direct {
    let app = app.clone();
    let respond = move |request: &HttpRequest, parts: &[&str]| -> DirectAnswer {
        let [event, ticket] = parts else { return None };
        let path = TicketPath { event: event.parse().ok()?, ticket: ticket.parse().ok()? };
        let (app, request) = (app.clone(), request.clone());
        let answering = async move { answer(&app, &Caller::extract(&request).await?, &request, path).await };
        Some(answering.boxed_local())
    };
    let template = "/api/v1/queues/{eventId}/tickets/{ticketId}";
    Direct { method: Method::GET, template, answer: Arc::new(respond) }
}

async fn answer(app: &App, caller: &Caller, request: &HttpRequest, path: TicketPath) -> Result<HttpResponse> {
    let account = AccountId::from(caller.account);
    let known = app.events.find(path.event).await?;
    let ticket = presented(app, request, &known, account, path.ticket)?;
    let view = look(app, &known, account, ticket).await?;
    let etag = view.etag();
    // A pass is told in any case: it may be a new one for the same place.
    let (mut response, is_known) = match view.pass_token {
        None => answer_unless_known(request, &etag),
        Some(_) => (HttpResponse::Ok(), false),
    };
    response.insert_header((ETAG, etag)).insert_header((CACHE_CONTROL, "private, no-cache"));
    if let Some(after) = view.poll_after_ms {
        response.insert_header(("X-Poll-After-Ms", after));
    }
    Ok(if is_known { response.finish() } else { response.json(view) })
}

/// The ticket of this account in the request's header. Refuses with `TICKET_NOT_FOUND`.
pub fn presented(app: &App, request: &HttpRequest, known: &Known, account: AccountId, id: TicketId) -> Result<Ticket> {
    let token = request.headers().get(TICKET_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let ticket = Ticket::read(&app.tickets, &known.signer, account, token, known.now());
    Ok(ticket.filter(|ticket| ticket.id == id).ok_or(Refused::TicketNotFound(id))?)
}

/// Where a ticket stands. Refuses with `TICKET_EXPIRED` when its turn is over.
pub async fn look(app: &App, known: &Known, account: AccountId, ticket: Ticket) -> Result<TicketView> {
    let (event, now) = (&known.event, known.now());
    match event.phase(now) {
        Phase::Closed => return Err(Refused::Closed(event.id).into()),
        Phase::Ahead | Phase::Prequeue => return Ok(before_opening(event, ticket, now)),
        Phase::Open if !event.queue_manage_required => {
            // Nobody asks for this pass, but whoever shows one is let through.
            let until = now + TimeDelta::seconds(event.room.session_seconds.into());
            let pass = Pass { seq: 0, epoch: 0, until_ms: until.timestamp_millis() };
            return TicketView::admitted(known, account, ticket, pass);
        }
        Phase::Open => {}
    }
    let (ticket, seq, epoch) = match ticket.place {
        Place::Number { seq, epoch } => (ticket, seq, epoch),
        Place::Lobby => {
            if app.rooms.last(event.id).is_none() {
                match tick_room(app, event.id).await {
                    // It was put off in the last moment.
                    Err(error) if error.reason() == Some(&EVENT_NOT_OPEN.reason) => {
                        return Ok(before_opening(event, ticket, now));
                    }
                    ticked => ticked?,
                };
            }
            let drawn = app.places.submit((event.id, account)).await?;
            let Some(Ticket { place: Place::Number { seq, epoch }, .. }) = drawn else {
                return Err(Refused::TicketNotFound(ticket.id).into());
            };
            (Ticket { id: ticket.id, place: Place::Number { seq, epoch } }, seq, epoch)
        }
    };
    if let Some(status) = app.rooms.last(event.id).filter(|status| status.is_far(seq, epoch)) {
        return Ok(waiting(app, event, ticket, seq, &status));
    }
    let Looked { standing, epoch: room } = claim(app, event, account, seq, epoch).await?;
    match standing {
        Standing::Waiting | Standing::Back => {
            let Some(status) = app.rooms.last(event.id) else { return Err(away(event)) };
            let view = waiting(app, event, ticket, seq, &status);
            if room == epoch {
                return Ok(view);
            }
            // From here on the room knows it, and far from the front it need not be asked.
            let renewed = Ticket { place: Place::Number { seq, epoch: room }, ..ticket };
            with_token(view, known, account, renewed)
        }
        Standing::Active { until_ms } => {
            TicketView::admitted(known, account, ticket, Pass { seq, epoch: room, until_ms })
        }
        Standing::Completed => Ok(TicketView::of(ticket, TicketStatus::Completed)),
        Standing::SoldOut => Ok(TicketView {
            sold_out: Some(SoldOut::Final),
            restock_subscriptions: restock_subscriptions(event),
            ..TicketView::of(ticket, TicketStatus::SoldOut)
        }),
        Standing::Left | Standing::Gone => Err(Refused::TicketExpired(ticket.id).into()),
    }
}

async fn claim(app: &App, event: &SaleEvent, account: AccountId, seq: i64, epoch: i64) -> Result<Looked> {
    if let Ok(looked) = app.rooms.claim(event.id, account, seq, epoch).await? {
        if app.rooms.last(event.id).is_none() {
            tick_room(app, event.id).await?;
        }
        return Ok(looked);
    }
    restore_room(app, event).await?;
    tick_room(app, event.id).await?;
    app.rooms.claim(event.id, account, seq, epoch).await?.map_err(|Cold| away(event))
}

fn away(event: &SaleEvent) -> Error {
    Error::transient(anyhow::anyhow!("the room of {} is being built", event.id))
}

fn before_opening(event: &SaleEvent, ticket: Ticket, now: DateTime<Utc>) -> TicketView {
    let left = (event.opens_at - now).to_std().unwrap_or_default();
    TicketView {
        eta_seconds: Some(left.as_secs() as i64),
        poll_after_ms: Some(millis(poll_before_opening(left, rand::random()))),
        ..TicketView::of(ticket, TicketStatus::Waiting)
    }
}

fn waiting(app: &App, event: &SaleEvent, ticket: Ticket, seq: i64, status: &RoomStatus) -> TicketView {
    let ahead = status.ahead(seq);
    let tentative = event.sold_out == Some(SoldOut::Tentative);
    TicketView {
        ahead: Some(ahead),
        eta_seconds: Some(eta_seconds(ahead, status.pace)),
        poll_after_ms: Some(millis(poll_after(ahead, status.pace, rand::random()))),
        sold_out: event.sold_out,
        held: app.stocks.lock().get(&event.id).filter(|_| tentative).map(|known| known.stock.held()),
        restock_subscriptions: if tentative { restock_subscriptions(event) } else { Vec::new() },
        ..TicketView::of(ticket, TicketStatus::Waiting)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn restock_subscriptions(event: &SaleEvent) -> Vec<String> {
    event.product_ids.iter().map(|id| format!("/api/v1/products/{id}/restock-subscriptions")).collect()
}

/// The view with the ticket, signed.
pub fn with_token(view: TicketView, known: &Known, account: AccountId, ticket: Ticket) -> Result<TicketView> {
    Ok(TicketView { ticket_token: Some(ticket.sign(&known.signer, account, known.now())?), ..view })
}

/// None: the ticket's turn is over, or its line has ended, so its owner may have another.
pub fn refuse_ended(looked: Result<TicketView>) -> Result<Option<TicketView>> {
    match looked {
        Ok(TicketView { status: TicketStatus::Completed | TicketStatus::SoldOut, .. }) => Ok(None),
        Ok(view) => Ok(Some(view)),
        Err(error) if error.reason() == Some(&TICKET_EXPIRED.reason) => Ok(None),
        Err(error) => Err(error),
    }
}
