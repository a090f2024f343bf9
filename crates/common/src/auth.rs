//! Access tokens: how every service checks them by itself, and the extractors that demand one of a request.

use std::collections::HashMap;
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use actix_web::{FromRequest, HttpRequest, web};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt;
use futures_util::future::{Either, LocalBoxFuture, Ready, ready};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use quick_cache::sync::Cache as Memory;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::error::{Error, FORBIDDEN, Refused, Result, UNAUTHORIZED};

#[cfg(test)]
mod bad_tokens;
mod jwks;

pub use jwks::{Jwk, JwkSet};

/// Section `[auth]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthSettings {
    pub issuer: String,
    pub jwks_url: String,
    pub jwks_refresh_seconds: u64,
    pub jwks_age_max_seconds: u64,
    pub jwks_timeout_ms: u64,
    pub verified_tokens_max: usize,
    pub access_token_minutes: u32,
}

/// The `aud` of access tokens. Every kind of token has its own, so that none works in another's place.
pub const AUDIENCE: &str = "stampede";

/// The `typ` of access tokens (RFC 9068).
pub const TYP: &str = "at+jwt";

/// How far the clocks of two of our hosts may differ.
pub const LEEWAY_SECONDS: u64 = 5;

/// Ours are about 400 bytes; whatever is longer is not worth decoding.
const TOKEN_BYTES_MAX: usize = 2048;

/// Ours are 11 characters.
const KID_CHARS_MAX: usize = 64;

/// What an access token says. All are required; claims beyond these are ignored, so that they can be added later.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claims {
    pub iss: String,
    pub aud: String,
    /// The account.
    pub sub: Uuid,
    pub jti: Uuid,
    /// Unix seconds, as are `nbf` and `exp`.
    pub iat: u64,
    pub nbf: u64,
    pub exp: u64,
    /// [`Role`]s by name. A role that this build does not know confers nothing.
    pub roles: Vec<String>,
}

/// The header that our tokens have. Any other member (`jku`, `jwk`, `x5u`, `x5c`, `crit`, `b64`, ...), a missing one
/// and a repeated one make the token unreadable.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    typ: String,
    kid: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Role {
    User,
    Admin,
}

impl Role {
    pub const fn name(self) -> &'static str {
        match self {
            Role::User => "USER",
            Role::Admin => "ADMIN",
        }
    }

    pub fn from_name(name: &str) -> Option<Role> {
        [Role::User, Role::Admin].into_iter().find(|role| role.name() == name)
    }
}

/// Why a token is turned down. All are 401; the text is for whoever debugs a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum NotAccepted {
    #[error("One `Authorization: Bearer <access token>` header is required.")]
    Missing,
    #[error("The access token is not valid.")]
    Invalid,
    #[error("The access token has expired.")]
    Expired,
}

impl From<NotAccepted> for Error {
    fn from(why: NotAccepted) -> Self {
        Refused::new(UNAUTHORIZED, why.to_string()).into()
    }
}

/// Checks access tokens against the account service's public keys. Cheap to clone.
#[derive(Clone)]
pub struct Verifier {
    inner: Arc<Inner>,
}

struct Inner {
    keys: jwks::Keys,
    validation: Validation,
    /// By SHA-256 of the token: a buyer repeats one token for minutes, and each EdDSA check costs 25 µs.
    verified: Memory<[u8; 32], Verified>,
}

/// A token that passed. It is looked at again on every use: its time may be up and its key withdrawn.
#[derive(Clone)]
struct Verified {
    caller: Caller,
    kid: Arc<str>,
}

impl Verifier {
    /// Fetches keys from `settings.jwks_url` when they are first needed. Must be called on the main runtime.
    pub fn new(settings: &AuthSettings) -> anyhow::Result<Verifier> {
        Ok(Self::with(settings, jwks::Keys::fetched(settings)?))
    }

