//! Plays inventory: it has everything, and holds it for as long as it is told to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::Utc;
use contract::inventory::inventory_service_server::InventoryService;
use contract::inventory::{
    ConfirmHoldRequest, ConfirmHoldResponse, GetHoldRequest, GetHoldResponse, Hold, HoldLine, HoldRequest,
    HoldResponse, HoldState, PinHoldRequest, PinHoldResponse, ReleaseHoldRequest, ReleaseHoldResponse,
    ReturnStockRequest, ReturnStockResponse, UnpinHoldRequest, UnpinHoldResponse,
};
use tonic::{Request, Response, Status};

#[derive(Clone)]
pub struct PretendedInventory {
    holds: Arc<Mutex<HashMap<String, Hold>>>,
    /// Of the holds from now on.
    pub ttl: Arc<Mutex<Duration>>,
    /// The ids of the holds that were given back.
    pub released: Arc<Mutex<Vec<String>>>,
}

impl Default for PretendedInventory {
    fn default() -> Self {
        let ttl = Arc::new(Mutex::new(Duration::from_secs(600)));
        Self { holds: Arc::default(), ttl, released: Arc::default() }
    }
}

#[tonic::async_trait]
impl InventoryService for PretendedInventory {
    async fn hold(&self, request: Request<HoldRequest>) -> Result<Response<HoldResponse>, Status> {
        let HoldRequest { hold_id, user_id, lines } = request.into_inner();
        let expires_at = Utc::now() + *self.ttl.lock().unwrap();
        let mut holds = self.holds.lock().unwrap();
        let created = !holds.contains_key(&hold_id);
        let hold = holds.entry(hold_id.clone()).or_insert_with(|| Hold {
            hold_id,
            user_id,
            state: HoldState::Held.into(),
            lines: lines
                .into_iter()
                .map(|line| HoldLine {
                    product_id: line.product_id,
                    quantity: line.quantity,
                    unit_price: 1000,
                    currency: "KRW".to_owned(),
                    name: "Sneaker".to_owned(),
                    sku: "SNEAKER".to_owned(),
                })
                .collect(),
            expires_at: Some(expires_at.into()),
            attempt_id: String::new(),
        });
        Ok(Response::new(HoldResponse { hold: Some(hold.clone()), created }))
    }

    async fn release_hold(
        &self,
        request: Request<ReleaseHoldRequest>,
    ) -> Result<Response<ReleaseHoldResponse>, Status> {
        self.released.lock().unwrap().push(request.into_inner().hold_id);
        Ok(Response::new(ReleaseHoldResponse { hold: None }))
    }

    async fn pin_hold(&self, _: Request<PinHoldRequest>) -> Result<Response<PinHoldResponse>, Status> {
        Err(not_asked())
    }

    async fn unpin_hold(&self, _: Request<UnpinHoldRequest>) -> Result<Response<UnpinHoldResponse>, Status> {
        Err(not_asked())
    }

    async fn confirm_hold(&self, _: Request<ConfirmHoldRequest>) -> Result<Response<ConfirmHoldResponse>, Status> {
        Err(not_asked())
    }

    async fn return_stock(&self, _: Request<ReturnStockRequest>) -> Result<Response<ReturnStockResponse>, Status> {
        Err(not_asked())
    }

    async fn get_hold(&self, _: Request<GetHoldRequest>) -> Result<Response<GetHoldResponse>, Status> {
        Err(not_asked())
    }
}

fn not_asked() -> Status {
    Status::unimplemented("the order service does not ask this")
}
