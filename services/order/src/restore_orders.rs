//! Part of changing an order: one that is archived comes back first, so that there is one place where orders are changed.

use common::Result;
use common::db::{Prepared, Tx};
use contract::ids::OrderId;
use diesel::sql_query;
use diesel::sql_types::{Array, Uuid};
use diesel_async::RunQueryDsl;

/// Brings those among `ids` back that are archived. The next run of the archive takes them again, unless they are changed.
pub async fn restore_orders(tx: &mut Tx, ids: &[OrderId]) -> Result<()> {
    let restore = sql_query(include_str!("restore_orders.sql")).bind::<Array<Uuid>, _>(ids);
    let restored = Prepared(restore).execute(tx).await?;
    if restored > 0 {
        tx.after_commit(move || {
            metrics::counter!("stampede_orders_restored_total").increment(restored as u64);
            tracing::info!(
                orders = restored,
                "Took {restored} orders out of the archive: somebody asks to change them"
            );
        });
    }
    Ok(())
}
