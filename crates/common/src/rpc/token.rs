//! Service tokens: who calls over gRPC says so in a short-lived token, signed with a key of its own.
//!
//! Nothing is signed or checked for each call. A caller keeps its token until a minute before its end, and a callee remembers
//! the tokens that were good.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::RwLock;
use quick_cache::sync::Cache as Memory;
use serde::{Deserialize, Serialize};
use tonic::metadata::{Ascii, MetadataValue};

use crate::auth::LEEWAY_SECONDS;
use crate::error::{Error, Result};
use crate::manifest::identifier;
use crate::signed::{SigningKey, VerifyingKey};

/// The `typ` of service tokens. An access token has another, so neither works in the other's place.
const TYP: &str = "service+jwt";

/// What stands before the caller's name in `iss`.
const ISSUER: &str = "service:";

/// A stolen token is worth something for so long.
const LIFE_SECONDS: u64 = 300;

/// What is left of a token when the next one is made: more than clocks differ and a call takes.
const RENEW_SECONDS: u64 = 60;

/// Each process of each caller has one or two tokens for a callee at a time.
const GOOD_TOKENS_MAX: usize = 1000;

/// In front of the 32 bytes of a private key: PKCS #8 version 1 of Ed25519 (RFC 8410).
const PKCS8_HEAD: [u8; 16] = *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";

const KEY_BYTES: usize = 32;

/// What a service token says. Members that a newer caller adds are passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    /// `service:` and the name of the service that calls.
    iss: String,
    /// The service that is called.
    aud: String,
    /// Unix seconds, as is `exp`.
    iat: u64,
    exp: u64,
}

impl Claims {
    /// The name of the service that calls.
    pub fn caller(&self) -> &str {
        self.iss.strip_prefix(ISSUER).unwrap_or_default()
    }
}

/// The private key with which a process proves which services it hosts. Cheap to clone.
#[derive(Clone)]
pub struct ServiceKey {
    signing: SigningKey,
    public: String,
}

impl ServiceKey {
    /// Reads what [`new_key`] writes. The error does not quote it.
    pub fn read(text: &str) -> anyhow::Result<ServiceKey> {
        let wrong =
            || anyhow::anyhow!("it is no private key: PKCS #8 of Ed25519 in base64url, as `stampede keys` prints");
        let pkcs8 = URL_SAFE_NO_PAD.decode(text.trim()).map_err(|_| wrong())?;
        let signing = SigningKey::from_pkcs8(&pkcs8).map_err(|_| wrong())?;
        Ok(ServiceKey { public: signing.public_text(), signing })
    }

    /// The public half, as the settings have it.
    pub fn public(&self) -> &str {
        &self.public
    }

    /// A token with which `caller` calls `callee`, from `now` on (Unix seconds).
    pub fn token(&self, caller: &str, callee: &str, now: u64) -> Result<String> {
        let iss = format!("{ISSUER}{caller}");
        self.signing.sign(TYP, &Claims { iss, aud: callee.to_owned(), iat: now, exp: now + LIFE_SECONDS })
    }
}

/// A new private key.
pub fn new_key() -> anyhow::Result<String> {
    let mut seed = [0; KEY_BYTES];
    aws_lc_rs::rand::fill(&mut seed)?;
    Ok(key_of(seed))
}

/// The private key that these bytes are.
pub fn key_of(seed: [u8; KEY_BYTES]) -> String {
    URL_SAFE_NO_PAD.encode([&PKCS8_HEAD[..], &seed].concat())
}

/// What a caller sends to one callee.
pub(super) struct Signer {
    key: ServiceKey,
    caller: &'static str,
    callee: String,
    current: RwLock<Option<Current>>,
}

struct Current {
    bearer: MetadataValue<Ascii>,
    made_at: u64,
}

impl Signer {
    pub fn new(key: ServiceKey, caller: &'static str, callee: &str) -> Signer {
        Signer { key, caller, callee: callee.to_owned(), current: RwLock::default() }
    }

