//! Where people can be reached: the account service knows, and its answers are kept for a minute.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use common::rpc::Upstream;
use common::{Error, Result};
use contract::account::account_service_client::AccountServiceClient;
use contract::account::{Contact, GetContactsRequest};
use contract::ids::AccountId;
use moka::future::Cache;

/// E-mail addresses from the account service. They are kept in memory only: they are stored nowhere but in account.
pub struct Contacts {
    account: AccountServiceClient<Upstream>,
    addresses: Cache<AccountId, Arc<str>>,
    timeout: Duration,
}

/// Users in one request to account, which takes no more.
pub const USERS_MAX: usize = 1_000;

/// What is known of a user's address.
pub enum Address {
    Known(Arc<str>),
    /// Account answers, and does not know the user.
    NoSuchUser,
    /// Account does not answer, or not as it should. Shared by the users of one request.
    Unavailable(Error),
}

impl Contacts {
    /// Remembers up to `count_max` addresses, each for `age_max`. One request to account takes up to `timeout`.
    pub fn new(
        account: AccountServiceClient<Upstream>,
        count_max: u64,
        age_max: Duration,
        timeout: Duration,
    ) -> Contacts {
        let addresses = Cache::builder().max_capacity(count_max).time_to_live(age_max).build();
        Contacts { account, addresses, timeout }
    }

    /// The e-mail addresses of `users`, as far as account answers before `enough` completes. A user without an entry was
    /// not asked for.
    pub async fn addresses(
        &self,
        users: HashSet<AccountId>,
        enough: impl Future<Output = ()>,
    ) -> HashMap<AccountId, Address> {
        let mut addresses = HashMap::with_capacity(users.len());
        let mut missing = Vec::new();
        for user in users {
            match self.addresses.get(&user).await {
                Some(address) => drop(addresses.insert(user, Address::Known(address))),
                None => missing.push(user),
            }
        }
        tokio::pin!(enough);
        for users in missing.chunks(USERS_MAX) {
            let answer = tokio::select! {
                () = &mut enough => break,
                answer = self.ask(users) => answer,
            };
            match answer {
                Ok(contacts) => addresses.extend(self.remember(users, contacts).await),
                Err(error) => addresses.extend(users.iter().map(|user| (*user, Address::Unavailable(error.clone())))),
            }
        }
        addresses
    }

    async fn remember(&self, users: &[AccountId], contacts: Vec<Contact>) -> HashMap<AccountId, Address> {
        let mut addresses: HashMap<_, _> = users.iter().map(|user| (*user, Address::NoSuchUser)).collect();
        for contact in contacts {
            if let Ok(user) = contact.user_id.parse() {
                let address: Arc<str> = contact.email.into();
                self.addresses.insert(user, address.clone()).await;
                addresses.insert(user, Address::Known(address));
            }
        }
        addresses
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
