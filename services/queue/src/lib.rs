//! The queue: when a sale begins and ends, and who may buy next.
//!
//! Owns schema `queue`. Publishes `EVENT_SCHEDULED`, `EVENT_OPEN`, `EVENT_CLOSED` and `EVENT_SOLD_OUT`. Consumes
//! `ORDER_PLACED`, `STOCK_DEPLETED` and `STOCK_REPLENISHED`. Asks inventory for stock.

mod admission; // rules
mod draw; // rules
mod metrics;
mod names; // the states, and their names
mod place; // rules
mod refused;
mod room; // rooms in Redis
mod sale_event; // rules
mod schedule; // the schedule in Redis
mod schema;
mod ticket; // rules

mod close_events; // flows
mod draw_lobby;
mod end_pass;
mod enter_lobby;
mod enter_queue;
mod leave_queue;
mod manage_events;
mod manage_rooms;
mod note_stock;
mod open_events;
mod read_events;
mod read_room;
mod read_ticket;
mod restore_room;
mod stream_ticket;
mod verify_pass;

mod listen_for_expiry; // loops
mod open_on_time;
mod recover_events;
mod run_rooms;
mod scan_schedule;

mod on_order; // reactions
mod on_stock;
mod rpc; // gRPC interface

use std::collections::HashMap;

pub use room::{CLAIM_SCRIPT, JOIN_SCRIPT};

use std::sync::Arc;
use std::time::Duration;

use common::Host;
use common::batch::{Batch, BatchSettings};
use common::db::Db;
use common::http::{Data, ServiceConfig};
use common::inbox::Consumer;
use common::manifest::{Deploy, Invariant, ServiceSpec};
use common::outbox::Event as _;
use common::periodic::Schedule;
use common::rate::RateLimiter;
use common::redis::Redis;
use common::rpc::Upstream;
use common::signed::Verified;
use contract::events::{
    EventClosed, EventOpen, EventScheduled, EventSoldOut, OrderPlaced, StockDepleted, StockReplenished,
};
use contract::ids::{AccountId, SaleEventId};
use contract::inventory::stock_service_client::StockServiceClient;
use contract::queue::queue_service_server::QueueServiceServer;
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::end_pass::EndedPass;
use crate::enter_lobby::{Early, Entered};
use crate::note_stock::KnownStock;
use crate::on_order::OnOrder;
use crate::read_events::Events;
use crate::room::{Answer, Joined, Rooms};
use crate::sale_event::RoomRules;
use crate::ticket::Ticket;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/queue");

/// Section `[queue]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    timer_period_ms: u64,
    listen_retry_ms: u64,
    scan_period_ms: u64,
    recovery_period_ms: u64,
    tick_period_ms: u64,
    sync_period_ms: u64,
    scan_max: u32,
    numbers_reserved: i64,
    alive_seconds: u32,
    grace_seconds: u32,
    passes_per_100_units: i64,
    entries_per_minute: u32,
    streams_max: usize,
    verified_tickets_max: usize,
    join_batch: BatchSettings,
    batch: BatchSettings,
    room: RoomDefaults,
}

/// Section `[queue.room]`: the rules of a room for which its administrator sets none.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RoomDefaults {
    max_active: i32,
    rate_per_minute: i32,
    session_seconds: i32,
    claim_seconds: i32,
    waiting_max: i64,
    verify_offline: bool,
    closed_on_outage: bool,
}

impl From<RoomDefaults> for RoomRules {
    fn from(defaults: RoomDefaults) -> RoomRules {
        let RoomDefaults {
            max_active,
            rate_per_minute,
            session_seconds,
            claim_seconds,
            waiting_max,
            verify_offline,
            closed_on_outage,
        } = defaults;
        RoomRules {
            max_active,
            rate_per_minute,
            session_seconds,
            claim_seconds,
            waiting_max,
            verify_offline,
            closed_on_outage,
        }
    }
}

