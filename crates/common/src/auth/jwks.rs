//! The public keys that tokens are checked with: a map in memory, filled over HTTP from the account service.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jsonwebtoken::DecodingKey;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use super::AuthSettings;
use crate::error::{Error, Result};

/// A JWK set has the signing key, the next and the previous one; more than this is not ours.
const KEYS_MAX: usize = 16;

/// [`KEYS_MAX`] keys need 3 KiB.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// After a failed fetch: soon enough that a service which started before `account` is not deaf for long.
const RETRY: Duration = Duration::from_secs(1);

/// RFC 7517, only what an Ed25519 public key needs (RFC 8037).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Jwk {
    /// `OKP`
    pub kty: String,
    /// `Ed25519`
    pub crv: String,
    /// `EdDSA`
    pub alg: String,
    /// `sig`
    #[serde(rename = "use")]
    pub usage: String,
    pub kid: String,
    /// The public key: 32 bytes in base64url.
    pub x: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct JwkSet {
    pub keys: Vec<Jwk>,
}

type KeyMap = HashMap<String, DecodingKey>;

/// Keys by kid.
pub(super) struct Keys {
    known: Arc<RwLock<Arc<KeyMap>>>,
    source: Option<Arc<Source>>,
}

struct Source {
    url: String,
    http: reqwest::Client,
    /// An HTTP worker's runtime may end while others wait for the answer, so fetches run on the main one.
    main: Handle,
    refresh_every: Duration,
    age_max: Duration,
    /// Held during a fetch, so there is one at a time. The next one may not start before this.
    not_before: Arc<Mutex<Option<Instant>>>,
    fetched_at: RwLock<Option<Instant>>,
}

impl Keys {
    pub fn fixed(keys: KeyMap) -> Keys {
        Keys { known: Arc::new(RwLock::new(Arc::new(keys))), source: None }
    }

    pub fn fetched(settings: &AuthSettings) -> anyhow::Result<Keys> {
        let timeout = Duration::from_millis(settings.jwks_timeout_ms);
        // The keys decide whom we believe: they come from the configured address, not from where it points to.
        let http = reqwest::Client::builder()
            .timeout(timeout)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        let source = Source {
            url: settings.jwks_url.clone(),
            http,
            main: Handle::current(),
            refresh_every: Duration::from_secs(settings.jwks_refresh_seconds),
            age_max: Duration::from_secs(settings.jwks_age_max_seconds),
            not_before: Arc::default(),
            fetched_at: RwLock::new(None),
        };
        Ok(Keys { known: Arc::default(), source: Some(Arc::new(source)) })
    }

    /// The key, if it is in memory. Starts a fetch in the background when what is in memory is old, so that a
    /// withdrawn key stops working without anybody waiting.
    pub fn known(&self, kid: &str) -> Option<DecodingKey> {
        let key = read(&self.known).get(kid).cloned();
        if let Some(source) = &self.source
            && key.is_some()
            && source.is_old()
            // Whoever holds the lock is fetching already.
            && let Ok(mut not_before) = source.not_before.clone().try_lock_owned()
            && is_due(*not_before)
        {
            let (source, known) = (source.clone(), self.known.clone());
            source.main.clone().spawn(async move { *not_before = Some(source.refresh(&known).await) });
        }
        key
    }

    /// The key, fetched if need be. `None`: the account service has no such key, or was asked a moment ago.
    /// A transient fault while no key at all could be had.
    pub async fn find(&self, kid: &str) -> Result<Option<DecodingKey>> {
        let Some(source) = self.source.clone().filter(|_| self.known(kid).is_none()) else {
            return Ok(self.known(kid));
        };
        let known = self.known.clone();
        let wanted = kid.to_owned();
        // A caller who goes away must not leave the fetch half done for those who wait behind it.
        let fetching = source.main.clone().spawn(async move {
            let mut not_before = source.not_before.lock().await;
            let fetched_meanwhile = read(&known).contains_key(&wanted);
            if !fetched_meanwhile && is_due(*not_before) {
                *not_before = Some(source.refresh(&known).await);
            }
        });
        fetching.await.map_err(Error::transient)?;
        if read(&self.known).is_empty() {
            return Err(Error::transient(anyhow::anyhow!(
                "no token can be checked: the signing keys are not known yet"
            )));
        }
        Ok(self.known(kid))
    }
}

