//! The gRPC interface: each method checks its request and calls one flow.

use std::str::FromStr;
use std::sync::Arc;

use chrono::{DateTime, SubsecRound, Utc};
use common::page::is_storable;
use common::{Refused, Result};
use contract::coupon::coupon_service_server::CouponService;
use contract::coupon::{
    GetRedemptionRequest, GetRedemptionResponse, LineDiscount as LineMessage, OrderedLine, PinRedemptionRequest,
    PinRedemptionResponse, Redemption as RedemptionMessage, RedemptionState as StateMessage, ReleaseRedemptionRequest,
    ReleaseRedemptionResponse, ReserveRedemptionRequest, ReserveRedemptionResponse, UnpinRedemptionRequest,
    UnpinRedemptionResponse,
};
use contract::ids::{OrderId, PaymentAttemptId};
use tonic::{Request, Response, Status};

use crate::App;
use crate::discount::{Line, LineDiscount};
use crate::plan::{Asked, Wanted};
use crate::redemption::{Redemption, RedemptionState, Step};
use crate::redemption_rows::{Found, read_redemptions};
use crate::refused;
use crate::settle_redemption::settle_redemption;

/// Reasons are for people.
const REASON_CHARS_MAX: usize = 200;
/// As many as an order may have, and more.
const LINES_MAX: usize = 1000;

/// Serves the contract on the flows of [`App`].
pub struct Rpc(pub Arc<App>);

#[tonic::async_trait]
impl CouponService for Rpc {
    async fn reserve_redemption(
        &self,
        request: Request<ReserveRedemptionRequest>,
    ) -> Result<Response<ReserveRedemptionResponse>, Status> {
        let request = request.into_inner();
        let (order, wanted) = (order_of(&request.order_id)?, wanted(request)?);
        tracing::Span::current().record("orderId", tracing::field::display(order));
        let redemption = settle_redemption(&self.0, order, Asked::Reserve(wanted)).await?;
        Ok(Response::new(ReserveRedemptionResponse { redemption: Some(message(redemption, None)) }))
    }

    async fn pin_redemption(
        &self,
        request: Request<PinRedemptionRequest>,
    ) -> Result<Response<PinRedemptionResponse>, Status> {
        let PinRedemptionRequest { order_id, attempt_id, retake } = request.into_inner();
        let step = Step::Pin { attempt: attempt_of(&attempt_id)?, retake };
        let redemption = settle_redemption(&self.0, order_of(&order_id)?, Asked::Step(step)).await?;
        Ok(Response::new(PinRedemptionResponse { redemption: Some(message(redemption, None)) }))
    }

    async fn unpin_redemption(
        &self,
        request: Request<UnpinRedemptionRequest>,
    ) -> Result<Response<UnpinRedemptionResponse>, Status> {
        let UnpinRedemptionRequest { order_id, attempt_id } = request.into_inner();
        let lives_min = chrono::Duration::seconds(self.0.settings.unpin_seconds_min.into());
        let step = Step::Unpin { attempt: attempt_of(&attempt_id)?, lives_min };
        let redemption = settle_redemption(&self.0, order_of(&order_id)?, Asked::Step(step)).await?;
        Ok(Response::new(UnpinRedemptionResponse { redemption: Some(message(redemption, None)) }))
    }

    async fn release_redemption(
        &self,
        request: Request<ReleaseRedemptionRequest>,
    ) -> Result<Response<ReleaseRedemptionResponse>, Status> {
        let ReleaseRedemptionRequest { order_id, reason } = request.into_inner();
        let step = Step::Release { reason: reason_of(reason)?, order_version: None };
        let redemption = settle_redemption(&self.0, order_of(&order_id)?, Asked::Step(step)).await?;
        Ok(Response::new(ReleaseRedemptionResponse { redemption: Some(message(redemption, None)) }))
    }

    async fn get_redemption(
        &self,
        request: Request<GetRedemptionRequest>,
    ) -> Result<Response<GetRedemptionResponse>, Status> {
        let order = order_of(&request.into_inner().order_id)?;
        let redemption = get_redemption(&self.0, order).await?;
        Ok(Response::new(GetRedemptionResponse { redemption: Some(redemption) }))
    }
}

