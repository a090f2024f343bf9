//! `Subscriber`: a consumer that gives up its subscription before it is closed (ADR 11, no. 6).

use std::ops::Deref;
use std::time::Duration;

use rdkafka::consumer::{Consumer as _, StreamConsumer};
use tokio::runtime::{Builder, Handle};

use super::GroupHealth;

/// A question to the group may be answered until its session timeout is over, and a little later.
const GRACE: Duration = Duration::from_secs(10);

/// A consumer, which may have subscribed to topics. Dropping it blocks.
pub(crate) struct Subscriber(StreamConsumer<GroupHealth>);

impl Subscriber {
    pub(crate) fn new(client: StreamConsumer<GroupHealth>) -> Subscriber {
        Subscriber(client)
    }

    /// Returns true when librdkafka has logged that the subscription is gone, which takes some answers of the group. After that
    /// it waits for no answer to `JoinGroup` or `SyncGroup`, and ignores those that come. Commits the offsets that are stored.
    pub(super) fn give_up_subscription(&self) -> bool {
        // A runtime inside of another panics. Whoever comes here got no thread of its own, and is closed at once.
        if Handle::try_current().is_ok() {
            return false;
        }
        // A reader has none. If the question fails, the client cannot be used any more.
        if self.subscription().map_or(true, |topics| topics.count() == 0) {
            return true;
        }
        let Ok(runtime) = Builder::new_current_thread().enable_time().build() else { return false };
        // Nothing more is fetched, since it is not applied.
        if let Ok(partitions) = self.assignment() {
            drop(self.pause(&partitions));
        }
        self.unsubscribe();
        runtime.block_on(async {
            // Partitions are given up, and lines of the log are read, while the client is asked for messages.
            let ask = async {
                loop {
                    drop(self.recv().await);
                    // Many messages in a row would keep the others below from being looked at.
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                () = self.context().subscription_given_up() => true,
                () = ask => false,
                () = tokio::time::sleep(self.context().session_timeout() + GRACE) => false,
            }
        })
    }
}

impl Deref for Subscriber {
    type Target = StreamConsumer<GroupHealth>;

    fn deref(&self) -> &StreamConsumer<GroupHealth> {
        &self.0
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.give_up_subscription();
    }
}
