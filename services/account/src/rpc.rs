//! The gRPC door.

use common::{Error, Refused, Result};
use contract::account::account_service_server::AccountService;
use contract::account::{GetContactsRequest, GetContactsResponse};
use contract::ids::AccountId;
use tonic::{Request, Response, Status};

use crate::{App, read_account};

/// Ids in one question; as many addresses fit in one message with room to spare.
const CONTACTS_MAX: usize = 1_000;

#[tonic::async_trait]
impl AccountService for App {
    async fn get_contacts(
        &self,
        request: Request<GetContactsRequest>,
    ) -> Result<Response<GetContactsResponse>, Status> {
        let accounts = accounts(&request.into_inner().user_ids)?;
        let contacts = read_account::contacts(self, &accounts).await?;
        Ok(Response::new(GetContactsResponse { contacts }))
    }
}

fn accounts(user_ids: &[String]) -> Result<Vec<AccountId>> {
    let invalid = |reason: String| Error::from(Refused::invalid("user_ids", reason));
    if user_ids.len() > CONTACTS_MAX {
        return Err(invalid(format!("At most {CONTACTS_MAX} at a time.")));
    }
    user_ids.iter().map(|id| id.parse().map_err(|error: common::id::NotAnId| invalid(error.to_string()))).collect()
}
