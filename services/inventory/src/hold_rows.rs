//! The rows of holds, read with their lines.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use common::db::{Prepared, Tx};
use common::{Error, Result};
use contract::ids::{AccountId, ConcertId, HoldId, PaymentAttemptId, ProductId};
use diesel::deserialize::{self, FromSql};
use diesel::pg::{Pg, PgValue};
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types::{Array, BigInt, Bool, Integer, Jsonb, Nullable, Text, Timestamptz, Uuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::hold::{HeldSeat, Hold, HoldLine, HoldState, Pin};

/// Holds with their lines, and the database's clock when they were read.
pub struct HoldsRead {
    pub now: DateTime<Utc>,
    pub holds: HashMap<HoldId, Hold>,
}

/// Reads those of `ids` that exist. They may change at once.
pub async fn read_holds(conn: &mut AsyncPgConnection, ids: &[HoldId]) -> Result<HoldsRead> {
    load(conn, include_str!("hold_rows_read.sql"), ids).await
}

/// Reads those of `ids` that exist, and locks their rows, waiting for whoever has them. The clock is that after the wait.
///
/// Whoever has a row of a hold waits for no stock, so the wait ends.
pub async fn lock_holds(tx: &mut Tx, ids: &[HoldId]) -> Result<HoldsRead> {
    load(tx, include_str!("hold_rows_lock.sql"), ids).await
}

/// A line of a hold; a hold without lines; or, in the only row, no hold at all.
#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Timestamptz)]
    now: DateTime<Utc>,
    #[diesel(sql_type = Nullable<Uuid>)]
    hold_id: Option<HoldId>,
    #[diesel(sql_type = Nullable<Uuid>)]
    user_id: Option<AccountId>,
    #[diesel(sql_type = Nullable<Text>)]
    state: Option<HoldState>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    expires_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Uuid>)]
    pinned_by: Option<PaymentAttemptId>,
    #[diesel(sql_type = Nullable<Bool>)]
    pinned_late: Option<bool>,
    #[diesel(sql_type = Nullable<Array<Uuid>>)]
    unpinned_by: Option<Vec<PaymentAttemptId>>,
    #[diesel(sql_type = Nullable<BigInt>)]
    order_version: Option<i64>,
    #[diesel(sql_type = Nullable<Uuid>)]
    concert_id: Option<ConcertId>,
    #[diesel(sql_type = Nullable<Uuid>)]
    moved_to: Option<HoldId>,
    #[diesel(sql_type = Nullable<Uuid>)]
    product_id: Option<ProductId>,
    #[diesel(sql_type = Nullable<Integer>)]
    quantity: Option<i32>,
    #[diesel(sql_type = Nullable<BigInt>)]
    unit_price: Option<i64>,
    #[diesel(sql_type = Nullable<Text>)]
    currency: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    sku: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    name: Option<String>,
    #[diesel(sql_type = Nullable<Jsonb>)]
    seats: Option<serde_json::Value>,
}

async fn load(conn: &mut AsyncPgConnection, query: &'static str, ids: &[HoldId]) -> Result<HoldsRead> {
    let rows: Vec<Row> = Prepared(sql_query(query).bind::<Array<Uuid>, _>(ids)).load(conn).await?;
    let now =
        rows.iter().map(|row| row.now).max().ok_or_else(|| Error::fault(anyhow::anyhow!("the clock is missing")))?;
    let mut holds = HashMap::new();
    for row in rows {
        let (Some(id), Some(state), Some(expires_at)) = (row.hold_id, row.state, row.expires_at) else { continue };
        let hold = holds.entry(id).or_insert_with(|| Hold {
            id,
            user: row.user_id,
            state,
            expires_at,
            pin: row.pinned_by.map(|attempt| Pin { attempt, late: row.pinned_late == Some(true) }),
            unpinned_by: row.unpinned_by.unwrap_or_default(),
            order_version: row.order_version,
            concert: row.concert_id,
            moved_to: row.moved_to,
            lines: Vec::new(),
        });
        let (Some(product), Some(quantity), Some(unit_price)) = (row.product_id, row.quantity, row.unit_price) else {
            continue;
        };
        hold.lines.push(HoldLine {
            product,
            quantity,
            unit_price,
            currency: row.currency.unwrap_or_default(),
            sku: row.sku.unwrap_or_default(),
            name: row.name.unwrap_or_default(),
            seats: row.seats.map(seats_of).transpose()?.unwrap_or_default(),
        });
    }
    Ok(HoldsRead { now, holds })
}

fn seats_of(stored: serde_json::Value) -> Result<Vec<HeldSeat>> {
    serde_json::from_value(stored).map_err(Error::fault)
}

impl FromSql<Text, Pg> for HoldState {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let name = <String as FromSql<Text, Pg>>::from_sql(value)?;
        name.parse().map_err(|_| format!("unknown state of a hold: {name:?}").into())
    }
}

impl ToSql<Text, Pg> for HoldState {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        <str as ToSql<Text, Pg>>::to_sql(self.name(), out)
    }
}
