//! The loop that takes deliveries back from workers that died or stalled, and counts what waits.

use common::Result;
use common::db::Tx;
use diesel::dsl::{count_star, now};
use diesel::{ExpressionMethods, QueryDsl, SelectableHelper};
use diesel_async::RunQueryDsl;
use strum::VariantArray;

use crate::App;
use crate::channel::Channel;
use crate::claims::{Attempt, count_results, record_results};
use crate::delivery::{Failure, Outcome};
use crate::notification::DeliveryStatus;
use crate::schema::deliveries;

/// Deliveries that one transaction takes back: as many as one claim takes at most, so that locks are brief.
const RECLAIM_MAX: i64 = 500;

/// A lost claim counts as a failed attempt: a message that kills its workers must not live for ever.
pub async fn reclaim_deliveries(app: &App) -> Result<()> {
    let settings = &app.settings;
    loop {
        let (results, recorded) = app
            .db
            .tx("reclaim_deliveries", async move |tx| {
                let lost = lock_lost(tx).await?;
                let results: Vec<_> = lost
                    .iter()
                    .map(|lost| {
                        let retry_delays = settings.retry_delays(lost.channel);
                        lost.result(Outcome::NotSent(Failure::LeaseLost), &retry_delays)
                    })
                    .collect();
                let recorded = record_results(tx, &results).await?;
                Ok((results, recorded))
            })
            .await?;
        count_results(&results, &recorded);
        let [first, ..] = &results[..] else { return measure_pending(app).await };
        tracing::warn!(
            deliveryId = %first.attempt.delivery, deliveries = results.len(),
            "The leases of deliveries ended without a result; they are tried again after a delay, or given up after their last attempt"
        );
        for result in &results {
            app.due.wake(result.attempt.channel);
        }
    }
}

/// Attempts whose lease is over. Locked, so that two replicas do not count one loss twice.
async fn lock_lost(tx: &mut Tx) -> Result<Vec<Attempt>> {
    let lost = deliveries::table
        .filter(deliveries::status.eq(DeliveryStatus::Processing))
        .filter(deliveries::lease_until.lt(now))
        .order(deliveries::lease_until)
        .limit(RECLAIM_MAX)
        .select(Attempt::as_select())
        .for_update()
        .skip_locked();
    Ok(lost.load(tx).await?)
}

async fn measure_pending(app: &App) -> Result<()> {
    let rows: Vec<(Channel, i64)> = deliveries::table
        .filter(deliveries::status.eq(DeliveryStatus::Pending))
        .group_by(deliveries::channel)
        .select((deliveries::channel, count_star()))
        .load(&mut *app.db.read().await?)
        .await?;
    for channel in Channel::VARIANTS {
        let pending = rows.iter().find(|(found, _)| found == channel).map_or(0, |(_, count)| *count);
        metrics::gauge!("stampede_deliveries_pending", "channel" => channel.name()).set(pending as f64);
    }
    Ok(())
}
