//! Inventory: what is for sale and how much of it; no unit and no seat is sold twice.
//!
//! Owns schema `inventory`. Produces `STOCK_DEPLETED`, `STOCK_REPLENISHED`; consumes `ORDER_CANCELLED`, `ORDER_EXPIRED`,
//! `ORDER_PLACED`, `ORDER_REFUNDED`, and `EVENT_SCHEDULED`, `EVENT_OPEN`, `EVENT_CLOSED`. Asks queue for passes.

mod gate; // the Redis gate in front of stock
pub mod hold; // rules; public for the model
mod hold_rows; // the rows of holds
mod metrics;
mod plan; // rules
mod product; // rules
mod refused;
mod schema;
mod seat; // rules
mod seat_rows; // the rows of seats
mod stock; // rules
mod stock_rows; // the rows of stock
mod wanted; // rules

mod adjust_stock; // flows
mod begin_restock_round;
mod find_places; // part of holding
mod hold_stock;
mod manage_concerts;
mod manage_products;
mod read_audits;
mod read_concerts;
mod read_holds;
mod read_products;
mod read_reservations;
mod reserve_seats;
mod settle_hold;
mod take_units; // part of holding
mod watch_stock;

mod expire_holds; // loops
mod on_order; // reactions
mod rebuild_gate;
mod rpc;
mod stock_rpc;
mod take_over;

use std::sync::Arc;
use std::time::Duration;

use common::Host;
use common::batch::{Batch, BatchSettings};
use common::cache::Cache;
use common::db::Db;
use common::http::Data;
use common::http::ServiceConfig;
use common::inbox::Consumer;
use common::manifest::{Deploy, Invariant, ServiceSpec};
use common::outbox::Event as _;
use common::periodic::Schedule;
use common::rate::RateLimiter;
use contract::events::{
    EventClosed, EventOpen, EventScheduled, OrderCancelled, OrderExpired, OrderPlaced, OrderRefunded, StockDepleted,
    StockReplenished,
};
use contract::inventory::inventory_service_server::InventoryServiceServer;
use contract::inventory::stock_service_server::StockServiceServer;
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use entry::{Entrance, Sales};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::gate::{Gate, GateSettings, Take};
use crate::hold::Hold;
use crate::hold_stock::{Admitted, Held};
use crate::plan::HoldStep;
use crate::read_products::ProductSettings;
use crate::refused::Shortage;
use crate::stock_rows::StockFeed;
use crate::take_units::Asked;
use crate::wanted::Lives;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/inventory");

/// Section `[inventory]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    hold_ttl_seconds: u32,
    seat_ttl_seconds: u32,
    reservation_seats_max: usize,
    reservations_per_minute: u32,
    hold_lines_max: usize,
    hold_quantity_max: i32,
    unpin_seconds_min: u32,
    sweep_period_ms: u64,
    sweep_holds_max: i64,
    adjust_attempts_max: u32,
    products: ProductSettings,
    take_batch: BatchSettings,
    hold_batch: BatchSettings,
    settle_batch: BatchSettings,
    gate: GateSettings,
}

/// What every flow of this service may use.
pub struct App {
    db: Db,
    gate: Gate,
    feed: StockFeed,
    cache: Cache,
    takes: Batch<Asked, Result<Take, Shortage>>,
    holds: Batch<Admitted, Held>,
    steps: Batch<HoldStep, Hold>,
    products: ProductSettings,
    entrance: Entrance,
    /// For each account.
    reservations: RateLimiter,
    reservation_seats_max: usize,
    hold_lines_max: usize,
    hold_quantity_max: i32,
    unpinned_lives_min: chrono::Duration,
    sweep_holds_max: i64,
    adjust_attempts_max: u32,
    /// Whoever watches stock is told to go.
    stopping: CancellationToken,
}

