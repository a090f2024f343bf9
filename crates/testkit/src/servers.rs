//! PostgreSQL, Redis and Apache Kafka for tests: one of each for all test binaries, or a sandbox for one purpose.
//!
//! `./stampede test` starts the servers once and names them in the environment ([`ENVIRONMENT`]). A test binary that is
//! started by hand starts its own.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use sandbox::{External, KafkaChoice, Options, Sandbox};
use tokio::sync::OnceCell;

use crate::watch;

/// The variables by which `with-servers` tells test binaries where PostgreSQL, Redis and Kafka are.
pub const ENVIRONMENT: [&str; 3] =
    ["STAMPEDE_TEST_POSTGRES_URL", "STAMPEDE_TEST_REDIS_URL", "STAMPEDE_TEST_KAFKA_BROKERS"];

/// The servers that all tests share. A test must not kill or empty them: one that does starts its own with [`start`].
pub async fn shared() -> &'static Sandbox {
    static SHARED: OnceCell<Sandbox> = OnceCell::const_new();
    watch::this_test("asks for the shared servers");
    let start = async || Sandbox::start(shared_options()).await.expect("PostgreSQL, Redis and Kafka start");
    SHARED.get_or_init(start).await
}

/// The servers that the environment names, and new ones for the rest. Nobody kills the broker, so it is not given up when a
/// busy machine lets it wait.
#[expect(clippy::disallowed_methods, reason = "the runner of the tests tells where the servers are in the environment")]
pub fn shared_options() -> Options {
    let [postgres_url, redis_url, kafka_brokers] = ENVIRONMENT.map(|name| std::env::var(name).ok());
    let external = External { postgres_url, redis_url, kafka_brokers };
    let mut options = Options { external, ..options("shared") };
    options.kafka_properties.push(("broker.session.timeout.ms".to_owned(), "60000".to_owned()));
    // A site of all services has eight pools of four sessions and eight relays; one site runs for each processor.
    options.extras.postgres_settings.push(("max_connections".to_owned(), "1000".to_owned()));
    // Sites make tables all the time, and each minute a worker would read a catalogue of half a million columns again.
    options.extras.postgres_settings.push(("autovacuum_naptime".to_owned(), "10min".to_owned()));
    options
}

/// A sandbox for one purpose, which the test may kill. Its data is removed with it.
pub async fn start(purpose: &str) -> Sandbox {
    watch::this_test("starts servers of its own");
    Sandbox::start(options(purpose)).await.expect("PostgreSQL, Redis and Kafka start")
}

/// A sandbox of its own with an Apache Kafka.
pub fn options(purpose: &str) -> Options {
    Options {
        data_dir: folder(purpose),
        fresh: true,
        ephemeral: true,
        kafka: KafkaChoice::Apache,
        // Brokers allow 6 s at least; a test that kills a consumer waits for its session to end.
        kafka_properties: vec![("group.min.session.timeout.ms".to_owned(), "1000".to_owned())],
        ..Options::default()
    }
}

/// A folder that no other test uses, reachable for the user that servers run as.
pub fn folder(purpose: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::SeqCst);
    std::env::temp_dir().join(format!("stampede-test-{purpose}-{}-{number}", std::process::id()))
}

/// A port that a process can listen on, and again after it was killed. It lies below those that the system gives to
/// outgoing connections, or one of them might take it in between.
pub fn port() -> u16 {
    static OFFSET: AtomicU16 = AtomicU16::new(0);
    let first = 16_000 + (std::process::id() % 1_500) as u16 * 10;
    loop {
        let port = first + OFFSET.fetch_add(1, Ordering::SeqCst);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