/// When somebody near the front counts as present, and how long they may be away.
#[derive(Debug, Clone, Copy)]
struct Presence {
    alive_ms: i64,
    grace_ms: i64,
}

/// What every flow of this service may use.
pub struct App {
    db: Db,
    redis: Redis,
    events: Events,
    rooms: Rooms,
    joins: Batch<(SaleEventId, AccountId), Answer<Joined>>,
    /// Tickets are shown with each poll.
    tickets: Verified,
    inventory: StockServiceClient<Upstream>,
    lobby: Batch<Early, Option<Entered>>,
    places: Batch<(SaleEventId, AccountId), Option<Ticket>>,
    ended: Batch<EndedPass, ()>,
    /// The rooms that this process runs.
    live: Mutex<Vec<SaleEventId>>,
    /// What was left of each sale when it was last asked.
    stocks: Mutex<HashMap<SaleEventId, KnownStock>>,
    presence: Presence,
    scan_max: u32,
    numbers_reserved: i64,
    passes_per_100_units: i64,
    /// For each account.
    entries: RateLimiter,
    streams: Arc<Semaphore>,
    /// A sale has begun, or its stock has changed.
    look_at_rooms: Arc<Notify>,
    room_rules: RoomRules,
    /// The timer looks further than the pause until it looks again.
    timer_horizon_ms: i64,
    /// What is due next may have changed.
    rescheduled: Arc<Notify>,
    stopping: CancellationToken,
    draining: CancellationToken,
}

/// What the rest of the workspace knows about this service.
pub const fn spec() -> ServiceSpec {
    ServiceSpec {
        name: "queue",
        summary: "when a sale begins, and who is next",
        paths: &["/api/v1/events", "/api/v1/admin/events", "/api/v1/queues", "/api/v1/admin/queues"],
        streams: &["/api/v1/events/*/stream", "/api/v1/queues/*/tickets/*/stream"],
        migrations: || MIGRATIONS,
        produces: &[EventScheduled::TOPIC, EventOpen::TOPIC, EventClosed::TOPIC, EventSoldOut::TOPIC],
        consumes: &[OrderPlaced::TOPIC, StockDepleted::TOPIC, StockReplenished::TOPIC],
        ignores: None,
        hears: &[],
        mount: |host| Box::pin(mount(host)),
        describe: |host| host.http(routes),
        invariants: &[
            Invariant { id: "I16", sql: include_str!("../audit/room_is_in_order.sql") },
            Invariant { id: "I18", sql: include_str!("../audit/opened_once.sql") },
        ],
        metrics: metrics::METRICS,
        unfinished: &[],
        deploy: Deploy {
            calls: &["inventory"],
            secrets: &[],
            outside: &[],
            cpu_millis: 250,
            memory_mib: 256,
            replicas_max: 6,
        },
    }
}

pub async fn mount(host: &mut Host) -> anyhow::Result<()> {
    let settings: Settings = host.settings("queue")?;
    let db = host.db("queue", MIGRATIONS).await?;
    let app = Arc::new(app(host, &settings, &db)?);

    let served = app.clone();
    host.http(move |config| routes(config.app_data(Data::from(served.clone()))));
    host.http_direct(read_ticket::direct(&app));
    host.grpc(QueueServiceServer::new(rpc::Rpc(app.clone())));
    let on_order = Arc::new(OnOrder(app.clone()));
    let consumer = Consumer::new("queue", &db)
        .on::<OrderPlaced, OnOrder>(&on_order)
        .on::<StockDepleted, App>(&app)
        .on::<StockReplenished, App>(&app);
    host.consume(consumer)?;
    host.relay(&db)?;
    run_loops(host, &settings, &app);
    Ok(())
}

