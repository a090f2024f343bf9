//! A fake of the account service: every user has an address, except as told.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use contract::account::account_service_server::AccountService;
use contract::account::{Contact, GetContactsRequest, GetContactsResponse};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};
use uuid::Uuid;

#[derive(Clone)]
pub struct FakeAccount {
    unknown: Arc<Mutex<HashSet<String>>>,
    /// In the order of the questions.
    asked: Arc<Mutex<Vec<String>>>,
    /// An answer needs a permit. Closed means away.
    answers: Arc<Mutex<Arc<Semaphore>>>,
}

impl FakeAccount {
    pub fn new() -> FakeAccount {
        let answers = Arc::new(Mutex::new(Arc::new(Semaphore::new(Semaphore::MAX_PERMITS))));
        FakeAccount { unknown: Arc::default(), asked: Arc::default(), answers }
    }

    /// From now on answers come at once.
    pub fn answer(&self) {
        *self.answers.lock().unwrap() = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
    }

    /// From now on nobody is answered.
    pub fn hang(&self) {
        *self.answers.lock().unwrap() = Arc::new(Semaphore::new(0));
    }

    /// From now on account is away.
    pub fn go_away(&self) {
        self.hang();
        self.answers.lock().unwrap().close();
    }

    pub fn forget(&self, user: Uuid) {
        self.unknown.lock().unwrap().insert(user.to_string());
    }

    /// How often somebody has asked for the address of `user`.
    pub fn asked(&self, user: Uuid) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| **asked == user.to_string()).count()
    }

    pub fn remember(&self, user: Uuid) {
        self.unknown.lock().unwrap().remove(&user.to_string());
    }
}

#[tonic::async_trait]
impl AccountService for FakeAccount {
    async fn get_contacts(
        &self,
        request: Request<GetContactsRequest>,
    ) -> Result<Response<GetContactsResponse>, Status> {
        self.asked.lock().unwrap().extend(request.get_ref().user_ids.iter().cloned());
        let answers = self.answers.lock().unwrap().clone();
        answers.acquire().await.map_err(|_| Status::unavailable("away"))?.forget();
        let unknown = self.unknown.lock().unwrap().clone();
        let known = request.into_inner().user_ids.into_iter().filter(|user_id| !unknown.contains(user_id));
        let contact = |user_id| Contact { email: format!("{user_id}@example.com"), name: "Kim".to_owned(), user_id };
        Ok(Response::new(GetContactsResponse { contacts: known.map(contact).collect() }))
    }
}
