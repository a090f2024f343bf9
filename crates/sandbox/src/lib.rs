//! Private PostgreSQL, Redis and Kafka on free loopback ports: what `stampede dev` runs on and what the tests use and kill.
//!
//! Beside them run fakes of what the product calls: a payment provider that can misbehave, and a Slack.
//!
//! The servers are durable like production ones, can be killed and started again on the same address, and never
//! outlive the process that started them.

mod claim;
mod connection;
mod embedded;
mod fake_psp;
mod fake_slack;
mod fakes;
mod jars;
mod kafka;
mod lifecycle;
pub mod nginx;
mod options;
mod ports;
mod postgres;
mod process;
mod programs;
mod redis;
mod silences;
mod supervisor;
mod unix_user;

use std::path::PathBuf;
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};
use tokio::sync::oneshot;

pub use embedded::{BrokerArgs, run_embedded_broker};
pub use fake_slack::{FakeSlack, SlackAnswer, SlackAttempt};
pub use fakes::Fakes;
use lifecycle::Servers;
pub use options::{
    External, Extras, KafkaChoice, KafkaKind, KafkaListener, Options, Server, check_data_dir, reachable_data_dir,
};
use supervisor::{Action, Handle};
pub use unix_user::give_to_servers;

/// What a banner says about one server.
#[derive(Clone, Debug)]
pub struct ServerInfo {
    pub name: String,
    /// None while it is down, or when it is not ours.
    pub pid: Option<u32>,
    /// PostgreSQL's contains the password.
    pub url: String,
    /// None when it is not ours.
    pub data_dir: Option<PathBuf>,
}

/// Running servers. Dropping it kills them; [`Sandbox::stop`] stops them properly.
///
/// They are kept by a thread of its own, so that a sandbox shared by several tests does not end with the
/// runtime of the test that happened to start it.
pub struct Sandbox {
    /// Taken by `stop` and by dropping.
    servers: Option<Servers>,
    external: External,
    keeper: Option<JoinHandle<()>>,
    /// Resolves when the servers are down and the data folder is given up.
    ended: oneshot::Receiver<()>,
}

impl Sandbox {
    /// Starts the three servers at once; each accepts clients when this returns.
    ///
    /// Refuses when another live process uses the data folder. Servers left over by a dead one are killed first.
    pub async fn start(options: Options) -> Result<Sandbox> {
        let external = options.external.clone();
        let (keeper, started, ended) = lifecycle::keep(options)?;
        let servers = started.await.context("the sandbox's thread has panicked")??;
        Ok(Sandbox { servers: Some(servers), external, keeper: Some(keeper), ended })
    }

    /// `postgres://user:password@host:port/database`.
    pub fn postgres_url(&self) -> String {
        match (&self.external.postgres_url, self.handle(Server::Postgres)) {
            (None, Some(server)) => {
                let password = &self.servers().postgres_password;
                format!("postgres://{0}:{password}@127.0.0.1:{1}/{0}", postgres::NAME, server.status.port())
            }
            (external, _) => external.clone().unwrap_or_default(),
        }
    }

    /// `redis://host:port/0`.
    pub fn redis_url(&self) -> String {
        match (&self.external.redis_url, self.handle(Server::Redis)) {
            (None, Some(server)) => format!("redis://127.0.0.1:{}/0", server.status.port()),
            (external, _) => external.clone().unwrap_or_default(),
        }
    }

    /// `host:port`. An embedded broker has another port after each restart, so ask again then.
    pub fn kafka_brokers(&self) -> String {
        match (&self.external.kafka_brokers, self.handle(Server::Kafka)) {
            (None, Some(server)) => format!("127.0.0.1:{}", server.status.port()),
            (external, _) => external.clone().unwrap_or_default(),
        }
    }

    /// `http://host:port` of the payment provider and Slack; see [`Fakes`] for what they do. The same after a restart.
    pub fn fakes_url(&self) -> &str {
        &self.servers().fakes_url
    }

    pub fn kafka_kind(&self) -> KafkaKind {
        self.servers().kafka_kind
    }

    /// PostgreSQL, Redis, Kafka.
    pub fn describe(&self) -> Vec<ServerInfo> {
        let kafka = format!("Kafka ({})", self.kafka_kind());
        [
            (Server::Postgres, "PostgreSQL".to_owned(), self.postgres_url()),
            (Server::Redis, "Redis".to_owned(), self.redis_url()),
            (Server::Kafka, kafka, self.kafka_brokers()),
        ]
        .into_iter()
        .map(|(server, name, url)| ServerInfo {
            name,
            pid: self.handle(server).and_then(|handle| handle.status.pid()),
            url,
            data_dir: self.handle(server).map(|handle| handle.data_dir.clone()),
        })
        .collect()
    }

    /// Kills a server and all its processes with SIGKILL and keeps it down. Nothing happens if it is down already.
    ///
    /// Refuses to touch a server that is not ours, as do the other actions.
    pub async fn kill(&self, server: Server) -> Result<()> {
        self.ours(server)?.perform(Action::Kill).await
    }

    /// Starts a server again on its data and its port (an embedded broker on another); it is ready when this returns.
    ///
    /// A server that runs is stopped properly first.
    pub async fn restart(&self, server: Server) -> Result<()> {
        self.ours(server)?.perform(Action::Restart).await
    }

    /// Replaces the broker by a new, empty one with another cluster id on the same port, as when its disk is lost.
    pub async fn wipe_kafka(&self) -> Result<()> {
        self.ours(Server::Kafka)?.perform(Action::Wipe).await
    }

    /// Stops the servers properly, all at once, and removes the data if it was to be ephemeral.
    pub async fn stop(mut self) -> Result<()> {
        let servers = self.servers.take().context("the sandbox has been stopped")?;
        let stop = async |handle: &Option<Handle>| match handle {
            Some(handle) => handle.perform(Action::Stop).await,
            None => Ok(()),
        };
        let (postgres, redis, kafka) =
            tokio::join!(stop(&servers.postgres), stop(&servers.redis), stop(&servers.kafka));
        drop(servers);
        // The keeper only closes the channel; it never sends.
        let _ = (&mut self.ended).await;
        postgres.and(redis).and(kafka)
    }

    fn servers(&self) -> &Servers {
        self.servers.as_ref().expect("only `stop` and `drop` take the servers, and both end the sandbox")
    }

    fn handle(&self, server: Server) -> Option<&Handle> {
        let servers = self.servers();
        match server {
            Server::Postgres => servers.postgres.as_ref(),
            Server::Redis => servers.redis.as_ref(),
            Server::Kafka => servers.kafka.as_ref(),
        }
    }

    fn ours(&self, server: Server) -> Result<&Handle> {
        match self.handle(server) {
            Some(handle) => Ok(handle),
            None => bail!("{server} is not ours: its address was given in the settings"),
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Without handles the keeper kills what still runs, which takes milliseconds.
        self.servers = None;
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}
