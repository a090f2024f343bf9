//! Hashing passwords without letting a storm of log-ins take the processors: a few at a time, a bounded queue.

use std::sync::Arc;

use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version};
use common::{Error, Result};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::account::No;

/// Part of section `[account]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HashingSettings {
    pub memory_kib: u32,
    pub passes: u32,
    pub parallel: usize,
    pub waiting_max: usize,
}

/// Argon2id, with the parameters in force. Cheap to clone.
#[derive(Clone)]
pub struct Passwords {
    argon2: Argon2<'static>,
    /// The hash of a text nobody knows, for accounts that do not exist.
    dummy: Arc<str>,
    /// Those being hashed and those waiting.
    admitted: Arc<Semaphore>,
    hashing: Arc<Semaphore>,
}

/// What came of comparing a password with a hash.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Wrong,
    Right,
    /// Right, and the parameters have changed since: store this hash instead.
    RightButOld(String),
}

impl Passwords {
    pub fn new(settings: &HashingSettings) -> anyhow::Result<Passwords> {
        // One thread for each hash: the semaphore decides how many processors hashing may take.
        let params = Params::new(settings.memory_kib, settings.passes, 1, None)
            .map_err(|error| anyhow::anyhow!("account.hashing: {error}"))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let dummy = hash(&argon2, &rand::random::<[u8; 32]>()).map_err(|error| anyhow::anyhow!("{error}"))?;
        let parallel = settings.parallel.max(1);
        Ok(Passwords {
            argon2,
            dummy: dummy.into(),
            admitted: Arc::new(Semaphore::new(parallel + settings.waiting_max)),
            hashing: Arc::new(Semaphore::new(parallel)),
        })
    }

    /// A PHC string. Refuses with `TOO_MANY_ATTEMPTS` when too many wait already.
    pub async fn hash(&self, password: SecretString) -> Result<String> {
        self.run(move |argon2| hash(argon2, password.expose_secret().as_bytes())).await?
    }

    /// Compares `password` with `stored`. Without one, or with one that is no hash, it takes as long and is wrong.
    /// Refuses with `TOO_MANY_ATTEMPTS` when too many wait already.
    pub async fn verify(&self, password: SecretString, stored: Option<String>) -> Result<Verdict> {
        let dummy = self.dummy.clone();
        self.run(move |argon2| {
            let password = password.expose_secret().as_bytes();
            let Some(parsed) = stored.as_deref().and_then(|stored| PasswordHash::new(stored).ok()) else {
                let dummy = PasswordHash::new(&dummy).map_err(|error| Error::fault(anyhow::anyhow!("{error}")))?;
                // Kept from the optimiser: the time it takes is its purpose.
                let _ = std::hint::black_box(argon2.verify_password(password, &dummy));
                return Ok(Verdict::Wrong);
            };
            if argon2.verify_password(password, &parsed).is_err() {
                return Ok(Verdict::Wrong);
            }
            if is_current(argon2, &parsed) {
                return Ok(Verdict::Right);
            }
            Ok(Verdict::RightButOld(hash(argon2, password)?))
        })
        .await?
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce(&Argon2<'_>) -> T + Send + 'static) -> Result<T> {
        let place = self.admitted.clone().try_acquire_owned().map_err(|_| {
            metrics::counter!("stampede_password_hashing_refused_total").increment(1);
            No::TooManyAttempts
        })?;
        let turn = self.hashing.clone().acquire_owned().await.map_err(Error::fault)?;
        let argon2 = self.argon2.clone();
        let done = tokio::task::spawn_blocking(move || {
            // Held by the work and not by its caller, who may go away while the processor is still busy.
            let _held = (place, turn);
            work(&argon2)
        });
        Ok(done.await?)
    }
}

fn hash(argon2: &Argon2<'_>, password: &[u8]) -> Result<String> {
    let hashed = argon2.hash_password(password).map_err(|error| Error::fault(anyhow::anyhow!("argon2: {error}")))?;
    Ok(hashed.to_string())
}

fn is_current(argon2: &Argon2<'_>, hash: &PasswordHash) -> bool {
    let in_force = argon2.params();
    Params::try_from(hash).is_ok_and(|params| {
        hash.algorithm == Algorithm::Argon2id.ident()
            && (params.m_cost(), params.t_cost(), params.p_cost())
                == (in_force.m_cost(), in_force.t_cost(), in_force.p_cost())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passwords(memory_kib: u32, parallel: usize, waiting_max: usize) -> Passwords {
        Passwords::new(&HashingSettings { memory_kib, passes: 1, parallel, waiting_max }).unwrap()
    }

    fn secret(text: &str) -> SecretString {
        text.to_owned().into()
    }

    #[tokio::test]
    async fn only_the_right_password_for_a_real_hash_is_right() {
        let passwords = passwords(64, 2, 8);
        let stored = passwords.hash(secret("correct horse")).await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{stored}");
        let verify = async |password: &str, stored: Option<&str>| {
            passwords.verify(secret(password), stored.map(str::to_owned)).await.unwrap()
        };
        assert_eq!(verify("correct horse", Some(&stored)).await, Verdict::Right);
        assert_eq!(verify("correct horse ", Some(&stored)).await, Verdict::Wrong);
        assert_eq!(verify("correct horse", None).await, Verdict::Wrong);
        assert_eq!(verify("!", Some(crate::account::NO_PASSWORD)).await, Verdict::Wrong);
        assert_ne!(passwords.hash(secret("correct horse")).await.unwrap(), stored);
    }

    #[tokio::test]
    async fn a_hash_with_other_parameters_is_replaced() {
        let old = passwords(64, 1, 1).hash(secret("correct horse")).await.unwrap();
        let passwords = passwords(128, 1, 1);
        let Verdict::RightButOld(new) = passwords.verify(secret("correct horse"), Some(old)).await.unwrap() else {
            panic!("the old parameters were not noticed");
        };
        assert_eq!(passwords.verify(secret("correct horse"), Some(new)).await.unwrap(), Verdict::Right);
    }

    #[tokio::test]
    async fn a_storm_waits_in_a_bounded_queue() {
        let passwords = passwords(4096, 1, 2);
        let storm = (0..20).map(|_| passwords.verify(secret("x"), None));
        let outcomes = futures_util::future::join_all(storm).await;
        let refused = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        assert_eq!(refused, 17);
        let refusal = outcomes.into_iter().find_map(Result::err).unwrap();
        assert_eq!(refusal.reason(), Some("TOO_MANY_ATTEMPTS"));
        passwords.verify(secret("x"), None).await.unwrap();
    }
}
