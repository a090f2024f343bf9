//! A site: the whole system on this machine, started here or found running.

mod keys;
mod options;
mod split;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use common::host::{Host, Running};
use common::settings::Settings;
use sandbox::{External, KafkaChoice, Sandbox, Server};
use serde::{Deserialize, Serialize};

use crate::services::{self, SERVICES};
use keys::Keys;
use options::{DEMO, LOGS, READY_TIMEOUT};
use split::Split;

pub use options::SiteOptions;

/// Where a running site says how to reach it, in its data folder.
pub(crate) const SITE_FILE: &str = "site.json";
/// What to do where no system runs.
pub(crate) const START: &str = "start ./stampede dev, name the data folder of a running one with --data-dir";
/// What this process logs, in that folder.
const OWN_LOG: &str = "stampede.log";
/// What a site keeps in its data folder beside the servers.
const BESIDE: [&str; 4] = [SITE_FILE, LOGS, split::DEMO_FILE, sandbox::nginx::FOLDER];

/// A running system.
pub struct Site {
    api: String,
    settings: Settings,
    data_dir: PathBuf,
    log_to_file: bool,
    services: Services,
    sandbox: Option<Sandbox>,
}

enum Services {
    Here(Box<Running>),
    Split(Box<Split>),
    Elsewhere,
}

/// What [`SITE_FILE`] holds. It contains the database's password and the services' keys, so only its owner may read it.
#[derive(Serialize, Deserialize)]
struct SiteFile {
    api: String,
    overrides: Vec<(String, String)>,
    keys: Keys,
}

impl Site {
    /// Starts the servers and the services. Ready when it returns.
    pub async fn start(options: SiteOptions) -> anyhow::Result<Site> {
        let from_settings = load(&options, &[])?;
        let sandbox = Sandbox::start(sandbox::Options {
            data_dir: options.data_dir.clone(),
            fresh: options.fresh,
            ephemeral: options.ephemeral,
            beside: BESIDE.map(str::to_owned).to_vec(),
            kafka: options.kafka,
            kafka_properties: Vec::new(),
            count_statements: options.count_statements,
            external: external(&from_settings)?,
            extras: sandbox::Extras::default(),
        })
        .await?;
        let mut servers = vec![
            ("postgres.url".to_owned(), sandbox.postgres_url()),
            ("redis.url".to_owned(), sandbox.redis_url()),
            ("kafka.brokers".to_owned(), sandbox.kafka_brokers()),
        ];
        servers.extend(fakes(&from_settings, sandbox.fakes_url())?);
        let keys = if options.split { Keys::for_each()? } else { Keys::for_all()? };
        servers.extend(keys.public()?);
        let settings = load(&options, &servers)?;
        let telemetry = settings.section("telemetry")?;
        if options.log_to_file {
            common::telemetry::init_with_file(&telemetry, "stampede", open_log(&options.data_dir.join(LOGS))?)?;
        } else {
            common::telemetry::init(&telemetry, "stampede")?;
        }
        let (api, services) = if options.split {
            let split =
                Split::start(&settings, &options, (&servers, &keys), external(&from_settings)?.postgres_url.is_none())
                    .await?;
            (split.url(), Services::Split(Box::new(split)))
        } else {
            let mut host = Host::new(settings.clone()).await?;
            services::mount(&mut host, SERVICES).await?;
            let running = host.start().await?;
            (format!("http://{}", running.http_addr), Services::Here(Box::new(running)))
        };
        let site = Site {
            api,
            settings,
            data_dir: options.data_dir.clone(),
            log_to_file: options.log_to_file,
            services,
            sandbox: Some(sandbox),
        };
        wait_until_ready(&site.api).await?;
        site.introduce_provider().await?;
        let mut overrides = options.overrides;
        overrides.extend(servers);
        site.write_file(overrides, keys)?;
        Ok(site)
    }

    /// Finds a running system: at `url` with `settings`, else the one that `data_dir` knows of.
    pub async fn attach(config: &[PathBuf], data_dir: &Path, url: Option<String>) -> anyhow::Result<Site> {
        let file = data_dir.join(SITE_FILE);
        let (api, overrides) = match url {
            Some(url) => (url.trim_end_matches('/').to_owned(), Vec::new()),
            None => {
                let text = std::fs::read_to_string(&file).map_err(|error| {
                    let folder = data_dir.display();
                    anyhow!("no running system is known in {folder} ({error}); {START}, or its address with --url")
                })?;
                let SiteFile { api, overrides, .. } = serde_json::from_str(&text)?;
                (api, overrides)
            }
        };
        let files: Vec<&Path> = config.iter().map(PathBuf::as_path).collect();
        let settings = Settings::load_with_defaults(DEMO, &files, &overrides)?;
        let probe = crate::near()?.get(format!("{api}/api/v1/products?size=1")).timeout(Duration::from_secs(3));
        probe.send().await.map_err(|error| {
            let error = anyhow::Error::from(error);
            anyhow!("nothing answers at {api} ({error:#}); {START}, or its address with --url")
        })?;
        Ok(Site {
            api,
            settings,
            data_dir: data_dir.to_owned(),
            log_to_file: false,
            services: Services::Elsewhere,
            sandbox: None,
        })
    }

