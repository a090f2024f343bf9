//! One process or more for each service behind nginx, as Kubernetes runs them.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use common::manifest::identifier;
use common::settings::Settings;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use sandbox::nginx::Gateway;
use tokio::process::{Child, Command};
use tokio::task::AbortHandle;

use super::Address;
use super::keys::Keys;
use super::options::{DEMO, LOGS, READY_TIMEOUT, SiteOptions};
use crate::roles;
use crate::services::SERVICES;

/// The settings that its processes read, in the data folder.
pub const DEMO_FILE: &str = "demo.toml";
/// How long a service serves on that was told to stop, where there is another replica.
const DRAIN_SECONDS: u64 = 5;
/// How long a service may take to drain before it is killed.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);

pub struct Split {
    gateway: Gateway,
    /// By name: the service's, or where it has several replicas, with a number.
    processes: Arc<BTreeMap<String, Process>>,
    watching: AbortHandle,
}

struct Process {
    service: &'static str,
    http_port: u16,
    grpc_port: u16,
    environment: Vec<(String, String)>,
    config: Vec<PathBuf>,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Split {
    pub async fn start(
        settings: &Settings,
        options: &SiteOptions,
        (servers, keys): (&[(String, String)], &Keys),
        own_postgres: bool,
    ) -> anyhow::Result<Split> {
        let ports: BTreeMap<&str, Vec<Ports>> = free_ports(options.replicas)?;
        let account = ports["account"][0].http;
        let mut shared: Vec<(String, String)> = options.overrides.clone();
        shared.extend_from_slice(servers);
        shared.push(("auth.jwks_url".to_owned(), format!("http://127.0.0.1:{account}/.well-known/jwks.json")));
        shared.push(("http.trusted_proxies".to_owned(), "1".to_owned()));
        if options.replicas > 1 {
            // As in Kubernetes: the gateway's connections to a replica that stops are closed one by one.
            shared.push(("host.drain_seconds".to_owned(), DRAIN_SECONDS.to_string()));
        }
        for (name, replicas) in &ports {
            let addresses: Vec<String> =
                replicas.iter().map(|Ports { grpc, .. }| format!("http://127.0.0.1:{grpc}")).collect();
            shared.push((format!("upstreams.{}", identifier(name)), addresses.join(",")));
        }
        // In a database of ours each service has a role of its own, as in production.
        let roles = if own_postgres { roles::make(settings).await? } else { Vec::new() };
        let logs = options.data_dir.join(LOGS);
        std::fs::create_dir_all(&logs)?;
        let demo = options.data_dir.join(DEMO_FILE);
        std::fs::write(&demo, DEMO)?;
        let mut config = vec![demo];
        config.extend(options.config.iter().cloned());

        let mut processes = BTreeMap::new();
        for service in SERVICES {
            let replicas = &ports[service.name];
            let postgres = roles.iter().find(|(name, _)| *name == service.name);
            for (index, Ports { http, grpc }) in replicas.iter().enumerate() {
                let name = match replicas.len() {
                    1 => service.name.to_owned(),
                    _ => format!("{}-{}", service.name, index + 1),
                };
                let mut own = shared.clone();
                own.push(("host.http_listen".to_owned(), format!("127.0.0.1:{http}")));
                own.push(("host.grpc_listen".to_owned(), format!("127.0.0.1:{grpc}")));
                own.extend(keys.of(service.name).map(|key| ("rpc.token_key".to_owned(), key.clone())));
                own.extend(postgres.map(|(_, url)| ("postgres.url".to_owned(), url.clone())));
                own.push(("telemetry.log_format".to_owned(), "json".to_owned()));
                let process = Process {
                    service: service.name,
                    http_port: *http,
                    grpc_port: *grpc,
                    environment: own.into_iter().map(|(key, value)| (variable(&key), value)).collect(),
                    config: config.clone(),
                    log: logs.join(format!("{name}.log")),
                    child: Mutex::default(),
                };
                process.spawn()?;
                processes.insert(name, process);
            }
        }
        for (name, process) in &processes {
            process.ready(name).await?;
        }
        let http = |service: &str| ports[service].iter().map(|ports| ports.http).collect::<Vec<u16>>();
        let routes: Vec<(String, Vec<u16>)> = SERVICES
            .iter()
            .flat_map(|service| service.paths.iter().map(|path| ((*path).to_owned(), http(service.name))))
            .collect();
        let host: common::host::HostSettings = settings.section("host")?;
        let port = host.http_listen.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).filter(|port| *port != 0);
        let description = crate::services::description(&[]).await?;
        let gateway = Gateway::start(&options.data_dir, port, &routes, Some(&description)).await?;
        let processes = Arc::new(processes);
        let watching = tokio::spawn(watch(processes.clone())).abort_handle();
        Ok(Split { gateway, processes, watching })
    }

    pub fn url(&self) -> String {
        self.gateway.url()
    }

    pub fn names(&self) -> impl Iterator<Item = String> {
        self.processes.keys().cloned()
    }

