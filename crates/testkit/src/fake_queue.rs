//! A queue service that says what the test wants, for services that ask for passes.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use contract::events::{EventOpen, SaleRules};
use contract::queue::queue_service_server::QueueService;
use contract::queue::verify_pass_response::Outcome;
use contract::queue::{
    CompletePassRequest, CompletePassResponse, GetRoomRequest, GetRoomResponse, PingRequest, PingResponse,
    VerifyPassRequest, VerifyPassResponse,
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

/// Three failures make it dead, however soon they follow, and a busy machine is waited for.
pub const QUICK: [(&str, &str); 4] = [
    ("entry.dead_after_ms", "0"),
    ("entry.probe_period_ms", "0"),
    ("entry.verify_ms", "20000"),
    ("entry.probe_ms", "20000"),
];

/// What it says of every pass; None: nothing, it does not answer. Cheap to clone.
#[derive(Clone, Default)]
pub struct FakeQueue(Arc<std::sync::Mutex<Option<Outcome>>>);

impl FakeQueue {
    pub fn says(&self, outcome: Outcome) {
        self.set(Some(outcome));
    }

    pub fn is_down(&self) {
        self.set(None);
    }

    fn set(&self, outcome: Option<Outcome>) {
        *self.0.lock().expect("nobody panics while it is locked") = outcome;
    }

    fn answer(&self) -> Result<Outcome, Status> {
        let outcome = *self.0.lock().expect("nobody panics while it is locked");
        outcome.ok_or_else(|| Status::unavailable("down"))
    }
}

#[tonic::async_trait]
impl QueueService for FakeQueue {
    async fn verify_pass(&self, _: Request<VerifyPassRequest>) -> Result<Response<VerifyPassResponse>, Status> {
        Ok(Response::new(VerifyPassResponse { outcome: self.answer()?.into(), expires_at: None }))
    }

    async fn complete_pass(&self, _: Request<CompletePassRequest>) -> Result<Response<CompletePassResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn ping(&self, _: Request<PingRequest>) -> Result<Response<PingResponse>, Status> {
        self.answer().map(|_| Response::new(PingResponse {}))
    }

    async fn get_room(&self, _: Request<GetRoomRequest>) -> Result<Response<GetRoomResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }
}

/// A sale of `products` that opened a second ago.
pub fn open_sale(products: Vec<String>, rules: SaleRules) -> EventOpen {
    let opened: DateTime<Utc> = Utc::now() - TimeDelta::seconds(1);
    EventOpen {
        event_id: Uuid::now_v7().to_string(),
        version: 2,
        name: "a sale".to_owned(),
        opens_at: Some(opened.into()),
        opened_at: Some(opened.into()),
        closes_at: None,
        product_ids: products,
        rules: Some(rules),
    }
}

/// With a waiting room.
pub fn guarded() -> SaleRules {
    SaleRules { queue_manage_required: true, rate_per_minute: 60, ..SaleRules::default() }
}
