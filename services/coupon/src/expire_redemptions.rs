//! The sweeper: records that the time of reservations is up.

use common::Result;
use common::db::Prepared;
use diesel::sql_query;
use diesel::sql_types::BigInt;
use diesel_async::RunQueryDsl;

use crate::App;

/// Sets reservations whose time is up to `EXPIRED`. Any number of replicas may run it.
///
/// It only tidies: for readers and for other orders they have expired already.
pub async fn expire_redemptions(app: &App) -> Result<()> {
    let rows_max = app.settings.sweep_redemptions_max;
    loop {
        let sweep = sql_query(include_str!("expire_redemptions.sql")).bind::<BigInt, _>(rows_max);
        let expired = app.db.tx("expire_redemptions", async move |tx| Ok(Prepared(sweep).execute(tx).await?));
        let expired = expired.await?;
        metrics::counter!("stampede_coupon_redemptions_total", "outcome" => "expired").increment(expired as u64);
        if (expired as i64) < rows_max {
            return Ok(());
        }
    }
}
