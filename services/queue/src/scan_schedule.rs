//! The third trigger: the sorted set in Redis is looked through every second.

use std::sync::Arc;

use chrono::Utc;
use common::{Error, Result};

use crate::App;
use crate::names::Status;
use crate::open_events::open_due;
use crate::schedule::{arm, disarm, due};

/// Events that one scan opens; the next scan goes on.
const DUE_MAX: usize = 100;

pub async fn scan_schedule(app: Arc<App>) -> Result<()> {
    for id in due(&app.redis, Utc::now(), DUE_MAX).await.map_err(Error::transient)? {
        if !open_due(&app, Some(id), "scan").await?.is_empty() {
            continue;
        }
        // It was opened or moved by another, and this entry was left behind.
        match app.events.find(id).await {
            Ok(known) if known.event.status == Status::Pending => arm(&app, &known.event, known.now()).await,
            Ok(known) => disarm(&app, id, known.event.status.into()).await,
            Err(error) if error.reason().is_some() => disarm(&app, id, Status::Closed.into()).await,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
