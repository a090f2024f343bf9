//! One sandbox for all tests, and for each test a namespace with a ledger that tells and a ledger that listens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::db::{Db, DbSettings, Tx};
use common::inbox::{Consumer, Handler, InboxSettings, Received};
use common::kafka::{Kafka, KafkaSettings};
use common::outbox::{self, Event, OutboxSettings};
use common::{Error, Result};
use diesel::{QueryableByName, sql_types};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use sandbox::{KafkaChoice, Options, Sandbox};
use serde::{Deserialize, Serialize};
use tokio::sync::{OnceCell, RwLock};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/common");

/// Everything here settles in a few seconds, on a busy machine too; beyond this it never will.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub const GROUP: &str = "listener";

static SANDBOX: OnceCell<Sandbox> = OnceCell::const_new();

/// Held for reading by tests that need the broker to stay, for writing by those that kill it.
pub static BROKER: RwLock<()> = RwLock::const_new(());

pub async fn sandbox() -> &'static Sandbox {
    SANDBOX
        .get_or_init(async || {
            tracing_subscriber::fmt().with_test_writer().init();
            let data_dir = std::env::temp_dir().join(format!("stampede-messages-{}", std::process::id()));
            let options = Options { data_dir, ephemeral: true, kafka: KafkaChoice::Apache, ..Options::default() };
            Sandbox::start(options).await.unwrap()
        })
        .await
}

/// Money moved on an account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    pub account: String,
    pub version: i64,
    /// A ledger that listens cannot apply negative amounts unless it has been taught to.
    pub amount: i64,
}

impl Event for Moved {
    const TOPIC: &'static str = "ACCOUNT_MOVED";
    const AGGREGATE: &'static str = "account";

    fn key(&self) -> &str {
        &self.account
    }

    fn version(&self) -> i64 {
        self.version
    }
}

/// The listening ledger: writes down each event that it is given.
pub struct Ledger {
    pub knows_negative: AtomicBool,
    /// So many calls write and then fail for a transient reason.
    pub failures: AtomicU32,
}

