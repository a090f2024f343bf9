//! Accounts: who somebody is, by password once and by signed token from then on.
//!
//! Owns schema `account`. Every other service checks the tokens by itself, with the keys published here.

mod account; // rules
mod demo_accounts; // loops, and what happens once
mod forget_sessions;
mod hash_password; // flows
mod log_in;
mod log_out;
mod metrics;
mod prepare_buyers;
mod publish_keys;
mod read_account;
mod refresh;
mod register;
mod rotate_keys;
mod rpc; // the gRPC door
mod schema;
mod session;
mod signing_key;

use std::sync::Arc;
use std::time::Duration;

use actix_web::web::Data;
use anyhow::ensure;
use chrono::TimeDelta;
use common::Host;
use common::auth::AuthSettings;
use common::db::Db;
use common::http::ServiceConfig;
use common::manifest::{Deploy, ServiceSpec};
use common::periodic::Schedule;
use common::rate::RateLimiter;
use contract::account::account_service_server::AccountServiceServer;
use contract::codes::TOO_MANY_ATTEMPTS;
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use serde::Deserialize;

pub use prepare_buyers::{PreparedBuyer, prepare_buyers};

/// The tables of schema `account`.
pub const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/account");

/// Section `[account]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    key_rotation_days: u32,
    key_publish_ahead_hours: u32,
    refresh_token_days: u32,
    session_days_max: u32,
    refresh_grace_seconds: u32,
    hashing: hash_password::HashingSettings,
    log_ins_per_minute_account_and_address: u32,
    log_ins_per_minute_and_account: u32,
    log_ins_per_minute_and_address: u32,
    registrations_per_minute_and_address: u32,
    demo_accounts: Vec<demo_accounts::DemoAccount>,
}

/// How often keys in memory are compared with those in the database.
const KEYS_PERIOD: Duration = Duration::from_secs(60);

const FORGET_PERIOD: Duration = Duration::from_secs(600);

/// What every flow of this service may use.
pub struct App {
    db: Db,
    signer: signing_key::TokenSigner,
    rotation: signing_key::Rotation,
    lifetimes: session::Lifetimes,
    passwords: hash_password::Passwords,
    log_ins_by_account_and_address: RateLimiter,
    log_ins_by_account: RateLimiter,
    log_ins_by_address: RateLimiter,
    registrations_by_address: RateLimiter,
}

/// What the rest of the workspace knows about this service.
pub const fn spec() -> ServiceSpec {
    ServiceSpec {
        name: "account",
        summary: "who somebody is",
        paths: &["/api/v1/auth", "/.well-known"],
        streams: &[],
        migrations: || MIGRATIONS,
        produces: &[],
        consumes: &[],
        ignores: None,
        hears: &[],
        mount: |host| Box::pin(mount(host)),
        describe: |host| {
            host.http(routes);
            host.http_root(root_routes);
        },
        invariants: &[],
        metrics: metrics::METRICS,
        unfinished: &[],
        deploy: Deploy {
            calls: &[],
            secrets: &["account.demo_accounts"],
            outside: &[],
            cpu_millis: 250,
            memory_mib: 384,
            replicas_max: 6,
        },
    }
}

pub async fn mount(host: &mut Host) -> anyhow::Result<()> {
    let settings: Settings = host.settings("account")?;
    let auth: AuthSettings = host.settings("auth")?;
    let db = host.db("account", MIGRATIONS).await?;
    let rotation = rotation(&settings, &auth)?;
    let keys = rotate_keys::up_to_date_keys(&db, rotation).await?;
    let app = Arc::new(App {
        db,
        signer: signing_key::TokenSigner::new(&auth, keys),
        rotation,
        lifetimes: session::Lifetimes {
            token: TimeDelta::days(settings.refresh_token_days.into()),
            session: TimeDelta::days(settings.session_days_max.into()),
            grace: TimeDelta::seconds(settings.refresh_grace_seconds.into()),
        },
        passwords: hash_password::Passwords::new(&settings.hashing)?,
        log_ins_by_account_and_address: attempts(settings.log_ins_per_minute_account_and_address)
            .told_as("account-and-address"),
        log_ins_by_account: attempts(settings.log_ins_per_minute_and_account),
        log_ins_by_address: attempts(settings.log_ins_per_minute_and_address).told_as("address"),
        registrations_by_address: attempts(settings.registrations_per_minute_and_address).told_as("address"),
    });
    demo_accounts::create_demo_accounts(&app, settings.demo_accounts).await?;

    let routed = app.clone();
    host.http(move |config| routes(config.app_data(Data::from(routed.clone()))));
    let rooted = app.clone();
    host.http_root(move |config| root_routes(config.app_data(Data::from(rooted.clone()))));
    host.grpc(AccountServiceServer::from_arc(app.clone()));
    let rotated = app.clone();
    host.periodic("rotate_keys", Schedule { period: KEYS_PERIOD, wake: None }, move || {
        let app = rotated.clone();
        async move { rotate_keys::rotate_keys(&app).await }
    });
    host.periodic("forget_sessions", Schedule { period: FORGET_PERIOD, wake: None }, move || {
        let app = app.clone();
        async move { forget_sessions::forget_sessions(&app).await }
    });
    Ok(())
}

fn rotation(settings: &Settings, auth: &AuthSettings) -> anyhow::Result<signing_key::Rotation> {
    let every = TimeDelta::days(settings.key_rotation_days.into());
    let publish_ahead = TimeDelta::hours(settings.key_publish_ahead_hours.into());
    ensure!(every > publish_ahead, "account.key_rotation_days must be longer than account.key_publish_ahead_hours");
    // What a key has signed and derived, and a replica that reads the keys a few periods late.
    let accept_after = TimeDelta::minutes(auth.access_token_minutes.into())
        + TimeDelta::seconds(settings.refresh_grace_seconds.into())
        + TimeDelta::from_std(KEYS_PERIOD * 5)?;
    Ok(signing_key::Rotation { every, publish_ahead, accept_after })
}

fn attempts(per_minute: u32) -> RateLimiter {
    let message = "Too many attempts; wait before the next one.";
    RateLimiter::per_minute(per_minute, per_minute).refusing_with(TOO_MANY_ATTEMPTS, message)
}

/// What can be asked for over HTTP, below `/api/v1`.
pub fn routes(config: &mut ServiceConfig<'_>) {
    config
        .service(register::register)
        .service(log_in::log_in)
        .service(refresh::refresh)
        .service(log_out::log_out)
        .service(read_account::read_me);
}

/// What can be asked for without the base path.
pub fn root_routes(config: &mut ServiceConfig<'_>) {
    config.service(publish_keys::publish_keys);
}
