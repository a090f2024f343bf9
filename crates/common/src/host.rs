//! `Host`: a process with services mounted on it. It binds first, serves when told, and drains in one order.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::TcpListener;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use utoipa_actix_web::service_config::ServiceConfig;

use crate::auth::Verifier;
use crate::db::{Db, DbSettings};
use crate::kafka::Kafka;
use crate::manifest::identifier;
use crate::openapi::examples::Names;
use crate::openapi::{Configure, Mounted, describe};
use crate::periodic::Schedule;
use crate::redis::Redis;
use crate::settings::Settings;
use crate::{crash, health, http, inbox, listener, outbox, periodic, telemetry};

mod grpc;
mod http_server;
mod running;
mod signals;

pub use running::Running;
pub use signals::Signals;

/// Outbox and inbox: the same in every schema.
pub const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/common");

/// A service that starts together with its database, or with the job that migrates it, waits this long for it, and then
/// gives up so that somebody looks.
const DATABASE_WAIT: Duration = Duration::from_secs(30);

/// Section `[host]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostSettings {
    pub http_listen: String,
    pub grpc_listen: String,
    pub http_workers: usize,
    pub http_keep_alive_seconds: u64,
    pub http_request_seconds: u64,
    pub http_write_seconds: u64,
    pub namespace: String,
    pub migrate: bool,
    pub drain_seconds: u64,
    pub shutdown_seconds: u64,
    pub crash_point: String,
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What services mount themselves on.
pub struct Host {
    settings: Settings,
    own: HostSettings,
    edge: http::HttpSettings,
    http_listener: TcpListener,
    grpc_listener: TcpListener,
    redis: Redis,
    kafka: Kafka,
    /// Created at the start, before their first event.
    topics: BTreeSet<&'static str>,
    verifier: Verifier,
    dbs: Vec<Db>,
    http: Vec<Mounted>,
    http_root: Vec<Configure>,
    http_direct: Vec<http::Direct>,
    examples: Names,
    grpc: grpc::Mounted,
    tasks: Vec<Task>,
    draining: CancellationToken,
    stopping: CancellationToken,
}

