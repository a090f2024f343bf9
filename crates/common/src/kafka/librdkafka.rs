//! Work-arounds for librdkafka 2.12.1 and its Rust binding. docs/adr/0011-librdkafka.md names the fault behind each one and
//! says when it can be removed.

mod cluster_id_guard;
mod group_health;
mod silence;
#[cfg(test)]
mod tests;

use tokio::sync::oneshot;

pub(crate) use cluster_id_guard::{ClusterIdGuard, log_debug};
pub(crate) use group_health::{GroupHealth, JOIN_MAX};
pub(crate) use silence::Silence;

/// Runs `work` on a client in a thread that nobody has to wait for, unlike the threads of the runtime. The last owner of a
/// consumer leaves its group, which never ends while the group cannot be reached.
pub(crate) fn in_own_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
    let (done, on_done) = oneshot::channel();
    std::thread::spawn(move || {
        // An error means that nobody waits any more.
        drop(done.send(work()));
    });
    on_done
}

/// Drops a client elsewhere: dropping joins its threads, which blocks.
pub(crate) fn drop_in_background<T: Send + 'static>(client: T) {
    drop(in_own_thread(move || drop(client)));
}
