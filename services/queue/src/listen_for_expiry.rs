//! The second trigger: Redis tells that the key of an opening has expired, and whoever gets the lock opens the sale.
//!
//! Such news may be late, and is lost for whoever does not listen, so it only makes the opening quicker where it comes. The
//! lock spares the other replicas the work; it protects nothing, since opening is a compare-and-set.

use std::pin::pin;
use std::sync::Arc;

use common::redis::Unavailable;
use common::{Error, Result};
use contract::ids::SaleEventId;
use futures_util::StreamExt;
use uuid::Uuid;

use crate::App;
use crate::open_events::open_due;
use crate::schedule::{arm, due_event, is_open, lock, unlock};

/// Listens until the connection ends.
pub async fn listen_for_expiry(app: Arc<App>) -> Result<()> {
    let mut expired = pin!(app.redis.expirations().await.map_err(Error::transient)?);
    loop {
        let name = tokio::select! {
            name = expired.next() => name,
            () = app.stopping.cancelled() => return Ok(()),
        };
        let Some(name) = name else { return Ok(()) };
        let Some(id) = due_event(&name) else { continue };
        // The other triggers open it if this fails.
        if let Err(error) = open_expired(&app, id).await {
            tracing::warn!(event.id = %id, %error, "Sale event {id} is not opened by its key; the timer or a sweep opens it");
        }
    }
}

async fn open_expired(app: &App, id: SaleEventId) -> Result<()> {
    let away = |away: Unavailable| Error::transient(away);
    let Some(lock) = lock(&app.redis, id, Uuid::now_v7().to_string()).await.map_err(away)? else { return Ok(()) };
    app.db.point("open.locked").await;
    let outcome = async {
        if is_open(&app.redis, id).await.map_err(away)? || !open_due(app, Some(id), "expiry").await?.is_empty() {
            return Ok(());
        }
        // Redis is ahead of the database's clock, or the event was moved: the key is set again.
        let known = app.events.find(id).await?;
        arm(app, &known.event, known.now()).await;
        Ok(())
    };
    let outcome = outcome.await;
    unlock(&app.redis, lock).await;
    outcome
}
