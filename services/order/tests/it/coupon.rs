//! `FakeCoupon`: a coupon service that takes [`DISCOUNT`] off each line, until a test has it refuse.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use common::{Code, Error, Refused};
use contract::coupon::coupon_service_server::CouponService;
use contract::coupon::{
    GetRedemptionRequest, GetRedemptionResponse, LineDiscount, OrderedLine, PinRedemptionRequest,
    PinRedemptionResponse, Redemption, ReleaseRedemptionRequest, ReleaseRedemptionResponse, ReserveRedemptionRequest,
    ReserveRedemptionResponse, UnpinRedemptionRequest, UnpinRedemptionResponse,
};

use tonic::{Request, Response, Status};

/// What the coupon takes off each line.
pub const DISCOUNT: i64 = 300;

/// Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct FakeCoupon(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// By order.
    reserved: HashMap<String, Redemption>,
    refusal: Option<Code>,
}

impl FakeCoupon {
    /// Every request is refused from now on.
    pub fn refuse(&self, code: Code) {
        self.0.lock().unwrap().refusal = Some(code);
    }

    /// What the order has reserved, and until when.
    pub fn reserved(&self, order: &str) -> Option<Redemption> {
        self.0.lock().unwrap().reserved.get(order).cloned()
    }
}

#[tonic::async_trait]
impl CouponService for FakeCoupon {
    async fn reserve_redemption(
        &self,
        request: Request<ReserveRedemptionRequest>,
    ) -> Result<Response<ReserveRedemptionResponse>, Status> {
        let wanted = request.into_inner();
        let mut state = self.0.lock().unwrap();
        if let Some(code) = state.refusal.clone() {
            return Err(Error::from(Refused::new(code, "refused by the test")).into());
        }
        let line = |line: OrderedLine| LineDiscount { product_id: line.product_id, discount: DISCOUNT };
        let redemption = state.reserved.entry(wanted.order_id.clone()).or_insert_with(|| Redemption {
            order_id: wanted.order_id,
            issue_id: wanted.issue_id,
            user_id: wanted.user_id,
            discount: DISCOUNT * wanted.lines.len() as i64,
            currency: wanted.currency,
            lines: wanted.lines.into_iter().map(line).collect(),
            expires_at: wanted.expires_at,
            ..Redemption::default()
        });
        Ok(Response::new(ReserveRedemptionResponse { redemption: Some(redemption.clone()) }))
    }

    async fn pin_redemption(
        &self,
        _: Request<PinRedemptionRequest>,
    ) -> Result<Response<PinRedemptionResponse>, Status> {
        Err(not_called())
    }

    async fn unpin_redemption(
        &self,
        _: Request<UnpinRedemptionRequest>,
    ) -> Result<Response<UnpinRedemptionResponse>, Status> {
        Err(not_called())
    }

    async fn release_redemption(
        &self,
        _: Request<ReleaseRedemptionRequest>,
    ) -> Result<Response<ReleaseRedemptionResponse>, Status> {
        Err(not_called())
    }

    async fn get_redemption(
        &self,
        _: Request<GetRedemptionRequest>,
    ) -> Result<Response<GetRedemptionResponse>, Status> {
        Err(not_called())
    }
}

fn not_called() -> Status {
    Status::unimplemented("the order service does not call this")
}
