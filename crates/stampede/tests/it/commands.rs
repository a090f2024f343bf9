//! Every command that the README shows, tried with the real executable: what it prints, and how it ends.

mod operators;
mod processes;
mod reaching;
mod roles;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use diesel_async::{AsyncConnection, AsyncPgConnection, SimpleAsyncConnection};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use stampede::services::SERVICES;
use testkit::{eventually, servers};

use crate::readme::{self, Tour};
use crate::service_tokens::assert_lets_in;
use crate::tidy;

/// Where a test's commands run: a data folder, and settings that name the servers that all tests share.
pub struct Place {
    data: PathBuf,
    environment: Vec<(String, String)>,
}

/// How a command ended, and what it printed.
#[derive(Debug)]
pub struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

/// A command that runs until it is told to stop.
struct Running {
    child: Child,
    printed: Arc<Mutex<String>>,
}

impl Place {
    pub async fn new(name: &str) -> Place {
        let sandbox = servers::shared().await;
        let data = servers::folder(name);
        std::fs::create_dir_all(&data).expect("the folder can be made");
        let own = [
            ("host.namespace", format!("commands_{name}_{}_", std::process::id())),
            ("postgres.url", sandbox.postgres_url()),
            ("redis.url", sandbox.redis_url()),
            ("kafka.brokers", sandbox.kafka_brokers()),
        ];
        let mut place = Place { data, environment: Vec::new() };
        for (key, value) in testkit::FOR_TESTS {
            place = place.set(key, value);
        }
        own.iter().fold(place, |place, (key, value)| place.set(key, value))
    }

    pub fn set(mut self, key: &str, value: &str) -> Place {
        self.environment.push((testkit::variable(key), value.to_owned()));
        self
    }

    /// Without the address of the shared server, a command starts its own.
    pub fn unset(mut self, key: &str) -> Place {
        let variable = testkit::variable(key);
        self.environment.retain(|(name, _)| *name != variable);
        self
    }

    /// The command `line`, in which `{data}` is the data folder.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stampede"));
        command.args(line.replace("{data}", &self.data.display().to_string()).split(' '));
        command.envs(self.environment.iter().map(|(key, value)| (key, value))).kill_on_drop(true);
        command
    }

    pub async fn stampede(&self, line: &str) -> Ended {
        let output = self.command(line).stdin(Stdio::null()).output().await.expect("the executable runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it prints text");
        Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.data));
    }
}

async fn collect(mut output: impl AsyncRead + Unpin, printed: Arc<Mutex<String>>) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = output.read(&mut bytes).await {
        printed.lock().push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
}

impl Ended {
    #[track_caller]
    pub fn expect(self, code: i32, shown: &[&str]) -> Ended {
        assert_eq!(self.code, Some(code), "{self}");
        for text in shown {
            assert!(self.out.contains(text) || self.err.contains(text), "{text:?} is missing: {self}");
        }
        self
    }

    /// The object on the last line of standard output.
    pub fn json(&self) -> Value {
        let last = self.out.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {self}"))
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ended with {:?}\n{}\n{}", self.code, self.out, self.err)
    }
}

impl Running {
    fn start(mut command: Command) -> Running {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let printed = Arc::new(Mutex::new(String::new()));
        tokio::spawn(collect(child.stdout.take().expect("it is piped"), printed.clone()));
        tokio::spawn(collect(child.stderr.take().expect("it is piped"), printed.clone()));
        Running { child, printed }
    }

    /// Waits until it has printed `text`. Returns everything that it has printed.
    async fn until(&mut self, text: &str) -> String {
        eventually(&format!("it prints {text:?}"), async || {
            let printed = self.printed.lock().clone();
            let ended = self.child.try_wait().expect("it is ours");
            assert!(ended.is_none(), "it ended with {ended:?}:\n{printed}");
            printed.contains(text).then_some(printed)
        })
        .await
    }

    async fn terminate(mut self) -> ExitStatus {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).expect("it runs");
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it is ours");
        self.child.wait().await.expect("it is ours")
    }
}

/// The address after `name` in a banner.
fn address(banner: &str, name: &str) -> String {
    let line = banner.lines().find(|line| line.trim_start().starts_with(name)).expect("the banner has this line");
    line.split_whitespace().find(|word| word.starts_with("http://")).expect("it has an address").to_owned()
}

