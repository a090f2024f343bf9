//! The servers that all tests share: one PostgreSQL, one Redis, one Apache Kafka, gone when the tests are.

use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};

use sandbox::{KafkaChoice, Options, Sandbox};
use tokio::sync::OnceCell;

/// Nobody breaks these: tests that do start their own.
pub async fn shared() -> &'static Sandbox {
    static SHARED: OnceCell<Sandbox> = OnceCell::const_new();
    SHARED.get_or_init(|| start("shared")).await
}

/// A sandbox for one purpose. Its data lives below the target folder and is removed with it.
pub async fn start(purpose: &str) -> Sandbox {
    let folder = format!("it-{purpose}-{}", std::process::id());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    let options = Options {
        data_dir: sandbox::reachable_data_dir(&folder),
        fresh: true,
        ephemeral: true,
        kafka: KafkaChoice::Apache,
        ..Options::default()
    };
    Sandbox::start(options).await.expect("PostgreSQL, Redis and Kafka start")
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
