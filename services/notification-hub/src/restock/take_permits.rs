//! How fast restock alerts go out: at most so many a second, over all replicas together.
//!
//! The limit is a row in the hub's database, and time is that server's clock. A round cannot go on without that database
//! anyway, so nothing else can be away. A reserve is never given: it covers messages that leave a little later than they
//! were admitted.

use std::time::Duration;

use common::db::{Db, Prepared};
use common::{Error, Result};
use diesel::QueryableByName;
use diesel::sql_types::BigInt;
use diesel_async::RunQueryDsl;

use crate::pace::{Pace, Permits};

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = BigInt)]
    granted: i64,
    #[diesel(sql_type = BigInt)]
    wait_us: i64,
}

/// Up to `wanted` permits to send, or how long to wait for the next. The same rule as `pace::take`.
pub async fn take_permits(db: &Db, Pace { interval, burst }: Pace, wanted: u32) -> Result<Permits> {
    let interval_us = i64::try_from(interval.as_micros()).map_err(Error::fault)?;
    let query = diesel::sql_query(include_str!("take_permits.sql"))
        .bind::<BigInt, _>(interval_us)
        .bind::<BigInt, _>(i64::from(burst))
        .bind::<BigInt, _>(i64::from(wanted));
    let Row { granted, wait_us } =
        db.tx("take_restock_permits", async move |tx| Ok(Prepared(query).get_result(tx).await?)).await?;
    let granted = u32::try_from(granted).unwrap_or_default();
    metrics::counter!("stampede_restock_permits_total").increment(granted.into());
    Ok(Permits { granted, wait: Duration::from_micros(wait_us.unsigned_abs()) })
}