/// `command` with a terminal of its own, which passes on what is written to its standard input.
fn on_a_terminal(command: &Command) -> Command {
    let command = command.as_std();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<&str> = words.filter_map(|word| word.to_str()).collect();
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--return", "--command", &format!("exec {}", words.join(" ")), "/dev/null"]);
    terminal.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))).kill_on_drop(true);
    terminal
}

/// The end of the banner of `dev`.
const READY: &str = "Ctrl-C stops everything.";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_on_a_terminal_shows_the_banner_and_serves_the_tour_the_rush_the_audit_and_events() {
    let place = Place::new("dev").await;
    let dev = place.command("dev --port 0 --ephemeral --kafka auto --sale-in-seconds 1 --data-dir {data}");
    let mut dev = Running::start(on_a_terminal(&dev));
    let banner = dev.until(READY).await;
    let log = place.data.join("logs/stampede.log");
    assert!(banner.contains("Demo accounts") && banner.contains(&log.display().to_string()), "{banner}");
    let is_log = |line: &str| line.starts_with("{\"") || line.contains(" INFO ");
    assert!(!banner.lines().any(is_log) && banner.lines().count() < 60, "{banner}");
    let logged = std::fs::read_to_string(&log).expect("the log is where the banner says");
    let is_json = |line: &str| serde_json::from_str::<Value>(line).is_ok_and(|line| line["level"].is_string());
    assert!(logged.contains("\"INFO\"") && logged.lines().all(is_json), "{logged}");

    take_the_tour(&address(&banner, "API")).await;
    place
        .stampede("rush --buyers 30 --stock 10 --sample 2 --concurrency 8 --data-dir {data}")
        .await
        .expect(0, &["sold                    10 of 10 units", "oversold                0", "latency", "rush: PASS"]);
    let coupons = ["coupons                 7 issued, 0 too many", "discounts               difference 0 won"];
    place
        .stampede("rush --coupons 7 --pay --buyers 30 --stock 10 --sample 2 --concurrency 8 --data-dir {data}")
        .await
        .expect(0, &[coupons[0], coupons[1], "double charges          0", "rush: PASS"]);
    place
        .stampede("rush --restock --buyers 40 --stock 5 --sample 1 --concurrency 8 --data-dir {data}")
        .await
        .expect(0, &["subscribers             40", "restock missing         0", "2: COMPLETED, 40 told", "rush: PASS"]);
    let seats = place.stampede("rush --seats --queue --pay --buyers 40 --stock 10 --sample 1 --data-dir {data}").await;
    seats.expect(
        0,
        &["let in without a pass   0", "double seats            0", "paid                    10 orders", "rush: PASS"],
    );
    place.stampede("audit --data-dir {data} --settle-seconds 60").await.expect(0, &["I1   ok", "audit: PASS"]);
    place.stampede("events --data-dir {data} stats").await.expect(0, &["order: 0 pending, 0 dead"]);
    place.stampede("events --data-dir {data} parked").await.expect(0, &[]);
    place.stampede("events --data-dir {data} redrive").await.expect(0, &["order: 0 dead events"]);
    place
        .stampede("events --data-dir {data} replay --since 2026-01-01T00:00:00Z")
        .await
        .expect(0, &["order: ", "events will be published again"]);
    place.stampede("events --data-dir {data} unpark notification-hub").await.expect(0, &[]);

    let stdin = dev.child.stdin.as_mut().expect("it is piped");
    stdin.write_all(b"\x03").await.expect("the terminal listens");
    let ended = dev.child.wait().await.expect("it is ours");
    assert!(ended.success(), "{ended}: {}", dev.printed.lock());
    assert!(!place.data.exists(), "--ephemeral removes the data folder");
}

