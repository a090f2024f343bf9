//! `FakeInventory`: an inventory that has any product at one price, until a test says that everything is sold.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{SubsecRound as _, TimeDelta, Utc};
use common::{Error, Refused};
use contract::codes;
use contract::inventory::inventory_service_server::InventoryService;
use contract::inventory::{
    ConfirmHoldRequest, ConfirmHoldResponse, GetHoldRequest, GetHoldResponse, HeldSeat, Hold, HoldLine, HoldRequest,
    HoldResponse, HoldState, PinHoldRequest, PinHoldResponse, ReleaseHoldRequest, ReleaseHoldResponse,
    ReturnStockRequest, ReturnStockResponse, UnpinHoldRequest, UnpinHoldResponse,
};
use contract::money::KRW;
use tokio::sync::{Mutex, watch};
use tonic::{Request, Response, Status};
use uuid::Uuid;

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

    /// A reservation of one seat by `user`.
    pub async fn reserve(&self, user: &str) -> String {
        let id = Uuid::now_v7().to_string();
        let seat = HeldSeat { seat_id: Uuid::now_v7().to_string(), label: "A-1".to_owned() };
        let line = HoldLine { quantity: 1, seats: vec![seat], ..line(Uuid::now_v7().to_string()) };
        let hold = new_hold(&id, user, vec![line]);
        self.holds.lock().await.insert(id.clone(), hold);
        id
    }

    /// The state of a hold.
    pub async fn state(&self, hold: &str) -> HoldState {
        self.holds.lock().await[hold].state()
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
        let HoldRequest { hold_id, user_id, lines, reservation_id } = request.into_inner();
        let mut holds = self.holds.lock().await;
        let created = !holds.contains_key(&hold_id);
        let mut lines: Vec<HoldLine> =
            lines.into_iter().map(|wanted| HoldLine { quantity: wanted.quantity, ..line(wanted.product_id) }).collect();
        if let Some(reservation) = holds.get_mut(&reservation_id).filter(|_| created) {
            if reservation.state() != HoldState::Held {
                return Err(Error::from(Refused::new(codes::RESERVATION_ENDED, "It has ended.")).into());
            }
            reservation.set_state(HoldState::Released);
            lines = reservation.lines.clone();
        }
        let hold = holds.entry(hold_id.clone()).or_insert_with(|| new_hold(&hold_id, &user_id, lines));
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

    async fn get_hold(&self, request: Request<GetHoldRequest>) -> Result<Response<GetHoldResponse>, Status> {
        let hold = self.holds.lock().await.get(&request.into_inner().hold_id).cloned();
        Ok(Response::new(GetHoldResponse { hold }))
    }
}

fn new_hold(id: &str, user: &str, lines: Vec<HoldLine>) -> Hold {
    Hold {
        hold_id: id.to_owned(),
        user_id: user.to_owned(),
        state: HoldState::Held.into(),
        lines,
        // As precise as PostgreSQL's.
        expires_at: Some((Utc::now().trunc_subsecs(6) + TimeDelta::minutes(10)).into()),
        attempt_id: String::new(),
    }
}

fn line(product_id: String) -> HoldLine {
    HoldLine {
        product_id,
        quantity: 0,
        unit_price: UNIT_PRICE,
        currency: KRW.to_owned(),
        name: "Sneaker".to_owned(),
        sku: "SNEAKER".to_owned(),
        seats: Vec::new(),
    }
}

fn not_called() -> Status {
    Status::unimplemented("the order service does not call this")
}
