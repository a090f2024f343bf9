//! Orders that ended long ago, written as if time had passed: for measuring and for trying the archive.

use contract::ids::{AccountId, OrderId};
use diesel::sql_types;
use uuid::Uuid;

use crate::audit::Ledger;

/// Orders that one statement writes.
const CHUNK: usize = 5_000;

#[derive(diesel::QueryableByName)]
struct Written {
    #[diesel(sql_type = sql_types::BigInt)]
    orders: i64,
}

/// Writes `count` orders of `buyer` for one unit of `product`, each with its released hold. Every invariant holds for them.
pub async fn write_old_orders(ledger: &mut Ledger, buyer: Uuid, product: Uuid, count: usize) -> anyhow::Result<()> {
    // Orders of an earlier call have other keys.
    let call = Uuid::now_v7();
    let numbers: Vec<usize> = (0..count).collect();
    let mut written = 0;
    for chunk in numbers.chunks(CHUNK) {
        let keys: Vec<String> = chunk.iter().map(|number| format!("{call}-{number}")).collect();
        let account = AccountId::from(buyer);
        let id = |key: &String| OrderId::derive(&[account.as_bytes(), b"order", key.as_bytes()]).uuid();
        let ids: Vec<Uuid> = keys.iter().map(id).collect();
        let statement = ledger.statement(include_str!("old_orders.sql")).into_boxed();
        let statement = statement
            .bind::<sql_types::Array<sql_types::Uuid>, _>(ids)
            .bind::<sql_types::Array<sql_types::Text>, _>(keys)
            .bind::<sql_types::Uuid, _>(buyer)
            .bind::<sql_types::Uuid, _>(product);
        let rows: Vec<Written> = ledger.bound_rows(statement).await?;
        written += rows.iter().map(|row| row.orders).sum::<i64>();
    }
    anyhow::ensure!(written == i64::try_from(count)?, "{written} of {count} old orders were written");
    Ok(())
}
