//! Waiting for an outcome instead of for a time.

use std::time::{Duration, Instant};

/// No step of a test takes this long on a busy machine unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(150);

const LOOK_AGAIN: Duration = Duration::from_millis(25);

/// Waits until `question` has an answer. Fails with `what` when it never does.
pub async fn eventually<T>(what: &str, mut question: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = question().await {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
