//! Notifications: one for each event that somebody should be told of, or for each request; and one delivery for each
//! channel it goes over.
//!
//! Owns schema `notification_hub`. Consumes `ORDER_CREATED`, `ORDER_PLACED`, `PAYMENT_FAILED`, `PAYMENT_UNKNOWN`,
//! `PAYMENT_REFUNDED`, `STOCK_DEPLETED`, `STOCK_REPLENISHED` and `NOTIFICATION_REQUESTED`. Each replica hears the facts of
//! sale events, orders, payments and coupons for its stream.

mod api_key; // rules
mod channel;
mod delivery;
mod delivery_trace;
mod http_answer;
mod metrics;
mod notification;
mod pace;
mod preference;
mod request;
mod schema;
mod settings;
mod template;
mod wording;

mod caller; // requests
mod manage_api_keys;
mod manage_preferences;
mod manage_templates;
mod manage_webhook_endpoints;
mod rpc;
mod send_notification;

mod create_notifications; // reactions
mod find_templates;
mod insert_notifications;
mod on_order;
mod on_payment;
mod on_request;
mod store_templates;

mod claims; // delivering
mod contacts;
mod deliver;
mod email;
mod handoff;
mod reclaim_deliveries;
mod shared_limit;
mod slack;
mod targets;
mod webhook;

mod read_inbox; // the HTTP interface
mod read_notifications;
mod redrive_deliveries;
mod retry_delivery;

mod restock; // restock alerts

mod stream; // facts pushed to clients

use std::sync::Arc;

use actix_web::web::{Data, post};
use common::Host;
use common::batch::Batch;
use common::db::Db;
use common::http::ServiceConfig;
use common::inbox;
use common::listener::{Listener, Since};
use common::manifest::{Deploy, Invariant, ServiceSpec, Unfinished};
use common::outbox::Event as _;
use common::periodic::Schedule;
use common::rate::RateLimiter;
use contract::account::account_service_client::AccountServiceClient;
use contract::events::{
    CouponIssueFailed, CouponIssued, CouponRedeemed, CouponRestored, EventClosed, EventOpen, EventScheduled,
    EventSoldOut, NotificationRequested, OrderCancelled, OrderCreated, OrderExpired, OrderPlaced, OrderRefundRequested,
    OrderRefunded, PaymentApproved, PaymentFailed, PaymentRefunded, PaymentUnknown, StockDepleted, StockReplenished,
};
use contract::notification_hub::notification_service_server::NotificationServiceServer;
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use tokio_util::sync::CancellationToken;

use channel::Channel;
pub use settings::Settings;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/notification-hub");

/// What the stream tells.
const STREAMED: &[&str] = &[
    EventScheduled::TOPIC,
    EventOpen::TOPIC,
    EventSoldOut::TOPIC,
    EventClosed::TOPIC,
    OrderCreated::TOPIC,
    OrderPlaced::TOPIC,
    OrderCancelled::TOPIC,
    OrderExpired::TOPIC,
    OrderRefundRequested::TOPIC,
    OrderRefunded::TOPIC,
    PaymentApproved::TOPIC,
    PaymentFailed::TOPIC,
    PaymentUnknown::TOPIC,
    PaymentRefunded::TOPIC,
    CouponIssued::TOPIC,
    CouponIssueFailed::TOPIC,
    CouponRedeemed::TOPIC,
    CouponRestored::TOPIC,
];

/// What every flow of this service may use.
pub struct App {
    db: Db,
    api_keys: caller::KeyLookups,
    /// What one caller may ask for.
    sends: RateLimiter,
    inserts: Batch<request::Requested, send_notification::Sent>,
    templates: find_templates::Templates,
    contacts: contacts::Contacts,
    handoff: Arc<handoff::Handoff>,
    due: Arc<handoff::DueSignals>,
    /// None: messages for operators go to the log.
    slack: Option<slack::Webhook>,
    webhooks: webhook::Client,
    /// None: e-mails go to the log.
    smtp: Option<email::Smtp>,
    targets: targets::Targets,
    restock: restock::Restock,
    stream: stream::Stream,
    stopping: CancellationToken,
    settings: Settings,
}