/// As readers see it now. Refuses with `REDEMPTION_NOT_FOUND`.
async fn get_redemption(app: &App, order: OrderId) -> Result<RedemptionMessage> {
    let found = read_redemptions(&mut *app.db.read().await?, &[order], &[]).await?.pop();
    let Found { redemption, now, .. } = found.ok_or(refused::Refused::RedemptionNotFound(order))?;
    Ok(message(redemption, Some(now)))
}

fn wanted(request: ReserveRedemptionRequest) -> Result<Wanted> {
    let ReserveRedemptionRequest { issue_id, user_id, currency, lines, expires_at, .. } = request;
    let expires_at = expires_at.and_then(|at| DateTime::<Utc>::try_from(at).ok()).filter(is_storable);
    Ok(Wanted {
        issue: parse("issue_id", &issue_id)?,
        user: parse("user_id", &user_id)?,
        currency,
        lines: lines_of(&lines)?,
        // As PostgreSQL stores it, so that a repeat is answered alike.
        expires_at: expires_at.ok_or_else(|| Refused::invalid("expires_at", "must be a time"))?.trunc_subsecs(6),
    })
}

fn lines_of(lines: &[OrderedLine]) -> Result<Vec<Line>> {
    if lines.is_empty() || lines.len() > LINES_MAX {
        return Err(Refused::invalid("lines", format!("must be 1 to {LINES_MAX} lines")).into());
    }
    let (mut sum, mut checked) = (0_i64, Vec::with_capacity(lines.len()));
    for (index, line) in lines.iter().enumerate() {
        let product = parse(&format!("lines[{index}].product_id"), &line.product_id)?;
        let invalid = || Refused::invalid(&format!("lines[{index}]"), "has no amount that an order can have");
        if line.quantity < 1 || line.unit_price < 0 {
            return Err(invalid().into());
        }
        let amount = line.unit_price.checked_mul(line.quantity.into()).ok_or_else(invalid)?;
        sum = sum.checked_add(amount).ok_or_else(invalid)?;
        checked.push(Line { product, amount });
    }
    Ok(checked)
}

fn order_of(text: &str) -> Result<OrderId> {
    parse("order_id", text)
}

fn attempt_of(text: &str) -> Result<PaymentAttemptId> {
    parse("attempt_id", text)
}

fn parse<T: FromStr<Err: ToString>>(field: &str, text: &str) -> Result<T> {
    text.parse().map_err(|error: T::Err| Refused::invalid(field, error.to_string()).into())
}

fn reason_of(text: String) -> Result<String> {
    let valid = text.chars().count() <= REASON_CHARS_MAX && !text.chars().any(char::is_control);
    if !valid {
        let rule = format!("must be at most {REASON_CHARS_MAX} characters long, none of them a control character");
        return Err(Refused::invalid("reason", rule).into());
    }
    Ok(text)
}

/// The redemption as other services see it; at `now`, if it was only read.
fn message(redemption: Redemption, now: Option<DateTime<Utc>>) -> RedemptionMessage {
    let state = match now.map_or(redemption.state, |now| redemption.state_at(now)) {
        RedemptionState::Reserved => StateMessage::Reserved,
        RedemptionState::Pinned => StateMessage::Pinned,
        RedemptionState::Confirmed => StateMessage::Confirmed,
        RedemptionState::Released => StateMessage::Released,
        RedemptionState::Expired => StateMessage::Expired,
        RedemptionState::Restored => StateMessage::Restored,
    };
    let line = |line: LineDiscount| LineMessage { product_id: line.product.to_string(), discount: line.discount };
    let base = RedemptionMessage {
        order_id: redemption.order.to_string(),
        state: state.into(),
        expires_at: Some(redemption.expires_at.into()),
        attempt_id: redemption.pin.map(|pin| pin.attempt.to_string()).unwrap_or_default(),
        ..RedemptionMessage::default()
    };
    let Some(claim) = redemption.claim else { return base };
    RedemptionMessage {
        issue_id: claim.issue.to_string(),
        coupon_id: claim.coupon.to_string(),
        user_id: claim.user.to_string(),
        discount: claim.discount,
        currency: claim.currency,
        lines: claim.lines.into_iter().map(line).collect(),
        ..base
    }
}
