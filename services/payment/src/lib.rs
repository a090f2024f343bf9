//! Payments: a payment is prepared for an order, captured once and refunded at most once, and its outcome always becomes known.
//!
//! Owns schema `payment`. Publishes `PAYMENT_APPROVED`, `PAYMENT_FAILED`, `PAYMENT_UNKNOWN`, `PAYMENT_REFUNDED`; consumes
//! `ORDER_PLACED`, `ORDER_REFUND_REQUESTED`, `ORDER_CANCELLED`, `ORDER_EXPIRED`. Reserves at order, inventory and
//! coupon, and asks providers for money.

mod approve_payment; // flows
mod cancel_payment;
mod change_payments;
mod events;
mod in_flight; // loops
mod metrics;
mod naverpay; // providers
mod on_order; // reactions
pub mod payment; // rules; public for the model that walks through them
mod pending_steps;
mod points;
mod prepare_payment;
pub mod provider;
mod read_payments;
mod reconcile;
mod refunds;
mod reservations;
mod resolve_payments;
mod rows;
mod schema;
mod send_refunds;
mod standard_webhooks; // rules
mod undo_attempt;
mod webhooks;

use std::sync::Arc;
use std::time::Duration;

use actix_web::web::Data;
use chrono::TimeDelta;
use common::Host;
use common::batch::{Batch, BatchSettings};
use common::db::Db;
use common::http::ServiceConfig;
use common::inbox::Consumer;
use common::manifest::{Deploy, Invariant, ServiceSpec, Unfinished};
use common::outbox::Event as _;
use common::periodic::Schedule;
use common::rpc::Upstream;
use contract::coupon::coupon_service_client::CouponServiceClient;
use contract::events::{
    OrderCancelled, OrderExpired, OrderPlaced, OrderRefundRequested, PaymentApproved, PaymentFailed, PaymentRefunded,
    PaymentUnknown,
};
use contract::inventory::inventory_service_client::InventoryServiceClient;
use contract::order::order_service_client::OrderServiceClient;
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use serde::Deserialize;
use tokio::sync::Notify;

use crate::change_payments::{Changed, Command};
use crate::in_flight::InFlight;
use crate::naverpay::NaverPay;
use crate::payment::{Limits, Method, Payment, Timeouts};
use crate::pending_steps::Done;
use crate::points::Points;
use crate::prepare_payment::NewPayment;
use crate::provider::{Attempt, CaptureOutcome, Provider, ProviderStatus, RefundOutcome, RefundRequest};
use crate::webhooks::{Received, Senders};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/payment");

/// Section `[payment]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    approve_wait_ms: u64,
    retry_seconds: u32,
    attempts_per_order_max: i64,
    payments_per_order_max: i64,
    resolve_poll_ms: u64,
    step_poll_ms: u64,
    refund_poll_ms: u64,
    batch: BatchSettings,
    timeouts: Timeouts,
    naverpay: naverpay::Settings,
    points: points::Settings,
    webhooks: webhooks::Settings,
    reconciliation: reconcile::Settings,
}

/// What every flow of this service may use.
pub struct App {
    db: Db,
    prepared: Batch<NewPayment, Option<Payment>>,
    changes: Batch<Command, Changed>,
    steps_done: Batch<Done, ()>,
    webhooks: Batch<Received, bool>,
    order: OrderServiceClient<Upstream>,
    inventory: InventoryServiceClient<Upstream>,
    coupon: CouponServiceClient<Upstream>,
    naverpay: NaverPay,
    points: Points,
    timeouts: Timeouts,
    /// How long a client waits for the provider; after that it gets 202.
    approve_wait: Duration,
    /// For how long a claimed payment or refund is left alone by the loops.
    claim_time: Duration,
    /// What is left at least of an order after an attempt that failed, for another one.
    retry_time: TimeDelta,
    payments_per_order_max: i64,
    /// Wakes the resolver.
    unclear: Arc<Notify>,
    resolving: InFlight,
    /// Wakes the loop of refunds.
    refunds_due: Arc<Notify>,
    refunding: InFlight,
    webhook_senders: Senders,
    webhooks_kept_days: u16,
    reconciliation: reconcile::Settings,
    reconcile_now: Arc<Notify>,
}

