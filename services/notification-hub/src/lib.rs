//! Notifications: one for each fact that somebody should hear about, and one delivery for each channel it goes over.
//!
//! Owns schema `notification_hub`. Hears `ORDER_CREATED`, `ORDER_PLACED`, `PAYMENT_FAILED`, `PAYMENT_UNKNOWN` and
//! `PAYMENT_REFUNDED`.

mod channel;
mod draft;
mod notification;
mod order_created;
mod order_placed;
mod payment_failed;
mod payment_refunded;
mod payment_unknown;
mod wording;

mod create_notifications;
mod on_order;
mod on_payment;

mod deliver;
mod deliver_slack;
mod reclaim_deliveries;

mod read_notifications;
mod retry_delivery;

mod contacts;
mod schema;
mod settings;
mod slack;

use std::sync::Arc;

use actix_web::web::Data;
use common::Host;
use common::db::Db;
use common::http::ServiceConfig;
use common::inbox;
use common::outbox::Event as _;
use common::periodic::Schedule;
use common::service::{Invariant, ServiceSpec, Unfinished};
use contract::account::account_service_client::AccountServiceClient;
use contract::events::{OrderCreated, OrderPlaced, PaymentFailed, PaymentRefunded, PaymentUnknown};
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use tokio_util::sync::CancellationToken;

use channel::Channel;
pub use settings::Settings;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/notification-hub");

/// What every flow of this service may use.
pub struct App {
    db: Db,
    contacts: contacts::Contacts,
    /// What this replica has written and claimed.
    new: Arc<deliver::New>,
    due: Arc<deliver::Due>,
    /// None: what is for operators only goes to the log.
    slack: Option<slack::Webhook>,
    stopping: CancellationToken,
    settings: Settings,
}

/// What the rest of the workspace knows about this service.
pub const fn spec() -> ServiceSpec {
    ServiceSpec {
        name: "notification-hub",
        summary: "who is told",
        paths: &["/api/v1/notifications"],
        migrations: || MIGRATIONS,
        produces: &[],
        consumes: &[
            OrderCreated::TOPIC,
            OrderPlaced::TOPIC,
            PaymentFailed::TOPIC,
            PaymentUnknown::TOPIC,
            PaymentRefunded::TOPIC,
        ],
        mount: |host| Box::pin(mount(host)),
        describe: |host| host.http(routes),
        invariants: &[
            Invariant { id: "I12", sql: include_str!("../audit/told_once.sql") },
            Invariant { id: "I13", sql: include_str!("../audit/sent_once.sql") },
        ],
        unfinished: &[Unfinished {
            what: "deliveries to be made",
            sql: "select count(*) from {notification_hub}.deliveries where status in ('PENDING', 'PROCESSING')",
        }],
    }
}

pub async fn mount(host: &mut Host) -> anyhow::Result<()> {
    let settings: Settings = host.settings("notification_hub")?;
    settings.check()?;
    let db = host.db("notification-hub", MIGRATIONS).await?;
    let account = AccountServiceClient::new(host.upstream("account")?);
    let app = Arc::new(App {
        db: db.clone(),
        contacts: contacts::Contacts::new(account, &settings),
        new: Arc::default(),
        due: Arc::default(),
        slack: slack::Webhook::new(&settings.slack)?,
        stopping: host.stopping(),
        settings: settings.clone(),
    });

    let routed = app.clone();
    host.http(move |config| routes(config.app_data(Data::from(routed.clone()))));
    let consumer = inbox::Consumer::new("notification-hub", &db)
        .on::<OrderCreated, App>(&app)
        .on::<OrderPlaced, App>(&app)
        .on::<PaymentFailed, App>(&app)
        .on::<PaymentUnknown, App>(&app)
        .on::<PaymentRefunded, App>(&app);
    host.consume(consumer)?;

    let due = |channel| Schedule { period: settings.idle_poll_max(), wake: Some(app.due.of(channel).clone()) };
    let worker = app.clone();
    host.periodic("deliver", due(Channel::Email), move || {
        let app = worker.clone();
        async move { deliver::deliver_due(&app).await }
    });
    let worker = app.clone();
    host.periodic("deliver_slack", due(Channel::Slack), move || {
        let app = worker.clone();
        async move { deliver_slack::deliver_slack(&app).await }
    });
    let new = Schedule { period: settings.idle_poll_max(), wake: Some(app.new.arrived.clone()) };
    let worker = app.clone();
    host.periodic("deliver_new", new, move || {
        let app = worker.clone();
        async move { deliver::deliver_new(&app).await }
    });
    let reclaim = Schedule { period: settings.reclaim_period(), wake: None };
    host.periodic("reclaim_deliveries", reclaim, move || {
        let app = app.clone();
        async move { reclaim_deliveries::reclaim_deliveries(&app).await }
    });
    Ok(())
}

/// What can be asked for over HTTP, below `/api/v1`.
pub fn routes(config: &mut ServiceConfig<'_>) {
    config
        .service(read_notifications::list_notifications)
        .service(read_notifications::read_notification)
        .service(retry_delivery::retry_delivery);
}
