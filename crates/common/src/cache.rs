//! A read-through JSON cache in Redis with single flight: of many that miss at once, one loads.

use std::time::Duration;

use bytes::Bytes;
use moka::future::Cache as Memory;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::redis::Redis;

/// Entries that one process keeps; beyond that the least used go.
const ENTRIES_MAX: u64 = 10_000;
/// How long a process may answer from its own memory. It bounds how stale another replica's change can be seen, and
/// takes a product page that everybody reloads down to a few reads of Redis a second.
const MEMORY_TTL: Duration = Duration::from_millis(500);

/// Read-through, shared by all replicas. Redis being away turns it into a short-lived memory cache.
#[derive(Clone)]
pub struct Cache {
    redis: Redis,
    memory: Memory<String, Bytes>,
}

impl Cache {
    pub fn new(redis: &Redis) -> Self {
        let memory = Memory::builder().max_capacity(ENTRIES_MAX).time_to_live(MEMORY_TTL).build();
        Self { redis: redis.clone(), memory }
    }

    /// The value under `key`, else what `load` returns, kept for `ttl`. A failed load is not kept.
    pub async fn get_or_load<T, Fut>(&self, key: &str, ttl: Duration, load: impl FnOnce() -> Fut) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        Fut: Future<Output = Result<T>>,
    {
        let shared = self.redis.key(key);
        let bytes = self
            .memory
            .try_get_with(shared.clone(), async {
                if let Ok(Some(stored)) = self.redis.get(&shared).await {
                    return Ok(Bytes::from(stored));
                }
                let value = load().await?;
                let json = serde_json::to_vec(&value).map_err(Error::fault)?;
                // Away: the value is served all the same.
                drop(self.redis.set(&shared, &json, ttl).await);
                Ok::<_, Error>(Bytes::from(json))
            })
            .await
            .map_err(|error| (*error).clone())?;
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(value),
            Err(error) => {
                // Written by another version of the program: forget it, the next reader loads.
                self.invalidate(&[key]).await;
                Err(Error::transient(error))
            }
        }
    }

    /// Forgets `keys`, here and for everyone. Call it after the commit.
    pub async fn invalidate(&self, keys: &[&str]) {
        let shared: Vec<String> = keys.iter().map(|key| self.redis.key(key)).collect();
        // Away: the entries end with their time to live, which is why every entry has one.
        drop(self.redis.delete(&shared).await);
        for key in &shared {
            self.memory.invalidate(key).await;
        }
    }
}