/// What the rest of the workspace knows about this service.
pub const fn spec() -> ServiceSpec {
    ServiceSpec {
        name: "notification-hub",
        summary: "who is told",
        paths: &[
            "/api/v1/notifications",
            "/api/v1/admin/api-keys",
            "/api/v1/admin/deliveries",
            "/api/v1/admin/webhook-endpoints",
            "/api/v1/admin/templates",
            "/api/v1/products/*/restock-subscriptions",
            "/api/v1/me/restock-subscriptions",
            "/api/v1/me/inbox",
            "/api/v1/me/notification-preferences",
            "/api/v1/admin/products/*/restock-rounds",
            "/api/v1/stream",
        ],
        streams: &["/api/v1/stream"],
        migrations: || MIGRATIONS,
        produces: &[],
        consumes: &[
            OrderCreated::TOPIC,
            OrderPlaced::TOPIC,
            PaymentFailed::TOPIC,
            PaymentUnknown::TOPIC,
            PaymentRefunded::TOPIC,
            StockDepleted::TOPIC,
            StockReplenished::TOPIC,
            NotificationRequested::TOPIC,
        ],
        ignores: None,
        hears: STREAMED,
        mount: |host| Box::pin(mount(host)),
        describe: |host| host.http(routes),
        invariants: &[
            Invariant { id: "I12", sql: include_str!("../audit/told_once.sql") },
            Invariant { id: "I13", sql: include_str!("../audit/sent_once.sql") },
            Invariant { id: "I19", sql: include_str!("../audit/restock_told.sql") },
        ],
        metrics: metrics::METRICS,
        unfinished: &[
            Unfinished {
                what: "deliveries to be made",
                // What is asked for later is not late. What only waits for its channel's pace is due within seconds.
                sql: "select count(*) from {notification_hub}.deliveries
                       where status in ('PENDING', 'PROCESSING')
                         and not (attempt = 0 and last_error is null and next_attempt_at > now() + interval '10 minutes')",
            },
            Unfinished {
                what: "restock rounds in progress",
                sql: "select count(*) from {notification_hub}.product_notification_history where status = 'IN_PROGRESS'",
            },
        ],
        deploy: Deploy {
            calls: &["account", "inventory", "order"],
            secrets: &["notification_hub.slack.url", "notification_hub.email.smtp_url"],
            outside: &[443, 465, 587],
            cpu_millis: 250,
            memory_mib: 256,
            replicas_max: 4,
        },
    }
}

pub async fn mount(host: &mut Host) -> anyhow::Result<()> {
    let settings: Settings = host.settings("notification_hub")?;
    settings.check()?;
    let db = host.db("notification-hub", MIGRATIONS).await?;
    let account = AccountServiceClient::new(host.upstream("account")?);
    let due: Arc<handoff::DueSignals> = Arc::default();
    let app = Arc::new(App {
        db: db.clone(),
        api_keys: caller::start_lookups(&db, &settings.batch),
        sends: RateLimiter::per_second(settings.sends_per_second, settings.sends_per_second).told_as("caller"),
        inserts: send_notification::insert_batch(&db, &settings, &due),
        templates: find_templates::Templates::new(&db, &settings),
        contacts: contacts::Contacts::new(
            account,
            settings.contact_cache_max,
            settings.contact_age_max(),
            settings.email.timeout(),
        ),
        handoff: Arc::new(handoff::Handoff::new(settings.claim_batch_max)),
        due,
        slack: slack::Webhook::new(&settings.slack)?,
        webhooks: webhook::Client::new(&settings.webhook)?,
        smtp: email::Smtp::new(&settings.email)?,
        targets: targets::Targets::new(host.redis(), &settings.targets),
        restock: restock::Restock::new(host.upstream("inventory")?),
        stream: stream::Stream::new(host.upstream("order")?, host.draining(), &settings.stream),
        stopping: host.stopping(),
        settings: settings.clone(),
    });

    let routed = app.clone();
    host.http(move |config| routes(config.app_data(Data::from(routed.clone()))));
    let rooted = app.clone();
    // Where the hub has a port of its own, programs need not know the public paths.
    host.http_root(move |config| {
        config.app_data(Data::from(rooted.clone())).route("/notifications", post().to(send_notification::accept));
    });
    host.grpc(NotificationServiceServer::from_arc(app.clone()));
    let consumer = inbox::Consumer::new("notification-hub", &db)
        .on::<OrderCreated, App>(&app)
        .on::<OrderPlaced, App>(&app)
        .on::<PaymentFailed, App>(&app)
        .on::<PaymentUnknown, App>(&app)
        .on::<PaymentRefunded, App>(&app)
        .on::<StockDepleted, App>(&app)
        .on::<StockReplenished, App>(&app)
        .on::<NotificationRequested, App>(&app);
    host.consume(consumer)?;
    host.listen(listener(&app));

    restock::mount(host, &app);
    mount_workers(host, &app);
    Ok(())
}

