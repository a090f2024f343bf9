//! Payments as rows: reading and locking them.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use common::db::Tx;
use common::sql::clock_timestamp;
use common::{Error, Result};
use contract::ids::{AccountId, PaymentId};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::payment::{Payment, Refused};
use crate::schema::payments;

/// The payment, if it is this buyer's. Another buyer's is [`Refused::NotFound`].
pub async fn own(conn: &mut AsyncPgConnection, id: PaymentId, user: AccountId) -> Result<Payment> {
    let query = payments::table.find(id).filter(payments::user_id.eq(user)).select(Payment::as_select());
    Ok(query.get_result(conn).await.optional()?.ok_or(Refused::NotFound)?)
}

pub async fn by_id(conn: &mut AsyncPgConnection, id: PaymentId) -> Result<Option<Payment>> {
    Ok(payments::table.find(id).select(Payment::as_select()).get_result(conn).await.optional()?)
}

/// The payment, locked, and the database's time: not from before any change that was waited for.
pub async fn lock(tx: &mut Tx, id: PaymentId) -> Result<Option<(Payment, DateTime<Utc>)>> {
    let query = payments::table.find(id).select((Payment::as_select(), clock_timestamp())).for_update();
    Ok(query.get_result(tx).await.optional()?)
}

/// Locks the payments among `ids` that exist, in the order of their ids, and reads the database's clock as [`lock`] does.
/// `None` if there are none.
pub async fn lock_all(tx: &mut Tx, ids: &[PaymentId]) -> Result<Option<(DateTime<Utc>, HashMap<PaymentId, Payment>)>> {
    let query = payments::table.filter(payments::id.eq_any(ids)).order(payments::id);
    let rows: Vec<(Payment, DateTime<Utc>)> =
        query.select((Payment::as_select(), clock_timestamp())).for_update().load(tx).await?;
    let Some(now) = rows.iter().map(|(_, now)| *now).max() else { return Ok(None) };
    Ok(Some((now, rows.into_iter().map(|(payment, _)| (payment.id, payment)).collect())))
}

/// Those of `ids` that exist, in no particular order.
pub async fn by_ids(conn: &mut AsyncPgConnection, ids: &[PaymentId]) -> Result<Vec<Payment>> {
    Ok(payments::table.filter(payments::id.eq_any(ids)).select(Payment::as_select()).load(conn).await?)
}

/// [`lock`] for a payment that other rows refer to, so that it must be there.
pub async fn lock_existing(tx: &mut Tx, id: PaymentId) -> Result<(Payment, DateTime<Utc>)> {
    let locked = lock(tx, id).await?;
    locked.ok_or_else(|| Error::fault(anyhow::anyhow!("payment {id} has no row, but others refer to it")))
}

/// The clock of every time in this schema.
pub async fn database_time(conn: &mut AsyncPgConnection) -> Result<DateTime<Utc>> {
    Ok(diesel::select(clock_timestamp()).get_result(conn).await?)
}
