//! Where people can be reached: account knows, and is believed for a minute.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use common::rpc::Upstream;
use common::{Error, Refused, Result};
use contract::account::account_service_client::AccountServiceClient;
use contract::account::{Contact, GetContactsRequest};
use contract::codes::USER_NOT_FOUND;
use contract::ids::AccountId;
use moka::future::Cache;

use crate::Settings;

/// Account's addresses. They are kept in memory only: an address is nobody's business but account's.
pub struct Contacts {
    account: AccountServiceClient<Upstream>,
    addresses: Cache<AccountId, Arc<str>>,
    timeout: Duration,
}

/// Ids in one question to account, which takes no more.
pub const QUESTION_MAX: usize = 1_000;

impl Contacts {
    pub fn new(account: AccountServiceClient<Upstream>, settings: &Settings) -> Self {
        Self {
            account,
            addresses: Cache::builder()
                .max_capacity(settings.contact_cache_max)
                .time_to_live(Duration::from_secs(settings.contact_cache_seconds))
                .build(),
            timeout: Duration::from_millis(settings.email.timeout_ms),
        }
    }

    /// The e-mail addresses of `users`, as far as account answers before `enough` completes.
    ///
    /// A user without an entry was not asked for. Who does not exist is refused (`USER_NOT_FOUND`); a fault is shared by
    /// those who were asked for together.
    pub async fn addresses(
        &self,
        users: HashSet<AccountId>,
        enough: impl Future<Output = ()>,
    ) -> HashMap<AccountId, Result<Arc<str>>> {
        let mut addresses = HashMap::with_capacity(users.len());
        let mut unknown = Vec::new();
        for user in users {
            match self.addresses.get(&user).await {
                Some(address) => drop(addresses.insert(user, Ok(address))),
                None => unknown.push(user),
            }
        }
        tokio::pin!(enough);
        for users in unknown.chunks(QUESTION_MAX) {
            let answer = tokio::select! {
                () = &mut enough => break,
                answer = self.ask(users) => answer,
            };
            self.enter(users, answer, &mut addresses).await;
        }
        addresses
    }

    async fn enter(
        &self,
        users: &[AccountId],
        answer: Result<Vec<Contact>>,
        addresses: &mut HashMap<AccountId, Result<Arc<str>>>,
    ) {
        let contacts = match answer {
            Ok(contacts) => contacts,
            Err(error) => return addresses.extend(users.iter().map(|user| (*user, Err(error.clone())))),
        };
        let no_such_user = || Err(Refused::new(USER_NOT_FOUND, "There is no such user.").into());
        addresses.extend(users.iter().map(|user| (*user, no_such_user())));
        for contact in contacts {
            if let Ok(user) = contact.user_id.parse() {
                let address: Arc<str> = contact.email.into();
                self.addresses.insert(user, address.clone()).await;
                addresses.insert(user, Ok(address));
            }
        }
    }

    async fn ask(&self, users: &[AccountId]) -> Result<Vec<Contact>> {
        let mut account = self.account.clone();
        let request = GetContactsRequest { user_ids: users.iter().map(AccountId::to_string).collect() };
        let answer = tokio::time::timeout(self.timeout, account.get_contacts(request))
            .await
            .map_err(|_| Error::transient(anyhow::anyhow!("account did not answer within {:?}", self.timeout)))??;
        Ok(answer.into_inner().contacts)
    }
}
