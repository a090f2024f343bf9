//! Points: money that an account keeps with the shop, and a provider like any other that payments can be made with.
//!
//! A double-entry ledger in this service's schema says where every point is. Paying is two-phase: approving a payment
//! moves its points into escrow, the placed order (`ORDER_PLACED`) sells for them, and a refund gives them back from
//! wherever they are. Balances of users are rows; those of the shop's own accounts are only the sums of their entries,
//! because a row for each would be locked by every payment there is.
//!
//! Locks are taken in one order: the row of `payment_attempt`, the row of `point` of the one user concerned, then rows of
//! `point_holds` by payment id.

use common::Result;
use common::db::{Db, Tx};
use common::http::ServiceConfig;
use contract::ids::PaymentId;
use serde::Deserialize;

pub use confirm_points::confirm_points;

mod books;
mod charge_points;
mod confirm_points;
mod ledger;
mod pay_with_points;
mod read_points;
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

/// Whether points were taken for a payment and are not all given back. Waits for whoever is taking them right now, if the
/// payment's attempt has just been ended in this transaction.
pub async fn has_taken(tx: &mut Tx, payment: PaymentId) -> Result<bool> {
    Ok(books::read_hold(tx, payment).await?.is_some_and(|hold| hold.left() > 0))
}

/// What can be asked of points over HTTP. Needs [`Points`] among the data of the application.
pub fn routes(config: &mut ServiceConfig<'_>) {
    config.service(charge_points::charge_points).service(read_points::read_points).service(read_points::list_entries);
}