impl Handler<Moved> for Ledger {
    async fn handle(&self, tx: &mut Tx, events: &[Received<Moved>]) -> Result<()> {
        for Received { event_id, event, .. } in events {
            let Moved { account, version, amount } = event;
            diesel::sql_query("insert into effects (event_id, account, version) values ($1, $2, $3)")
                .bind::<sql_types::Uuid, _>(*event_id)
                .bind::<sql_types::Text, _>(account)
                .bind::<sql_types::BigInt, _>(*version)
                .execute(tx)
                .await?;
            if *amount < 0 && !AtomicBool::load(&self.knows_negative, Ordering::SeqCst) {
                return Err(Error::fault(anyhow::anyhow!("a negative amount")));
            }
        }
        if self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
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

/// A namespace with its schema, and the tasks that run in it.
pub struct Shop {
    pub db: Db,
    pub kafka: Kafka,
    pub ledger: Arc<Ledger>,
    pub brokers: String,
    namespace: String,
}

/// A relay or a consumer under way.
pub struct Running {
    task: JoinHandle<()>,
    stopping: CancellationToken,
}

impl Running {
    pub async fn stop(self) {
        self.stopping.cancel();
        self.task.await.unwrap();
    }

    /// As if its process had died: nothing is finished and nothing given back.
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

pub fn kafka_settings(brokers: String, replication_factor: i32) -> KafkaSettings {
    KafkaSettings {
        brokers,
        partitions: 3,
        replication_factor,
        retention_hours: 168,
        request_timeout_ms: 3000,
        cluster_check_ms: 500,
        linger_ms: 1,
        delivery_timeout_ms: 5000,
        session_timeout_ms: 6000,
    }
}

impl Shop {
    pub async fn open(namespace: &str) -> Shop {
        Shop::open_on(sandbox().await.kafka_brokers(), namespace, 1).await
    }

    /// With `replication_factor` replicas of each topic that is created. A sandbox has one broker.
    pub async fn open_on(brokers: String, namespace: &str, replication_factor: i32) -> Shop {
        Shop::open_with(&kafka_settings(brokers, replication_factor), namespace).await
    }

    pub async fn open_with(settings: &KafkaSettings, namespace: &str) -> Shop {
        let namespace = format!("{namespace}_");
        let db = database(&namespace).await;
        db.migrate([MIGRATIONS]).await.unwrap();
        db.read()
            .await
            .unwrap()
            .batch_execute(
                "create table accounts (account text primary key, version bigint not null);
                 create table effects (
                     place bigint generated always as identity primary key,
                     event_id uuid not null, account text not null, version bigint not null
                 )",
            )
            .await
            .unwrap();
        let kafka = Kafka::open(settings, &namespace).unwrap();
        let ledger = Ledger { knows_negative: AtomicBool::new(false), failures: AtomicU32::new(0) };
        Shop { db, kafka, ledger: Arc::new(ledger), namespace, brokers: settings.brokers.clone() }
    }

    /// A pool of its own, as another process would have.
    pub async fn another_db(&self) -> Db {
        database(&self.namespace).await
    }

    pub fn relay(&self, db: &Db, settings: OutboxSettings) -> Running {
        let stopping = CancellationToken::new();
        let task = tokio::spawn(outbox::relay(db.clone(), self.kafka.clone(), settings, stopping.clone()));
        Running { task, stopping }
    }

    pub fn consumer(&self) -> Running {
        let consumer = Consumer::new(GROUP, &self.db).on::<Moved, Ledger>(&self.ledger);
        let stopping = CancellationToken::new();
        let task = tokio::spawn(consumer.run(self.kafka.clone(), inbox_settings(), stopping.clone()));
        Running { task, stopping }
    }

    /// One business transaction: the account gets its next version, and the event says so.
    pub async fn move_money(&self, db: &Db, account: &str, amount: i64) -> i64 {
        let account = account.to_owned();
        db.tx("move", async |tx: &mut Tx| {
            let Number { number: version } = diesel::sql_query(
                "insert into accounts (account, version) values ($1, 1)
                 on conflict (account) do update set version = accounts.version + 1
                 returning version as number",
            )
            .bind::<sql_types::Text, _>(&account)
            .get_result(tx)
            .await?;
            outbox::publish(tx, &Moved { account: account.clone(), version, amount }).await?;
            Ok(version)
        })
        .await
        .unwrap()
    }

    /// `writers` tasks make `each` moves on `accounts` accounts, all at once.
    pub async fn move_much(&self, db: &Db, writers: usize, each: usize, accounts: usize) {
        let write = async |writer: usize| {
            for n in 0..each {
                self.move_money(db, &format!("account-{}", (writer + n) % accounts), 1).await;
            }
        };
        futures_util::future::join_all((0..writers).map(write)).await;
    }

    pub async fn count(&self, sql: &str) -> i64 {
        let counted = diesel::sql_query(format!("select ({sql})::bigint as number"));
        let Number { number } = counted.get_result(&mut self.db.read().await.unwrap()).await.unwrap();
        number
    }

    pub async fn execute(&self, sql: &str) {
        self.db.read().await.unwrap().batch_execute(sql).await.unwrap();
    }

    /// The versions that the listening ledger has written down for each account, in the order of writing.
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

    /// Waits until `sql` counts `wanted`.
    pub async fn until(&self, sql: &str, wanted: i64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.count(sql).await;
            if found == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "{sql} is {found} and not {wanted}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until everything that was told has been heard.
    pub async fn settled(&self) {
        self.until("select count(*) from outbox_events where status = 'NEW'", 0).await;
        let told = self.count("select count(*) from outbox_events").await;
        self.until("select count(*) from inbox", told).await;
    }

    /// Every account's effects are its versions from 1 on, each once and in order.
    pub async fn assert_effects_are_exact(&self) {
        let told = self.count("select coalesce(sum(version), 0) from accounts").await;
        let effects = self.effects().await;
        assert_eq!(effects.values().map(|versions| versions.len() as i64).sum::<i64>(), told);
        for (account, versions) in effects {
            assert!(versions.iter().copied().eq(1..=versions.len() as i64), "{account}: {versions:?}");
        }
    }

    /// All versions in the broker's log for each account, in the order of the log, repeats included.
    pub async fn log(&self) -> BTreeMap<String, Vec<i64>> {
        let topic = self.kafka.topic(Moved::TOPIC);
        let brokers = sandbox().await.kafka_brokers();
        tokio::task::spawn_blocking(move || read_log(&brokers, &topic)).await.unwrap()
    }

    /// In the log, nothing is missing and no version comes for the first time before the one before it.
    pub async fn assert_log_is_complete_and_in_order(&self) {
        let told = self.count("select coalesce(sum(version), 0) from accounts").await;
        let mut firsts = 0;
        for (account, versions) in self.log().await {
            let mut seen = 0;
            for version in &versions {
                assert!(*version <= seen + 1, "{account}: {version} before {} in {versions:?}", seen + 1);
                seen = seen.max(*version);
            }
            firsts += seen;
        }
        assert_eq!(firsts, told);
    }
}

async fn database(namespace: &str) -> Db {
    let settings = DbSettings {
        url: sandbox().await.postgres_url().into(),
        connections_max: 12,
        acquire_timeout_ms: 5000,
        statement_timeout_ms: 5000,
        lock_timeout_ms: 5000,
        idle_in_transaction_timeout_ms: 5000,
    };
    Db::open(&settings, &format!("{namespace}bank")).await.unwrap()
}

fn read_log(brokers: &str, topic: &str) -> BTreeMap<String, Vec<i64>> {
    const LIMIT: Duration = Duration::from_secs(5);
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "log reader")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), LIMIT).unwrap();
    let mut left = 0;
    let mut assignment = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        let (low, high) = consumer.fetch_watermarks(topic, partition.id(), LIMIT).unwrap();
        left += high - low;
        assignment.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let mut log = BTreeMap::<String, Vec<i64>>::new();
    while left > 0 {
        let message = consumer.poll(LIMIT).expect("the log is not shorter than it was").unwrap();
        let moved: Moved = serde_json::from_slice(message.payload().unwrap()).unwrap();
        log.entry(moved.account).or_default().push(moved.version);
        left -= 1;
    }
    log
}
