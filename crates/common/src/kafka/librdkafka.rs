//! Work-arounds for librdkafka 2.12.1 and its Rust binding. docs/adr/0011-librdkafka.md names the fault behind each one and
//! says when it can be removed.

mod cluster_id_guard;
mod group_health;
mod silence;
mod subscriber;
#[cfg(test)]
mod tests;

use std::ops::Deref;

use tokio::sync::oneshot;

pub(crate) use cluster_id_guard::{ClusterIdGuard, log_debug};
pub(crate) use group_health::{GroupHealth, JOIN_MAX};
pub(crate) use silence::Silence;
pub(crate) use subscriber::Subscriber;

/// Runs `work` on a client in a thread that nobody has to wait for, unlike the threads of the runtime.
pub(crate) fn in_own_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
    let (done, on_done) = oneshot::channel();
    let thread = std::thread::Builder::new().spawn(move || {
        // An error means that nobody waits any more.
        drop(done.send(work()));
    });
    // Without a thread the work is not done, and whoever waits for it is told so.
    drop(thread);
    on_done
}

/// A client that is closed in a thread of its own, wherever it is dropped (ADR 11, no. 3): closing joins the client's threads,
/// which blocks. A runtime that ends drops what its tasks still hold, and would wait until each client is closed.
pub(crate) struct ClosedElsewhere<T: Send + 'static>(Option<T>);

/// A consumer: the member of a group, or who gets its partitions assigned.
pub(crate) type ConsumerClient = ClosedElsewhere<Subscriber>;

impl<T: Send + 'static> ClosedElsewhere<T> {
    pub(crate) fn new(client: T) -> ClosedElsewhere<T> {
        ClosedElsewhere(Some(client))
    }

    /// Begins to close it. Resolves when it is closed, which may be never.
    pub(crate) fn close(mut self) -> oneshot::Receiver<()> {
        let client = self.0.take();
        in_own_thread(move || drop(client))
    }
}

impl<T: Send + 'static> Deref for ClosedElsewhere<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("a client is taken out only when it is closed")
    }
}

impl<T: Send + 'static> Drop for ClosedElsewhere<T> {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            drop(in_own_thread(move || drop(client)));
        }
    }
}