impl App {
    async fn capture(&self, method: Method, attempt: &Attempt) -> CaptureOutcome {
        match method {
            Method::NaverPay => self.naverpay.capture(attempt).await,
            Method::Points => self.points.capture(attempt).await,
        }
    }

    async fn query_status(&self, method: Method, attempt: &Attempt) -> ProviderStatus {
        match method {
            Method::NaverPay => self.naverpay.query_status(attempt).await,
            Method::Points => self.points.query_status(attempt).await,
        }
    }

    async fn refund(&self, method: Method, request: &RefundRequest) -> RefundOutcome {
        match method {
            Method::NaverPay => self.naverpay.refund(request).await,
            Method::Points => self.points.refund(request).await,
        }
    }
}

/// What the rest of the workspace knows about this service.
pub const fn spec() -> ServiceSpec {
    ServiceSpec {
        name: "payment",
        summary: "who has paid",
        paths: &[
            "/api/v1/payments",
            "/api/v1/orders/*/payments",
            "/api/v1/points",
            "/api/v1/webhooks/pg",
            "/api/v1/admin/payments",
            "/api/v1/admin/reconciliation",
        ],
        streams: &[],
        migrations: || MIGRATIONS,
        produces: &[PaymentApproved::TOPIC, PaymentFailed::TOPIC, PaymentUnknown::TOPIC, PaymentRefunded::TOPIC],
        consumes: &[OrderPlaced::TOPIC, OrderRefundRequested::TOPIC, OrderCancelled::TOPIC, OrderExpired::TOPIC],
        ignores: None,
        hears: &[],
        mount: |host| Box::pin(mount(host)),
        describe: |host| host.http(routes),
        invariants: &[
            Invariant { id: "I6", sql: include_str!("../audit/refunds_add_up.sql") },
            Invariant { id: "I7", sql: include_str!("../audit/points_balance.sql") },
            Invariant { id: "I17", sql: include_str!("../audit/nothing_is_forgotten.sql") },
        ],
        metrics: metrics::METRICS,
        unfinished: &[
            Unfinished {
                what: "payments under way",
                sql: "select count(*) from {payment}.payments where status in ('APPROVING', 'UNKNOWN')",
            },
            Unfinished { what: "steps to be done", sql: "select count(*) from {payment}.pending_steps" },
            Unfinished {
                what: "refunds without an answer",
                sql: "select count(*) from {payment}.refunds where status = 'PENDING'",
            },
        ],
        deploy: Deploy {
            calls: &["order", "inventory", "coupon"],
            secrets: &["payment.naverpay.client_secret", "payment.webhooks.naverpay_secret"],
            outside: &[443],
            cpu_millis: 250,
            memory_mib: 256,
            replicas_max: 6,
        },
    }
}

