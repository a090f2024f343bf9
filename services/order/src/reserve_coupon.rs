//! The coupon of an order that is being placed: the coupon service reserves it and says what each line costs less.

use std::time::Duration;

use anyhow::Context as _;
use common::{Error, Result, rpc};
use contract::coupon::{OrderedLine, Redemption, ReserveRedemptionRequest};
use contract::ids::{CouponIssueId, OrderId};
use contract::inventory::{Hold, ReleaseHoldRequest};

use crate::App;
use crate::draft::Intent;

/// The coupon service answers within one or two of its batches. No answer after this time means that it is down.
const RESERVE_DEADLINE: Duration = Duration::from_secs(2);

/// Reserves `issue` for the order until its hold expires. Idempotent by the order's id.
///
/// A refusal is final for this id: whoever asks again is refused too, whatever becomes of the coupon.
pub async fn reserve_coupon(app: &App, intent: &Intent, hold: &Hold, issue: CouponIssueId) -> Result<Redemption> {
    let line = |line: &contract::inventory::HoldLine| OrderedLine {
        product_id: line.product_id.clone(),
        quantity: line.quantity,
        unit_price: line.unit_price,
    };
    let wanted = ReserveRedemptionRequest {
        order_id: intent.order_id.to_string(),
        issue_id: issue.to_string(),
        user_id: intent.user_id.to_string(),
        currency: hold.lines.first().map(|line| line.currency.clone()).unwrap_or_default(),
        lines: hold.lines.iter().map(line).collect(),
        expires_at: hold.expires_at,
    };
    let response = rpc::retrying(|| {
        let mut request = tonic::Request::new(wanted.clone());
        request.set_timeout(RESERVE_DEADLINE);
        let mut coupon = app.coupon.clone();
        async move { coupon.reserve_redemption(request).await }
    })
    .await?;
    response.redemption.context("coupon answered without a redemption").map_err(Error::from)
}

/// The units go back on sale. If this fails, the hold expires by itself.
pub async fn release_hold(app: &App, order_id: OrderId) {
    let release = ReleaseHoldRequest { hold_id: order_id.to_string(), reason: "the coupon cannot be used".to_owned() };
    if let Err(error) = app.inventory.clone().release_hold(release).await {
        tracing::warn!(
            orderId = %order_id, %error,
            "The hold of {order_id} could not be released after its coupon was refused; it expires by itself"
        );
    }
}