    /// Trusts exactly `keys` (by kid), for ever.
    pub fn fixed(settings: &AuthSettings, keys: HashMap<String, DecodingKey>) -> Verifier {
        Self::with(settings, jwks::Keys::fixed(keys))
    }

    fn with(settings: &AuthSettings, keys: jwks::Keys) -> Verifier {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        validation.set_audience(&[AUDIENCE]);
        validation.set_issuer(&[&settings.issuer]);
        let verified = Memory::new(settings.verified_tokens_max);
        Verifier { inner: Arc::new(Inner { keys, validation, verified }) }
    }

    /// Who presents `token`. Refuses with `UNAUTHORIZED`; a transient fault while no key can be had.
    pub async fn verify(&self, token: &str) -> Result<Caller> {
        match self.remembered(token) {
            Some(known) => known,
            None => self.verify_anew(token).await,
        }
    }

    /// Who presents `token`, if it passed before.
    fn remembered(&self, token: &str) -> Option<Result<Caller>> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let known = self.inner.verified.get(&digest(token))?;
        self.inner.keys.known(&known.kid)?;
        let expires_at = known.caller.expires_at.saturating_add(LEEWAY_SECONDS);
        let is_expired = expires_at < jsonwebtoken::get_current_timestamp();
        Some(if is_expired { counted(Err(NotAccepted::Expired.into())) } else { Ok(known.caller) })
    }

    async fn verify_anew(&self, token: &str) -> Result<Caller> {
        counted(self.accept(token).await)
    }

    async fn accept(&self, token: &str) -> Result<Caller> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(NotAccepted::Invalid.into());
        }
        let kid = readable_kid(token)?;
        let key = self.inner.keys.find(&kid).await?.ok_or(NotAccepted::Invalid)?;
        let claims = self.claims(token, &key)?;
        let roles = claims.roles.iter().filter_map(|name| Role::from_name(name)).collect();
        let caller = Caller { account: claims.sub, roles, expires_at: claims.exp };
        let verified = Verified { caller: caller.clone(), kid: kid.into() };
        self.inner.verified.insert(digest(token), verified);
        Ok(caller)
    }

    fn claims(&self, token: &str, key: &DecodingKey) -> Result<Claims, NotAccepted> {
        let decoded = jsonwebtoken::decode::<Claims>(token, key, &self.inner.validation);
        let claims = decoded.map_err(|error| match error.kind() {
            ErrorKind::ExpiredSignature => NotAccepted::Expired,
            _ => NotAccepted::Invalid,
        })?;
        let claims = claims.claims;
        if claims.iat > jsonwebtoken::get_current_timestamp() + LEEWAY_SECONDS {
            return Err(NotAccepted::Invalid);
        }
        Ok(claims)
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

fn counted(outcome: Result<Caller>) -> Result<Caller> {
    if let Err(Error::Refused(_)) = &outcome {
        metrics::counter!("stampede_tokens_refused_total").increment(1);
    }
    outcome
}

/// The key id of a token whose header is exactly as ours are.
fn readable_kid(token: &str) -> Result<String, NotAccepted> {
    let mut segments = token.split('.');
    let (Some(header), Some(_), Some(_), None) = (segments.next(), segments.next(), segments.next(), segments.next())
    else {
        return Err(NotAccepted::Invalid);
    };
    let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| NotAccepted::Invalid)?;
    let header: Header = serde_json::from_slice(&header).map_err(|_| NotAccepted::Invalid)?;
    let kid_is_plain = !header.kid.is_empty()
        && header.kid.len() <= KID_CHARS_MAX
        && header.kid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if header.alg != "EdDSA" || header.typ != TYP || !kid_is_plain {
        return Err(NotAccepted::Invalid);
    }
    Ok(header.kid)
}

/// The token of the one `Authorization` header. Two headers are refused: proxies disagree about which one counts.
fn bearer(headers: &HeaderMap) -> Result<&str, NotAccepted> {
    let mut values = headers.get_all(AUTHORIZATION);
    let (Some(value), None) = (values.next(), values.next()) else { return Err(NotAccepted::Missing) };
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(NotAccepted::Missing)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(NotAccepted::Missing);
    }
    Ok(token)
}