    /// The value of `authorization` for a call at `now`. Signs only when the last one ends soon, or is from the future.
    pub fn bearer(&self, now: u64) -> Result<MetadataValue<Ascii>> {
        let is_fresh = |current: &Current| {
            current.made_at <= now + LEEWAY_SECONDS && now < current.made_at + LIFE_SECONDS - RENEW_SECONDS
        };
        if let Some(current) = self.current.read().as_ref().filter(|current| is_fresh(current)) {
            return Ok(current.bearer.clone());
        }
        let mut current = self.current.write();
        // Somebody else may have been first.
        if let Some(current) = current.as_ref().filter(|current| is_fresh(current)) {
            return Ok(current.bearer.clone());
        }
        // It is not marked as sensitive: HTTP/2 then sends it once for each connection, and afterwards its number.
        let bearer = format!("Bearer {}", self.key.token(self.caller, &self.callee, now)?);
        let bearer = MetadataValue::try_from(bearer).map_err(Error::fault)?;
        *current = Some(Current { bearer: bearer.clone(), made_at: now });
        Ok(bearer)
    }
}

/// Why a token is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unbelieved {
    #[error("One `authorization: Bearer <service token>` is required.")]
    Missing,
    #[error(
        "The service token is not valid: it is of another kind, or no key of the service that it names has signed it."
    )]
    Invalid,
    #[error("The service token is for another service.")]
    Audience,
    #[error(
        "The service token has expired, or is from the future. If this goes on, the clocks of the two services differ."
    )]
    Expired,
}

/// The public keys of the services, and the tokens that were good.
pub(crate) struct Callers {
    /// By the service's name as the settings have it.
    keys: BTreeMap<String, Vec<VerifyingKey>>,
    good: Memory<String, Arc<Claims>>,
}

impl Callers {
    /// `public_keys` is the setting of that name.
    pub fn new(public_keys: &BTreeMap<String, String>) -> anyhow::Result<Callers> {
        let keys = public_keys.iter().map(|(service, keys)| Ok((service.clone(), read_public(keys)?)));
        Ok(Callers { keys: keys.collect::<anyhow::Result<_>>()?, good: Memory::new(GOOD_TOKENS_MAX) })
    }

    /// What `token` says, with which somebody calls `callee` at `now`.
    pub fn believe(&self, token: &str, callee: &str, now: u64) -> Result<Arc<Claims>, Unbelieved> {
        let claims = match self.good.get(token) {
            Some(known) => known,
            None => {
                let claims = Arc::new(self.read(token)?);
                self.good.insert(token.to_owned(), claims.clone());
                claims
            }
        };
        if claims.aud != callee {
            return Err(Unbelieved::Audience);
        }
        if claims.exp <= now || claims.iat > now + LEEWAY_SECONDS {
            return Err(Unbelieved::Expired);
        }
        Ok(claims)
    }

    /// What `token` says, if a key of the service that it names has signed it.
    fn read(&self, token: &str) -> Result<Claims, Unbelieved> {
        let payload = token.split('.').nth(1).and_then(|payload| URL_SAFE_NO_PAD.decode(payload).ok());
        let claimed: Option<Claims> = payload.and_then(|payload| serde_json::from_slice(&payload).ok());
        let named = claimed.and_then(|claims| self.keys.get(&identifier(claims.caller())));
        let keys = named.ok_or(Unbelieved::Invalid)?;
        keys.iter().find_map(|key| key.read(TYP, token).ok()).ok_or(Unbelieved::Invalid)
    }
}

/// The keys in one setting, separated by commas. None: nobody is believed who calls himself that.
pub(super) fn read_public(keys: &str) -> anyhow::Result<Vec<VerifyingKey>> {
    let keys = keys.split(',').map(str::trim).filter(|key| !key.is_empty());
    keys.map(|key| {
        let bytes = URL_SAFE_NO_PAD.decode(key).ok().filter(|bytes| bytes.len() == KEY_BYTES);
        let wrong = "a public key of Ed25519 is 43 characters of base64url, as `stampede keys` prints";
        bytes.map(|bytes| VerifyingKey::from_public(&bytes)).ok_or_else(|| anyhow::anyhow!(wrong))
    })
    .collect()
}

