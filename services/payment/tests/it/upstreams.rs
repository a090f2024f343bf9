//! Order, inventory and coupon, played by the test: they remember every call, and a test can have them refuse or wait.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{TimeDelta, Utc};
use common::{Code, Error, Refused};
use contract::codes::ORDER_NOT_PAYABLE;
use contract::coupon::coupon_service_server::CouponService;
use contract::coupon::{
    GetRedemptionRequest, GetRedemptionResponse, PinRedemptionRequest, PinRedemptionResponse, ReleaseRedemptionRequest,
    ReleaseRedemptionResponse, ReserveRedemptionRequest, ReserveRedemptionResponse, UnpinRedemptionRequest,
    UnpinRedemptionResponse,
};
use contract::inventory::inventory_service_server::InventoryService;
use contract::inventory::{
    ConfirmHoldRequest, ConfirmHoldResponse, GetHoldRequest, GetHoldResponse, HoldRequest, HoldResponse,
    PinHoldRequest, PinHoldResponse, ReleaseHoldRequest, ReleaseHoldResponse, ReturnStockRequest, ReturnStockResponse,
    UnpinHoldRequest, UnpinHoldResponse,
};
use contract::order::order_service_server::OrderService;
use contract::order::{
    BeginApprovalRequest, BeginApprovalResponse, BeginPaymentRequest, BeginPaymentResponse, EndApprovalRequest,
    EndApprovalResponse, GetOrderRequest, GetOrderResponse, MarkPaidRequest, MarkPaidResponse, Order,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

/// Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct Upstreams(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Orders that are not here are `PENDING_PAYMENT`.
    orders: HashMap<String, Order>,
    /// Method and order of every call, in order of arrival.
    calls: Vec<(&'static str, String)>,
    refusals: HashMap<&'static str, Code>,
    waits: HashMap<&'static str, (oneshot::Sender<()>, oneshot::Receiver<()>)>,
}

/// A call that waits, or will wait.
pub struct Wait {
    reached: oneshot::Receiver<()>,
    resume: oneshot::Sender<()>,
}

impl Wait {
    /// Returns when the call waits.
    pub async fn reached(&mut self) {
        (&mut self.reached).await.unwrap();
    }

    pub fn resume(self) {
        self.resume.send(()).unwrap();
    }
}

impl Upstreams {
    /// The order has this status from now on.
    pub fn set(&self, order: &str, status: &str) {
        self.0.lock().order(order).status = status.to_owned();
    }

    /// The order is paid by `payment`.
    pub fn set_paid(&self, order: &str, payment: &str, amount: i64) {
        let mut state = self.0.lock();
        let order = state.order(order);
        (order.status, order.paid_payment_id, order.amount) = ("PAID".to_owned(), payment.to_owned(), amount);
    }

    /// The order uses a coupon.
    pub fn set_coupon(&self, order: &str) {
        self.0.lock().order(order).coupon_issue_id = uuid::Uuid::now_v7().to_string();
    }

    pub fn status(&self, order: &str) -> String {
        self.0.lock().order(order).status.clone()
    }

    /// Every call of `method` is refused with `code` from now on.
    pub fn refuse(&self, method: &'static str, code: Code) {
        self.0.lock().refusals.insert(method, code);
    }

    /// The next call of `method` waits.
    pub fn wait(&self, method: &'static str) -> Wait {
        let (reached, on_reached) = oneshot::channel();
        let (resume, on_resume) = oneshot::channel();
        self.0.lock().waits.insert(method, (reached, on_resume));
        Wait { reached: on_reached, resume }
    }

    /// The methods that were called for an order, in order of arrival.
    pub fn calls(&self, order: &str) -> Vec<&'static str> {
        let state = self.0.lock();
        state.calls.iter().filter(|(_, of)| of == order).map(|(method, _)| *method).collect()
    }

    async fn enter(&self, method: &'static str, order: &str) -> Result<(), Status> {
        let wait = {
            let mut state = self.0.lock();
            state.calls.push((method, order.to_owned()));
            state.waits.remove(method)
        };
        if let Some((reached, resume)) = wait {
            reached.send(()).unwrap();
            resume.await.unwrap();
        }
        match self.0.lock().refusals.get(method) {
            Some(code) => Err(refusal(code.clone())),
            None => Ok(()),
        }
    }

    /// Answers with the order if it can still be paid.
    fn payable(&self, order: &str) -> Result<Option<Order>, Status> {
        let order = self.0.lock().order(order).clone();
        if order.status == "PENDING_PAYMENT" { Ok(Some(order)) } else { Err(refusal(ORDER_NOT_PAYABLE)) }
    }
}

impl State {
    fn order(&mut self, id: &str) -> &mut Order {
        self.orders.entry(id.to_owned()).or_insert_with(|| Order {
            order_id: id.to_owned(),
            status: "PENDING_PAYMENT".to_owned(),
            currency: "KRW".to_owned(),
            hold_expires_at: Some((Utc::now() + TimeDelta::minutes(10)).into()),
            ..Order::default()
        })
    }
}