    /// `http://host:port`; the API is below `/api/v1`.
    pub fn api(&self) -> &str {
        &self.api
    }

    /// The settings that reach this site's servers.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Where the gRPC services are, if they are in this process.
    pub fn grpc(&self) -> Option<String> {
        match &self.services {
            Services::Here(running) => Some(running.grpc_addr.to_string()),
            Services::Split(_) | Services::Elsewhere => None,
        }
    }

    /// The addresses of a split site's services, behind the gateway.
    pub fn services(&self) -> Vec<Address> {
        match &self.services {
            Services::Split(split) => split.addresses(),
            Services::Here(_) | Services::Elsewhere => Vec::new(),
        }
    }

    /// Where the logs are: a file, or where the services are split, a folder with one for each process. None: the log is on
    /// standard error.
    pub fn logs(&self) -> Option<PathBuf> {
        let folder = self.data_dir.join(LOGS);
        match self.services {
            Services::Split(_) => Some(folder),
            _ => self.log_to_file.then(|| folder.join(OWN_LOG)),
        }
    }

    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.sandbox.as_ref()
    }

    /// What [`Site::kill`] understands here.
    pub fn parts(&self) -> Vec<String> {
        let mut parts = Vec::new();
        if let Services::Split(split) = &self.services {
            parts.extend(split.names());
        }
        if self.sandbox.is_some() {
            parts.extend(Server::ALL.map(|server| server.to_string()));
            parts.extend(["flushall".to_owned(), "wipe-kafka".to_owned()]);
        }
        parts
    }

    /// Breaks a part as `kill -9` would; `flushall` empties Redis, `wipe-kafka` replaces the broker by an empty one.
    pub async fn kill(&self, part: &str) -> anyhow::Result<()> {
        match (part, &self.services, &self.sandbox) {
            ("flushall", _, Some(_)) => {
                let redis = common::redis::Redis::open(&self.settings.section("redis")?, "")?;
                let mut command = common::redis::cmd("FLUSHALL");
                redis.command::<()>(command.arg("SYNC")).await?;
                Ok(())
            }
            ("wipe-kafka", _, Some(sandbox)) => sandbox.wipe_kafka().await,
            (server, _, Some(sandbox)) if server.parse::<Server>().is_ok() => sandbox.kill(server.parse()?).await,
            (service, Services::Split(split), _) => split.kill(service).await,
            _ => bail!("cannot kill {part:?} here; what can be killed: {}", self.parts().join(", ")),
        }
    }

    /// Tells a service to stop, and returns when it has drained and ended.
    pub async fn terminate(&self, part: &str) -> anyhow::Result<()> {
        match &self.services {
            Services::Split(split) => split.terminate(part).await,
            _ => bail!("only a service of a split site can be told to stop, and {part:?} is none"),
        }
    }

    /// Brings a part back that was killed or has ended. Ready when it returns.
    pub async fn revive(&self, part: &str) -> anyhow::Result<()> {
        match (part, &self.services, &self.sandbox) {
            ("flushall" | "wipe-kafka", ..) => Ok(()),
            (server, _, Some(sandbox)) if server.parse::<Server>().is_ok() => sandbox.restart(server.parse()?).await,
            (service, Services::Split(split), _) => split.revive(service).await,
            _ => bail!("cannot bring back {part:?} here"),
        }
    }

    /// Every process of this site with its name, for accounting.
    pub fn pids(&self) -> Vec<(String, u32)> {
        let mut pids = match &self.services {
            Services::Here(_) => vec![("services".to_owned(), std::process::id())],
            Services::Split(split) => split.pids(),
            Services::Elsewhere => Vec::new(),
        };
        for server in self.sandbox.iter().flat_map(Sandbox::describe) {
            pids.extend(server.pid.map(|pid| (server.name, pid)));
        }
        pids
    }

    /// Drains the services, then stops the servers.
    pub async fn stop(self) -> anyhow::Result<()> {
        match self.services {
            Services::Here(running) => running.stop().await,
            Services::Split(split) => split.stop().await,
            // Somebody else's: it goes on.
            Services::Elsewhere => return Ok(()),
        }
        // Missing if it was removed by hand.
        drop(std::fs::remove_file(self.data_dir.join(SITE_FILE)));
        if let Some(sandbox) = self.sandbox {
            sandbox.stop().await?;
        }
        Ok(())
    }

    /// Tells the sandbox's payment provider where to call, and how to sign.
    async fn introduce_provider(&self) -> anyhow::Result<()> {
        let Some(sandbox) = &self.sandbox else { return Ok(()) };
        let secrets: Vec<secrecy::SecretString> = self.settings.section("payment.webhooks.naverpay_secret")?;
        let Some(secret) = secrets.first() else { return Ok(()) };
        let webhooks = serde_json::json!({
            "url": format!("{}/api/v1/webhooks/pg/naverpay", self.api),
            "secret": secrecy::ExposeSecret::expose_secret(secret),
        });
        let client = crate::near()?;
        let told = client.put(format!("{}/webhooks", sandbox.fakes_url())).json(&webhooks);
        told.send().await?.error_for_status().context("the payment provider of the sandbox does not listen")?;
        Ok(())
    }

    fn write_file(&self, overrides: Vec<(String, String)>, keys: Keys) -> anyhow::Result<()> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let text = serde_json::to_string_pretty(&SiteFile { api: self.api.clone(), overrides, keys })?;
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.data_dir.join(SITE_FILE))?;
        Ok(file.write_all(text.as_bytes())?)
    }
}