fn app(host: &Host, settings: &Settings, db: &Db) -> anyhow::Result<App> {
    let room_rules = RoomRules::from(settings.room.clone());
    room_rules
        .check()
        .map_err(|refused| anyhow::anyhow!("[queue.room]: {}: {}", refused.details[0], refused.message))?;
    anyhow::ensure!(settings.numbers_reserved > 0, "queue.numbers_reserved must be at least 1");
    let redis = host.redis();
    let rooms = Rooms::new(&redis);
    Ok(App {
        events: Events::new(db),
        joins: room::joins_batch(&settings.join_batch, &rooms),
        rooms,
        tickets: Verified::new(settings.verified_tickets_max),
        inventory: StockServiceClient::new(host.upstream("inventory")?),
        lobby: enter_lobby::lobby_batch(db, &settings.batch),
        places: enter_lobby::places_batch(db, &settings.batch),
        ended: end_pass::ended_batch(db, &settings.batch),
        live: Mutex::default(),
        stocks: Mutex::default(),
        presence: Presence {
            alive_ms: i64::from(settings.alive_seconds) * 1000,
            grace_ms: i64::from(settings.grace_seconds) * 1000,
        },
        scan_max: settings.scan_max,
        numbers_reserved: settings.numbers_reserved,
        passes_per_100_units: settings.passes_per_100_units,
        entries: RateLimiter::per_minute(settings.entries_per_minute, settings.entries_per_minute).told_as("account"),
        streams: Arc::new(Semaphore::new(settings.streams_max)),
        look_at_rooms: Arc::default(),
        room_rules,
        timer_horizon_ms: i64::try_from(settings.timer_period_ms * 6 / 5)?,
        rescheduled: Arc::default(),
        stopping: host.stopping(),
        draining: host.draining(),
        db: db.clone(),
        redis,
    })
}

fn run_loops(host: &mut Host, settings: &Settings, app: &Arc<App>) {
    let woken = |period_ms, wake: &Arc<Notify>| Schedule { wake: Some(wake.clone()), ..every_ms(period_ms) };
    let running = app.clone();
    let timer = woken(settings.timer_period_ms, &app.rescheduled);
    host.periodic("open_on_time", timer, move || open_on_time::open_on_time(running.clone()));
    let running = app.clone();
    host.periodic("listen_for_expiry", every_ms(settings.listen_retry_ms), move || {
        listen_for_expiry::listen_for_expiry(running.clone())
    });
    let running = app.clone();
    host.periodic("scan_schedule", every_ms(settings.scan_period_ms), move || {
        scan_schedule::scan_schedule(running.clone())
    });
    let running = app.clone();
    host.periodic("recover_events", every_ms(settings.recovery_period_ms), move || {
        recover_events::recover_events(running.clone())
    });
    let running = app.clone();
    host.periodic("tick_rooms", every_ms(settings.tick_period_ms), move || run_rooms::tick_rooms(running.clone()));
    let running = app.clone();
    let look = woken(settings.sync_period_ms, &app.look_at_rooms);
    host.periodic("sync_rooms", look, move || run_rooms::sync_rooms(running.clone()));
}

/// The routes below `/api/v1`.
pub fn routes(config: &mut ServiceConfig<'_>) {
    config
        // The framework tries one after the other: what a crowd asks for comes first.
        .service(read_ticket::read_ticket)
        .service(enter_queue::enter_queue)
        .service(read_events::list_events)
        .service(read_events::read_event)
        .service(stream_ticket::stream_event)
        .service(manage_events::schedule_event)
        .service(manage_events::move_event)
        .service(open_events::open_event)
        .service(close_events::close_event)
        .service(read_room::ping)
        .service(read_room::read_status)
        .service(read_room::read_proof)
        .service(stream_ticket::stream_ticket)
        .service(leave_queue::leave_queue)
        .service(verify_pass::try_pass)
        .service(end_pass::give_pass_back)
        .service(manage_rooms::configure_room)
        .service(manage_rooms::pause_room)
        .service(manage_rooms::resume_room)
        .service(manage_rooms::drain_room)
        .service(manage_rooms::admit);
}

fn every_ms(period_ms: u64) -> Schedule {
    Schedule { period: Duration::from_millis(period_ms), wake: None }
}
