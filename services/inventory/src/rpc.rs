//! The gRPC interface: each method checks its request and calls one flow.

use std::str::FromStr;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use common::{Refused, Result};
use contract::ids::{HoldId, PaymentAttemptId};
use contract::inventory::inventory_service_server::InventoryService;
use contract::inventory::{
    ConfirmHoldRequest, ConfirmHoldResponse, GetHoldRequest, GetHoldResponse, HeldSeat as SeatMessage,
    Hold as HoldMessage, HoldLine as LineMessage, HoldRequest, HoldResponse, HoldState as StateMessage, PinHoldRequest,
    PinHoldResponse, ReleaseHoldRequest, ReleaseHoldResponse, ReturnStockRequest, ReturnStockResponse,
    UnpinHoldRequest, UnpinHoldResponse,
};
use tonic::{Request, Response, Status};

use crate::App;
use crate::hold::{HeldSeat, Hold, HoldState, Step};
use crate::hold_stock::hold_stock;
use crate::read_holds::get_hold;
use crate::settle_hold::settle_hold;
use crate::wanted::{Wanted, WantedLine, What};

/// Reasons are shown in lists.
const REASON_CHARS_MAX: usize = 200;

/// Serves the contract on the flows of [`App`].
pub struct Rpc(pub Arc<App>);

#[tonic::async_trait]
impl InventoryService for Rpc {
    async fn hold(&self, request: Request<HoldRequest>) -> Result<Response<HoldResponse>, Status> {
        let wanted = self.wanted(request.into_inner())?;
        tracing::Span::current().record("orderId", tracing::field::display(wanted.hold));
        let held = hold_stock(&self.0, wanted).await?;
        Ok(Response::new(HoldResponse { hold: Some(message(held.hold, None)), created: held.created }))
    }

    async fn pin_hold(&self, request: Request<PinHoldRequest>) -> Result<Response<PinHoldResponse>, Status> {
        let PinHoldRequest { hold_id, attempt_id, retake } = request.into_inner();
        let step = Step::Pin { attempt: attempt_of(&attempt_id)?, retake };
        let hold = settle_hold(&self.0, hold_of(&hold_id)?, step).await?;
        Ok(Response::new(PinHoldResponse { hold: Some(message(hold, None)) }))
    }

    async fn unpin_hold(&self, request: Request<UnpinHoldRequest>) -> Result<Response<UnpinHoldResponse>, Status> {
        let UnpinHoldRequest { hold_id, attempt_id } = request.into_inner();
        let step = Step::Unpin { attempt: attempt_of(&attempt_id)?, lives_min: self.0.unpinned_lives_min };
        let hold = settle_hold(&self.0, hold_of(&hold_id)?, step).await?;
        Ok(Response::new(UnpinHoldResponse { hold: Some(message(hold, None)) }))
    }

    async fn release_hold(
        &self,
        request: Request<ReleaseHoldRequest>,
    ) -> Result<Response<ReleaseHoldResponse>, Status> {
        let ReleaseHoldRequest { hold_id, reason } = request.into_inner();
        let step = Step::Release { reason: reason_of(reason)?, order_version: None };
        let hold = settle_hold(&self.0, hold_of(&hold_id)?, step).await?;
        Ok(Response::new(ReleaseHoldResponse { hold: Some(message(hold, None)) }))
    }

    async fn confirm_hold(
        &self,
        request: Request<ConfirmHoldRequest>,
    ) -> Result<Response<ConfirmHoldResponse>, Status> {
        let ConfirmHoldRequest { hold_id, order_version } = request.into_inner();
        let hold = settle_hold(&self.0, hold_of(&hold_id)?, Step::Confirm { order_version }).await?;
        Ok(Response::new(ConfirmHoldResponse { hold: Some(message(hold, None)) }))
    }

    async fn return_stock(
        &self,
        request: Request<ReturnStockRequest>,
    ) -> Result<Response<ReturnStockResponse>, Status> {
        let ReturnStockRequest { hold_id, reason } = request.into_inner();
        let step = Step::Return { reason: reason_of(reason)? };
        let hold = settle_hold(&self.0, hold_of(&hold_id)?, step).await?;
        Ok(Response::new(ReturnStockResponse { hold: Some(message(hold, None)) }))
    }

    async fn get_hold(&self, request: Request<GetHoldRequest>) -> Result<Response<GetHoldResponse>, Status> {
        let (hold, now) = get_hold(&self.0, hold_of(&request.into_inner().hold_id)?).await?;
        Ok(Response::new(GetHoldResponse { hold: Some(message(hold, Some(now))) }))
    }
}

impl Rpc {
    fn wanted(&self, request: HoldRequest) -> Result<Wanted> {
        let (hold, user) = (hold_of(&request.hold_id)?, parse("user_id", &request.user_id)?);
        if !request.reservation_id.is_empty() {
            if !request.lines.is_empty() {
                return Err(Refused::invalid("lines", "must be empty where reservation_id is given").into());
            }
            let reservation = parse("reservation_id", &request.reservation_id)?;
            return Ok(Wanted { hold, user, what: What::Reserved(reservation) });
        }
        let lines = request.lines.iter().enumerate().map(|(index, line)| {
            let product = parse(&format!("lines[{index}].product_id"), &line.product_id)?;
            Ok(WantedLine { product, quantity: line.quantity })
        });
        let lines = lines.collect::<Result<Vec<_>>>()?;
        Ok(Wanted::new(hold, user, lines, self.0.hold_lines_max, self.0.hold_quantity_max)?)
    }
}

fn hold_of(text: &str) -> Result<HoldId> {
    parse("hold_id", text)
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

/// The hold as other services see it; at `now`, if it was only read.
fn message(hold: Hold, now: Option<DateTime<Utc>>) -> HoldMessage {
    let state = match now.map_or(hold.state, |now| hold.state_at(now)) {
        HoldState::Held => StateMessage::Held,
        HoldState::Pinned => StateMessage::Pinned,
        HoldState::Confirmed => StateMessage::Confirmed,
        HoldState::Released => StateMessage::Released,
        HoldState::Expired => StateMessage::Expired,
        HoldState::Returned => StateMessage::Returned,
    };
    let seat = |seat: HeldSeat| SeatMessage { seat_id: seat.seat_id.to_string(), label: seat.label };
    let lines = hold.lines.into_iter().map(|line| LineMessage {
        product_id: line.product.to_string(),
        quantity: line.quantity,
        unit_price: line.unit_price,
        currency: line.currency,
        name: line.name,
        sku: line.sku,
        seats: line.seats.into_iter().map(seat).collect(),
    });
    HoldMessage {
        hold_id: hold.id.to_string(),
        user_id: hold.user.map(|user| user.to_string()).unwrap_or_default(),
        state: state.into(),
        lines: lines.collect(),
        expires_at: Some(hold.expires_at.into()),
        attempt_id: hold.pin.map(|pin| pin.attempt.to_string()).unwrap_or_default(),
    }
}
