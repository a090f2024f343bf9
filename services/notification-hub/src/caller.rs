//! Who calls: people and operators with access tokens, programs with API keys.

use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::web::Data;
use actix_web::{FromRequest, HttpRequest};
use common::auth::{Caller, bearer_token};
use common::batch::{Batch, BatchSettings};
use common::db::Db;
use common::error::{FORBIDDEN, UNAUTHORIZED};
use common::http::Json;
use common::id::derive_uuid;
use common::{Error, Refused, Result};
use contract::ids::{AccountId, ApiKeyId};
use diesel::{ExpressionMethods, QueryDsl, Queryable, Selectable, SelectableHelper};
use diesel_async::RunQueryDsl;
use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, join};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::App;
use crate::api_key::{self, Scope};
use crate::schema::api_keys;

/// Looks up live keys, for everybody who is waiting at once.
pub type KeyLookups = Batch<ApiKeyId, Option<LiveKey>>;

#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = api_keys, check_for_backend(diesel::pg::Pg))]
pub struct LiveKey {
    id: ApiKeyId,
    client: String,
    scopes: Vec<String>,
    digest: Vec<u8>,
}

/// Nothing is remembered: a key that is revoked opens nothing from the commit on, whichever replica is asked.
pub fn start_lookups(db: &Db, settings: &BatchSettings) -> KeyLookups {
    let db = db.clone();
    Batch::start("api_key_lookups", settings, move |ids: Arc<[ApiKeyId]>| {
        let db = db.clone();
        async move {
            let live: Vec<LiveKey> = api_keys::table
                .filter(api_keys::id.eq_any(ids.to_vec()))
                .filter(api_keys::revoked_at.is_null())
                .select(LiveKey::as_select())
                .load(&mut *db.read().await?)
                .await?;
            Ok(ids.iter().map(|id| Ok(live.iter().find(|key| key.id == *id).cloned())).collect())
        }
    })
}

/// The id that the requests of a client are known by, whichever of its keys it shows.
pub fn client_id(client: &str) -> Uuid {
    derive_uuid("client", &[client.as_bytes()])
}

/// Extractor: who may have notifications sent: a program whose key has `notifications:write`, or an administrator.
/// Refuses with 401 `UNAUTHORIZED` or 403 `FORBIDDEN`.
#[derive(Debug, Clone, Copy)]
pub struct Sender {
    pub id: Uuid,
}

impl FromRequest for Sender {
    type Error = Error;
    type Future = LocalBoxFuture<'static, Result<Sender>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let known = known(request, payload);
        async move {
            match known.await? {
                Known::Program(key) => Ok(Sender { id: client_id(&key.with(Scope::Write)?.client) }),
                Known::Person(caller) if caller.is_admin() => Ok(Sender { id: caller.account }),
                Known::Person(_) => {
                    Err(Refused::new(FORBIDDEN, "Only an administrator or an API key may do this.").into())
                }
            }
        }
        .boxed_local()
    }
}

/// Extractor: a sender and a JSON body. Who may not send is told so, whatever is wrong with the body: of two extractors, the one
/// that refuses sooner would be heard, and a body is read sooner than a key is looked up.
pub struct Sending<T> {
    pub sender: Sender,
    pub body: T,
}

impl<T: DeserializeOwned + 'static> FromRequest for Sending<T> {
    type Error = Error;
    type Future = LocalBoxFuture<'static, Result<Sending<T>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let sender = Sender::from_request(request, payload);
        let body = Json::from_request(request, payload);
        async move {
            // Both in any case: a connection with a body that nobody has read cannot be used again.
            let (sender, body) = join(sender, body).await;
            Ok(Sending { sender: sender?, body: body?.into_inner() })
        }
        .boxed_local()
    }
}

/// Extractor: who reads notifications. Refuses with 401 `UNAUTHORIZED` or 403 `FORBIDDEN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// Sees everything: an administrator, or a program whose key has `notifications:read`.
    Operator,
    /// Sees their own.
    User(AccountId),
}

impl FromRequest for Reader {
    type Error = Error;
    type Future = LocalBoxFuture<'static, Result<Reader>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let known = known(request, payload);
        async move {
            match known.await? {
                Known::Program(key) => key.with(Scope::Read).map(|_| Reader::Operator),
                Known::Person(caller) if caller.is_admin() => Ok(Reader::Operator),
                Known::Person(caller) => Ok(Reader::User(caller.account.into())),
            }
        }
        .boxed_local()
    }
}

impl LiveKey {
    fn with(self, scope: Scope) -> Result<LiveKey> {
        if !self.scopes.iter().any(|name| name == scope.name()) {
            return Err(Refused::new(FORBIDDEN, format!("The API key lacks the scope {}.", scope.name())).into());
        }
        Ok(self)
    }
}

enum Known {
    Program(LiveKey),
    Person(Caller),
}

/// Whose token or key the request shows.
fn known(request: &HttpRequest, payload: &mut Payload) -> LocalBoxFuture<'static, Result<Known>> {
    match bearer_token(request) {
        Ok(token) if token.starts_with(api_key::PREFIX) => {
            let app = request.app_data::<Data<App>>().cloned();
            async move {
                let app = app.ok_or_else(|| Error::fault(anyhow::anyhow!("the route has no App")))?;
                live_key(&app, &token).await.map(Known::Program)
            }
            .boxed_local()
        }
        Ok(_) => Caller::from_request(request, payload).map(|caller| caller.map(Known::Person)).boxed_local(),
        Err(error) => std::future::ready(Err(error)).boxed_local(),
    }
}

/// Refuses with `UNAUTHORIZED`, whatever is wrong with the key.
async fn live_key(app: &App, key: &str) -> Result<LiveKey> {
    let live = match api_key::id_of(key) {
        Some(id) => app.api_keys.submit(id).await?,
        None => None,
    };
    live.filter(|live| api_key::matches(key, &live.digest))
        .ok_or_else(|| Refused::new(UNAUTHORIZED, "The API key is not valid.").into())
}
