//! Removes what is left of sessions and refresh tokens whose time is over. Run every ten minutes; may be run twice.

use common::Result;
use diesel::sql_types;
use diesel_async::RunQueryDsl;

use crate::App;

/// Rows of one transaction: short enough that a log-in never waits for it.
const CHUNK: i64 = 1000;

/// Expired tokens are kept no longer than they could be presented: until then they tell a reuse from nonsense.
const STATEMENTS: [&str; 2] = [
    "delete from refresh_tokens where hash in
        (select hash from refresh_tokens where expires_at < now() order by expires_at limit $1 for update skip locked)",
    "delete from token_families where id in
        (select id from token_families where expires_at < now() order by expires_at limit $1 for update skip locked)",
];

pub async fn forget_sessions(app: &App) -> Result<()> {
    for statement in STATEMENTS {
        loop {
            let delete = diesel::sql_query(statement).bind::<sql_types::BigInt, _>(CHUNK);
            let removed = app.db.tx("forget_sessions", async |tx| Ok(delete.execute(tx).await?)).await?;
            if (removed as i64) < CHUNK {
                break;
            }
        }
    }
    Ok(())
}
