//! Coupons: first come, first served, once for each account; and what they take off an order.
//!
//! Owns schema `coupon`. Produces `COUPON_ISSUED`, `COUPON_ISSUE_FAILED`, `COUPON_REDEEMED`, `COUPON_RESTORED`; consumes
//! `ORDER_CANCELLED`, `ORDER_EXPIRED`, `ORDER_PLACED`, `ORDER_REFUNDED`.

mod clock; // PostgreSQL's clock, as this process knows it
mod coupon; // rules
mod discount; // rules
mod gate; // the Redis gate in front of each coupon
mod issue; // rules
mod metrics;
mod plan; // rules
mod read_users; // of a coupon that is sold out
pub mod redemption; // rules; public for the model
mod redemption_rows; // the rows of redemptions and of the issues that they take
mod refusals; // coupons that are sold out, answered without the gate
mod refused;
mod schema;

mod commit_issues; // flows
mod issue_coupon;
mod manage_coupons;
mod read_coupons;
mod read_issues;
mod reconcile_coupon;
mod settle_redemption;
mod take_coupons;

mod expire_redemptions; // loops
mod load_gate; // reactions
mod load_old_gates;
mod on_order;
mod record_failures;
mod rpc;
mod sweep_journals;

pub use gate::TAKE_SCRIPT;

use std::sync::Arc;
use std::time::Duration;

use common::Host;
use common::batch::{Batch, BatchSettings};
use common::cache::Cache;
use common::db::Db;
use common::http::{Data, ServiceConfig};
use common::inbox::Consumer;
use common::manifest::{Deploy, Invariant, ServiceSpec, Unfinished};
use common::outbox::Event as _;
use common::periodic::Schedule;
use contract::coupon::coupon_service_server::CouponServiceServer;
use contract::events::{
    CouponIssueFailed, CouponIssued, CouponRedeemed, CouponRestored, OrderCancelled, OrderExpired, OrderPlaced,
    OrderRefunded,
};
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use serde::Deserialize;

use crate::clock::Clock;
use crate::commit_issues::Outcome;
use crate::gate::{Answer, Gate, GateSettings};
use crate::issue_coupon::WriterSettings;
use crate::load_gate::Loads;
use crate::plan::Request;
use crate::redemption::Redemption;
use crate::take_coupons::Asked;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/coupon");

/// An event of an order that uses no coupon.
const NO_COUPON: &str = "coalesce(event.payload::json ->> 'couponIssueId', '') = ''";

/// Section `[coupon]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    unpin_seconds_min: u32,
    sweep_period_ms: u64,
    sweep_redemptions_max: i64,
    gate: GateSettings,
    takes: TakeSettings,
    writer: WriterSettings,
    take_batch: BatchSettings,
    issue_batch: BatchSettings,
    redemption_batch: BatchSettings,
}

/// Section `[coupon.takes]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TakeSettings {
    sweep_period_ms: u64,
    idle_ms: i64,
}

/// What every flow of this service may use.
pub struct App {
    db: Db,
    gate: Gate,
    cache: Cache,
    takes: Batch<Asked, Answer>,
    issues: Batch<issue::Wanted, Outcome>,
    redemptions: Batch<Request, Redemption>,
    loads: Loads,
    settings: Settings,
}

/// What the rest of the workspace knows about this service.
pub const fn spec() -> ServiceSpec {
    ServiceSpec {
        name: "coupon",
        summary: "who gets a coupon, and what it takes off",
        paths: &["/api/v1/coupons", "/api/v1/me/coupons", "/api/v1/admin/coupons"],
        streams: &[],
        migrations: || MIGRATIONS,
        produces: &[CouponIssueFailed::TOPIC, CouponIssued::TOPIC, CouponRedeemed::TOPIC, CouponRestored::TOPIC],
        consumes: &[OrderCancelled::TOPIC, OrderExpired::TOPIC, OrderPlaced::TOPIC, OrderRefunded::TOPIC],
        ignores: Some(NO_COUPON),
        hears: &[],
        mount: |host| Box::pin(mount(host)),
        describe: |host| host.http(routes),
        invariants: &[
            Invariant { id: "I10", sql: include_str!("../audit/issued_once.sql") },
            Invariant { id: "I10", sql: include_str!("../audit/redeemed_once.sql") },
            Invariant { id: "I17", sql: include_str!("../audit/overdue_redemptions.sql") },
        ],
        metrics: metrics::METRICS,
        unfinished: &[Unfinished {
            what: "coupons reserved by orders whose time is up",
            sql: "select count(*) from {coupon}.coupon_redemptions where state = 'RESERVED' and expires_at <= now()",
        }],
        deploy: Deploy { calls: &[], secrets: &[], outside: &[], cpu_millis: 250, memory_mib: 256, replicas_max: 6 },
    }
}

pub async fn mount(host: &mut Host) -> anyhow::Result<()> {
    let settings: Settings = host.settings("coupon")?;
    let db = host.db("coupon", MIGRATIONS).await?;
    let redis = host.redis();
    let clock = Clock::open(&db, settings.gate.clock_slack_ms).await?;
    let gate = Gate::new(redis.clone(), db.clone(), clock.clone(), settings.gate.clone());
    let app = Arc::new(App {
        db: db.clone(),
        gate: gate.clone(),
        cache: Cache::new(&redis),
        takes: take_coupons::start_batch(&settings.take_batch, &gate),
        issues: commit_issues::start_batch(&settings.issue_batch, &db, &gate),
        redemptions: settle_redemption::start_batch(&settings.redemption_batch, &db),
        loads: Loads::default(),
        settings: settings.clone(),
    });

    let served = app.clone();
    host.http(move |config| routes(config.app_data(Data::from(served.clone()))));
    host.http_direct(issue_coupon::direct(&app));
    host.grpc(CouponServiceServer::new(rpc::Rpc(app.clone())));
    let consumer = Consumer::new("coupon", &db)
        .on::<OrderCancelled, App>(&app)
        .on::<OrderExpired, App>(&app)
        .on::<OrderPlaced, App>(&app)
        .on::<OrderRefunded, App>(&app);
    host.consume(consumer)?;
    host.relay(&db)?;
    host.periodic("read_clock", every_ms(settings.gate.clock_period_ms), move || {
        let clock = clock.clone();
        async move { clock.read().await }
    });
    let swept = app.clone();
    host.periodic("expire_redemptions", every_ms(settings.sweep_period_ms), move || {
        let app = swept.clone();
        async move { expire_redemptions::expire_redemptions(&app).await }
    });
    let loaded = app.clone();
    host.periodic("load_old_gates", every_ms(settings.takes.sweep_period_ms), move || {
        let app = loaded.clone();
        async move { load_old_gates::load_old_gates(&app).await }
    });
    host.periodic("sweep_journals", every_ms(settings.takes.sweep_period_ms), move || {
        let app = app.clone();
        async move { sweep_journals::sweep_journals(&app).await }
    });
    Ok(())
}

/// The routes below `/api/v1`.
pub fn routes(config: &mut ServiceConfig<'_>) {
    config
        // The framework tries one after the other: what a crowd asks for comes first.
        .service(issue_coupon::issue_coupon)
        .service(read_coupons::list_coupons)
        .service(read_coupons::read_coupon)
        .service(read_issues::list_my_coupons)
        .service(read_issues::read_my_issue)
        .service(manage_coupons::create_coupon)
        .service(manage_coupons::change_coupon)
        .service(reconcile_coupon::reconcile_coupon);
}

fn every_ms(period_ms: u64) -> Schedule {
    Schedule { period: Duration::from_millis(period_ms), wake: None }
}
