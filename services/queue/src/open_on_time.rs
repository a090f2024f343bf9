//! The first trigger: each replica sleeps until the next opening or closing that the database knows.

use std::sync::Arc;
use std::time::Duration;

use common::Result;
use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Nullable};
use diesel_async::RunQueryDsl;

use crate::App;
use crate::close_events::close_due;
use crate::open_events::open_due;

#[derive(QueryableByName)]
struct Next {
    #[diesel(sql_type = Nullable<BigInt>)]
    wait_ms: Option<i64>,
}

/// Opens and closes what is due, until nothing is due before the loop runs again.
pub async fn open_on_time(app: Arc<App>) -> Result<()> {
    loop {
        open_due(&app, None, "timer").await?;
        close_due(&app).await?;
        let query = diesel::sql_query(include_str!("open_on_time.sql")).bind::<BigInt, _>(app.timer_horizon_ms);
        let next: Next = query.get_result(&mut *app.db.read().await?).await?;
        let Some(wait_ms) = next.wait_ms else { return Ok(()) };
        let wait = Duration::from_millis(u64::try_from(wait_ms).unwrap_or_default());
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = app.rescheduled.notified() => {}
            () = app.stopping.cancelled() => return Ok(()),
        }
    }
}