pub async fn mount(host: &mut Host) -> anyhow::Result<()> {
    let settings: Settings = host.settings("payment")?;
    let db = host.db("payment", MIGRATIONS).await?;
    let points = Points::new(&db, &settings.points);
    let (unclear, refunds_due) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let limits = Limits {
        attempts_per_order_max: settings.attempts_per_order_max,
        // A second later than the client is told 202.
        head_start: TimeDelta::milliseconds(settings.approve_wait_ms as i64) + TimeDelta::seconds(1),
        retry_time: TimeDelta::seconds(settings.retry_seconds.into()),
    };
    let app = Arc::new(App {
        prepared: prepare_payment::start_batch(&db, &settings.batch, settings.payments_per_order_max),
        changes: change_payments::start_batch(&db, &settings.batch, limits),
        steps_done: pending_steps::start_batch(&db, &settings.batch),
        webhooks: webhooks::start_batch(&db, &settings.batch),
        order: OrderServiceClient::new(host.upstream("order")?),
        inventory: InventoryServiceClient::new(host.upstream("inventory")?),
        coupon: CouponServiceClient::new(host.upstream("coupon")?),
        naverpay: NaverPay::new(&settings.naverpay)?,
        points: points.clone(),
        timeouts: settings.timeouts,
        approve_wait: Duration::from_millis(settings.approve_wait_ms),
        claim_time: settings.naverpay.longest() + RECORDING,
        retry_time: limits.retry_time,
        payments_per_order_max: settings.payments_per_order_max,
        resolving: InFlight::new(resolve_payments::IN_FLIGHT_MAX, &unclear),
        unclear,
        refunding: InFlight::new(send_refunds::IN_FLIGHT_MAX, &refunds_due),
        refunds_due,
        webhook_senders: Senders::new(&settings.webhooks)?,
        webhooks_kept_days: settings.webhooks.kept_days,
        reconciliation: settings.reconciliation.clone(),
        reconcile_now: Arc::new(Notify::new()),
        db: db.clone(),
    });

    let (routed, points) = (Data::from(app.clone()), Data::new(points));
    host.http(move |config| routes(config.app_data(routed.clone()).app_data(points.clone())));
    let consumer = Consumer::new("payment", &db)
        .on::<OrderPlaced, App>(&app)
        .on::<OrderRefundRequested, App>(&app)
        .on::<OrderCancelled, App>(&app)
        .on::<OrderExpired, App>(&app);
    host.consume(consumer)?;
    host.relay(&db)?;
    run_loops(host, &settings, &app);
    Ok(())
}

fn run_loops(host: &mut Host, settings: &Settings, app: &Arc<App>) {
    let every = |period_ms, wake: Option<&Arc<Notify>>| Schedule {
        period: Duration::from_millis(period_ms),
        wake: wake.cloned(),
    };
    let each = app.clone();
    host.periodic("resolve_payments", every(settings.resolve_poll_ms, Some(&app.unclear)), move || {
        resolve_payments::resolve_payments(each.clone())
    });
    let each = app.clone();
    host.periodic("measure_open", every(MEASURE_PERIOD_MS, None), move || {
        let app = each.clone();
        async move {
            resolve_payments::measure_unknown(&app).await?;
            send_refunds::measure_pending(&app).await
        }
    });
    let each = app.clone();
    host.periodic("take_due_steps", every(settings.step_poll_ms, None), move || {
        let app = each.clone();
        async move { pending_steps::take_due_steps(&app).await }
    });
    let each = app.clone();
    host.periodic("handle_webhooks", every(settings.resolve_poll_ms, None), move || {
        let app = each.clone();
        async move { webhooks::handle_webhooks(&app).await }
    });
    let each = app.clone();
    host.periodic("settle_refunds", every(settings.refund_poll_ms, Some(&app.refunds_due)), move || {
        send_refunds::send_refunds(each.clone())
    });
    let each = app.clone();
    let period = Schedule { period: settings.reconciliation.check_period(), wake: Some(app.reconcile_now.clone()) };
    host.periodic("reconcile", period, move || {
        let app = each.clone();
        async move { reconcile::reconcile_due(&app).await }
    });
    let each = app.clone();
    host.periodic("forget_webhooks", every(FORGET_PERIOD_MS, None), move || {
        let app = each.clone();
        async move { webhooks::forget_webhooks(&app).await }
    });
}

/// What recording an answer may take, beyond the longest time that the provider takes for it.
const RECORDING: Duration = Duration::from_secs(5);
/// As often as metrics are usually scraped.
const MEASURE_PERIOD_MS: u64 = 5_000;
/// Old webhooks only take up space.
const FORGET_PERIOD_MS: u64 = 3_600_000;

/// The routes below `/api/v1`.
pub fn routes(config: &mut ServiceConfig<'_>) {
    config
        .service(prepare_payment::prepare_payment)
        .service(approve_payment::approve_payment)
        .service(cancel_payment::cancel_payment)
        .service(read_payments::read_payment)
        .service(read_payments::list_attempts)
        .service(read_payments::list_payments)
        .service(resolve_payments::sync_payment)
        .service(webhooks::receive_webhook)
        .service(reconcile::manage_runs::request_run)
        .service(reconcile::manage_runs::list_runs)
        .service(reconcile::manage_runs::read_run);
    points::routes(config);
}