/// Sale events are heard from the beginning of the log, since clients get what is known of them.
fn listener(app: &Arc<App>) -> Listener {
    Listener::new("notification-hub", app)
        .hears::<EventScheduled, App>(app, Since::Retained)
        .hears::<EventOpen, App>(app, Since::Retained)
        .hears::<EventSoldOut, App>(app, Since::Retained)
        .hears::<EventClosed, App>(app, Since::Retained)
        .hears::<OrderCreated, App>(app, Since::Now)
        .hears::<OrderPlaced, App>(app, Since::Now)
        .hears::<OrderCancelled, App>(app, Since::Now)
        .hears::<OrderExpired, App>(app, Since::Now)
        .hears::<OrderRefundRequested, App>(app, Since::Now)
        .hears::<OrderRefunded, App>(app, Since::Now)
        .hears::<PaymentApproved, App>(app, Since::Now)
        .hears::<PaymentFailed, App>(app, Since::Now)
        .hears::<PaymentUnknown, App>(app, Since::Now)
        .hears::<PaymentRefunded, App>(app, Since::Now)
        .hears::<CouponIssued, App>(app, Since::Now)
        .hears::<CouponIssueFailed, App>(app, Since::Now)
        .hears::<CouponRedeemed, App>(app, Since::Now)
        .hears::<CouponRestored, App>(app, Since::Now)
}

/// The loops that deliver, and the one that takes deliveries back from workers that have died.
fn mount_workers(host: &mut Host, app: &Arc<App>) {
    for (name, channel) in [
        ("deliver", Channel::Email),
        ("deliver_slack", Channel::Slack),
        ("deliver_webhooks", Channel::Webhook),
        ("deliver_inapp", Channel::Inapp),
    ] {
        let worker = app.clone();
        let due = Schedule { period: app.settings.idle_poll_max(), wake: Some(app.due.of(channel).clone()) };
        host.periodic(name, due, move || {
            let app = worker.clone();
            async move { deliver::deliver_due(&app, channel).await }
        });
    }
    let worker = app.clone();
    let new = Schedule { period: app.settings.idle_poll_max(), wake: Some(app.handoff.arrived.clone()) };
    host.periodic("deliver_new", new, move || {
        let app = worker.clone();
        async move { deliver::deliver_new(&app).await }
    });
    let reclaim = Schedule { period: app.settings.reclaim_period(), wake: None };
    let reclaimer = app.clone();
    host.periodic("reclaim_deliveries", reclaim, move || {
        let app = reclaimer.clone();
        async move { reclaim_deliveries::reclaim_deliveries(&app).await }
    });
}

/// What can be asked for over HTTP, below `/api/v1`.
pub fn routes(config: &mut ServiceConfig<'_>) {
    config
        .service(send_notification::send_notification)
        .service(manage_api_keys::create_api_key)
        .service(manage_api_keys::list_api_keys)
        .service(manage_api_keys::revoke_api_key)
        .service(manage_webhook_endpoints::put_webhook_endpoint)
        .service(manage_webhook_endpoints::list_webhook_endpoints)
        .service(manage_webhook_endpoints::read_webhook_secret)
        .service(manage_webhook_endpoints::rotate_webhook_secret)
        .service(manage_webhook_endpoints::remove_webhook_endpoint)
        .service(manage_templates::preview_template)
        .service(manage_templates::list_templates)
        .service(manage_templates::list_versions)
        .service(manage_templates::create_version)
        .service(manage_templates::read_version)
        .service(manage_templates::activate_version)
        .service(read_inbox::read_inbox)
        .service(manage_preferences::read_preferences)
        .service(manage_preferences::put_preferences)
        .service(read_notifications::list_notifications)
        .service(read_notifications::read_notification)
        .service(redrive_deliveries::list_dead)
        .service(redrive_deliveries::redrive_deliveries)
        .service(retry_delivery::retry_delivery)
        .service(stream::open_stream::open_stream);
    restock::routes(config);
}