fn refusal(code: Code) -> Status {
    Error::from(Refused::new(code, "refused by the test")).into()
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl OrderService for Upstreams {
    async fn get_order(&self, request: Request<GetOrderRequest>) -> Answer<GetOrderResponse> {
        let id = request.into_inner().order_id;
        self.enter("GetOrder", &id).await?;
        let order = Some(self.0.lock().order(&id).clone());
        Ok(Response::new(GetOrderResponse { order }))
    }

    async fn begin_payment(&self, request: Request<BeginPaymentRequest>) -> Answer<BeginPaymentResponse> {
        let id = request.into_inner().order_id;
        self.enter("BeginPayment", &id).await?;
        Ok(Response::new(BeginPaymentResponse { order: self.payable(&id)? }))
    }

    async fn begin_approval(&self, request: Request<BeginApprovalRequest>) -> Answer<BeginApprovalResponse> {
        let id = request.into_inner().order_id;
        self.enter("BeginApproval", &id).await?;
        Ok(Response::new(BeginApprovalResponse { order: self.payable(&id)? }))
    }

    async fn end_approval(&self, request: Request<EndApprovalRequest>) -> Answer<EndApprovalResponse> {
        let id = request.into_inner().order_id;
        self.enter("EndApproval", &id).await?;
        let order = Some(self.0.lock().order(&id).clone());
        Ok(Response::new(EndApprovalResponse { order }))
    }

    async fn mark_paid(&self, request: Request<MarkPaidRequest>) -> Answer<MarkPaidResponse> {
        let MarkPaidRequest { order_id, payment_id, amount, late, .. } = request.into_inner();
        self.enter("MarkPaid", &order_id).await?;
        let mut state = self.0.lock();
        let order = state.order(&order_id);
        match order.status.as_str() {
            "PAID" if order.paid_payment_id == payment_id => {}
            "PENDING_PAYMENT" => {
                (order.status, order.paid_payment_id, order.amount) = ("PAID".to_owned(), payment_id, amount);
            }
            "EXPIRED" if late => {
                (order.status, order.paid_payment_id, order.amount) = ("PAID".to_owned(), payment_id, amount);
            }
            _ => return Err(refusal(ORDER_NOT_PAYABLE)),
        }
        Ok(Response::new(MarkPaidResponse { order: Some(order.clone()) }))
    }
}

#[tonic::async_trait]
impl InventoryService for Upstreams {
    async fn pin_hold(&self, request: Request<PinHoldRequest>) -> Answer<PinHoldResponse> {
        self.enter("PinHold", &request.into_inner().hold_id).await?;
        Ok(Response::new(PinHoldResponse::default()))
    }

    async fn unpin_hold(&self, request: Request<UnpinHoldRequest>) -> Answer<UnpinHoldResponse> {
        self.enter("UnpinHold", &request.into_inner().hold_id).await?;
        Ok(Response::new(UnpinHoldResponse::default()))
    }

    async fn hold(&self, _: Request<HoldRequest>) -> Answer<HoldResponse> {
        Err(not_called())
    }

    async fn release_hold(&self, _: Request<ReleaseHoldRequest>) -> Answer<ReleaseHoldResponse> {
        Err(not_called())
    }

    async fn confirm_hold(&self, _: Request<ConfirmHoldRequest>) -> Answer<ConfirmHoldResponse> {
        Err(not_called())
    }

    async fn return_stock(&self, _: Request<ReturnStockRequest>) -> Answer<ReturnStockResponse> {
        Err(not_called())
    }

    async fn get_hold(&self, _: Request<GetHoldRequest>) -> Answer<GetHoldResponse> {
        Err(not_called())
    }
}

#[tonic::async_trait]
impl CouponService for Upstreams {
    async fn pin_redemption(&self, request: Request<PinRedemptionRequest>) -> Answer<PinRedemptionResponse> {
        self.enter("PinRedemption", &request.into_inner().order_id).await?;
        Ok(Response::new(PinRedemptionResponse::default()))
    }

    async fn unpin_redemption(&self, request: Request<UnpinRedemptionRequest>) -> Answer<UnpinRedemptionResponse> {
        self.enter("UnpinRedemption", &request.into_inner().order_id).await?;
        Ok(Response::new(UnpinRedemptionResponse::default()))
    }

    async fn reserve_redemption(&self, _: Request<ReserveRedemptionRequest>) -> Answer<ReserveRedemptionResponse> {
        Err(not_called())
    }

    async fn release_redemption(&self, _: Request<ReleaseRedemptionRequest>) -> Answer<ReleaseRedemptionResponse> {
        Err(not_called())
    }

    async fn get_redemption(&self, _: Request<GetRedemptionRequest>) -> Answer<GetRedemptionResponse> {
        Err(not_called())
    }
}

fn not_called() -> Status {
    Status::unimplemented("payment does not call it")
}
