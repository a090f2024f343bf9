//! `TestSite`: the whole system with a namespace of its own, in this process or as a child that can die.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::Host;
use common::host::Running;
use common::settings::Settings;
use diesel_async::AsyncPgConnection;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use sandbox::Sandbox;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, OnceCell};

use crate::client::{Client, text};
use crate::servers;

/// Whatever takes longer than this on a busy machine will never happen. A refund that is interrupted by a crash waits for the
/// process to start, for the old one's consumers to be missed, for its claim to end, and for consumers again.
pub const PATIENCE: Duration = Duration::from_secs(150);

/// Who may do everything: `demo_accounts` makes this account at start.
pub const ADMIN_EMAIL: &str = "admin@example.com";
pub const ADMIN_PASSWORD: &str = "correct horse battery";

/// Small, quick and patient: many sites share one machine, and none of these changes what is promised.
const FOR_TESTS: [(&str, &str); 24] = [
    ("host.http_workers", "1"),
    ("host.shutdown_seconds", "5"),
    ("postgres.connections_max", "4"),
    ("postgres.acquire_timeout_ms", "20000"),
    ("redis.timeout_ms", "1000"),
    ("kafka.partitions", "2"),
    ("kafka.cluster_check_ms", "500"),
    ("outbox.poll_ms", "500"),
    ("outbox.retry_first_ms", "100"),
    ("inbox.replay_poll_ms", "500"),
    ("account.hashing.memory_kib", "8"),
    ("account.hashing.passes", "1"),
    ("account.hashing.waiting_max", "1000"),
    ("account.log_ins_per_minute_and_account", "1000"),
    ("account.log_ins_per_minute_and_address", "100000"),
    ("account.demo_accounts", "ADMIN:admin@example.com:Admin:correct horse battery"),
    ("payment.naverpay.client_id", "tests"),
    ("payment.naverpay.client_secret", "tests"),
    ("payment.naverpay.chain_id", "tests"),
    ("payment.resolve_poll_ms", "200"),
    ("payment.owed_poll_ms", "300"),
    ("payment.refund_poll_ms", "300"),
    ("notification_hub.reclaim_period_ms", "200"),
    ("notification_hub.idle_poll_max_ms", "200"),
];

/// A running system.
pub struct TestSite {
    pub api: String,
    /// `http://host:port` of its gRPC services; only where they run in this process.
    pub grpc: String,
    pub servers: &'static Sandbox,
    namespace: String,
    overrides: BTreeMap<String, String>,
    services: Mutex<Services>,
    admin: OnceCell<Client>,
    /// For questions in SQL; opened with the first one.
    pub(crate) postgres: Mutex<Option<AsyncPgConnection>>,
    http: reqwest::Client,
}

enum Services {
    Here(Box<Running>),
    Child(Child),
    Down,
}

impl TestSite {
    /// All services in this process.
    pub async fn start() -> TestSite {
        Self::start_with(&[]).await
    }

    /// `overrides` come above what makes tests quick.
    pub async fn start_with(overrides: &[(&str, &str)]) -> TestSite {
        Self::start_on(servers::shared().await, overrides).await
    }

    pub async fn start_on(servers: &'static Sandbox, overrides: &[(&str, &str)]) -> TestSite {
        let mut site = Self::prepare(servers, overrides);
        site.overrides.insert("host.http_listen".to_owned(), "127.0.0.1:0".to_owned());
        let settings = site.settings();
        logs_to_a_file();
        common::telemetry::init(&settings.section("telemetry").expect("the settings are right"))
            .expect("metrics start");
        let mut host = Host::new(settings).await.expect("the settings are right");
        account::mount(&mut host).await.expect("account mounts");
        inventory::mount(&mut host).await.expect("inventory mounts");
        order::mount(&mut host).await.expect("order mounts");
        payment::mount(&mut host).await.expect("payment mounts");
        notification_hub::mount(&mut host).await.expect("notification-hub mounts");
        let running = host.start().await.expect("the host starts");
        site.api = format!("http://{}", running.http_addr);
        site.grpc = format!("http://{}", running.grpc_addr);
        site.services = Mutex::new(Services::Here(Box::new(running)));
        site.answers().await;
        site
    }

