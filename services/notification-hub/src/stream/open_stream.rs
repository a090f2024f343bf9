//! `GET /stream`: what becomes known, as it becomes known, over one connection.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse, get};
use common::auth::{Caller, MaybeCaller};
use common::http::{Data, Problem, Query, client_address, sse};
use common::rpc::retrying;
use common::{Error, Refused, Result};
use contract::codes::ORDER_NOT_FOUND;
use contract::ids::{AccountId, OrderId};
use contract::order::GetOrderRequest;
use futures_util::future::try_join_all;
use futures_util::stream::unfold;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use utoipa::{IntoParams, ToSchema};

use super::Ended;
use super::clients::{Cause, Opened, Owner, Start};
use super::own_news::{CouponNews, OrderNews, PaymentNews};
use super::sales::SaleNews;
use super::topics::Topics;
use crate::App;

const LAST_EVENT_ID: &str = "last-event-id";

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OpenStream {
    /// What to be told, with commas between: `events`, `event:{eventId}`, `orders`, `order:{orderId}`, `coupons`; 20 at the
    /// most. Left out: all sale events, and with a token everything of its account.
    #[param(example = "event:01936f2e-52f0-7a41-9d0c-5b8f0c2d4e66,orders")]
    topics: Option<String>,
}

/// The data of `snapshot`: what is known at the beginning of a stream, and again after `resync`.
#[derive(Debug, Serialize, ToSchema)]
pub struct StreamSnapshot {
    /// Sale events that are not over; of those that `topics` names also closed ones.
    events: Vec<SaleNews>,
    /// The orders that `topics` names.
    orders: Vec<OrderNews>,
}

/// The data of `resync`: frames were missed that cannot be told again. What is shown must be read anew.
#[derive(Debug, Serialize, ToSchema)]
pub struct StreamResync {
    cause: Cause,
}

/// The data of `end`, the last frame of a stream that the server ends.
#[derive(Debug, Serialize, ToSchema)]
pub struct StreamEnd {
    reason: Ended,
}

/// The data of a frame, by its `event`.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it describes frames, each of which is written by itself")]
pub enum StreamData {
    /// `event.scheduled`, `event.open`, `event.soldout`, `event.closed`
    Sale(SaleNews),
    /// `order.updated`
    Order(OrderNews),
    /// `payment.updated`
    Payment(PaymentNews),
    /// `coupon.issued`, `coupon.failed`, `coupon.redeemed`, `coupon.restored`
    Coupon(CouponNews),
    /// `snapshot`
    Snapshot(StreamSnapshot),
    /// `resync`
    Resync(StreamResync),
    /// `end`
    End(StreamEnd),
}

/// News of sale events, and with a token of the caller's own orders, payments and coupons, as they become known. It begins
/// with `snapshot`, or with the frames after `Last-Event-ID`. A frame is told at most once: what is true is read over the
/// other routes, and of two news of one thing the one with the higher `version` holds.
#[utoipa::path(
    tag = "stream",
    params(OpenStream, ("Last-Event-ID" = Option<String>, Header, description = "The `id` of the last frame that the client got")),
    responses(
        (status = 200, content_type = "text/event-stream", body = StreamData, description = "Frames until one side ends it"),
        (status = 400, body = Problem, description = "VALIDATION_ERROR: a topic that does not exist"),
        (status = 401, body = Problem, description = "UNAUTHORIZED: a token that is not valid, or topics of one's own without one"),
        (status = 404, body = Problem, description = "ORDER_NOT_FOUND"),
        (status = 429, body = Problem, description = "RATE_LIMITED: too many streams of this account, or of this address without a token"),
        (status = 503, body = Problem, description = "SERVICE_UNAVAILABLE: too many streams, or not ready yet")
    ),
    security((), ("bearer" = []))
)]
#[get("/stream")]
pub async fn open_stream(
    app: Data<App>,
    caller: MaybeCaller,
    request: HttpRequest,
    query: Query<OpenStream>,
) -> Result<HttpResponse> {
    let app = app.into_inner();
    let MaybeCaller(caller) = caller;
    let topics = Topics::parse(query.topics.as_deref(), caller.is_some())?;
    let owner = match &caller {
        Some(caller) => Owner::Account(AccountId::from(caller.account)),
        None => Owner::Address(client_address(&request)),
    };
    let named: Vec<OrderId> = topics.orders.named().collect();
    let last_seen = request.headers().get(LAST_EVENT_ID).map(|id| id.to_str().unwrap_or_default());
    let last_seen = last_seen.filter(|id| !id.is_empty());
    let opened = app.stream.clients.open(owner, topics, last_seen, Instant::now()).inspect_err(|full| {
        metrics::counter!("stampede_streams_refused_total", "cause" => full.name()).increment(1);
    })?;
    let Opened { client, start, frames, ended } = opened;
    // From here on the place is given back whatever happens.
    let place = Place { app: app.clone(), client, owner, ended };
    let first = first(&app, start, owner, named).await?;
    let expires_at = caller.as_ref().map(expiry);
    let stream = Streaming { place, first: Some(first), frames, expires_at, is_over: false };
    Ok(sse::answer(unfold(stream, |mut stream| async move { Some((Ok(stream.next().await?), stream)) })))
}

