//! `WatchStock`: the stock of one product, each time that it changes.
//!
//! What this process commits is told at once. What other replicas commit is found by reading the row every second.

use std::sync::Arc;
use std::time::Duration;

use common::Result;
use contract::ids::ProductId;
use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::App;
use crate::refused::Refused;
use crate::stock_rows::{Moved, read_level};

/// How old a level may be where another replica has changed it.
const READ_PERIOD: Duration = Duration::from_secs(1);

struct Watch {
    app: Arc<App>,
    product: ProductId,
    /// The newest that the watcher knows.
    version: i64,
    changes: Receiver<Moved>,
    reads: Interval,
}

/// Levels with a newer version than `version`, until the host stops. Refuses with `PRODUCT_NOT_FOUND`.
pub async fn watch_stock(app: Arc<App>, product: ProductId, version: i64) -> Result<impl Stream<Item = Moved>> {
    // Before the first look, so that no change falls between the two.
    let changes = app.feed.watch();
    if read_level(&mut *app.db.read().await?, product).await?.is_none() {
        return Err(Refused::ProductNotFound(product).into());
    }
    // The first tick comes at once.
    let mut reads = interval(READ_PERIOD);
    reads.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watch = Watch { app, product, version, changes, reads };
    Ok(unfold(watch, |mut watch| async move { Some((watch.next().await?, watch)) }))
}

impl Watch {
    /// The next newer level. None: the host stops.
    async fn next(&mut self) -> Option<Moved> {
        loop {
            let level = tokio::select! {
                () = self.app.stopping.cancelled() => return None,
                change = self.changes.recv() => match change {
                    Ok(level) => Some(level).filter(|level| level.product_id == self.product),
                    Err(RecvError::Lagged(_)) => self.read().await,
                    Err(RecvError::Closed) => return None,
                },
                _ = self.reads.tick() => self.read().await,
            };
            if let Some(level) = level.filter(|level| level.version > self.version) {
                self.version = level.version;
                return Some(level);
            }
        }
    }

    /// None while the database is away: the next tick reads again.
    async fn read(&self) -> Option<Moved> {
        let level = async { read_level(&mut *self.app.db.read().await?, self.product).await };
        level
            .await
            .inspect_err(|error| tracing::debug!(%error, "The stock of a watched product cannot be read"))
            .ok()?
    }
}
