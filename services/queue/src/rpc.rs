//! The gRPC interface: each method checks its request and calls one flow.

use std::str::FromStr;
use std::sync::Arc;

use common::{Error, Refused, Result};
use contract::ids::SaleEventId;
use contract::queue::queue_service_server::QueueService;
use contract::queue::verify_pass_response::Outcome;
use contract::queue::{
    CompletePassRequest, CompletePassResponse, GetRoomRequest, GetRoomResponse, PingRequest, PingResponse,
    VerifyPassRequest, VerifyPassResponse,
};
use tonic::{Request, Response, Status};

use crate::App;
use crate::end_pass::complete_pass;
use crate::verify_pass::{Verified, verify_pass};

/// Serves the contract on the flows of [`App`].
pub struct Rpc(pub Arc<App>);

#[tonic::async_trait]
impl QueueService for Rpc {
    async fn verify_pass(&self, request: Request<VerifyPassRequest>) -> Result<Response<VerifyPassResponse>, Status> {
        let VerifyPassRequest { event_id, user_id, pass } = request.into_inner();
        let (event, account) = (parse("event_id", &event_id)?, parse("user_id", &user_id)?);
        let (outcome, expires_at) = match verify_pass(&self.0, event, account, &pass, true).await? {
            Verified::Ok { until } => (Outcome::Ok, Some(until.into())),
            Verified::Invalid => (Outcome::Invalid, None),
            Verified::Expired => (Outcome::Expired, None),
            Verified::Ended => (Outcome::Ended, None),
        };
        Ok(Response::new(VerifyPassResponse { outcome: outcome.into(), expires_at }))
    }

    async fn complete_pass(
        &self,
        request: Request<CompletePassRequest>,
    ) -> Result<Response<CompletePassResponse>, Status> {
        let CompletePassRequest { event_id, user_id } = request.into_inner();
        let completed = complete_pass(&self.0, parse("event_id", &event_id)?, parse("user_id", &user_id)?).await?;
        Ok(Response::new(CompletePassResponse { completed }))
    }

    async fn ping(&self, _: Request<PingRequest>) -> Result<Response<PingResponse>, Status> {
        Ok(Response::new(PingResponse {}))
    }

    async fn get_room(&self, request: Request<GetRoomRequest>) -> Result<Response<GetRoomResponse>, Status> {
        let event: SaleEventId = parse("event_id", &request.into_inner().event_id)?;
        let known = self.0.events.find(event).await?;
        let last = self.0.rooms.last(event);
        let number = |of: fn(&crate::place::RoomStatus) -> i64| last.as_deref().map(of).unwrap_or_default();
        Ok(Response::new(GetRoomResponse {
            event_id: event.to_string(),
            status: <&str>::from(known.event.status_at(known.now())).to_owned(),
            queue_manage_required: known.event.queue_manage_required,
            issued: number(|room| room.issued),
            serving: number(|room| room.front),
            active: number(|room| room.active),
        }))
    }
}

fn parse<T: FromStr<Err: ToString>>(field: &str, text: &str) -> Result<T> {
    text.parse().map_err(|error: T::Err| Error::from(Refused::invalid(field, error.to_string())))
}