/// Where a service of a split site is.
pub struct Address {
    pub name: String,
    /// `http://host:port`.
    pub http: String,
    /// `host:port`.
    pub grpc: String,
}

fn open_log(folder: &Path) -> anyhow::Result<File> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join(OWN_LOG);
    File::options().create(true).append(true).open(&path).with_context(|| format!("opening {}", path.display()))
}

/// Defaults, the demo, the user's files, the environment, the options, and last where the servers are.
fn load(options: &SiteOptions, servers: &[(String, String)]) -> anyhow::Result<Settings> {
    let files: Vec<&Path> = options.config.iter().map(PathBuf::as_path).collect();
    let mut overrides = options.overrides.clone();
    overrides.extend_from_slice(servers);
    Settings::load_with_defaults(DEMO, &files, &overrides)
}

/// A server whose address was changed from the default is somebody else's and is used as it is.
fn external(settings: &Settings) -> anyhow::Result<External> {
    use secrecy::ExposeSecret;
    let default = Settings::defaults()?;
    let differing = |key: &str| -> anyhow::Result<Option<String>> {
        let (ours, theirs): (secrecy::SecretString, secrecy::SecretString) =
            (settings.section(key)?, default.section(key)?);
        let (ours, theirs) = (ours.expose_secret(), theirs.expose_secret());
        Ok((ours != theirs).then(|| ours.to_owned()))
    };
    Ok(External {
        postgres_url: differing("postgres.url")?,
        redis_url: differing("redis.url")?,
        kafka_brokers: differing("kafka.brokers")?,
    })
}

/// The addresses of the fake payment provider and the fake Slack, for the settings that nobody has changed.
fn fakes(settings: &Settings, url: &str) -> anyhow::Result<Vec<(String, String)>> {
    let default = Settings::defaults()?;
    let ours = [
        ("payment.naverpay.url", url.to_owned()),
        ("payment.naverpay.checkout_url", format!("{url}/checkout")),
        ("notification_hub.slack.url", format!("{url}/slack/services/T0/B0/operators")),
    ];
    let mut unset = Vec::new();
    for (key, value) in ours {
        let (set, standard): (secrecy::SecretString, secrecy::SecretString) =
            (settings.section(key)?, default.section(key)?);
        if secrecy::ExposeSecret::expose_secret(&set) == secrecy::ExposeSecret::expose_secret(&standard) {
            unset.push((key.to_owned(), value));
        }
    }
    Ok(unset)
}

/// The settings that reach the system which `data_dir` knows of, else those in force without it.
pub fn settings(config: &[PathBuf], data_dir: &Path) -> anyhow::Result<Settings> {
    let files: Vec<&Path> = config.iter().map(PathBuf::as_path).collect();
    let overrides = match std::fs::read_to_string(data_dir.join(SITE_FILE)) {
        Ok(text) => serde_json::from_str::<SiteFile>(&text)?.overrides,
        Err(_) => Vec::new(),
    };
    Settings::load(&files, &overrides)
}

/// The private key of `service` in the system which `data_dir` knows of.
pub fn key_of(data_dir: &Path, service: &str) -> Option<String> {
    let text = std::fs::read_to_string(data_dir.join(SITE_FILE)).ok()?;
    serde_json::from_str::<SiteFile>(&text).ok()?.keys.of(service).cloned()
}

/// The broker that the setting `sandbox.kafka` asks for.
pub fn kafka_choice(config: &[PathBuf]) -> anyhow::Result<KafkaChoice> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct SandboxSettings {
        kafka: KafkaChoice,
    }
    let files: Vec<&Path> = config.iter().map(PathBuf::as_path).collect();
    Ok(Settings::load(&files, &[])?.section::<SandboxSettings>("sandbox")?.kafka)
}

/// Waits until a request goes all the way through to the database.
async fn wait_until_ready(api: &str) -> anyhow::Result<()> {
    let client = crate::near()?;
    let started = Instant::now();
    loop {
        let answer = client.get(format!("{api}/api/v1/products?size=1")).timeout(Duration::from_secs(2)).send().await;
        match answer {
            Ok(response) if response.status().is_success() => return Ok(()),
            other if started.elapsed() > READY_TIMEOUT => bail!("{api} does not become ready: {other:?}"),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