    pub fn addresses(&self) -> Vec<Address> {
        let address = |(name, process): (&String, &Process)| Address {
            name: name.clone(),
            http: format!("http://127.0.0.1:{}", process.http_port),
            grpc: format!("127.0.0.1:{}", process.grpc_port),
        };
        self.processes.iter().map(address).collect()
    }

    pub fn pids(&self) -> Vec<(String, u32)> {
        self.processes.iter().filter_map(|(name, process)| Some((name.clone(), process.pid()?))).collect()
    }

    pub async fn kill(&self, name: &str) -> anyhow::Result<()> {
        let process = self.process(name)?;
        if let Some(mut child) = process.take() {
            child.kill().await?;
        }
        Ok(())
    }

    pub async fn revive(&self, name: &str) -> anyhow::Result<()> {
        let process = self.process(name)?;
        self.kill(name).await?;
        process.spawn()?;
        process.ready(name).await
    }

    /// SIGTERM, as when a new version is rolled out: it drains and ends.
    pub async fn terminate(&self, name: &str) -> anyhow::Result<()> {
        let Some(mut child) = self.process(name)?.take() else { return Ok(()) };
        tell(&child);
        match tokio::time::timeout(DRAIN_TIMEOUT, child.wait()).await {
            Ok(status) => match status? {
                status if status.success() => Ok(()),
                status => bail!("{name} was told to stop and ended with {status}"),
            },
            Err(_) => bail!("{name} does not end within {DRAIN_TIMEOUT:?} after it was told to"),
        }
    }

    pub async fn stop(self) {
        self.watching.abort();
        if let Err(error) = self.gateway.stop().await {
            tracing::warn!(%error, "The gateway did not stop properly");
        }
        let mut children: Vec<Child> = self.processes.values().filter_map(Process::take).collect();
        children.iter().for_each(tell);
        for child in &mut children {
            if tokio::time::timeout(DRAIN_TIMEOUT, child.wait()).await.is_err() {
                drop(child.kill().await);
            }
        }
    }

    fn process(&self, name: &str) -> anyhow::Result<&Process> {
        self.processes.get(name).with_context(|| format!("there is no part {name:?}"))
    }
}

fn tell(child: &Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // Gone already is as good as told to go.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
}

/// How often dead services are looked for.
const WATCH_PERIOD: Duration = Duration::from_millis(500);

/// Announces a service that has ended by itself, and starts it again, as is done with servers. One that was killed on
/// purpose stays down until somebody wants it back.
async fn watch(processes: Arc<BTreeMap<String, Process>>) {
    loop {
        tokio::time::sleep(WATCH_PERIOD).await;
        for (name, process) in processes.iter() {
            let Some(status) = process.ended() else { continue };
            tracing::error!(
                "The service {name} has ended ({status}) and is started again; its log is {}",
                process.log.display()
            );
            if let Err(error) = process.spawn() {
                tracing::error!("The service {name} cannot be started, next try in {WATCH_PERIOD:?}: {error:#}");
            }
        }
    }
}

impl Process {
    fn spawn(&self) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(std::env::current_exe()?);
        for file in &self.config {
            command.arg("--config").arg(file);
        }
        let child = command
            .arg("--parent")
            .arg(std::process::id().to_string())
            .arg(self.service)
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", self.service))?;
        *self.child.lock() = Some(child);
        Ok(())
    }

    async fn ready(&self, name: &str) -> anyhow::Result<()> {
        let url = format!("http://127.0.0.1:{}/readyz", self.http_port);
        let client = crate::near()?;
        let started = Instant::now();
        loop {
            let answer = client.get(&url).timeout(Duration::from_secs(2)).send().await;
            if answer.is_ok_and(|response| response.status().is_success()) {
                return Ok(());
            }
            if let Some(status) = self.ended() {
                bail!("{name} ended with {status} before it was ready; see {}", self.log.display());
            }
            if started.elapsed() > READY_TIMEOUT {
                bail!("{name} does not become ready; see {}", self.log.display());
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    fn ended(&self) -> Option<std::process::ExitStatus> {
        let mut child = self.child.lock();
        child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    fn take(&self) -> Option<Child> {
        self.child.lock().take()
    }

    fn pid(&self) -> Option<u32> {
        self.child.lock().as_ref().and_then(Child::id)
    }
}

/// `section.key` as the environment variable that sets it.
fn variable(key: &str) -> String {
    format!("STAMPEDE__{}", key.replace('.', "__").to_uppercase())
}

/// Where a replica listens.
struct Ports {
    http: u16,
    grpc: u16,
}

/// Ports for each replica of each service. All are held until all are chosen, so that they differ.
fn free_ports(replicas: usize) -> anyhow::Result<BTreeMap<&'static str, Vec<Ports>>> {
    let mut held = Vec::new();
    let mut port = || -> anyhow::Result<u16> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        held.push(listener);
        Ok(port)
    };
    let mut all = BTreeMap::new();
    for service in SERVICES {
        let own: anyhow::Result<Vec<Ports>> =
            (0..replicas).map(|_| Ok(Ports { http: port()?, grpc: port()? })).collect();
        all.insert(service.name, own?);
    }
    Ok(all)
}
