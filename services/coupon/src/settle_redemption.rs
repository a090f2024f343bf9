//! `ReserveRedemption`, `PinRedemption`, `UnpinRedemption`, `ReleaseRedemption`: one transaction for everybody who is
//! waiting.

use std::collections::BTreeSet;
use std::sync::Arc;

use common::batch::{Batch, BatchSettings};
use common::db::{Db, Tx};
use common::{Error, Result, outbox};
use contract::ids::{CouponIssueId, OrderId};

use crate::App;
use crate::plan::{Asked, Plan, Request};
use crate::redemption::Redemption;
use crate::redemption_rows::{RedemptionAppeared, lock_facts, write};
use crate::refused::Refused;

/// How often a batch is tried when redemptions appear between the look at the rows and their locks.
const ATTEMPTS_MAX: u32 = 3;

/// Reserves, or takes a step. Returns the redemption after it.
///
/// Idempotent. Refuses as the contract says.
pub async fn settle_redemption(app: &App, order: OrderId, asked: Asked) -> Result<Redemption> {
    app.redemptions.submit(Request { order, asked }).await
}

/// Starts the queue of [`settle_redemption`].
pub fn start_batch(settings: &BatchSettings, db: &Db) -> Batch<Request, Redemption> {
    let db = db.clone();
    Batch::start("settle_redemption", settings, move |requests| {
        let db = db.clone();
        async move { settle_batch(&db, requests).await }
    })
}

/// Serves one batch. Idempotent.
async fn settle_batch(db: &Db, requests: Arc<[Request]>) -> Result<Vec<Result<Redemption>>> {
    let mut attempt = 1;
    let requests = &requests;
    loop {
        match db.tx("settle_redemption", async |tx| settle(tx, requests).await).await {
            Err(error) if attempt < ATTEMPTS_MAX && has_appeared(&error) => attempt += 1,
            Err(error) => return Err(error),
            Ok(outcomes) => return Ok(outcomes.into_iter().map(|outcome| outcome.map_err(Error::from)).collect()),
        }
    }
}

fn has_appeared(error: &Error) -> bool {
    matches!(error, Error::Fault(fault) if fault.cause.is::<RedemptionAppeared>())
}

/// Does what `requests` ask for in the caller's transaction.
pub async fn settle(tx: &mut Tx, requests: &[Request]) -> Result<Vec<Result<Redemption, Refused>>> {
    let orders: BTreeSet<OrderId> = requests.iter().map(|request| request.order).collect();
    let issues: BTreeSet<CouponIssueId> = requests.iter().filter_map(issue_of).collect();
    let (facts, now) = lock_facts(tx, &Vec::from_iter(orders), issues).await?;
    tx.point("redemption.after_lock").await;
    let plan = Plan::new(requests, facts, now);
    write(tx, &plan, now).await?;
    outbox::publish_all(tx, &plan.redeemed).await?;
    outbox::publish_all(tx, &plan.restored).await?;
    let Plan { outcomes, effects, .. } = plan;
    tx.after_commit(move || {
        for effect in effects {
            metrics::counter!("stampede_coupon_redemptions_total", "outcome" => effect).increment(1);
        }
    });
    Ok(outcomes)
}

/// What a reservation wants; a step finds its issue by its redemption.
fn issue_of(request: &Request) -> Option<CouponIssueId> {
    match &request.asked {
        Asked::Reserve(wanted) => Some(wanted.issue),
        Asked::Step(_) => None,
    }
}