/// When the token ends, by this host's clock.
fn expiry(caller: &Caller) -> Instant {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Instant::now() + Duration::from_secs(caller.expires_at).saturating_sub(now)
}

/// Unlike that of every other process, and of this one after a restart.
pub fn new_epoch() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// What the client gets at once. Orders are read after its place was taken, so that nothing falls between.
async fn first(app: &App, start: Start, owner: Owner, orders: Vec<OrderId>) -> Result<Bytes> {
    let mut first = sse::retry();
    match start {
        // A comment, so that the answer begins.
        Start::Replay(missed) if missed.is_empty() => first += ": nothing was missed\n\n",
        Start::Replay(missed) => {
            return Ok(std::iter::once(Bytes::from(first)).chain(missed).collect::<Vec<_>>().concat().into());
        }
        Start::Snapshot { id, sales, resync } => {
            let orders = match owner {
                Owner::Account(account) => try_join_all(orders.iter().map(|id| read_order(app, account, *id))).await?,
                Owner::Address(_) => Vec::new(),
            };
            if let Some(cause) = resync {
                first += &sse::frame(None, "resync", &StreamResync { cause })?;
            }
            first += &sse::frame(Some(&id), "snapshot", &StreamSnapshot { events: sales, orders })?;
        }
    }
    Ok(first.into())
}

/// Refuses with `ORDER_NOT_FOUND` also what is somebody else's.
async fn read_order(app: &App, account: AccountId, id: OrderId) -> Result<OrderNews> {
    let answer = retrying(|| {
        let mut order = app.stream.order.clone();
        let request = GetOrderRequest { order_id: id.to_string() };
        async move { order.get_order(request).await }
    })
    .await?;
    let order = answer.order.ok_or_else(|| Error::fault(anyhow::anyhow!("order answered without an order")))?;
    if order.user_id != account.to_string() {
        return Err(Refused::new(ORDER_NOT_FOUND, format!("There is no order {id}.")).into());
    }
    Ok(OrderNews { order_id: id, status: order.status, version: order.version })
}

/// A stream's place among those of this process.
struct Place {
    app: Arc<App>,
    client: u64,
    owner: Owner,
    ended: Arc<OnceLock<Ended>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.app.stream.clients.leave(self.client, self.owner, Instant::now());
        let reason = self.ended.get().map_or("gone", |ended| ended.name());
        metrics::counter!("stampede_streams_ended_total", "reason" => reason).increment(1);
    }
}

/// An open stream.
struct Streaming {
    place: Place,
    first: Option<Bytes>,
    frames: mpsc::Receiver<Bytes>,
    expires_at: Option<Instant>,
    is_over: bool,
}

impl Streaming {
    /// What is written next. None: the stream has ended.
    async fn next(&mut self) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        let app = self.place.app.clone();
        app.db.point("stream.before_frame").await;
        let ended = tokio::select! {
            biased;
            () = app.stream.draining.cancelled() => Ended::Shutdown,
            () = moment(self.expires_at) => Ended::TokenExpired,
            frame = self.frames.recv() => match frame {
                Some(frame) => return Some(frame),
                // It was told why before its frames ended.
                None => *self.place.ended.get()?,
            },
            () = tokio::time::sleep(app.settings.stream.heartbeat()) => return Some(sse::HEARTBEAT),
        };
        self.is_over = true;
        // Whoever was cut has its reason already.
        let reason = *self.place.ended.get_or_init(|| ended);
        let end = sse::frame(None, "end", &StreamEnd { reason }).ok()?;
        Some((sse::retry() + &end).into())
    }
}

/// Returns at `at`, or never.
async fn moment(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
