//! Removes sessions and refresh tokens whose time is over. Run every ten minutes; may be run twice.

use common::Result;
use diesel::sql_types::BigInt;
use diesel_async::RunQueryDsl;

use crate::App;

/// Rows of one transaction: few enough that a log-in never waits for it.
const CHUNK: i64 = 1000;

/// Expired tokens are kept no longer than they could be presented: until then they tell a reuse from nonsense.
pub async fn forget_sessions(app: &App) -> Result<()> {
    loop {
        let removed = app
            .db
            .tx("forget_sessions", async |tx| {
                let tokens = diesel::sql_query(include_str!("forget_sessions_tokens.sql"))
                    .bind::<BigInt, _>(CHUNK)
                    .execute(tx)
                    .await?;
                let families = diesel::sql_query(include_str!("forget_sessions_families.sql"))
                    .bind::<BigInt, _>(CHUNK)
                    .execute(tx)
                    .await?;
                Ok(tokens.max(families))
            })
            .await?;
        if (removed as i64) < CHUNK {
            return Ok(());
        }
    }
}
