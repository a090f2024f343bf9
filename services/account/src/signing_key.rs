//! Rules: which key signs, when the next one is due, and what an access token says.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use common::auth::{AUDIENCE, AuthSettings, Claims, Jwk, JwkSet, Role, TYP};
use common::{Error, Result};
use contract::ids::AccountId;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::RwLock;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// An Ed25519 key pair and the time for which it signs.
#[derive(Clone, diesel::Queryable, diesel::Selectable, diesel::Insertable)]
#[diesel(table_name = crate::schema::signing_keys)]
pub struct SigningKey {
    pub kid: String,
    pub public: Vec<u8>,
    /// PKCS #8.
    pub private: Vec<u8>,
    /// Signs from here until the next key does; published before.
    pub use_at: DateTime<Utc>,
    pub retire_at: Option<DateTime<Utc>>,
}

impl SigningKey {
    pub fn new(public: &[u8], private: &[u8], use_at: DateTime<Utc>) -> Self {
        // Eight bytes tell our handful of keys apart, and the same key has the same name everywhere.
        let kid = URL_SAFE_NO_PAD.encode(&Sha256::digest(public)[..8]);
        Self { kid, public: public.to_vec(), private: private.to_vec(), use_at, retire_at: None }
    }
}

/// How keys follow each other.
#[derive(Debug, Clone, Copy)]
pub struct Rotation {
    pub every: TimeDelta,
    /// The next key is published for so long before it signs, so that every verifier knows it by then.
    pub publish_ahead: TimeDelta,
    /// A key is accepted for so long after the next one signs: the life of what it signed.
    pub accept_after: TimeDelta,
}

impl Rotation {
    /// When the key to be made now begins to sign. `None`: no key is due.
    pub fn next_use_at(&self, keys: &[SigningKey], now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let Some(newest) = keys.iter().map(|key| key.use_at).max() else { return Some(now) };
        let successor_signs_at = newest + self.every;
        (successor_signs_at - self.publish_ahead <= now).then(|| successor_signs_at.max(now + self.publish_ahead))
    }
}

/// The keys in force, and the minting of access tokens with them.
pub struct TokenSigner {
    keys: RwLock<Arc<[SigningKey]>>,
    issuer: String,
    lifetime: TimeDelta,
}

impl TokenSigner {
    pub fn new(settings: &AuthSettings, keys: Vec<SigningKey>) -> Self {
        let lifetime = TimeDelta::minutes(settings.access_token_minutes.into());
        Self { keys: RwLock::new(keys.into()), issuer: settings.issuer.clone(), lifetime }
    }

    pub fn replace(&self, keys: Vec<SigningKey>) {
        *self.keys.write() = keys.into();
    }

    fn keys(&self) -> Arc<[SigningKey]> {
        self.keys.read().clone()
    }

    /// The key that signs at `now`: the latest whose time has come.
    pub fn current(&self, now: DateTime<Utc>) -> Result<SigningKey> {
        let keys = self.keys();
        let current = keys.iter().filter(|key| key.use_at <= now).max_by_key(|key| key.use_at);
        current.cloned().ok_or_else(|| Error::transient(anyhow::anyhow!("there is no signing key")))
    }

    /// A key by its name, retired or not.
    pub fn key(&self, kid: &str) -> Result<SigningKey> {
        let keys = self.keys();
        let found = keys.iter().find(|key| key.kid == kid);
        found.cloned().ok_or_else(|| Error::transient(anyhow::anyhow!("signing key {kid} is not known here")))
    }

    /// An access token for `account`. `jti` names the token and must be new.
    pub fn mint(&self, account: AccountId, role: Role, jti: Uuid, now: DateTime<Utc>) -> Result<String> {
        let key = self.current(now)?;
        let seconds = |at: DateTime<Utc>| u64::try_from(at.timestamp()).map_err(Error::fault);
        let claims = Claims {
            iss: self.issuer.clone(),
            aud: AUDIENCE.to_owned(),
            sub: account.uuid(),
            jti,
            iat: seconds(now)?,
            nbf: seconds(now)?,
            exp: seconds(now + self.lifetime)?,
            roles: vec![role.name().to_owned()],
        };
        let header = Header { typ: Some(TYP.to_owned()), kid: Some(key.kid), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ed_der(&key.private)).map_err(Error::fault)
    }

