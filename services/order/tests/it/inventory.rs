//! `FakeInventory`: an inventory that has any product at one price, until a test says that everything is sold.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{SubsecRound as _, TimeDelta, Utc};
use common::{Error, Refused};
use contract::codes;
use contract::inventory::inventory_service_server::InventoryService;
use contract::inventory::{
    ConfirmHoldRequest, ConfirmHoldResponse, GetHoldRequest, GetHoldResponse, Hold, HoldLine, HoldRequest,
    HoldResponse, HoldState, PinHoldRequest, PinHoldResponse, ReleaseHoldRequest, ReleaseHoldResponse,
    ReturnStockRequest, ReturnStockResponse, UnpinHoldRequest, UnpinHoldResponse,
};
use contract::money::KRW;
use tokio::sync::{Mutex, watch};
use tonic::{Request, Response, Status};

/// What each unit costs.
pub const UNIT_PRICE: i64 = 1000;

#[derive(Clone, Default)]
pub struct FakeInventory {
    holds: Arc<Mutex<HashMap<String, Hold>>>,
    is_sold_out: Arc<AtomicBool>,
    released: watch::Sender<Vec<String>>,
}

impl FakeInventory {
    /// From now on nothing is left. Repeats of earlier holds are refused too: their units may be sold by then.
    pub fn sell_out(&self) {
        self.is_sold_out.store(true, Ordering::SeqCst);
    }

    /// The ids of the holds that the order service has released.
    pub fn released(&self) -> Vec<String> {
        self.released.borrow().clone()
    }

    /// Returns when the hold of `order` is released.
    pub async fn until_released(&self, order: &str) {
        let mut released = self.released.subscribe();
        let found = released.wait_for(|ids| ids.iter().any(|id| id == order)).await;
        found.expect("the sender is a field of this");
    }
}

#[tonic::async_trait]
impl InventoryService for FakeInventory {
    async fn hold(&self, request: Request<HoldRequest>) -> Result<Response<HoldResponse>, Status> {
        if self.is_sold_out.load(Ordering::SeqCst) {
            return Err(Error::from(Refused::new(codes::OUT_OF_STOCK, "There are not enough units left.")).into());
        }
        let HoldRequest { hold_id, user_id, lines, .. } = request.into_inner();
        let line = |line: contract::inventory::WantedLine| HoldLine {
            product_id: line.product_id,
            quantity: line.quantity,
            unit_price: UNIT_PRICE,
            currency: KRW.to_owned(),
            name: "Sneaker".to_owned(),
            sku: "SNEAKER".to_owned(),
            seats: Vec::new(),
        };
        let mut holds = self.holds.lock().await;
        let created = !holds.contains_key(&hold_id);
        let hold = holds.entry(hold_id.clone()).or_insert_with(|| Hold {
            hold_id,
            user_id,
            state: HoldState::Held.into(),
            lines: lines.into_iter().map(line).collect(),
            // As precise as PostgreSQL's.
            expires_at: Some((Utc::now().trunc_subsecs(6) + TimeDelta::minutes(10)).into()),
            attempt_id: String::new(),
        });
        Ok(Response::new(HoldResponse { hold: Some(hold.clone()), created }))
    }

    async fn release_hold(
        &self,
        request: Request<ReleaseHoldRequest>,
    ) -> Result<Response<ReleaseHoldResponse>, Status> {
        self.released.send_modify(|released| released.push(request.into_inner().hold_id));
        Ok(Response::new(ReleaseHoldResponse { hold: None }))
    }

    async fn pin_hold(&self, _: Request<PinHoldRequest>) -> Result<Response<PinHoldResponse>, Status> {
        Err(not_called())
    }

    async fn unpin_hold(&self, _: Request<UnpinHoldRequest>) -> Result<Response<UnpinHoldResponse>, Status> {
        Err(not_called())
    }

    async fn confirm_hold(&self, _: Request<ConfirmHoldRequest>) -> Result<Response<ConfirmHoldResponse>, Status> {
        Err(not_called())
    }

    async fn return_stock(&self, _: Request<ReturnStockRequest>) -> Result<Response<ReturnStockResponse>, Status> {
        Err(not_called())
    }

    async fn get_hold(&self, _: Request<GetHoldRequest>) -> Result<Response<GetHoldResponse>, Status> {
        Err(not_called())
    }
}

fn not_called() -> Status {
    Status::unimplemented("the order service does not call this")
}
