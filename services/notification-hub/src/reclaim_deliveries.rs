//! The loop that takes deliveries back from workers that died or stalled, and counts what waits.

use common::Result;
use common::db::Prepared;
use contract::ids::DeliveryId;
use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Integer, Text, Uuid};
use diesel_async::RunQueryDsl;

use crate::channel::Channel;
use crate::deliver::{self, Settlement};
use crate::notification::{Failure, Outcome, next};
use crate::{App, Settings};

/// Deliveries that one transaction takes back: as many as one claim takes at most, so that locks are brief.
const RECLAIM_MAX: i64 = 500;

#[derive(QueryableByName)]
struct Lost {
    #[diesel(sql_type = Uuid)]
    id: DeliveryId,
    #[diesel(sql_type = Text)]
    channel: Channel,
    #[diesel(sql_type = Integer)]
    attempt: i32,
    #[diesel(sql_type = BigInt)]
    lock_token: i64,
}

/// A lost claim counts as a failed try: something that kills its workers must not live for ever.
pub async fn reclaim_deliveries(app: &App) -> Result<()> {
    let settings = &app.settings;
    loop {
        let (settlements, settled) = app
            .db
            .tx("reclaim_deliveries", async move |tx| {
                let query = diesel::sql_query(include_str!("reclaim_deliveries.sql"));
                let lost: Vec<Lost> = Prepared(query.bind::<BigInt, _>(RECLAIM_MAX)).load(tx).await?;
                let settlements: Vec<_> = lost.into_iter().map(|lost| lost.settle(settings)).collect();
                let settled = deliver::settle(tx, &settlements).await?;
                Ok((settlements, settled))
            })
            .await?;
        deliver::count(&settlements, &settled);
        if settlements.is_empty() {
            return report_pending(app).await;
        }
        tracing::warn!(deliveries = settlements.len(), "Took back deliveries whose lease was lost");
        for Settlement { channel, .. } in &settlements {
            app.due.wake(*channel);
        }
    }
}

impl Lost {
    fn settle(self, settings: &Settings) -> Settlement {
        let Lost { id, channel, attempt, lock_token } = self;
        let retry_delays = settings.retry_delays(channel);
        let next = next(Outcome::NotSent(Failure::LeaseLost), attempt, &retry_delays, deliver::jitter());
        Settlement { delivery: id, channel, lock_token, next }
    }
}

#[derive(QueryableByName)]
struct Pending {
    #[diesel(sql_type = Text)]
    channel: String,
    #[diesel(sql_type = BigInt)]
    count: i64,
}

async fn report_pending(app: &App) -> Result<()> {
    let rows: Vec<Pending> = diesel::sql_query(
        "select deliveries.channel, count(*) as count
         from deliveries
         where deliveries.status = 'PENDING'
         group by deliveries.channel",
    )
    .load(&mut *app.db.read().await?)
    .await?;
    for channel in Channel::ALL.map(Channel::name) {
        let waiting = rows.iter().find(|row| row.channel == channel).map_or(0, |row| row.count);
        metrics::gauge!("stampede_deliveries_pending", "channel" => channel).set(waiting as f64);
    }
    Ok(())
}
