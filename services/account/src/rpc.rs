//! The gRPC door.

use common::{Error, Refused};
use contract::account::account_service_server::AccountService;
use contract::account::{GetContactRequest, GetContactResponse};
use contract::ids::AccountId;
use tonic::{Request, Response, Status};

use crate::{App, read_account};

#[tonic::async_trait]
impl AccountService for App {
    async fn get_contact(&self, request: Request<GetContactRequest>) -> Result<Response<GetContactResponse>, Status> {
        let account = request.into_inner().user_id.parse::<AccountId>();
        let account = account.map_err(|error| Error::from(Refused::invalid("user_id", error.to_string())))?;
        let contact = read_account::contact(self, account).await?;
        Ok(Response::new(GetContactResponse { contact: Some(contact) }))
    }
}
