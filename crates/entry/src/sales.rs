//! The sale events in memory: each request looks at them, and they are few.

use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use common::Result;
use common::db::{Db, Tx};
use common::sql::clock_timestamp;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::sale::Sale;
use crate::schema::sale_events;

/// As they were read a moment ago. Cheap to clone.
#[derive(Clone)]
pub struct Sales {
    db: Db,
    known: Arc<RwLock<Known>>,
    /// They have changed.
    pub changed: Arc<Notify>,
}

#[derive(Clone)]
struct Known {
    sales: Arc<[Sale]>,
    /// The database's time when they were read, and the same moment by a clock that only runs forward.
    read_at: DateTime<Utc>,
    since: Instant,
}

impl Sales {
    /// Reads them first: nobody is let through because a process has just started.
    pub async fn open(db: &Db) -> Result<Sales> {
        let known = Arc::new(RwLock::new(read(db).await?));
        Ok(Sales { db: db.clone(), known, changed: Arc::default() })
    }

    pub async fn read_again(&self) -> Result<()> {
        *self.known.write() = read(&self.db).await?;
        Ok(())
    }

    /// Has them read when `tx` has committed.
    pub fn read_after(&self, tx: &mut Tx) {
        let changed = self.changed.clone();
        tx.after_commit(move || changed.notify_one());
    }

    /// The sales, and the database's time now.
    pub fn now(&self) -> (Arc<[Sale]>, DateTime<Utc>) {
        let Known { sales, read_at, since } = self.known.read().clone();
        (sales, read_at + TimeDelta::from_std(since.elapsed()).unwrap_or_default())
    }
}

async fn read(db: &Db) -> Result<Known> {
    let since = Instant::now();
    let mut conn = db.read().await?;
    let read_at = diesel::select(clock_timestamp()).get_result(&mut conn).await?;
    let sales: Vec<Sale> = sale_events::table.select(Sale::as_select()).load(&mut conn).await?;
    Ok(Known { sales: sales.into(), read_at, since })
}