fn is_due(not_before: Option<Instant>) -> bool {
    not_before.is_none_or(|at| Instant::now() >= at)
}

impl Source {
    fn is_old(&self) -> bool {
        let fetched_at = *self.fetched_at.read();
        fetched_at.is_none_or(|at| at.elapsed() > self.age_max)
    }

    /// Fetches once and says when the next fetch may start.
    async fn refresh(&self, known: &RwLock<Arc<KeyMap>>) -> Instant {
        match self.fetch().await {
            Ok(keys) => {
                tracing::debug!(keys = keys.len(), "Fetched the signing keys");
                *known.write() = Arc::new(keys);
                *self.fetched_at.write() = Some(Instant::now());
                Instant::now() + self.refresh_every
            }
            Err(error) => {
                metrics::counter!("stampede_jwks_failures_total").increment(1);
                tracing::warn!(error = format!("{error:#}"), url = self.url, "Could not fetch the signing keys");
                Instant::now() + RETRY
            }
        }
    }

    async fn fetch(&self) -> anyhow::Result<KeyMap> {
        let mut answer = self.http.get(&self.url).send().await?.error_for_status()?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            anyhow::ensure!(body.len() + chunk.len() <= BODY_BYTES_MAX, "the JWK set is too large");
            body.extend_from_slice(&chunk);
        }
        key_map(&serde_json::from_slice(&body)?)
    }
}

/// The Ed25519 signature keys of `set`. Keys of other kinds are passed over; no usable key at all is an error,
/// because it would log everybody out.
fn key_map(set: &JwkSet) -> anyhow::Result<KeyMap> {
    anyhow::ensure!(set.keys.len() <= KEYS_MAX, "the JWK set has {} keys", set.keys.len());
    let ours = |key: &&Jwk| key.kty == "OKP" && key.crv == "Ed25519" && key.alg == "EdDSA" && key.usage == "sig";
    let mut keys = KeyMap::new();
    for key in set.keys.iter().filter(ours) {
        keys.insert(key.kid.clone(), DecodingKey::from_ed_components(&key.x)?);
    }
    anyhow::ensure!(!keys.is_empty(), "the JWK set has no Ed25519 signature key");
    Ok(keys)
}

