//! `Scenario`: a schema of accounts that publish events, and a consumer that writes down each event that it applies.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::crash::{self, Pause};
use common::db::{Db, DbSettings, Tx};
use common::inbox::{Consumer, Handler, InboxSettings, Received};
use common::kafka::{Kafka, KafkaSettings};
use common::outbox::{self, Event, OutboxSettings};
use common::settings::Settings;
use common::{Error, Result};
use diesel::{QueryableByName, sql_types};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use testkit::servers;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/common");

pub const GROUP: &str = "effects";

/// An account's balance changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BalanceChanged {
    pub account: String,
    pub version: i64,
    /// The consumer cannot apply negative amounts until `accepts_negative` is set, and 0 is none of its concern.
    pub amount: i64,
}

impl Event for BalanceChanged {
    const TOPIC: &'static str = "BALANCE_CHANGED";
    const AGGREGATE: &'static str = "account";

    fn key(&self) -> &str {
        &self.account
    }

    fn version(&self) -> i64 {
        self.version
    }
}

/// Writes a row into `effects` for each event that it is given.
pub struct Recorder {
    pub accepts_negative: AtomicBool,
    /// So many calls write and then fail for a transient reason.
    pub failures_left: AtomicU32,
}

impl Handler<BalanceChanged> for Recorder {
    fn concerns() -> Option<fn(&BalanceChanged) -> bool> {
        Some(|event| event.amount != 0)
    }

    async fn handle(&self, tx: &mut Tx, events: &[Received<BalanceChanged>]) -> Result<()> {
        for Received { event_id, event, .. } in events {
            let BalanceChanged { account, version, amount } = event;
            diesel::sql_query("insert into effects (event_id, account, version) values ($1, $2, $3)")
                .bind::<sql_types::Uuid, _>(*event_id)
                .bind::<sql_types::Text, _>(account)
                .bind::<sql_types::BigInt, _>(*version)
                .execute(tx)
                .await?;
            if *amount < 0 && !AtomicBool::load(&self.accepts_negative, Ordering::SeqCst) {
                return Err(Error::fault(anyhow::anyhow!("a negative amount")));
            }
        }
        if self.failures_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(Error::transient(anyhow::anyhow!("not now")));
        }
        Ok(())
    }
}

#[derive(QueryableByName)]
struct Effect {
    #[diesel(sql_type = sql_types::Text)]
    account: String,
    #[diesel(sql_type = sql_types::BigInt)]
    version: i64,
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = sql_types::BigInt)]
    number: i64,
}

pub struct Scenario {
    pub db: Db,
    pub kafka: Kafka,
    pub recorder: Arc<Recorder>,
    pub brokers: String,
    namespace: String,
}

/// A relay or a consumer that runs.
pub struct Running {
    task: JoinHandle<()>,
    stopping: CancellationToken,
}

impl Running {
    pub async fn stop(self) {
        self.stopping.cancel();
        self.task.await.unwrap();
    }

