//! The fourth trigger: each minute, whatever should be open by the database and is not. It asks nobody else, and writes the
//! schedule in Redis again, which may have been lost.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use common::Result;
use common::sql::clock_timestamp;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use crate::App;
use crate::close_events::close_due;
use crate::names::Status;
use crate::open_events::open_due;
use crate::sale_event::SaleEvent;
use crate::schedule::arm;
use crate::schema::sale_events;

/// Events that are written to Redis again; those after them are armed when these have opened.
const ARMED_MAX: i64 = 1_000;

pub async fn recover_events(app: Arc<App>) -> Result<()> {
    open_due(&app, None, "recovery").await?;
    close_due(&app).await?;
    let pending: Vec<(SaleEvent, DateTime<Utc>)> = sale_events::table
        .filter(sale_events::status.eq(Status::Pending))
        .order(sale_events::opens_at)
        .limit(ARMED_MAX)
        .select((SaleEvent::as_select(), clock_timestamp()))
        .load(&mut *app.db.read().await?)
        .await?;
    for (event, now) in &pending {
        arm(&app, event, *now).await;
    }
    Ok(())
}