    /// One more process for the same system, here.
    pub async fn replica(&self) -> TestSite {
        let own = self.overrides.iter().filter(|(key, _)| *key != "host.http_listen");
        let own: Vec<(&str, &str)> = own.map(|(key, value)| (key.as_str(), value.as_str())).collect();
        Self::start_on(self.servers, &own).await
    }

    /// The real executable as a child process, ready when this returns.
    pub async fn spawn(overrides: &[(&str, &str)]) -> TestSite {
        Self::spawn_on(servers::shared().await, overrides).await
    }

    pub async fn spawn_on(servers: &'static Sandbox, overrides: &[(&str, &str)]) -> TestSite {
        let mut site = Self::prepare(servers, overrides);
        let address = format!("127.0.0.1:{}", servers::port());
        site.api = format!("http://{address}");
        site.overrides.insert("host.http_listen".to_owned(), address);
        site.revive(&[]).await;
        site.answers().await;
        site
    }

    fn prepare(servers: &'static Sandbox, overrides: &[(&str, &str)]) -> TestSite {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let given = overrides.iter().find(|(key, _)| *key == "host.namespace");
        let new = || format!("t{}_", COUNT.fetch_add(1, Ordering::SeqCst));
        let namespace = given.map_or_else(new, |(_, namespace)| (*namespace).to_owned());
        let mut all: BTreeMap<String, String> = BTreeMap::new();
        let mut set = |key: &str, value: &str| all.insert(key.to_owned(), value.to_owned());
        FOR_TESTS.iter().for_each(|(key, value)| drop(set(key, value)));
        set("host.namespace", &namespace);
        set("host.grpc_listen", "127.0.0.1:0");
        set("postgres.url", &servers.postgres_url());
        set("redis.url", &servers.redis_url());
        set("kafka.brokers", &servers.kafka_brokers());
        set("payment.naverpay.url", servers.outside_url());
        set("payment.naverpay.checkout_url", &format!("{}/checkout", servers.outside_url()));
        set("notification_hub.slack.url", &format!("{}/slack/services/{namespace}/B/X", servers.outside_url()));
        overrides.iter().for_each(|(key, value)| drop(set(key, value)));
        TestSite {
            api: String::new(),
            grpc: String::new(),
            servers,
            namespace,
            overrides: all,
            services: Mutex::new(Services::Down),
            admin: OnceCell::new(),
            postgres: Mutex::default(),
            http: reqwest::Client::new(),
        }
    }

    /// What is in force here.
    pub fn settings(&self) -> Settings {
        let overrides: Vec<_> = self.overrides.clone().into_iter().collect();
        Settings::load(&[], &overrides).expect("the settings are known")
    }

    /// The PostgreSQL schema of `service`, quoted.
    pub fn schema(&self, service: &str) -> String {
        format!("\"{}\"", common::host::schema(&self.namespace, service))
    }

    /// The Kafka topic of an event.
    pub fn topic(&self, event: &str) -> String {
        format!("{}{event}", self.namespace)
    }

    /// Somebody without a token.
    pub fn anyone(&self) -> Client {
        Client::new(self.http.clone(), &self.api, None)
    }

    /// The administrator, logged in.
    pub fn admin(&self) -> Client {
        self.admin.get().expect("a site that has started knows its administrator").clone()
    }

    /// Waits until every service has answered a question that needs its database.
    async fn answers(&self) {
        let credentials = serde_json::json!({ "email": ADMIN_EMAIL, "password": ADMIN_PASSWORD });
        let admin = eventually("the administrator can log in", async || {
            let answer = self.anyone().post("/auth/login", &credentials).await;
            (answer.status == 200).then(|| self.anyone().with_token(&text(&answer.json()["accessToken"])))
        })
        .await;
        for path in ["/auth/me", "/products?size=1", "/orders", "/points/me", "/notifications"] {
            eventually(path, async || (admin.get(path).await.status == 200).then_some(())).await;
        }
        self.admin.set(admin.introduced().await).expect("a site starts once");
    }