/// Whether `public` is one of `keys`.
pub(super) fn has_public(keys: &str, public: &str) -> bool {
    keys.split(',').any(|key| key.trim() == public)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> ServiceKey {
        ServiceKey::read(&key_of([seed; KEY_BYTES])).unwrap()
    }

    fn callers(keys: &[(&str, &str)]) -> Callers {
        let keys = keys.iter().map(|(service, keys)| ((*service).to_owned(), (*keys).to_owned()));
        Callers::new(&keys.collect()).unwrap()
    }

    /// Who is believed to call the store.
    fn caller(callers: &Callers, token: &str, now: u64) -> Result<String, Unbelieved> {
        callers.believe(token, "store", now).map(|claims| claims.caller().to_owned())
    }

    #[test]
    fn a_caller_is_believed_until_its_token_ends() {
        let callers = callers(&[("shop", key(1).public()), ("front_desk", key(2).public())]);
        let token = key(1).token("shop", "store", 1000).unwrap();
        for now in [995, 1000, 1299] {
            assert_eq!(caller(&callers, &token, now), Ok("shop".to_owned()), "{now}");
        }
        for now in [994, 1300, 5000] {
            assert_eq!(caller(&callers, &token, now), Err(Unbelieved::Expired), "{now}");
        }
        let hub = key(2).token("front-desk", "store", 1000).unwrap();
        assert_eq!(caller(&callers, &hub, 1000), Ok("front-desk".to_owned()));
    }

    #[test]
    fn nobody_is_believed_with_anothers_key_or_for_another_callee() {
        let callers = callers(&[("shop", key(1).public()), ("bank", key(2).public()), ("closed", "")]);
        let invalid = [
            key(2).token("shop", "store", 1000).unwrap(),
            key(1).token("bank", "store", 1000).unwrap(),
            key(1).token("closed", "store", 1000).unwrap(),
            key(1).token("nobody", "store", 1000).unwrap(),
            String::new(),
            "a.b.c".to_owned(),
            // Another kind of token of a key that is right.
            key(1).signing.sign("at+jwt", &serde_json::json!({"iss": "service:shop", "aud": "store"})).unwrap(),
        ];
        for token in invalid {
            assert_eq!(caller(&callers, &token, 1000), Err(Unbelieved::Invalid), "{token}");
        }
        let to_another = key(1).token("shop", "bank", 1000).unwrap();
        for _ in 0..2 {
            assert_eq!(caller(&callers, &to_another, 1000), Err(Unbelieved::Audience), "also when it is remembered");
        }
    }

    #[test]
    fn while_a_key_is_replaced_the_old_and_the_new_one_are_good() {
        let callers = callers(&[("shop", &format!("{}, {}", key(1).public(), key(2).public()))]);
        for (seed, believed) in [(1, true), (2, true), (3, false)] {
            let token = key(seed).token("shop", "store", 1000).unwrap();
            assert_eq!(caller(&callers, &token, 1000).is_ok(), believed, "{seed}");
        }
    }

    #[test]
    fn a_token_is_signed_once_in_four_minutes_and_checked_once() {
        let signer = Signer::new(key(1), "shop", "store");
        let first = signer.bearer(1000).unwrap();
        for now in 1000..1240 {
            assert_eq!(signer.bearer(now).unwrap(), first, "{now}");
        }
        let second = signer.bearer(1240).unwrap();
        assert_ne!(second, first, "a minute before its end");
        assert_ne!(signer.bearer(1000).unwrap(), second, "the clock was set back");

        let token = first.to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned();
        let mut callers = callers(&[("shop", key(1).public())]);
        assert!(caller(&callers, &token, 1000).is_ok());
        // Without a key nothing can be checked any more.
        callers.keys.clear();
        assert!(caller(&callers, &token, 1001).is_ok(), "what was good is remembered");
    }

    #[test]
    fn a_key_that_is_none_is_told_and_not_quoted() {
        for wrong in ["", "hunter2", key(1).public(), "MC4CAQAwBQYDK2VwBCIE"] {
            let told = ServiceKey::read(wrong).err().unwrap().to_string();
            assert!(told.contains("no private key") && !told.contains("hunter2"), "{told}");
        }
        // A private key in the place of a public one.
        assert!(read_public(&new_key().unwrap()).is_err());
        assert!(ServiceKey::read(&new_key().unwrap()).is_ok());
    }
}