    /// Ends it as the death of its process would: nothing is finished and nothing is handed over.
    pub async fn die(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

pub fn outbox_settings() -> OutboxSettings {
    OutboxSettings {
        batch_max: 1000,
        poll_ms: 500,
        pace_ms: 5,
        notify_ms: 20,
        attempts_max: 2,
        retry_first_ms: 50,
        retry_max_ms: 1000,
        retention_hours: 24,
        cleanup_ms: 60_000,
        cleanup_batch_max: 100,
    }
}

/// Its relay does not look by itself for longer than any test waits: only a wake-up can explain an event that arrives.
pub fn never_polls() -> OutboxSettings {
    OutboxSettings { poll_ms: 3_600_000, ..outbox_settings() }
}

pub fn inbox_settings() -> InboxSettings {
    InboxSettings {
        batch_max: 500,
        attempts_max: 3,
        retry_first_ms: 20,
        retry_max_ms: 1000,
        replay_poll_ms: 200,
        retention_days: 14,
        cleanup_ms: 60_000,
        cleanup_batch_max: 100,
    }
}

pub fn kafka_settings(brokers: String) -> KafkaSettings {
    KafkaSettings {
        brokers,
        partitions: 3,
        cluster_check_ms: 500,
        delivery_timeout_ms: 5000,
        ..Settings::defaults().unwrap().section("kafka").unwrap()
    }
}

impl Scenario {
    /// On the servers that all tests share.
    pub async fn new(name: &str) -> Scenario {
        Scenario::with(&kafka_settings(servers::shared().await.kafka_brokers()), name).await
    }

    /// With other brokers or other settings for them; PostgreSQL is the shared one.
    pub async fn with(settings: &KafkaSettings, name: &str) -> Scenario {
        testkit::logs::to_a_file();
        let run = Uuid::new_v4().simple().to_string();
        let namespace = format!("{name}_{}_", &run[..8]);
        let db = database(&namespace).await;
        db.migrate([MIGRATIONS]).await.unwrap();
        let kafka = Kafka::open(settings, &namespace).unwrap();
        let recorder = Recorder { accepts_negative: AtomicBool::new(false), failures_left: AtomicU32::new(0) };
        let brokers = settings.brokers.clone();
        let scenario = Scenario { db, kafka, recorder: Arc::new(recorder), namespace, brokers };
        let tables = "create table accounts (account text primary key, version bigint not null);
             create table effects (
                 place bigint generated always as identity primary key,
                 event_id uuid not null, account text not null, version bigint not null
             )";
        Scenario::execute(&scenario, tables).await;
        scenario
    }

    /// A pool of its own, as another process would have.
    pub async fn another_db(&self) -> Db {
        database(&self.namespace).await
    }

    /// A pool of its own that reaches PostgreSQL at `url`.
    pub async fn db_at(&self, url: String) -> Db {
        Db::open(&db_settings(url), self.db.schema()).await.unwrap()
    }

    /// The next task that passes `point` waits there.
    pub fn pause(&self, point: &str) -> Pause {
        crash::pause(self.db.schema(), point)
    }

    pub fn relay(&self) -> Running {
        self.relay_on(&self.db, outbox_settings())
    }

    pub fn relay_on(&self, db: &Db, settings: OutboxSettings) -> Running {
        let stopping = CancellationToken::new();
        let task = tokio::spawn(outbox::relay(db.clone(), self.kafka.clone(), settings, stopping.clone()));
        Running { task, stopping }
    }

    pub fn consumer(&self) -> Running {
        let consumer = Consumer::new(GROUP, &self.db).on::<BalanceChanged, Recorder>(&self.recorder);
        let stopping = CancellationToken::new();
        let task = tokio::spawn(consumer.run(self.kafka.clone(), inbox_settings(), stopping.clone()));
        Running { task, stopping }
    }

    /// One business transaction: the account gets its next version, and an event says so.
    pub async fn change(&self, account: &str, amount: i64) {
        self.change_on(&self.db, account, amount).await;
    }

    pub async fn change_on(&self, db: &Db, account: &str, amount: i64) {
        db.tx("change", async |tx: &mut Tx| {
            let Number { number: version } = diesel::sql_query(
                "insert into accounts (account, version) values ($1, 1)
                 on conflict (account) do update set version = accounts.version + 1
                 returning version as number",
            )
            .bind::<sql_types::Text, _>(account)
            .get_result(tx)
            .await?;
            outbox::publish(tx, &BalanceChanged { account: account.to_owned(), version, amount }).await?;
            tx.point("tests.before_commit").await;
            Ok(())
        })
        .await
        .unwrap();
    }

    /// `writers` tasks make `each` changes to `accounts` accounts, all at once.
    pub async fn change_many(&self, db: &Db, writers: usize, each: usize, accounts: usize) {
        let write = async |writer: usize| {
            for n in 0..each {
                self.change_on(db, &format!("account-{}", (writer + n) % accounts), 1).await;
            }
        };
        futures_util::future::join_all((0..writers).map(write)).await;
    }

    pub async fn number(&self, sql: &str) -> i64 {
        let selected = diesel::sql_query(format!("select ({sql})::bigint as number"));
        let Number { number } = selected.get_result(&mut self.db.read().await.unwrap()).await.unwrap();
        number
    }

    /// How many events have this status.
    pub async fn events(&self, status: &str) -> i64 {
        self.number(&format!("select count(*) from outbox_events where status = '{status}'")).await
    }

    pub async fn execute(&self, sql: &str) {
        self.db.dedicated().await.unwrap().batch_execute(sql).await.unwrap();
    }

    /// The versions that the consumer has written down for each account, in the order of writing.
    pub async fn effects(&self) -> BTreeMap<String, Vec<i64>> {
        let effects: Vec<Effect> = diesel::sql_query("select account, version from effects order by place")
            .load(&mut self.db.read().await.unwrap())
            .await
            .unwrap();
        let mut by_account = BTreeMap::<String, Vec<i64>>::new();
        for Effect { account, version } in effects {
            by_account.entry(account).or_default().push(version);
        }
        by_account
    }

    /// Waits until `sql` selects `wanted`.
    pub async fn until(&self, promise: &str, sql: &str, wanted: i64) {
        self.until_or(promise, sql, wanted, |_| false).await;
    }

    /// Waits until so many events have been applied. Fails at once when one was applied twice.
    pub async fn until_effects(&self, wanted: i64) {
        let promise = "each event is applied once";
        self.until_or(promise, "select count(*) from effects", wanted, |found| found > wanted).await;
    }

    async fn until_or(&self, promise: &str, sql: &str, wanted: i64, is_broken: impl Fn(i64) -> bool) {
        let started = Instant::now();
        loop {
            let found = self.number(sql).await;
            if found == wanted {
                return;
            }
            let broken = is_broken(found) || started.elapsed() > PATIENCE;
            assert!(!broken, "{promise}: {sql} is {found} and not {wanted} after {:?}", started.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn until_published(&self) {
        let promise = "every event is published";
        self.until(promise, "select count(*) from outbox_events where status <> 'PUBLISHED'", 0).await;
    }

    /// Waits until every event has been published and received.
    pub async fn until_received(&self) {
        self.until_published().await;
        let published = self.number("select count(*) from outbox_events").await;
        self.until("every event is received", "select count(*) from inbox", published).await;
    }

    /// Every account's effects are its versions from 1 on, each once and in order.
    pub async fn assert_effects_are_exact(&self) {
        let changes = self.number("select coalesce(sum(version), 0) from accounts").await;
        let effects = self.effects().await;
        assert_eq!(effects.values().map(|versions| versions.len() as i64).sum::<i64>(), changes);
        for (account, versions) in effects {
            assert!(versions.iter().copied().eq(1..=versions.len() as i64), "{account}: {versions:?}");
        }
    }

    /// All versions in the broker's log for each account, in the order of the log, repeats included.
    pub async fn log(&self) -> BTreeMap<String, Vec<i64>> {
        let (brokers, topic) = (self.brokers.clone(), self.kafka.topic(BalanceChanged::TOPIC));
        tokio::task::spawn_blocking(move || read_log(&brokers, &topic)).await.unwrap()
    }

    /// In the log, nothing is missing and no version comes for the first time before the one before it.
    pub async fn assert_log_is_complete_and_in_order(&self) {
        let changes = self.number("select coalesce(sum(version), 0) from accounts").await;
        let mut in_log = 0;
        for (account, versions) in self.log().await {
            let mut seen = 0;
            for version in &versions {
                assert!(*version <= seen + 1, "{account}: {version} before {} in {versions:?}", seen + 1);
                seen = seen.max(*version);
            }
            in_log += seen;
        }
        assert_eq!(in_log, changes, "events are missing from the log");
    }
}

/// Nothing here takes this long on a busy machine unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(60);

async fn database(namespace: &str) -> Db {
    Db::open(&db_settings(servers::shared().await.postgres_url()), &format!("{namespace}bank")).await.unwrap()
}

fn db_settings(url: String) -> DbSettings {
    DbSettings {
        url: url.into(),
        connections_max: 6,
        acquire_timeout_ms: 20_000,
        statement_timeout_ms: 20_000,
        lock_timeout_ms: 20_000,
        idle_in_transaction_timeout_ms: 60_000,
    }
}

fn read_log(brokers: &str, topic: &str) -> BTreeMap<String, Vec<i64>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "log reader")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
    let mut left = 0;
    let mut assignment = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        let (low, high) = consumer.fetch_watermarks(topic, partition.id(), PATIENCE).unwrap();
        left += high - low;
        assignment.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let mut log = BTreeMap::<String, Vec<i64>>::new();
    while left > 0 {
        let message = consumer.poll(PATIENCE).expect("the log is not shorter than it was").unwrap();
        let event: BalanceChanged = serde_json::from_slice(message.payload().unwrap()).unwrap();
        log.entry(event.account).or_default().push(event.version);
        left -= 1;
    }
    log
}
