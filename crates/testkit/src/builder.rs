//! `Builder`: what a site is made of, and starting it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use common::Host;
use common::manifest::{ServiceSpec, identifier};
use common::rpc::ServiceKey;
use sandbox::Sandbox;
use tokio::sync::{Mutex, OnceCell};

use crate::site::{ADMIN_EMAIL, ADMIN_PASSWORD, Process, SERVICE_KEY, Site, TESTER};
use crate::tokens::Issuer;
use crate::{PATIENCE, logs, servers, watch};

/// Small and quick: many sites share one machine. None of these changes what is promised.
pub const FOR_TESTS: [(&str, &str); 27] = [
    ("host.http_listen", "127.0.0.1:0"),
    ("host.grpc_listen", "127.0.0.1:0"),
    ("host.http_workers", "1"),
    ("host.shutdown_seconds", "5"),
    ("postgres.connections_max", "4"),
    ("postgres.acquire_timeout_ms", "20000"),
    ("redis.timeout_ms", "1000"),
    ("kafka.partitions", "1"),
    // Each answer names all topics of all sites, which are thousands in the end.
    ("kafka.cluster_check_ms", "3000"),
    ("outbox.poll_ms", "500"),
    ("outbox.retry_first_ms", "100"),
    ("inbox.replay_poll_ms", "500"),
    ("account.hashing.memory_kib", "8"),
    ("account.hashing.passes", "1"),
    ("account.hashing.waiting_max", "1000"),
    ("account.log_ins_per_minute_account_and_address", "1000"),
    ("account.log_ins_per_minute_and_account", "1000"),
    ("account.log_ins_per_minute_and_address", "100000"),
    ("account.registrations_per_minute_and_address", "100000"),
    ("payment.naverpay.client_id", "tests"),
    ("payment.naverpay.client_secret", "tests"),
    ("payment.naverpay.chain_id", "tests"),
    ("payment.resolve_poll_ms", "200"),
    ("payment.step_poll_ms", "300"),
    ("payment.refund_poll_ms", "300"),
    ("notification_hub.reclaim_period_ms", "200"),
    ("notification_hub.idle_poll_max_ms", "200"),
];

/// Settings: a transaction that a test pauses, and whoever waits for its locks, are not cut off while a busy machine does
/// other things.
pub const PATIENT: [(&str, &str); 3] = [
    ("postgres.statement_timeout_ms", "60000"),
    ("postgres.lock_timeout_ms", "60000"),
    ("postgres.idle_in_transaction_timeout_ms", "60000"),
];

/// Adds to a host what is no service of ours.
type ExtraMount = Box<dyn FnOnce(&mut Host)>;

/// What a site is made of; see [`Site::builder`].
pub struct Builder {
    services: Vec<ServiceSpec>,
    overrides: Vec<(String, String)>,
    namespace: Option<String>,
    servers: Option<&'static Sandbox>,
    mounts: Vec<ExtraMount>,
    callers: Vec<&'static str>,
    environment: Vec<(String, String)>,
}

impl Builder {
    pub(crate) fn new(services: &[ServiceSpec]) -> Builder {
        Builder {
            services: services.to_vec(),
            overrides: Vec::new(),
            namespace: None,
            servers: None,
            mounts: Vec::new(),
            callers: vec![TESTER],
            environment: Vec::new(),
        }
    }

    /// Sets `key` above the defaults and above what makes tests quick.
    pub fn set(mut self, key: &str, value: impl ToString) -> Builder {
        self.overrides.push((key.to_owned(), value.to_string()));
        self
    }

    /// [`Builder::set`] for several.
    pub fn settings<K: AsRef<str>, V: AsRef<str>>(mut self, settings: &[(K, V)]) -> Builder {
        let settings = settings.iter().map(|(key, value)| (key.as_ref().to_owned(), value.as_ref().to_owned()));
        self.overrides.extend(settings);
        self
    }

