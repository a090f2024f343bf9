//! Orders: placed once for each Idempotency-Key, then paid, cancelled by their owner, or expired, and at last archived.
//!
//! Owns schema `order`. Publishes `ORDER_CREATED`, `ORDER_PLACED`, `ORDER_CANCELLED`, `ORDER_EXPIRED`,
//! `ORDER_REFUND_REQUESTED` and `ORDER_REFUNDED`. Consumes `PAYMENT_REFUNDED`, `EVENT_SCHEDULED`, `EVENT_OPEN`
//! and `EVENT_CLOSED`. Calls inventory for holds, coupon for redemptions, and queue for passes.

mod all_orders; // the views that have the archive too
mod archive_orders; // loop
mod cancel_order; // flow
mod change_order; // flow
mod daily_time; // rules
mod draft; // rules
mod events; // rules
mod expire_orders; // loop
mod manage_archive; // flows
mod metrics;
mod on_payment; // reactions
pub mod order; // rules; public for the model, which checks them
mod place_order; // flow
mod read_orders; // flows
mod reserve_coupon; // part of placing an order
mod restore_orders; // part of changing an order
mod rows; // stored orders
mod rpc; // gRPC interface
mod schema;
pub mod status; // rules
mod store_orders; // part of placing an order

use std::sync::Arc;
use std::time::Duration;

use actix_web::web::Data;
use common::Host;
use common::batch::{Batch, BatchSettings};
use common::db::Db;
use common::http::ServiceConfig;
use common::inbox::Consumer;
use common::manifest::{Deploy, Invariant, ServiceSpec, Unfinished};
use common::outbox::Event as _;
use common::periodic::Schedule;
use common::rate::RateLimiter;
use common::rpc::Upstream;
use contract::coupon::coupon_service_client::CouponServiceClient;
use contract::events::{
    EventClosed, EventOpen, EventScheduled, OrderCancelled, OrderCreated, OrderExpired, OrderPlaced,
    OrderRefundRequested, OrderRefunded, PaymentRefunded,
};
use contract::inventory::inventory_service_client::InventoryServiceClient;
use contract::order::order_service_server::OrderServiceServer;
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use entry::{Entrance, Sales};
use serde::Deserialize;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/order");

/// Section `[order]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    batch: BatchSettings,
    lines_max: usize,
    quantity_max: i32,
    expire_sweep_ms: u64,
    expire_chunk: i64,
    placements_per_minute: u32,
    archive: archive_orders::Settings,
}

/// What the flows of this service use.
pub struct App {
    db: Db,
    inventory: InventoryServiceClient<Upstream>,
    coupon: CouponServiceClient<Upstream>,
    inserts: Batch<draft::Draft, place_order::Placement>,
    changes: Batch<change_order::Command, order::Order>,
    lookups: Batch<contract::ids::OrderId, Option<order::Order>>,
    limits: draft::Limits,
    entrance: Entrance,
    expire_chunk: i64,
    archive: archive_orders::Archive,
    /// For each account.
    placements: RateLimiter,
}

/// What the rest of the workspace knows about this service.
pub const fn spec() -> ServiceSpec {
    ServiceSpec {
        name: "order",
        summary: "who wants what",
        paths: &["/api/v1/orders", "/api/v1/admin/archive"],
        streams: &[],
        migrations: || MIGRATIONS,
        produces: &[
            OrderCreated::TOPIC,
            OrderPlaced::TOPIC,
            OrderCancelled::TOPIC,
            OrderExpired::TOPIC,
            OrderRefundRequested::TOPIC,
            OrderRefunded::TOPIC,
        ],
        consumes: &[PaymentRefunded::TOPIC, EventScheduled::TOPIC, EventOpen::TOPIC, EventClosed::TOPIC],
        ignores: None,
        hears: &[],
        mount: |host| Box::pin(mount(host)),
        describe: |host| host.http(routes),
        invariants: &[
            Invariant { id: "I4", sql: include_str!("../audit/items_make_the_amount.sql") },
            Invariant { id: "I8", sql: include_str!("../audit/one_effect_per_key.sql") },
            Invariant { id: "I9", sql: include_str!("../audit/acknowledged_exists.sql") },
            Invariant { id: "I20", sql: include_str!("../audit/archived_once.sql") },
        ],
        metrics: metrics::METRICS,
        unfinished: &[Unfinished {
            what: "runs of the archive",
            sql: "select count(*) from {order}.archive_runs where status in ('REQUESTED', 'RUNNING')",
        }],
        deploy: Deploy {
            calls: &["inventory", "coupon", "queue"],
            secrets: &[],
            outside: &[],
            cpu_millis: 500,
            memory_mib: 256,
            replicas_max: 6,
        },
    }
}

pub async fn mount(host: &mut Host) -> anyhow::Result<()> {
    let settings: Settings = host.settings("order")?;
    let db = host.db("order", MIGRATIONS).await?;
    let entrance = Entrance::open(host, &db, host.upstream("queue")?).await?;
    let app = Arc::new(App {
        entrance,
        inventory: InventoryServiceClient::new(host.upstream("inventory")?),
        coupon: CouponServiceClient::new(host.upstream("coupon")?),
        inserts: store_orders::insert_batch(&db, &settings.batch),
        changes: change_order::change_batch(&db, &settings.batch),
        lookups: read_orders::lookup_batch(&db, &settings.batch),
        limits: draft::Limits { lines_max: settings.lines_max, quantity_max: settings.quantity_max },
        expire_chunk: settings.expire_chunk,
        archive: archive_orders::Archive::new(&settings.archive, host.stopping())?,
        placements: RateLimiter::per_minute(settings.placements_per_minute, settings.placements_per_minute)
            .told_as("account"),
        db: db.clone(),
    });

    let routed = app.clone();
    host.http(move |config| routes(config.app_data(Data::from(routed.clone()))));
    host.grpc(OrderServiceServer::from_arc(app.clone()));
    let consumer = Consumer::new("order", &db)
        .on::<PaymentRefunded, App>(&app)
        .on::<EventScheduled, Sales>(app.entrance.sales())
        .on::<EventOpen, Sales>(app.entrance.sales())
        .on::<EventClosed, Sales>(app.entrance.sales());
    host.consume(consumer)?;
    host.relay(&db)?;
    let sweep = Schedule { period: Duration::from_millis(settings.expire_sweep_ms), wake: None };
    let expiring = app.clone();
    host.periodic("expire_orders", sweep, move || expire_orders::expire_orders(expiring.clone()));
    let look = Schedule {
        period: Duration::from_millis(settings.archive.check_period_ms),
        wake: Some(app.archive.requested.clone()),
    };
    host.periodic("archive_orders", look, move || archive_orders::archive_orders(app.clone()));
    Ok(())
}

/// The HTTP routes, below `/api/v1`.
pub fn routes(config: &mut ServiceConfig<'_>) {
    config
        .service(place_order::place_order)
        .service(read_orders::list_orders)
        .service(read_orders::read_order)
        .service(cancel_order::cancel_order)
        .service(manage_archive::request_archive_run)
        .service(manage_archive::list_archive_runs)
        .service(manage_archive::read_archive_run);
}