/// What the rest of the workspace knows about this service.
pub const fn spec() -> ServiceSpec {
    ServiceSpec {
        name: "inventory",
        summary: "what there is, and who has it",
        paths: &[
            "/api/v1/products",
            "/api/v1/admin/products",
            "/api/v1/admin/holds",
            "/api/v1/concerts",
            "/api/v1/admin/concerts",
            "/api/v1/reservations",
        ],
        streams: &[],
        migrations: || MIGRATIONS,
        produces: &[StockDepleted::TOPIC, StockReplenished::TOPIC],
        consumes: &[
            OrderCancelled::TOPIC,
            OrderExpired::TOPIC,
            OrderPlaced::TOPIC,
            OrderRefunded::TOPIC,
            EventScheduled::TOPIC,
            EventOpen::TOPIC,
            EventClosed::TOPIC,
        ],
        ignores: None,
        hears: &[],
        mount: |host| Box::pin(mount(host)),
        describe: |host| host.http(routes),
        invariants: &[
            Invariant { id: "I1", sql: include_str!("../audit/stock_conserved.sql") },
            Invariant { id: "I2", sql: include_str!("../audit/counters_equal_rows.sql") },
            Invariant { id: "I3", sql: include_str!("../audit/sold_is_audited.sql") },
            Invariant { id: "I14", sql: include_str!("../audit/seats_are_had_once.sql") },
            Invariant { id: "I17", sql: include_str!("../audit/overdue_holds.sql") },
        ],
        metrics: metrics::METRICS,
        unfinished: &[],
        deploy: Deploy {
            calls: &["queue"],
            secrets: &[],
            outside: &[],
            cpu_millis: 500,
            memory_mib: 256,
            replicas_max: 6,
        },
    }
}

pub async fn mount(host: &mut Host) -> anyhow::Result<()> {
    let settings: Settings = host.settings("inventory")?;
    let db = host.db("inventory", MIGRATIONS).await?;
    let redis = host.redis();
    let gate = Gate::new(redis.clone(), db.clone(), settings.gate.clone());
    let feed = StockFeed::new();
    let lives = Lives {
        units: chrono::Duration::seconds(settings.hold_ttl_seconds.into()),
        seats: chrono::Duration::seconds(settings.seat_ttl_seconds.into()),
    };
    let entrance = Entrance::open(host, &db, host.upstream("queue")?).await?;
    let app = Arc::new(App {
        db: db.clone(),
        gate: gate.clone(),
        feed: feed.clone(),
        cache: Cache::new(&redis),
        takes: take_units::start_batch(&settings.take_batch, &gate),
        holds: hold_stock::start_batch(&settings.hold_batch, lives, &db, &gate, &feed),
        steps: settle_hold::start_batch(&settings.settle_batch, &db, &gate, &feed),
        products: settings.products,
        entrance,
        reservations: RateLimiter::per_minute(settings.reservations_per_minute, settings.reservations_per_minute),
        reservation_seats_max: settings.reservation_seats_max,
        hold_lines_max: settings.hold_lines_max,
        hold_quantity_max: settings.hold_quantity_max,
        unpinned_lives_min: chrono::Duration::seconds(settings.unpin_seconds_min.into()),
        sweep_holds_max: settings.sweep_holds_max,
        adjust_attempts_max: settings.adjust_attempts_max,
        stopping: host.stopping(),
    });

    let served = app.clone();
    host.http(move |config| routes(config.app_data(Data::from(served.clone()))));
    host.grpc(InventoryServiceServer::new(rpc::Rpc(app.clone())));
    host.grpc(StockServiceServer::new(stock_rpc::StockRpc(app.clone())));
    let consumer = Consumer::new("inventory", &db)
        .on::<OrderCancelled, App>(&app)
        .on::<OrderExpired, App>(&app)
        .on::<OrderPlaced, App>(&app)
        .on::<OrderRefunded, App>(&app)
        .on::<EventScheduled, Sales>(app.entrance.sales())
        .on::<EventOpen, Sales>(app.entrance.sales())
        .on::<EventClosed, Sales>(app.entrance.sales());
    host.consume(consumer)?;
    host.relay(&db)?;
    host.periodic("expire_holds", every_ms(settings.sweep_period_ms), move || {
        let app = app.clone();
        async move { expire_holds::expire_holds(&app).await }
    });
    host.periodic("check_gate", every_ms(settings.gate.check_period_ms), move || {
        let gate = gate.clone();
        async move { rebuild_gate::check_gates(&gate).await }
    });
    Ok(())
}

/// The routes below `/api/v1`.
pub fn routes(config: &mut ServiceConfig<'_>) {
    config
        .service(read_products::list_products)
        .service(read_products::read_product)
        .service(manage_products::create_product)
        .service(manage_products::change_product)
        .service(adjust_stock::adjust_stock)
        .service(read_audits::list_audits)
        .service(read_holds::list_holds)
        .service(read_concerts::list_concerts)
        .service(read_concerts::read_seat_map)
        .service(read_concerts::read_concert)
        .service(manage_concerts::create_concert)
        .service(manage_concerts::add_seats)
        .service(reserve_seats::reserve_seats)
        .service(read_reservations::read_reservation)
        .service(read_reservations::cancel_reservation);
}

fn every_ms(period_ms: u64) -> Schedule {
    Schedule { period: Duration::from_millis(period_ms), wake: None }
}