    /// The data of another site: this one is a replica of it.
    pub fn namespace(mut self, namespace: &str) -> Builder {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Servers that this test may kill, instead of those that all tests share.
    pub fn on(mut self, servers: &'static Sandbox) -> Builder {
        self.servers = Some(servers);
        self
    }

    /// Sets a variable in the environment of a child process, beside those of the settings.
    pub fn environment(mut self, name: &str, value: &str) -> Builder {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds to the host what is no service of ours: a gRPC service that plays another, a route, a consumer.
    pub fn with(mut self, mount: impl FnOnce(&mut Host) + 'static) -> Builder {
        self.mounts.push(Box::new(mount));
        self
    }

    /// Lets tests call its gRPC services in the name of `service`, see [`Site::upstream_of`].
    pub fn caller(mut self, service: &'static str) -> Builder {
        self.callers.push(service);
        self
    }

    /// Brings the schemas of its services up to date without starting them.
    pub async fn migrate(self) -> Site {
        let (site, _) = self.prepare().await;
        for service in &site.services {
            let migrations = [common::host::MIGRATIONS, (service.migrations)()];
            site.db(service.name).await.migrate(migrations).await.expect("the migrations fit");
        }
        site
    }

    /// Starts it in this process. Every service has answered a request when this returns.
    pub async fn start(self) -> Site {
        let callers = self.callers.clone();
        let (mut site, mounts) = self.prepare().await;
        let settings = site.settings();
        logs::to_a_file();
        common::telemetry::init(&settings.section("telemetry").expect("the settings are right"), "stampede")
            .expect("metrics start");
        let mut host = Host::new(settings).await.expect("the settings are right");
        if let Some(issuer) = &site.issuer {
            issuer.publish(&mut host);
            // Events of services that are not here are published by tests, which need the topics.
            let of = |service: &ServiceSpec| service.consumes.iter().chain(service.hears).copied();
            let topics: Vec<&str> = site.services.iter().flat_map(of).collect();
            host.kafka().ensure_topics(&topics).await.expect("topics can be made");
        }
        host.examples(contract::examples::examples());
        mounts.into_iter().for_each(|mount| mount(&mut host));
        for service in &site.services {
            host.mount(service).await.unwrap_or_else(|error| panic!("{} mounts: {error:#}", service.name));
            callers.iter().for_each(|caller| host.allow(caller, service.name));
            service.deploy.calls.iter().for_each(|callee| host.allow(service.name, callee));
        }
        let running = host.start().await.expect("the host starts");
        site.api = format!("http://{}", running.http_addr);
        site.grpc = format!("http://{}", running.grpc_addr);
        site.process = Mutex::new(Process::Here(Box::new(running)));
        site.introduce_admin().await;
        watch::this_test("has started a site");
        site
    }

    /// Starts `executable all` as a child process. Ready when this returns.
    pub async fn spawn(self, executable: &str) -> Site {
        let (mut site, mounts) = self.prepare().await;
        assert!(mounts.is_empty(), "a child process has our own services only");
        let address = format!("127.0.0.1:{}", servers::port());
        site.api = format!("http://{address}");
        site.overrides.insert("host.http_listen".to_owned(), address);
        site.executable = Path::new(executable).to_owned();
        site.revive(&[]).await;
        site.introduce_admin().await;
        watch::this_test("has started a site");
        site
    }

    async fn prepare(self) -> (Site, Vec<ExtraMount>) {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        watch::this_test("starts a site");
        let servers = match self.servers {
            Some(servers) => servers,
            None => servers::shared().await,
        };
        let new = || format!("t{}_{}_", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        let namespace = self.namespace.unwrap_or_else(new);
        let mut overrides: BTreeMap<String, String> = BTreeMap::new();
        let mut set = |key: &str, value: &str| drop(overrides.insert(key.to_owned(), value.to_owned()));
        FOR_TESTS.iter().for_each(|(key, value)| set(key, value));
        set("account.demo_accounts", &format!("ADMIN:{ADMIN_EMAIL}:Admin:{ADMIN_PASSWORD}"));
        set("host.namespace", &namespace);
        let key = ServiceKey::read(SERVICE_KEY).expect("it is a key");
        set("rpc.token_key", SERVICE_KEY);
        for service in self.services.iter().map(|service| service.name).chain(self.callers) {
            set(&format!("rpc.public_keys.{}", identifier(service)), key.public());
        }
        set("postgres.url", &servers.postgres_url());
        set("redis.url", &servers.redis_url());
        set("kafka.brokers", &servers.kafka_brokers());
        set("payment.naverpay.url", servers.fakes_url());
        set("payment.naverpay.checkout_url", &format!("{}/checkout", servers.fakes_url()));
        set("notification_hub.slack.url", &format!("{}/slack/services/{namespace}/B/X", servers.fakes_url()));
        self.overrides.iter().for_each(|(key, value)| set(key, value));
        let has_accounts = self.services.iter().any(|service| service.name == "account");
        let mut site = Site {
            api: String::new(),
            grpc: String::new(),
            servers,
            services: self.services,
            namespace,
            overrides,
            environment: self.environment,
            process: Mutex::new(Process::Down),
            executable: PathBuf::new(),
            issuer: None,
            admin: OnceCell::new(),
            http: reqwest::Client::builder().read_timeout(PATIENCE).build().expect("the options are right"),
            postgres: Mutex::default(),
            publisher: OnceCell::new(),
        };
        if !has_accounts {
            let auth: common::auth::AuthSettings = site.settings().section("auth").expect("the settings are right");
            site.issuer = Some(Issuer::new(&auth.issuer));
        }
        (site, self.mounts)
    }
}
