//! `GET /queues/{eventId}/tickets/{ticketId}/stream`, `GET /events/{eventId}/stream`: the same answers, pushed when they change
//! (server-sent events).

use std::sync::Arc;
use std::time::Duration;

use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse, get};
use common::auth::Caller;
use common::http::{Data, Path, Problem, sse};
use common::{Error, Result};
use contract::ids::{AccountId, SaleEventId, TicketId};
use futures_util::stream::unfold;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::App;
use crate::names::Status;
use crate::read_events::view;
use crate::read_ticket::{TicketPath, TicketStatus, TicketView, look, presented};
use crate::room::Told;
use crate::ticket::{Place, Ticket};

/// Between two looks at a sale event. Its opening is looked at when it is due.
const EVENT_PERIOD: Duration = Duration::from_secs(1);
/// Between two looks at a ticket, at the least: the front moves four times a second.
const TICKET_PERIOD: Duration = Duration::from_secs(1);

/// What happens to a ticket: `queue.tick`, `queue.admitted`, `queue.soldout`, `queue.ended`, each with the whole ticket.
#[utoipa::path(tag = "queues", params(("eventId" = SaleEventId, Path), ("ticketId" = TicketId, Path),
    ("X-Queue-Ticket" = String, Header)), responses(
    (status = 200, content_type = "text/event-stream", body = TicketView),
    (status = 401, body = Problem, description = "UNAUTHORIZED"),
    (status = 404, body = Problem, description = "EVENT_NOT_FOUND, TICKET_NOT_FOUND"),
    (status = 503, body = Problem, description = "SERVICE_UNAVAILABLE: too many streams")
), security(("bearer" = [])))]
#[get("/queues/{eventId}/tickets/{ticketId}/stream")]
pub async fn stream_ticket(
    app: Data<App>,
    caller: Caller,
    request: HttpRequest,
    path: Path<TicketPath>,
) -> Result<HttpResponse> {
    let account = AccountId::from(caller.account);
    let known = app.events.find(path.event).await?;
    let ticket = presented(&app, &request, &known, account, path.ticket)?;
    let watched = Watched { event: path.event, account, ticket, ticks: app.rooms.watch(path.event) };
    let stream = Streaming::open(app.into_inner(), watched)?;
    Ok(sse::answer(unfold(stream, |mut stream| async move { Some((stream.next_of_ticket().await?, stream)) })))
}

/// What happens to a sale event: `event.pending`, `event.open`, `event.closed`, each with the whole event.
#[utoipa::path(tag = "events", params(("eventId" = SaleEventId, Path)), responses(
    (status = 200, content_type = "text/event-stream", body = crate::read_events::EventView),
    (status = 404, body = Problem, description = "EVENT_NOT_FOUND"),
    (status = 503, body = Problem, description = "SERVICE_UNAVAILABLE: too many streams")
))]
#[get("/events/{eventId}/stream")]
pub async fn stream_event(app: Data<App>, id: Path<SaleEventId>) -> Result<HttpResponse> {
    let id = id.into_inner();
    app.events.find(id).await?;
    let stream = Streaming::open(app.into_inner(), id)?;
    Ok(sse::answer(unfold(stream, |mut stream| async move { Some((stream.next_of_event().await?, stream)) })))
}

struct Watched {
    event: SaleEventId,
    account: AccountId,
    ticket: Ticket,
    ticks: watch::Receiver<Option<Told>>,
}

/// An open stream.
struct Streaming<T> {
    app: Arc<App>,
    watched: T,
    /// What was said last, to say only what is new.
    last: String,
    /// Frames so far.
    frames: u64,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

impl<T> Streaming<T> {
    fn open(app: Arc<App>, watched: T) -> Result<Streaming<T>> {
        let permit = app.streams.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Error::transient(anyhow::anyhow!("queue.streams_max streams are open")))?;
        Ok(Streaming { app, watched, last: String::new(), frames: 0, ended: false, _permit: permit })
    }

    /// A frame, if `data` differs from the last one in `mark`.
    fn frame(&mut self, kind: &str, mark: String, data: &impl Serialize) -> Result<Option<Bytes>> {
        if mark == self.last {
            return Ok(None);
        }
        self.last = mark;
        self.frames += 1;
        let retry = if self.frames == 1 { sse::retry() } else { String::new() };
        let frame = sse::frame(Some(&self.frames), kind, data)?;
        Ok(Some(Bytes::from(retry + &frame)))
    }
}