    /// Starts the child again, with `overrides` above what it was made with. Ready when it returns.
    pub async fn revive(&self, overrides: &[(&str, &str)]) {
        let mut settings = self.overrides.clone();
        settings.extend(overrides.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let log = self.log();
        let output = File::options().create(true).append(true).open(&log).expect("the log can be written");
        let mut child = Command::new(env!("CARGO_BIN_EXE_stampede"))
            .arg("all")
            .envs(settings.iter().map(|(key, value)| (variable(key), value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a file can be written twice"))
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .expect("the executable starts");
        let started = Instant::now();
        let probe = self.http.get(format!("{}/readyz", self.api)).timeout(Duration::from_secs(2));
        while !is_success(probe.try_clone().expect("it has no body").send().await) {
            let ended = child.try_wait().expect("it is ours");
            assert!(ended.is_none(), "it ended with {ended:?} before it was ready; see {}", log.display());
            assert!(started.elapsed() < PATIENCE, "it does not become ready; see {}", log.display());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        *self.services.lock().await = Services::Child(child);
    }

    /// Whether the child has died as if by `kill -9`, which is how it dies at a crash point. It must not end otherwise.
    pub async fn is_dead(&self) -> bool {
        let mut services = self.services.lock().await;
        let Services::Child(child) = &mut *services else { return true };
        let Some(status) = child.try_wait().expect("it is ours") else { return false };
        assert!(status.signal().is_some(), "it ended with {status}; see {}", self.log().display());
        *services = Services::Down;
        true
    }

    /// `kill -9`.
    pub async fn kill(&self) {
        let mut services = self.services.lock().await;
        if let Services::Child(child) = &mut *services {
            child.kill().await.expect("it is ours");
        }
        *services = Services::Down;
    }

    /// Tells the child to stop, as Kubernetes does. Returns how it ended.
    pub async fn terminate(&self) -> ExitStatus {
        let mut services = self.services.lock().await;
        let Services::Child(child) = &mut *services else { panic!("only a child can be told to stop") };
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).expect("it runs");
        signal::kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it is ours");
        let status = child.wait().await.expect("it is ours");
        *services = Services::Down;
        status
    }

    /// Drains and ends.
    pub async fn stop(self) {
        match std::mem::replace(&mut *self.services.lock().await, Services::Down) {
            Services::Here(running) => running.stop().await,
            Services::Child(mut child) => child.kill().await.expect("it is ours"),
            Services::Down => {}
        }
    }

    /// Where the child writes its log.
    pub fn log(&self) -> PathBuf {
        log_file(self.namespace.trim_end_matches('_'))
    }
}

/// A test that fails shows what its processes complained of: elsewhere nobody can look at the file.
impl Drop for TestSite {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let complaints =
            |line: &&str| line.contains("\"WARN\"") || line.contains("\"ERROR\"") || !line.starts_with('{');
        let lines: Vec<&str> = log.lines().filter(complaints).collect();
        let last = &lines[lines.len().saturating_sub(COMPLAINTS_SHOWN)..];
        println!("{}, its last complaints:\n{}", self.log().display(), last.join("\n"));
    }
}

const COMPLAINTS_SHOWN: usize = 30;

/// Logs stay when the tests have ended.
fn log_file(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("it-logs-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the target folder can be written");
    folder.join(format!("{name}.log"))
}

/// What all sites in this process log goes to one file: on a terminal it would bury the tests' own words.
fn logs_to_a_file() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let file = File::create(log_file("all")).expect("the log can be written");
        let logs = tracing_subscriber::fmt().with_writer(std::sync::Mutex::new(file)).with_ansi(false);
        // Nobody else installs one before: the first of a process stays.
        logs.with_max_level(tracing::Level::INFO).init();
    });
}

/// Waits until `question` has an answer.
pub async fn eventually<T>(what: &str, mut question: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = question().await {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

fn is_success(answer: reqwest::Result<reqwest::Response>) -> bool {
    answer.is_ok_and(|response| response.status().is_success())
}

/// The environment variable of a setting.
fn variable(key: &str) -> String {
    format!("STAMPEDE__{}", key.replace('.', "__").to_uppercase())
}