impl Host {
    /// Reads its own sections and binds its two ports, so that addresses are known before anything is mounted.
    pub async fn new(settings: Settings) -> anyhow::Result<Host> {
        let own: HostSettings = settings.section("host")?;
        let edge: http::HttpSettings = settings.section("http")?;
        if !own.crash_point.is_empty() {
            crash::arm(&own.crash_point)?;
        }
        let bind = |address: &str| -> anyhow::Result<TcpListener> {
            let listener = TcpListener::bind(address).with_context(|| format!("listening on {address}"))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let http_listener = bind(&own.http_listen)?;
        let mut auth: crate::auth::AuthSettings = settings.section("auth")?;
        if auth.jwks_url.is_empty() {
            auth.jwks_url =
                format!("http://{}/.well-known/jwks.json", http_server::reachable(http_listener.local_addr()?));
        }
        Ok(Host {
            grpc_listener: bind(&own.grpc_listen)?,
            http_listener,
            redis: Redis::open(&settings.section("redis")?, &own.namespace)?,
            kafka: Kafka::open(&settings.section("kafka")?, &own.namespace)?,
            topics: BTreeSet::new(),
            verifier: Verifier::new(&auth)?,
            dbs: Vec::new(),
            http: Vec::new(),
            http_root: Vec::new(),
            http_direct: Vec::new(),
            examples: Names::new(),
            grpc: grpc::Mounted::default(),
            tasks: Vec::new(),
            draining: CancellationToken::new(),
            stopping: CancellationToken::new(),
            own,
            edge,
            settings,
        })
    }

    /// The section `name` of the settings in force.
    pub fn settings<T: DeserializeOwned>(&self, section: &str) -> anyhow::Result<T> {
        self.settings.section(section)
    }

    /// Opens the schema of `service`, and brings it up to date where this process may (`host.migrate`); else waits until it
    /// is.
    pub async fn db(&mut self, service: &'static str, migrations: EmbeddedMigrations) -> anyhow::Result<Db> {
        let settings: DbSettings = self.settings.section("postgres")?;
        let db = Db::open(&settings, &schema(&self.own.namespace, service)).await?;
        db.wait_until_answering(DATABASE_WAIT).await?;
        if self.own.migrate {
            db.migrate([MIGRATIONS, migrations]).await?;
        } else {
            db.wait_until_migrated(&[MIGRATIONS, migrations], DATABASE_WAIT).await?;
        }
        self.dbs.push(db.clone());
        Ok(db)
    }

    pub fn redis(&self) -> Redis {
        self.redis.clone()
    }

    pub fn kafka(&self) -> Kafka {
        self.kafka.clone()
    }

    /// Adds routes below `/api/v1`.
    pub fn http<F>(&mut self, configure: F)
    where
        F: Fn(&mut ServiceConfig<'_>) + Send + Sync + 'static,
    {
        self.http.push(Mounted::new(Arc::new(configure)));
    }

    /// Adds routes without the base path.
    pub fn http_root<F>(&mut self, configure: F)
    where
        F: Fn(&mut ServiceConfig<'_>) + Send + Sync + 'static,
    {
        self.http_root.push(Arc::new(configure));
    }

    /// Has requests for a route that is mounted answered without the framework's routing.
    pub fn http_direct(&mut self, direct: http::Direct) {
        self.http_direct.push(direct);
    }

    /// What fields look like in the examples of the description.
    pub fn examples(&mut self, names: Names) {
        self.examples = names;
    }

    /// Publishes what `db`'s transactions record.
    pub fn relay(&mut self, db: &Db) -> anyhow::Result<()> {
        let settings: outbox::OutboxSettings = self.settings.section("outbox")?;
        self.tasks.push(Box::pin(outbox::relay(db.clone(), self.kafka.clone(), settings, self.stopping.clone())));
        Ok(())
    }

    /// Runs `consumer` until the host stops.
    pub fn consume(&mut self, consumer: inbox::Consumer) -> anyhow::Result<()> {
        let settings: inbox::InboxSettings = self.settings.section("inbox")?;
        self.tasks.push(Box::pin(consumer.run(self.kafka.clone(), settings, self.stopping.clone())));
        Ok(())
    }

    /// Lets this process hear what `listener` names until the host stops.
    pub fn listen(&mut self, listener: listener::Listener) {
        self.tasks.push(Box::pin(listener.run(self.kafka.clone(), self.stopping.clone())));
    }

    /// Runs `run` on its signal and on its timer until the host stops.
    pub fn periodic<F, Fut>(&mut self, name: &'static str, schedule: Schedule, run: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = crate::Result<()>> + Send + 'static,
    {
        self.tasks.push(Box::pin(periodic::run(name, schedule, self.stopping.clone(), run)));
    }

    /// Cancelled when the host takes no more requests and waits for those under way: answers without an end must end.
    pub fn draining(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// Cancelled when the host begins to stop its loops.
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    pub fn namespace(&self) -> &str {
        &self.own.namespace
    }

    /// The OpenAPI 3.1 description of everything mounted.
    pub fn openapi(&self) -> anyhow::Result<Value> {
        describe(&self.http, &self.http_root, &self.examples)
    }

    /// Starts everything that was mounted. Ready when it returns. Fails when Redis or Kafka are not who they should be.
    pub async fn start(mut self) -> anyhow::Result<Running> {
        let (redis, kafka) = tokio::join!(self.redis.check_access(), self.kafka.check_access());
        let refused: Vec<String> =
            [redis, kafka].into_iter().filter_map(|check| check.err()).map(|error| format!("{error:#}")).collect();
        anyhow::ensure!(refused.is_empty(), "{}", refused.join("\n"));
        self.grpc.check_calls()?;
        let document = self.openapi()?;
        let state = health::State::new(self.dbs, self.stopping.clone());
        let http_addr = self.http_listener.local_addr()?;
        let grpc_addr = self.grpc_listener.local_addr()?;
        let edge = http_server::Edge { settings: self.edge, verifier: self.verifier, state: state.clone() };
        let routes = (self.http, self.http_root, self.http_direct);
        let server = http_server::run(self.http_listener, &self.own, edge, routes, &document)?;
        let handle = server.handle();
        let tracker = TaskTracker::new();
        let failed = CancellationToken::new();
        let on_failure = failed.clone();
        tracker.spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "The HTTP server ended");
                on_failure.cancel();
            }
        });

        let grpc_stop = CancellationToken::new();
        let grpc_names = self.grpc.names();
        let (health_reporter, health_service) = tonic_health::server::health_reporter();
        for name in &grpc_names {
            health_reporter.set_service_status(name, tonic_health::ServingStatus::Serving).await;
        }
        self.grpc.add_open(health_service);
        let served = self.grpc.serve(&self.settings.section("rpc")?, self.grpc_listener, grpc_stop.clone())?;
        let on_failure = failed.clone();
        tracker.spawn(async move {
            if let Err(error) = served.await {
                tracing::error!(%error, "The gRPC server ended");
                on_failure.cancel();
            }
        });
        for task in self.tasks {
            tracker.spawn(task);
        }
        let (kafka, topics, stopping) = (self.kafka, Vec::from_iter(self.topics), self.stopping.clone());
        tracker.spawn(async move { stopping.run_until_cancelled(kafka.create_topics(&topics)).await });
        tracker.close();
        Ok(Running {
            http_addr,
            grpc_addr,
            handle,
            grpc_stop,
            draining: self.draining,
            stopping: self.stopping,
            failed,
            tracker,
            state,
            health_reporter,
            grpc_names,
            own: self.own,
        })
    }
}

/// The life of the service process `name`: settings, `mount`, serve, wait for SIGTERM or Ctrl-C, drain.
pub async fn serve<F>(settings: Settings, name: &str, mount: F) -> anyhow::Result<ExitCode>
where
    F: AsyncFnOnce(&mut Host) -> anyhow::Result<()>,
{
    telemetry::init(&settings.section("telemetry")?, name)?;
    let mut signals = Signals::new()?;
    let starting = async {
        let mut host = Host::new(settings).await?;
        mount(&mut host).await?;
        host.start().await
    };
    let running = tokio::select! {
        running = starting => running?,
        () = signals.next() => {
            tracing::info!("Told to stop before the start was done");
            return Ok(ExitCode::SUCCESS);
        }
    };
    tracing::info!(http = %running.http_addr, grpc = %running.grpc_addr, "Serving");
    let code = tokio::select! {
        () = signals.next() => ExitCode::SUCCESS,
        () = running.failed() => ExitCode::FAILURE,
    };
    tracing::info!("Draining; a second signal ends it at once");
    tokio::select! {
        () = running.stop() => Ok(code),
        () = signals.next() => {
            tracing::warn!("Ended before everything was drained; what was cut off is taken up at the next start");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The PostgreSQL schema of `service`.
pub fn schema(namespace: &str, service: &str) -> String {
    format!("{namespace}{}", identifier(service))
}