    pub fn lifetime_seconds(&self) -> i64 {
        self.lifetime.num_seconds()
    }

    /// Every public key that is or will be accepted.
    pub fn published(&self, now: DateTime<Utc>) -> JwkSet {
        let accepted = |key: &&SigningKey| key.retire_at.is_none_or(|at| at > now);
        let jwk = |key: &SigningKey| Jwk {
            kty: "OKP".to_owned(),
            crv: "Ed25519".to_owned(),
            alg: "EdDSA".to_owned(),
            usage: "sig".to_owned(),
            kid: key.kid.clone(),
            x: URL_SAFE_NO_PAD.encode(&key.public),
        };
        JwkSet { keys: self.keys().iter().filter(accepted).map(jwk).collect() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    use common::auth::Verifier;
    use jsonwebtoken::DecodingKey;

    use super::*;

    const ROTATION: Rotation = Rotation {
        every: TimeDelta::days(90),
        publish_ahead: TimeDelta::hours(24),
        accept_after: TimeDelta::minutes(20),
    };

    fn at(hour: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + hour * 3600, 0).unwrap()
    }

    fn key(use_at: DateTime<Utc>) -> SigningKey {
        let pair = Ed25519KeyPair::generate().unwrap();
        SigningKey::new(pair.public_key().as_ref(), pair.to_pkcs8().unwrap().as_ref(), use_at)
    }

    fn settings() -> AuthSettings {
        AuthSettings {
            issuer: "stampede-test".to_owned(),
            jwks_url: String::new(),
            jwks_refresh_seconds: 30,
            jwks_age_max_seconds: 300,
            jwks_timeout_ms: 1000,
            verified_tokens_max: 100,
            access_token_minutes: 15,
        }
    }

    #[test]
    fn the_next_key_is_made_a_day_before_it_signs() {
        assert_eq!(ROTATION.next_use_at(&[], at(0)), Some(at(0)));
        let keys = [key(at(0))];
        assert_eq!(ROTATION.next_use_at(&keys, at(0)), None);
        assert_eq!(ROTATION.next_use_at(&keys, at(89 * 24 - 1)), None);
        assert_eq!(ROTATION.next_use_at(&keys, at(89 * 24)), Some(at(90 * 24)));
        // After a long rest the next key still gets its day of publication.
        assert_eq!(ROTATION.next_use_at(&keys, at(200 * 24)), Some(at(201 * 24)));
        assert_eq!(ROTATION.next_use_at(&[key(at(0)), key(at(90 * 24))], at(89 * 24)), None);
    }

    #[test]
    fn the_next_key_is_published_before_it_signs_and_the_previous_one_until_its_tokens_are_gone() {
        let (mut old, next) = (key(at(0)), key(at(24)));
        old.retire_at = Some(at(25));
        let signer = TokenSigner::new(&settings(), vec![next.clone(), old.clone()]);
        for (hour, signs, published) in [(1, &old, 2), (24, &next, 2), (25, &next, 1)] {
            assert_eq!(signer.current(at(hour)).unwrap().kid, signs.kid, "{hour}");
            assert_eq!(signer.published(at(hour)).keys.len(), published, "{hour}");
        }
        assert!(signer.current(at(-1)).is_err());
    }

    #[tokio::test]
    async fn what_is_minted_passes_the_verifier() {
        let key = key(Utc::now());
        let keys = HashMap::from([(key.kid.clone(), DecodingKey::from_ed_der(&key.public))]);
        let signer = TokenSigner::new(&settings(), vec![key]);
        let account = AccountId::generate();
        let token = signer.mint(account, Role::Admin, Uuid::new_v4(), Utc::now()).unwrap();
        let caller = Verifier::fixed(&settings(), keys).verify(&token).await.unwrap();
        assert_eq!((caller.account, caller.roles), (account.uuid(), vec![Role::Admin]));
    }
}
