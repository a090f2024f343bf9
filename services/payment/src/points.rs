//! Points: money that an account keeps with the shop, and one of the providers that payments can be made with.
//!
//! A double-entry ledger in this service's schema says where every point is. Paying has two phases: approving a payment
//! moves its points into escrow, and the placed order (`ORDER_PLACED`) turns them into sales. A refund returns them from
//! wherever they are. Balances of users are rows. Those of the shop's own accounts are the sums of their entries: a row for
//! each would be locked by every payment.
//!
//! Locks are taken in one order: the row of `payment_attempt`, the row of `point` of the user, then rows of `point_holds`
//! by payment id.

use common::Result;
use common::db::{Db, Tx};
use common::http::ServiceConfig;
use contract::ids::{PaymentAttemptId, PaymentId};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::Deserialize;

pub use confirm_points::confirm_points;

use crate::schema::{payment_attempt, point_holds};

mod charge_points;
mod confirm_points;
mod ledger; // rules
mod pay_with_points;
mod read_points;
mod rows;
#[cfg(test)]
mod tests;

/// Section `[payment.points]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub charge_max: i64,
}

/// The points of everybody. Cheap to clone.
#[derive(Clone)]
pub struct Points {
    db: Db,
    charge_max: i64,
}

impl Points {
    /// `db` is this service's.
    pub fn new(db: &Db, settings: &Settings) -> Points {
        Points { db: db.clone(), charge_max: settings.charge_max }
    }
}

/// Those of the payments whose points are held and not refunded in full. Each comes with the attempt that is said to have
/// failed: its row is locked first, so a transaction that is taking points in the name of the attempt is waited for.
pub async fn payments_with_points(tx: &mut Tx, failed: &[(PaymentId, PaymentAttemptId)]) -> Result<Vec<PaymentId>> {
    let (payments, attempts): (Vec<PaymentId>, Vec<PaymentAttemptId>) = failed.iter().copied().unzip();
    let ended = payment_attempt::table.filter(payment_attempt::id.eq_any(attempts)).order(payment_attempt::id);
    ended.select(payment_attempt::id).for_update().load::<PaymentAttemptId>(tx).await?;
    let held = point_holds::table
        .filter(point_holds::payment_id.eq_any(payments))
        .filter(point_holds::given_back.lt(point_holds::amount));
    Ok(held.select(point_holds::payment_id).load(tx).await?)
}

/// The routes of points. They need [`Points`] among the data of the application.
pub fn routes(config: &mut ServiceConfig<'_>) {
    config.service(charge_points::charge_points).service(read_points::read_points).service(read_points::list_entries);
}
