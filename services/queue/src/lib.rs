//! The queue: when a sale begins and ends, and who may buy next.
//!
//! Owns schema `queue`. Publishes `EVENT_SCHEDULED`, `EVENT_OPEN` and `EVENT_CLOSED`.

mod names; // the states, and their names
mod refused;
mod sale_event; // rules
mod schedule; // the schedule in Redis
mod schema;

mod close_events; // flows
mod manage_events;
mod open_events;
mod read_events;

mod listen_for_expiry; // loops
mod open_on_time;
mod recover_events;
mod scan_schedule;

use std::sync::Arc;
use std::time::Duration;

use common::Host;
use common::db::Db;
use common::http::{Data, ServiceConfig};
use common::manifest::{Invariant, ServiceSpec};
use common::outbox::Event as _;
use common::periodic::Schedule;
use common::redis::Redis;
use contract::events::{EventClosed, EventOpen, EventScheduled};
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use serde::Deserialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::read_events::Events;
use crate::sale_event::RoomRules;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/queue");

/// Section `[queue]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    timer_period_ms: u64,
    listen_retry_ms: u64,
    scan_period_ms: u64,
    recovery_period_ms: u64,
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

/// What every flow of this service may use.
pub struct App {
    db: Db,
    redis: Redis,
    events: Events,
    room_rules: RoomRules,
    /// The timer looks further than the pause until it looks again.
    timer_horizon_ms: i64,
    /// What is due next may have changed.
    rescheduled: Arc<Notify>,
    stopping: CancellationToken,
}

/// What the rest of the workspace knows about this service.
pub const fn spec() -> ServiceSpec {
    ServiceSpec {
        name: "queue",
        summary: "when a sale begins, and who is next",
        paths: &["/api/v1/events", "/api/v1/admin/events"],
        migrations: || MIGRATIONS,
        produces: &[EventScheduled::TOPIC, EventOpen::TOPIC, EventClosed::TOPIC],
        consumes: &[],
        mount: |host| Box::pin(mount(host)),
        describe: |host| host.http(routes),
        invariants: &[Invariant { id: "I18", sql: include_str!("../audit/opened_once.sql") }],
        unfinished: &[],
    }
}

pub async fn mount(host: &mut Host) -> anyhow::Result<()> {
    let settings: Settings = host.settings("queue")?;
    let db = host.db("queue", MIGRATIONS).await?;
    let room_rules = RoomRules::from(settings.room.clone());
    room_rules
        .check()
        .map_err(|refused| anyhow::anyhow!("[queue.room]: {}: {}", refused.details[0], refused.message))?;
    let rescheduled = Arc::new(Notify::new());
    let app = Arc::new(App {
        redis: host.redis(),
        events: Events::new(&db),
        room_rules,
        timer_horizon_ms: i64::try_from(settings.timer_period_ms * 6 / 5)?,
        rescheduled: rescheduled.clone(),
        stopping: host.stopping(),
        db: db.clone(),
    });

    let served = app.clone();
    host.http(move |config| routes(config.app_data(Data::from(served.clone()))));
    host.relay(&db)?;
    let timer = Schedule { period: Duration::from_millis(settings.timer_period_ms), wake: Some(rescheduled) };
    let timed = app.clone();
    host.periodic("open_on_time", timer, move || open_on_time::open_on_time(timed.clone()));
    let listening = app.clone();
    host.periodic("listen_for_expiry", every_ms(settings.listen_retry_ms), move || {
        listen_for_expiry::listen_for_expiry(listening.clone())
    });
    let scanned = app.clone();
    host.periodic("scan_schedule", every_ms(settings.scan_period_ms), move || {
        scan_schedule::scan_schedule(scanned.clone())
    });
    host.periodic("recover_events", every_ms(settings.recovery_period_ms), move || {
        recover_events::recover_events(app.clone())
    });
    Ok(())
}

/// The routes below `/api/v1`.
pub fn routes(config: &mut ServiceConfig<'_>) {
    config
        .service(read_events::list_events)
        .service(read_events::read_event)
        .service(manage_events::schedule_event)
        .service(manage_events::move_event)
        .service(open_events::open_event)
        .service(close_events::close_event);
}

fn every_ms(period_ms: u64) -> Schedule {
    Schedule { period: Duration::from_millis(period_ms), wake: None }
}
