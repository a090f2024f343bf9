//! Gates that are older than their coupons: whoever changed the coupon has died, or could not load its gate. Nobody else knows
//! of the change, and would refuse by the old gate.

use std::collections::HashMap;
use std::sync::Arc;

use common::Result;
use common::redis::cmd;
use contract::ids::CouponId;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use crate::App;
use crate::load_gate::load_later;
use crate::schema::coupons;

/// Has the gates loaded anew that are older than PostgreSQL says. Any number of replicas may run it.
///
/// A gate that is being loaded is older too, until it is published: then the load finds that it is busy.
pub async fn load_old_gates(app: &Arc<App>) -> Result<()> {
    // Without Redis there are no gates.
    let Ok(loaded) = app.gate.loaded().await else { return Ok(()) };
    let epochs = coupons::table.filter(coupons::id.eq_any(&loaded)).select((coupons::id, coupons::epoch));
    let epochs: Vec<(CouponId, i64)> = epochs.load(&mut *app.db.read().await?).await?;
    let epochs: HashMap<CouponId, i64> = epochs.into_iter().collect();
    for coupon in loaded {
        let [meta, ..] = app.gate.keys(coupon);
        let Ok(gate) = app.gate.redis.command::<Option<i64>>(cmd("HGET").arg(meta).arg("epoch")).await else { break };
        if gate.zip(epochs.get(&coupon).copied()).is_some_and(|(gate, coupon)| gate < coupon) {
            tracing::info!(coupon.id = %coupon, "The gate of coupon {coupon} is older than the coupon; it is loaded");
            load_later(app, coupon);
        }
    }
    Ok(())
}