async fn take_the_tour(api: &str) {
    let mut tour = Tour::start(api.trim_end_matches("/api/v1")).await;
    for (block, expected) in readme::tour().iter().zip(readme::TOUR) {
        let printed = tour.run(block, expected).await;
        assert!(expected.iter().all(|text| printed.contains(text)), "{expected:?} of\n{block}\nprinted\n{printed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_without_a_terminal_logs_to_standard_error_and_split_services_to_a_file_each() {
    let place = Place::new("split").await;
    let mut dev = Running::start(place.command("dev --split --port 0 --data-dir {data}"));
    let banner = dev.until(READY).await;
    let logs = place.data.join("logs");
    assert!(banner.contains(&logs.display().to_string()) && !logs.join("stampede.log").exists(), "{banner}");
    for name in SERVICES.iter().map(|service| service.name) {
        let url = format!("{}/readyz", address(&banner, name));
        let health = place.command(&format!("healthcheck {url}")).output().await.expect("the executable runs");
        assert_eq!(health.status.code(), Some(0), "{name}");
        assert!(logs.join(format!("{name}.log")).exists(), "{name} has no log");
    }
    place.stampede("keys order").await.expect(0, &["__TOKEN_KEY=", "__PUBLIC_KEYS__ORDER="]);
    let token = place.stampede("token order inventory --data-dir {data}").await.expect(0, &[]).out;
    assert_lets_in(&banner, token.trim()).await;
    let ended = dev.terminate().await;
    assert!(ended.success(), "{ended}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: four kills of servers and services"]
async fn rush_in_a_sandbox_pays_survives_kills_and_faults_and_passes() {
    let place = Place::new("rush").await.unset("postgres.url").unset("redis.url");
    let ended = place
        .stampede(
            "rush --sandbox --split --pay --provider-faults lost-before=0.10,lost-after=0.15,hang-ms=100,hang=0.03 \
             --kill order --kill redis --kill postgres --kill payment --buyers 60 --stock 30 --sample 2 \
             --concurrency 8 --output json --data-dir {data}",
        )
        .await
        .expect(0, &[]);
    let outcome = ended.json();
    assert_eq!(outcome["verdict"], "PASS", "{ended}");
    assert_eq!((&outcome["sold"], &outcome["oversold"]), (&30.into(), &0.into()), "{ended}");
    assert_eq!(outcome["kills"].as_array().map(Vec::len), Some(4), "{ended}");
    assert!(outcome["payP50Ms"].as_f64().is_some_and(|ms| ms > 0.0), "{ended}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_are_hosted_together_or_by_name_after_migrate() {
    let place = Place::new("all").await;
    place.stampede("migrate").await.expect(0, &["All schemas are up to date."]);
    let address = format!("127.0.0.1:{}", servers::port());
    let place = place.set("host.migrate", "false").set("host.http_listen", &address);
    let services: Vec<&str> = SERVICES.iter().map(|service| service.name).collect();
    hosts(&place, &address, place.command("all")).await;
    hosts(&place, &address, place.command(&services.join(" "))).await;
    place.stampede(&format!("healthcheck http://{address}/readyz")).await.expect(3, &["does not answer"]);
}

/// A service has a role that owns its schema and can touch no other, and starts beside the job that migrates it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_waits_for_its_migration_and_needs_no_schema_but_its_own() {
    let name = format!("role_{}", std::process::id());
    let postgres = servers::shared().await.postgres_url();
    let mut admin = AsyncPgConnection::establish(&postgres).await.expect("PostgreSQL is there");
    let place = Place::new("role").await.set("host.namespace", &format!("{name}_"));
    let make = place.stampede("roles").await.expect(0, &["The service order", "The service queue"]).out;
    for _ in 0..2 {
        admin.batch_execute(&make).await.expect("the roles can be made, and made again");
    }
    admin.batch_execute(&format!("alter role {name}_order password '{name}'")).await.expect("the role is there");
    let (_, server) = postgres.split_once('@').expect("the address has a user");
    let address = format!("127.0.0.1:{}", servers::port());
    let own = format!("postgres://{name}_order:{name}@{server}");
    let place = place.set("postgres.url", &own);
    let mut job = place.command("migrate order");
    let place = place.set("host.migrate", "false").set("host.http_listen", &address);
    let (job, ()) = tokio::join!(job.output(), hosts(&place, &address, place.command("order")));
    let job = job.expect("the executable runs");
    assert_eq!(String::from_utf8_lossy(&job.stdout), "Up to date: order.\n", "{job:?}");
    let mut order = AsyncPgConnection::establish(&own).await.expect("it may log in");
    order.batch_execute(&format!("select from {name}_order.outbox_events")).await.expect("its schema is its own");
    for forbidden in ["create table {name}_payment.t ()", "drop schema {name}_payment", "create schema {name}_s"] {
        let refused = order.batch_execute(&forbidden.replace("{name}", &name)).await.unwrap_err().to_string();
        assert!(refused.contains("permission denied") || refused.contains("must be owner"), "{forbidden}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manifests_are_written_where_they_differ() {
    let place = Place::new("manifests").await;
    std::fs::copy(tidy::root().join("docker-compose.yml"), place.data.join("docker-compose.yml")).expect("it is there");
    place.stampede("manifests {data}").await.expect(0, &["k8s/base/services/order.yaml", "gateway/nginx.conf"]);
    let again = place.stampede("manifests {data}").await.expect(0, &[]);
    assert_eq!(again.out, "", "nothing differs any more");
    std::fs::remove_file(place.data.join("docker-compose.yml")).expect("it is there");
    place.stampede("manifests {data}").await.expect(1, &["run this in the repository"]);
}

/// `command` answers at `address`, and ends when it is told to.
async fn hosts(place: &Place, address: &str, command: Command) {
    let mut running = Running::start(command);
    eventually("it is healthy", async || {
        let health = place.stampede(&format!("healthcheck http://{address}/readyz")).await;
        let ended = running.child.try_wait().expect("it is ours");
        assert!(ended.is_none(), "it ended with {ended:?}:\n{}", running.printed.lock());
        (health.code == Some(0)).then_some(())
    })
    .await;
    place.stampede(&format!("healthcheck http://{address}/nothing")).await.expect(1, &["404"]);
    let printed = running.printed.lock().clone();
    assert!(printed.lines().all(|line| line.starts_with('{')), "without a terminal the log is JSON:\n{printed}");
    let ended = running.terminate().await;
    assert!(ended.success(), "{ended}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_and_the_description_of_the_api_are_printed() {
    let place = Place::new("print").await;
    std::fs::write(place.data.join("own.toml"), "[order]\nlines_max = 7\n").expect("the file can be written");
    place.stampede("config --config {data}/own.toml").await.expect(0, &["order.lines_max = 7", "postgres.url = "]);
    place.stampede("completions bash").await.expect(0, &["rush"]);
    let openapi = place.stampede("openapi").await.expect(0, &[]).out;
    let committed = std::fs::read_to_string(tidy::root().join("openapi.json")).expect("it is there");
    let parsed = |text: &str| serde_json::from_str::<Value>(text).expect("it is JSON");
    assert_eq!(parsed(&openapi), parsed(&committed), "run `cargo run -p stampede -- openapi > openapi.json`");
    place.stampede("asyncapi").await.expect(0, &["\"asyncapi\": \"3.1.0\"", "ORDER_CREATED"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_usage_ends_with_2_and_a_system_that_is_not_there_with_3() {
    let place = Place::new("usage").await;
    let help = place.stampede("--help").await.expect(0, &["Exit codes"]).out;
    for command in readme::commands() {
        let first = command.split(' ').next().unwrap_or_default();
        assert!(help.contains(first), "--help does not mention {first}: {help}");
    }
    place.stampede("nonsense").await.expect(2, &["neither a command nor a service", "see --help"]);
    place.stampede("migrate nonsense").await.expect(2, &["neither a command nor a service"]);
    place.stampede("rush --buyers 0").await.expect(2, &["--buyers"]);
    place.stampede("audit --data-dir {data}").await.expect(3, &["no running system is known", "./stampede dev"]);
    place.stampede("rush --data-dir {data}").await.expect(3, &["no running system is known"]);
}

#[test]
fn every_command_and_option_of_the_readme_is_tried_here() {
    let shown = readme::commands();
    assert!(
        shown.contains("bench orders") && shown.contains("rush --kill") && shown.contains("dev --split"),
        "{shown:?}"
    );
    let source = [
        include_str!("commands.rs"),
        include_str!("bench_commands.rs"),
        include_str!("doctor.rs"),
        include_str!("trace.rs"),
    ]
    .concat();
    // `services_are_hosted_together_or_by_name_after_migrate` takes the names of the services from the manifest.
    let mut tried: BTreeSet<String> = SERVICES.iter().map(|service| service.name.to_owned()).collect();
    for call in [".stampede(", ".command("] {
        for (at, _) in source.match_indices(call) {
            let argument = source[at + call.len()..].trim_start().trim_start_matches("&format!(");
            if let Some(line) = argument.strip_prefix('"') {
                tried.extend(readme::parts(&line.split('"').next().unwrap_or_default().replace("\\\n", " ")));
            }
        }
    }
    let untried: Vec<&String> = shown.difference(&tried).collect();
    assert!(untried.is_empty(), "the README shows what no test here runs: {untried:?}");
}
