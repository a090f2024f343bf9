//! Where people can be reached: account knows, and is believed for a minute.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use common::rpc::Neighbour;
use common::{Error, Result};
use contract::account::GetContactRequest;
use contract::account::account_service_client::AccountServiceClient;
use contract::ids::AccountId;
use futures_util::StreamExt;
use futures_util::stream;
use moka::future::Cache;

use crate::Settings;

/// Account's addresses. They are kept in memory only: an address is nobody's business but account's.
pub struct Contacts {
    account: AccountServiceClient<Neighbour>,
    addresses: Cache<AccountId, Arc<str>>,
    parallel_max: usize,
    timeout: Duration,
}

impl Contacts {
    pub fn new(account: AccountServiceClient<Neighbour>, settings: &Settings) -> Self {
        Self {
            account,
            addresses: Cache::builder()
                .max_capacity(settings.contact_cache_max)
                .time_to_live(Duration::from_secs(settings.contact_cache_seconds))
                .build(),
            parallel_max: settings.email.parallel_max as usize,
            timeout: Duration::from_millis(settings.email.timeout_ms),
        }
    }

    /// The e-mail addresses of `users`, as far as account answers before `enough` completes.
    ///
    /// A user without an entry was not asked for; a refusal (`USER_NOT_FOUND`) or a fault is that user's alone.
    pub async fn addresses(
        &self,
        users: HashSet<AccountId>,
        enough: impl Future<Output = ()>,
    ) -> HashMap<AccountId, Result<Arc<str>>> {
        let lookups = users.into_iter().map(|user| async move { (user, self.address(user).await) });
        stream::iter(lookups).buffer_unordered(self.parallel_max).take_until(enough).collect().await
    }

    async fn address(&self, user: AccountId) -> Result<Arc<str>> {
        self.addresses.try_get_with(user, self.ask(user)).await.map_err(|error| (*error).clone())
    }

    async fn ask(&self, user: AccountId) -> Result<Arc<str>> {
        let mut account = self.account.clone();
        let request = GetContactRequest { user_id: user.to_string() };
        let answer = tokio::time::timeout(self.timeout, account.get_contact(request))
            .await
            .map_err(|_| Error::transient(anyhow::anyhow!("account did not answer within {:?}", self.timeout)))??;
        let contact = answer.into_inner().contact;
        let contact = contact.ok_or_else(|| Error::fault(anyhow::anyhow!("account answered without a contact")))?;
        Ok(contact.email.into())
    }
}