impl Streaming<Watched> {
    async fn next_of_ticket(&mut self) -> Option<Result<Bytes>> {
        let mut silence = Duration::ZERO;
        loop {
            if self.ended {
                return None;
            }
            match self.look_at_ticket().await {
                Ok(Some(frame)) => return Some(Ok(frame)),
                Ok(None) if silence >= sse::SILENCE_MAX => return Some(Ok(sse::HEARTBEAT)),
                Ok(None) => {}
                // Redis or PostgreSQL is away: the stream stays open and goes on.
                Err(error) if error.is_transient() => {}
                Err(error) => return Some(Err(error)),
            }
            silence += TICKET_PERIOD;
            tokio::select! {
                () = self.app.draining.cancelled() => return None,
                () = tokio::time::sleep(TICKET_PERIOD) => {}
                () = next_tick_admits(&mut self.watched) => {}
            }
        }
    }

    async fn look_at_ticket(&mut self) -> Result<Option<Bytes>> {
        let Watched { event, account, ticket, .. } = self.watched;
        let known = self.app.events.find(event).await?;
        let view = match look(&self.app, &known, account, ticket).await {
            Ok(view) => view,
            Err(Error::Refused(refused)) => {
                self.ended = true;
                let body = serde_json::json!({ "ticketId": ticket.id, "code": refused.code.reason });
                return self.frame("queue.ended", "ended".to_owned(), &body);
            }
            Err(error) => return Err(error),
        };
        if let Some(renewed) = view
            .ticket_token
            .as_deref()
            .and_then(|token| Ticket::read(&self.app.tickets, &known.signer, account, token, known.now()))
        {
            self.watched.ticket = renewed;
        }
        let kind = match view.status {
            TicketStatus::Waiting => "queue.tick",
            TicketStatus::Admitted => "queue.admitted",
            TicketStatus::Completed => "queue.ended",
            TicketStatus::SoldOut => "queue.soldout",
        };
        self.ended = matches!(view.status, TicketStatus::Completed | TicketStatus::SoldOut);
        let mark = format!("{kind}{:?}{:?}{:?}{:?}", view.ahead, view.sold_out, view.held, view.seq);
        self.frame(kind, mark, &view)
    }
}

/// Returns when the front has reached the ticket, and else never.
async fn next_tick_admits(watched: &mut Watched) {
    let Place::Number { seq, .. } = watched.ticket.place else { return std::future::pending().await };
    loop {
        if watched.ticks.changed().await.is_err() {
            return std::future::pending().await;
        }
        let told = watched.ticks.borrow_and_update().clone();
        if told.is_some_and(|told| told.status.front == seq) {
            return;
        }
    }
}

impl Streaming<SaleEventId> {
    async fn next_of_event(&mut self) -> Option<Result<Bytes>> {
        let mut silence = Duration::ZERO;
        loop {
            let mut wait = EVENT_PERIOD;
            match self.look_at_event(&mut wait).await {
                Ok(Some(frame)) => return Some(Ok(frame)),
                Ok(None) if silence >= sse::SILENCE_MAX => return Some(Ok(sse::HEARTBEAT)),
                Ok(None) => {}
                Err(error) if error.is_transient() => {}
                Err(error) => return Some(Err(error)),
            }
            silence += wait;
            tokio::select! {
                () = self.app.draining.cancelled() => return None,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// `wait` becomes shorter when the sale opens sooner.
    async fn look_at_event(&mut self, wait: &mut Duration) -> Result<Option<Bytes>> {
        let known = self.app.events.find(self.watched).await?;
        let now = known.now();
        let kind = match known.event.status_at(now) {
            Status::Pending => "event.pending",
            Status::Open => "event.open",
            Status::Closed => "event.closed",
        };
        if kind == "event.pending" {
            let left = (known.event.opens_at - now).to_std().unwrap_or_default();
            *wait = (*wait).min(left + Duration::from_millis(1));
        }
        let mark = format!("{kind}{}", known.event.version);
        self.frame(kind, mark, &view(&known.event, now))
    }
}
