//! A fake of order: orders have the owner and the status that the test gives them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use common::{Error, Refused};
use contract::codes::ORDER_NOT_FOUND;
use contract::order::order_service_server::OrderService;
use contract::order::{
    BeginApprovalRequest, BeginApprovalResponse, BeginPaymentRequest, BeginPaymentResponse, EndApprovalRequest,
    EndApprovalResponse, GetOrderRequest, GetOrderResponse, MarkPaidRequest, MarkPaidResponse, Order,
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

#[derive(Clone, Default)]
pub struct FakeOrder {
    orders: Arc<Mutex<HashMap<String, Order>>>,
    is_away: Arc<AtomicBool>,
}

impl FakeOrder {
    /// A new order of `user`.
    pub fn add(&self, user: Uuid, status: &str) -> Uuid {
        let id = Uuid::now_v7();
        let order = Order {
            order_id: id.to_string(),
            user_id: user.to_string(),
            status: status.to_owned(),
            version: 3,
            ..Order::default()
        };
        self.orders.lock().unwrap().insert(id.to_string(), order);
        id
    }

    /// From now on nobody is answered.
    pub fn go_away(&self) {
        self.is_away.store(true, Ordering::SeqCst);
    }
}

#[tonic::async_trait]
impl OrderService for FakeOrder {
    async fn get_order(&self, request: Request<GetOrderRequest>) -> Result<Response<GetOrderResponse>, Status> {
        if self.is_away.load(Ordering::SeqCst) {
            return Err(Status::unavailable("away"));
        }
        let order = self.orders.lock().unwrap().get(&request.get_ref().order_id).cloned();
        let order = order.ok_or_else(|| Error::from(Refused::new(ORDER_NOT_FOUND, "There is no such order.")))?;
        Ok(Response::new(GetOrderResponse { order: Some(order) }))
    }

    async fn begin_payment(&self, _: Request<BeginPaymentRequest>) -> Result<Response<BeginPaymentResponse>, Status> {
        Err(Status::unimplemented("the hub changes no order"))
    }

    async fn begin_approval(
        &self,
        _: Request<BeginApprovalRequest>,
    ) -> Result<Response<BeginApprovalResponse>, Status> {
        Err(Status::unimplemented("the hub changes no order"))
    }

    async fn end_approval(&self, _: Request<EndApprovalRequest>) -> Result<Response<EndApprovalResponse>, Status> {
        Err(Status::unimplemented("the hub changes no order"))
    }

    async fn mark_paid(&self, _: Request<MarkPaidRequest>) -> Result<Response<MarkPaidResponse>, Status> {
        Err(Status::unimplemented("the hub changes no order"))
    }
}
