//! The ends of a round's campaign, and giving it up without an end.

use common::Result;
use common::db::{Prepared, Tx};
use diesel::ExpressionMethods;
use diesel::sql_types::{BigInt, Nullable, Text, Uuid};
use diesel_async::RunQueryDsl;

use crate::restock::round::{RoundKey, RoundStatus, Run};
use crate::schema::product_notification_history;

/// How a runner ends a round.
#[derive(Debug, Clone)]
pub enum End {
    /// Nobody is left. Before the last look, `end_tx` was the oldest transaction that was open.
    Completed {
        end_tx: i64,
    },
    SoldOut,
    Error {
        error: String,
    },
}

impl End {
    fn status(&self) -> RoundStatus {
        match self {
            End::Completed { .. } => RoundStatus::Completed,
            End::SoldOut => RoundStatus::CanceledBySoldOut,
            End::Error { .. } => RoundStatus::CanceledByError,
        }
    }
}

/// Ends the round if it is in progress and still this runner's. `sent` is how many alerts have gone out since the last turn.
pub async fn end(tx: &mut Tx, run: &Run, end: End, sent: i64) -> Result<()> {
    let status = end.status();
    let (end_tx, error) = match end {
        End::Completed { end_tx } => (Some(end_tx), None),
        End::SoldOut => (None, None),
        End::Error { error } => (None, Some(error)),
    };
    let query = diesel::sql_query(include_str!("end_round.sql"))
        .bind::<Uuid, _>(run.key().id())
        .bind::<BigInt, _>(run.epoch)
        .bind::<Text, _>(status)
        .bind::<Nullable<BigInt>, _>(end_tx)
        .bind::<Nullable<Text>, _>(error)
        .bind::<BigInt, _>(sent);
    if Prepared(query).execute(tx).await? > 0 {
        count_later(tx, status);
    }
    Ok(())
}

/// Counts a round that ends, when it has.
pub fn count_later(tx: &mut Tx, status: RoundStatus) {
    tx.after_commit(move || {
        metrics::counter!("stampede_restock_rounds_total", "status" => status.name()).increment(1);
    });
}

/// What the round has written and nobody has sent is never sent.
pub async fn end_unsent(tx: &mut Tx, key: RoundKey) -> Result<()> {
    let query =
        diesel::sql_query(include_str!("end_unsent.sql")).bind::<Uuid, _>(key.product).bind::<BigInt, _>(key.round);
    Prepared(query).execute(tx).await?;
    Ok(())
}

/// Lets another runner take the round at once.
pub async fn release(tx: &mut Tx, run: &Run, sent: i64) -> Result<()> {
    diesel::update(product_notification_history::table)
        .filter(product_notification_history::id.eq(run.key().id()))
        .filter(product_notification_history::epoch.eq(run.epoch))
        .set((
            product_notification_history::sent_count.eq(product_notification_history::sent_count + sent),
            product_notification_history::lease_until.eq(None::<chrono::DateTime<chrono::Utc>>),
        ))
        .execute(tx)
        .await?;
    Ok(())
}