/// The token of a request, for those who accept others than access tokens. Refuses with `UNAUTHORIZED`.
pub fn bearer_token(request: &HttpRequest) -> Result<String> {
    Ok(bearer(request.headers())?.to_owned())
}

/// Extractor: who calls. Refuses with 401 `UNAUTHORIZED`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub account: Uuid,
    pub roles: Vec<Role>,
    /// Until when the token is valid, in Unix seconds.
    pub expires_at: u64,
}

impl Caller {
    pub fn is_admin(&self) -> bool {
        self.roles.contains(&Role::Admin)
    }

    /// Noted in the span of the request.
    fn recorded(self) -> Caller {
        tracing::Span::current().record("userId", tracing::field::display(self.account));
        self
    }
}

impl FromRequest for Caller {
    type Error = Error;
    /// Ready for a token that passed before: nothing is copied then.
    type Future = Either<Ready<Result<Caller>>, LocalBoxFuture<'static, Result<Caller>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let Some(verifier) = request.app_data::<web::Data<Verifier>>() else {
            return Either::Left(ready(Err(Error::fault(anyhow::anyhow!("the host has no token verifier")))));
        };
        let token = match bearer(request.headers()) {
            Ok(token) => token,
            Err(missing) => return Either::Left(ready(Err(missing.into()))),
        };
        if let Some(known) = verifier.remembered(token) {
            return Either::Left(ready(known.map(Caller::recorded)));
        }
        let (verifier, token) = (verifier.clone(), token.to_owned());
        Either::Right(async move { Ok(verifier.verify_anew(&token).await?.recorded()) }.boxed_local())
    }
}

/// Extractor: who calls, where nobody has to say so. A token that is not valid is refused with 401 `UNAUTHORIZED` all the
/// same: whoever sends one means to be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaybeCaller(pub Option<Caller>);

impl FromRequest for MaybeCaller {
    type Error = Error;
    type Future = LocalBoxFuture<'static, Result<MaybeCaller>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        if !request.headers().contains_key(AUTHORIZATION) {
            return std::future::ready(Ok(MaybeCaller(None))).boxed_local();
        }
        let caller = Caller::from_request(request, payload);
        async move { Ok(MaybeCaller(Some(caller.await?))) }.boxed_local()
    }
}

/// Extractor: an administrator calls. Refuses with 401 `UNAUTHORIZED` or 403 `FORBIDDEN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin(pub Caller);

impl FromRequest for Admin {
    type Error = Error;
    type Future = LocalBoxFuture<'static, Result<Admin>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let caller = Caller::from_request(request, payload);
        async move {
            let caller = caller.await?;
            if !caller.is_admin() {
                return Err(Refused::new(FORBIDDEN, "Only an administrator may do this.").into());
            }
            Ok(Admin(caller))
        }
        .boxed_local()
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn headers(values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn exactly_one_bearer_header_is_read() {
        assert_eq!(bearer(&headers(&["Bearer a.b.c"])), Ok("a.b.c"));
        assert_eq!(bearer(&headers(&["bearer a.b.c"])), Ok("a.b.c"));
        for refused in
            [&[][..], &["Bearer a.b.c", "Bearer a.b.c"], &["Basic YTpi"], &["a.b.c"], &["Bearer"], &["Bearer\ta"]]
        {
            assert_eq!(bearer(&headers(refused)), Err(NotAccepted::Missing), "{refused:?}");
        }
    }

    #[test]
    fn roles_keep_their_names() {
        for role in [Role::User, Role::Admin] {
            assert_eq!(Role::from_name(role.name()), Some(role));
            assert_eq!(serde_json::to_value(role).unwrap(), role.name());
        }
        assert_eq!(Role::from_name("admin"), None);
    }
}