fn read(known: &RwLock<Arc<KeyMap>>) -> Arc<KeyMap> {
    known.read().clone()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Publishes one key and counts who asks.
    #[derive(Default)]
    struct Publisher {
        kid: std::sync::Mutex<String>,
        status: AtomicU16,
        asked: AtomicUsize,
    }

    async fn publisher(kid: &str, status: u16) -> (Arc<Publisher>, AuthSettings) {
        let publisher = Arc::new(Publisher { status: status.into(), ..Publisher::default() });
        kid.clone_into(&mut publisher.kid.lock().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = AuthSettings {
            issuer: "stampede-test".to_owned(),
            jwks_url: format!("http://{}/.well-known/jwks.json", listener.local_addr().unwrap()),
            jwks_refresh_seconds: 1,
            jwks_age_max_seconds: 300,
            jwks_timeout_ms: 1000,
            verified_tokens_max: 100,
            access_token_minutes: 15,
        };
        let served = publisher.clone();
        tokio::spawn(async move {
            loop {
                let (mut connection, _) = listener.accept().await.unwrap();
                drop(connection.read(&mut [0; 4096]).await);
                served.asked.fetch_add(1, Ordering::SeqCst);
                // Long enough that all who want a key wait for the same answer.
                tokio::time::sleep(Duration::from_millis(50)).await;
                drop(connection.write_all(served.answer().as_bytes()).await);
            }
        });
        (publisher, settings)
    }

    impl Publisher {
        fn answer(&self) -> String {
            let key = Jwk {
                kty: "OKP".to_owned(),
                crv: "Ed25519".to_owned(),
                alg: "EdDSA".to_owned(),
                usage: "sig".to_owned(),
                kid: self.kid.lock().unwrap().clone(),
                x: "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo".to_owned(),
            };
            let body = serde_json::to_string(&JwkSet { keys: vec![key] }).unwrap();
            let (status, length) = (self.status.load(Ordering::SeqCst), body.len());
            format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }
    }

    #[tokio::test]
    async fn a_crowd_at_start_asks_for_the_keys_once() {
        let (publisher, settings) = publisher("one", 200).await;
        let keys = Keys::fetched(&settings).unwrap();
        let found = futures_util::future::join_all((0..50).map(|_| keys.find("one"))).await;
        assert!(found.into_iter().all(|key| key.unwrap().is_some()));
        assert_eq!(publisher.asked(), 1);
    }

    #[tokio::test]
    async fn made_up_key_ids_do_not_make_us_ask_and_a_new_key_is_found_in_time() {
        let (publisher, settings) = publisher("one", 200).await;
        let keys = Keys::fetched(&settings).unwrap();
        keys.find("one").await.unwrap().unwrap();
        "two".clone_into(&mut publisher.kid.lock().unwrap());
        for attempt in 0..50 {
            assert!(keys.find(&format!("made-up-{attempt}")).await.unwrap().is_none());
        }
        assert_eq!(publisher.asked(), 1);
        tokio::time::sleep(Duration::from_millis(1050)).await;
        assert!(keys.find("two").await.unwrap().is_some());
        assert!(keys.known("one").is_none(), "a key that is published no more is accepted no more");
        assert_eq!(publisher.asked(), 2);
    }

    #[tokio::test]
    async fn an_account_service_that_is_away_is_a_fault_of_ours_until_a_key_is_known() {
        let (publisher, settings) = publisher("one", 503).await;
        let keys = Keys::fetched(&settings).unwrap();
        assert!(keys.find("one").await.unwrap_err().is_transient());
        assert!(keys.find("one").await.unwrap_err().is_transient());
        assert_eq!(publisher.asked(), 1, "the next attempt waits for a moment");
        publisher.status.store(200, Ordering::SeqCst);
        tokio::time::sleep(RETRY).await;
        assert!(keys.find("one").await.unwrap().is_some());
        publisher.status.store(503, Ordering::SeqCst);
        tokio::time::sleep(RETRY).await;
        assert!(keys.find("two").await.unwrap().is_none());
        assert!(keys.find("one").await.unwrap().is_some());
    }

    #[tokio::test]
    async fn old_keys_are_fetched_again_behind_the_callers_back() {
        let (publisher, settings) = publisher("one", 200).await;
        let keys = Keys::fetched(&AuthSettings { jwks_age_max_seconds: 0, ..settings }).unwrap();
        keys.find("one").await.unwrap().unwrap();
        "two".clone_into(&mut publisher.kid.lock().unwrap());
        tokio::time::sleep(Duration::from_millis(1050)).await;
        assert!(keys.known("one").is_some(), "nobody waits");
        let deadline = Instant::now() + Duration::from_secs(5);
        while keys.known("one").is_some() {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(publisher.asked(), 2);
    }

    #[test]
    fn only_ed25519_signature_keys_are_taken() {
        let key = |kty: &str, crv: &str, alg: &str, usage: &str| Jwk {
            kty: kty.to_owned(),
            crv: crv.to_owned(),
            alg: alg.to_owned(),
            usage: usage.to_owned(),
            kid: format!("{kty}{crv}{alg}{usage}"),
            x: "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo".to_owned(),
        };
        let good = key("OKP", "Ed25519", "EdDSA", "sig");
        let others = [
            key("oct", "Ed25519", "EdDSA", "sig"),
            key("OKP", "X25519", "EdDSA", "sig"),
            key("OKP", "Ed25519", "HS256", "sig"),
            key("OKP", "Ed25519", "EdDSA", "enc"),
        ];
        assert!(key_map(&JwkSet { keys: others.to_vec() }).is_err());
        let mixed = key_map(&JwkSet { keys: [&others[..], std::slice::from_ref(&good)].concat() }).unwrap();
        assert_eq!(mixed.into_keys().collect::<Vec<_>>(), [good.kid]);
    }
}
