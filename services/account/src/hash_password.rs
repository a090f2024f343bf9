//! Hashing passwords a few at a time, with a bounded queue, so that a storm of log-ins does not take the processors.

use std::sync::Arc;

use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version};
use common::text::nfkc;
use common::{Error, Result};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::account::Refused;

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
    /// The hash of a text that nobody knows, for accounts that do not exist.
    dummy: Arc<str>,
    /// Those that hash and those that wait, of each queue.
    admitted: [Arc<Semaphore>; 2],
    hashing: Arc<Semaphore>,
}

/// Who waits with whom. A storm of registrations leaves those who log in their places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    LogIns,
    Registrations,
}

/// The right to hash once. Without one nothing is hashed or compared.
pub struct Turn {
    _place: OwnedSemaphorePermit,
    _processor: OwnedSemaphorePermit,
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
            admitted: std::array::from_fn(|_| Arc::new(Semaphore::new(parallel + settings.waiting_max))),
            hashing: Arc::new(Semaphore::new(parallel)),
        })
    }

    /// Waits for a turn. Refuses with `TOO_MANY_ATTEMPTS` when too many wait already.
    pub async fn turn(&self, queue: Queue) -> Result<Turn> {
        let admitted = &self.admitted[queue as usize];
        let place = admitted.clone().try_acquire_owned().map_err(|_| {
            metrics::counter!("stampede_password_hashing_refused_total").increment(1);
            Refused::TooManyAttempts
        })?;
        let processor = self.hashing.clone().acquire_owned().await.map_err(Error::fault)?;
        Ok(Turn { _place: place, _processor: processor })
    }

    /// A PHC string.
    pub async fn hash(&self, turn: Turn, password: SecretString) -> Result<String> {
        self.run(turn, move |argon2| hash(argon2, normalized(&password).expose_secret().as_bytes())).await?
    }

    /// Compares `password` with `stored`. Without one, or with one that is no hash, it takes as long and is wrong.
    pub async fn verify(&self, turn: Turn, password: SecretString, stored: Option<String>) -> Result<Verdict> {
        let dummy = self.dummy.clone();
        self.run(turn, move |argon2| {
            let password = normalized(&password);
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

    async fn run<T: Send + 'static>(
        &self,
        turn: Turn,
        work: impl FnOnce(&Argon2<'_>) -> T + Send + 'static,
    ) -> Result<T> {
        let argon2 = self.argon2.clone();
        let done = tokio::task::spawn_blocking(move || {
            // Held by the work and not by its caller, who may go away while the processor is still busy.
            let _turn = turn;
            work(&argon2)
        });
        Ok(done.await?)
    }
}

/// One password is the same from every keyboard: some compose letters, others do not.
fn normalized(password: &SecretString) -> SecretString {
    nfkc(password.expose_secret()).into_owned().into()
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
    use futures_util::FutureExt;

    use super::*;

    fn passwords(memory_kib: u32, parallel: usize, waiting_max: usize) -> Passwords {
        Passwords::new(&HashingSettings { memory_kib, passes: 1, parallel, waiting_max }).unwrap()
    }

    fn secret(text: &str) -> SecretString {
        text.to_owned().into()
    }

    async fn hashed(passwords: &Passwords, password: &str) -> String {
        passwords.hash(passwords.turn(Queue::LogIns).await.unwrap(), secret(password)).await.unwrap()
    }

    async fn verified(passwords: &Passwords, password: &str, stored: Option<&str>) -> Verdict {
        let turn = passwords.turn(Queue::LogIns).await.unwrap();
        passwords.verify(turn, secret(password), stored.map(str::to_owned)).await.unwrap()
    }

    #[tokio::test]
    async fn only_the_right_password_for_a_real_hash_is_right() {
        let passwords = passwords(64, 2, 8);
        let stored = hashed(&passwords, "correct horse").await;
        assert!(stored.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{stored}");
        assert_eq!(verified(&passwords, "correct horse", Some(&stored)).await, Verdict::Right);
        assert_eq!(verified(&passwords, "correct horse ", Some(&stored)).await, Verdict::Wrong);
        assert_eq!(verified(&passwords, "correct horse", None).await, Verdict::Wrong);
        assert_eq!(verified(&passwords, "!", Some(crate::account::NO_PASSWORD)).await, Verdict::Wrong);
        assert_ne!(hashed(&passwords, "correct horse").await, stored);
        let composed = hashed(&passwords, "비밀번호입니다").await;
        let decomposed = "\u{1107}\u{1175}\u{1106}\u{1175}\u{11af}\u{1107}\u{1165}\u{11ab}\u{1112}\u{1169}\u{110b}\u{1175}\u{11b8}\u{1102}\u{1175}\u{1103}\u{1161}";
        assert_eq!(verified(&passwords, decomposed, Some(&composed)).await, Verdict::Right);
    }

    #[tokio::test]
    async fn a_hash_with_other_parameters_is_replaced() {
        let old = hashed(&passwords(64, 1, 1), "correct horse").await;
        let passwords = passwords(128, 1, 1);
        let Verdict::RightButOld(new) = verified(&passwords, "correct horse", Some(&old)).await else {
            panic!("the old parameters were not noticed");
        };
        assert_eq!(verified(&passwords, "correct horse", Some(&new)).await, Verdict::Right);
    }

    #[tokio::test]
    async fn no_more_wait_for_a_turn_than_the_queue_takes() {
        let passwords = passwords(64, 1, 2);
        let held = passwords.turn(Queue::LogIns).await.unwrap();
        let mut waiting: Vec<_> = (0..2).map(|_| Box::pin(passwords.turn(Queue::LogIns))).collect();
        for turn in &mut waiting {
            assert!(turn.as_mut().now_or_never().is_none(), "two may wait");
        }
        let refusal =
            passwords.turn(Queue::LogIns).now_or_never().expect("who cannot wait is told so at once").err().unwrap();
        assert_eq!(refusal.reason(), Some("TOO_MANY_ATTEMPTS"));
        let registering = passwords.turn(Queue::Registrations).now_or_never();
        assert!(registering.is_none(), "who registers waits in another queue");
        drop(held);
        let first = waiting.remove(0).await;
        assert!(first.is_ok(), "who waited has the next turn");
    }
}
