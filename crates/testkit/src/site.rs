//! `Site`: one or several services with a namespace of their own, in this process or as a child that can die.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use client::{Client, text};
use common::auth::Role;
use common::crash::{self, Pause};
use common::db::Db;
use common::host::Running;
use common::manifest::ServiceSpec;
use common::rpc::{self, Call, RpcSettings, Upstream};
use common::settings::Settings;
use diesel_async::AsyncPgConnection;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use sandbox::Sandbox;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, OnceCell};
use uuid::Uuid;

use crate::events::Publisher;
use crate::tokens::Issuer;
use crate::{Builder, PATIENCE, eventually, logs, watch};

/// Who may do everything where there is an account service: `demo_accounts` makes this account at start.
pub const ADMIN_EMAIL: &str = "admin@example.com";
pub const ADMIN_PASSWORD: &str = "correct horse battery";
/// What every buyer of [`Site::buyer`] logs in with.
pub const PASSWORD: &str = "a long enough password";

/// In whose name tests call gRPC services.
pub(crate) const TESTER: &str = "tests";
/// The private key of every service of a site, and of who calls them: RFC 8410's example, which everybody knows.
pub const SERVICE_KEY: &str = "MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp-K06_nwoy_HU--CXqI9EdVhC";

/// A running system, or a part of one.
pub struct Site {
    /// `http://host:port` of its HTTP interface.
    pub api: String,
    /// `http://host:port` of its gRPC services; empty for a child process.
    pub grpc: String,
    pub servers: &'static Sandbox,
    pub(crate) services: Vec<ServiceSpec>,
    pub(crate) namespace: String,
    pub(crate) overrides: BTreeMap<String, String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) process: Mutex<Process>,
    pub(crate) executable: PathBuf,
    pub(crate) issuer: Option<Issuer>,
    pub(crate) admin: OnceCell<Client>,
    pub(crate) http: reqwest::Client,
    /// For questions in SQL; opened with the first one.
    pub(crate) postgres: Mutex<Option<AsyncPgConnection>>,
    pub(crate) publisher: OnceCell<Publisher>,
}

pub(crate) enum Process {
    Here(Box<Running>),
    Child(Child),
    Down,
}

impl Site {
    /// A site of these services. Those that it lacks are played by what [`Builder::with`] adds.
    pub fn builder(services: &[ServiceSpec]) -> Builder {
        Builder::new(services)
    }
}

impl Site {
    /// One more process for the same system, here.
    pub async fn replica(&self) -> Site {
        let overrides: Vec<(&String, &String)> =
            self.overrides.iter().filter(|(key, _)| *key != "host.http_listen").collect();
        Site::builder(&self.services).settings(&overrides).namespace(&self.namespace).on(self.servers).start().await
    }

    /// What is in force here.
    pub fn settings(&self) -> Settings {
        let overrides: Vec<_> = self.overrides.clone().into_iter().collect();
        Settings::load(&[], &overrides).expect("the settings are known")
    }

    /// What stands before the names of its schemas, topics and keys.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The way to its gRPC service `service`, for tests.
    pub fn upstream(&self, service: &str) -> Upstream {
        self.upstream_of(TESTER, service)
    }

    /// [`Site::upstream`] in the name of the service `caller`.
    pub fn upstream_of(&self, caller: &'static str, service: &str) -> Upstream {
        let settings: RpcSettings = self.settings().section("rpc").expect("the settings are right");
        let key = settings.key().expect("it is a key").expect("a site has one");
        let call = Call { caller, callee: service, key };
        let patience = PATIENCE.as_millis() as u64;
        let settings = RpcSettings { connect_timeout_ms: patience, deadline_ms: patience, ..settings };
        rpc::upstream(&self.grpc, &settings, Some(call)).expect("it is an address")
    }

    /// The PostgreSQL schema of `service`, without quotes.
    pub fn schema(&self, service: &str) -> String {
        common::host::schema(&self.namespace, service)
    }

    /// The Kafka topic of an event.
    pub fn topic(&self, event: &str) -> String {
        format!("{}{event}", self.namespace)
    }

    /// A pool on the schema of `service`, as the service itself has one.
    pub async fn db(&self, service: &str) -> Db {
        let settings = self.settings().section("postgres").expect("the settings are right");
        Db::open(&settings, &self.schema(service)).await.expect("the pool opens")
    }

    /// The next task of `service` that passes `point` waits there. Only for sites in this process.
    pub fn pause(&self, service: &str, point: &str) -> Pause {
        crash::pause(&self.schema(service), point)
    }

    // --- clients

    /// Somebody without a token.
    pub fn anyone(&self) -> Client {
        Client::new(self.http.clone(), &self.api, None)
    }

    /// An administrator.
    pub fn admin(&self) -> Client {
        self.admin.get().expect("a site that has started knows its administrator").clone()
    }

    /// Somebody new: registered and logged in, or with a token of the test's own where there is no account service.
    pub async fn buyer(&self) -> Client {
        if self.issuer.is_some() {
            return self.user(Uuid::now_v7(), Role::User);
        }
        let email = format!("{}@example.com", Uuid::new_v4().simple());
        let name = json!({ "email": email, "password": PASSWORD, "name": "Kim" });
        self.anyone().post("/auth/register", &name).await.expect(201);
        self.anyone().log_in(&email, PASSWORD).await
    }

    pub async fn buyers(&self, count: usize) -> Vec<Client> {
        futures_util::future::join_all((0..count).map(|_| self.buyer())).await
    }

    /// `user` with a token of this test's own issuer. Only for sites without an account service.
    pub fn user(&self, user: Uuid, role: Role) -> Client {
        let issuer = self.issuer.as_ref().expect("the account service of this site issues its tokens");
        self.anyone().known_as(&user.to_string(), &issuer.token(user, role))
    }

    /// [`Site::user`] with a token that ends in so many seconds.
    pub fn user_for(&self, user: Uuid, role: Role, seconds: u64) -> Client {
        let issuer = self.issuer.as_ref().expect("the account service of this site issues its tokens");
        self.anyone().known_as(&user.to_string(), &issuer.token_for(user, role, seconds))
    }

    /// A new product with `stock` units of 129,000 won.
    pub async fn product(&self, stock: i64) -> client::Product {
        self.product_with(json!({ "initialStock": stock })).await
    }

    /// `members` of the request beyond SKU, name and price, or in their place.
    pub async fn product_with(&self, members: Value) -> client::Product {
        let mut new = json!({
            "sku": Uuid::new_v4().to_string(),
            "name": "한정판 스니커즈",
            "price": { "amount": 129_000, "currency": "KRW" },
        });
        let added = members.as_object().expect("members are an object").clone();
        new.as_object_mut().expect("it is an object").extend(added);
        let made = self.admin().post("/admin/products", &new).await.expect(201).json();
        client::Product { id: text(&made["productId"]) }
    }

    /// Sets `admin`. With an account service, waits until every service has answered a request that needs its database.
    pub(crate) async fn introduce_admin(&self) {
        if self.issuer.is_some() {
            let admin = self.user(Uuid::now_v7(), Role::Admin);
            self.admin.set(admin).expect("a site starts once");
            return;
        }
        let credentials = json!({ "email": ADMIN_EMAIL, "password": ADMIN_PASSWORD });
        let admin = eventually("the administrator can log in", async || {
            let answer = self.anyone().post("/auth/login", &credentials).await;
            (answer.status == 200).then(|| self.anyone().with_token(&text(&answer.json()["accessToken"])))
        })
        .await;
        self.admin.set(admin.introduced().await).expect("a site starts once");
    }

    // --- the process

    /// Starts the child again, with `overrides` above what it was made with. Ready when it returns.
    pub async fn revive(&self, overrides: &[(&str, &str)]) {
        let mut settings = self.overrides.clone();
        settings.extend(overrides.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let log = self.log();
        let output = File::options().create(true).append(true).open(&log).expect("the log can be written");
        let mut child = Command::new(&self.executable)
            .arg("all")
            .envs(settings.iter().map(|(key, value)| (variable(key), value)))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
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
        *self.process.lock().await = Process::Child(child);
    }

    /// Whether the child has died as if by `kill -9`, which is how it dies at a crash point. It must not end otherwise.
    pub async fn is_dead(&self) -> bool {
        let mut process = self.process.lock().await;
        let Process::Child(child) = &mut *process else { return true };
        let Some(status) = child.try_wait().expect("it is ours") else { return false };
        assert!(status.signal().is_some(), "it ended with {status}; see {}", self.log().display());
        *process = Process::Down;
        true
    }

    /// `kill -9`.
    pub async fn kill(&self) {
        let mut process = self.process.lock().await;
        if let Process::Child(child) = &mut *process {
            child.kill().await.expect("it is ours");
        }
        *process = Process::Down;
    }

    /// Tells the child to stop, as Kubernetes does. Returns how it ended.
    pub async fn terminate(&self) -> ExitStatus {
        let mut process = self.process.lock().await;
        let Process::Child(child) = &mut *process else { panic!("only a child can be told to stop") };
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).expect("it runs");
        signal::kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it is ours");
        let status = child.wait().await.expect("it is ours");
        *process = Process::Down;
        status
    }

    /// The process id of the child.
    pub async fn pid(&self) -> u32 {
        let Process::Child(child) = &*self.process.lock().await else {
            panic!("only a child has a process of its own")
        };
        child.id().expect("it runs")
    }

    /// Drains and ends. Its data can still be read, and a replica can go on with it.
    pub async fn stop(&self) {
        match std::mem::replace(&mut *self.process.lock().await, Process::Down) {
            Process::Here(running) => running.stop().await,
            Process::Child(mut child) => child.kill().await.expect("it is ours"),
            Process::Down => {}
        }
    }

    /// Where the child writes its log.
    pub fn log(&self) -> PathBuf {
        logs::file(self.namespace.trim_end_matches('_'))
    }
}

/// Lines of a child's log that a failing test shows.
const COMPLAINTS_SHOWN: usize = 30;

/// A test that fails shows what its child warned of: where tests run unattended, nobody can look at the file.
impl Drop for Site {
    fn drop(&mut self) {
        watch::this_test("has dropped a site; perhaps it waits for the end of its runtime");
        if !std::thread::panicking() {
            return;
        }
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let complaints =
            |line: &&str| line.contains("\"WARN\"") || line.contains("\"ERROR\"") || !line.starts_with('{');
        let lines: Vec<&str> = log.lines().filter(complaints).collect();
        let last = &lines[lines.len().saturating_sub(COMPLAINTS_SHOWN)..];
        println!("the last warnings in {}:\n{}", self.log().display(), last.join("\n"));
    }
}

fn is_success(answer: reqwest::Result<reqwest::Response>) -> bool {
    answer.is_ok_and(|response| response.status().is_success())
}

/// The environment variable of a setting.
pub fn variable(key: &str) -> String {
    format!("STAMPEDE__{}", key.replace('.', "__").to_uppercase())
}
