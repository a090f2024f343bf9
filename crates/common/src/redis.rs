//! Redis as a gate and a cache: namespaced keys, scripts with a name, and a quick "away" instead of waiting.

mod access;
mod away;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt, future};
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{AsyncCommands, FromRedisValue};
use serde::Deserialize;

/// Section `[redis]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisSettings {
    pub url: secrecy::SecretString,
    pub ca_file: String,
    pub cert_file: String,
    pub key_file: String,
    pub timeout_ms: u64,
    pub pause_ms: u64,
}

pub(crate) use access::problems;

/// Redis did not do what it was asked for. The caller goes on without it: no promise lives there.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// Nobody gets an answer for now.
    #[error("redis is away: {0}")]
    Away(String),
    /// It answers that this call is wrong. Other calls are not affected.
    #[error("redis refuses the call: {0}")]
    Refused(String),
}

/// A Lua script that lies beside the flow that runs it.
pub struct Script {
    name: &'static str,
    script: redis::Script,
}

impl Script {
    pub fn new(name: &'static str, source: &str) -> Self {
        Self { name, script: redis::Script::new(source) }
    }
}

/// Calls that Redis refuses have one line in the log in so many milliseconds.
const REFUSED_TOLD_MS: u64 = 10_000;

/// One multiplexed connection that comes back by itself. Cheap to clone.
#[derive(Clone)]
pub struct Redis {
    client: redis::Client,
    manager: ConnectionManager,
    namespace: Arc<str>,
    timeout: Duration,
    pause: Duration,
    /// Milliseconds since `born` before which nobody tries: a dead Redis must not cost every request a time-out.
    paused_until_ms: Arc<AtomicU64>,
    /// The same for the log: a call that Redis refuses is not logged again before.
    told_until_ms: Arc<AtomicU64>,
    born: Instant,
}

impl Redis {
    /// Connects on first use, and again whenever the connection is lost.
    pub fn open(settings: &RedisSettings, namespace: &str) -> anyhow::Result<Redis> {
        let timeout = Duration::from_millis(settings.timeout_ms);
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout))
            .set_number_of_retries(1);
        let client = access::client(settings)?;
        Ok(Redis {
            manager: ConnectionManager::new_lazy_with_config(client.clone(), config)?,
            client,
            namespace: namespace.into(),
            timeout,
            pause: Duration::from_millis(settings.pause_ms),
            paused_until_ms: Arc::default(),
            told_until_ms: Arc::default(),
            born: Instant::now(),
        })
    }

    /// `name` in this process's namespace.
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.namespace)
    }

    /// Runs `script` over `keys`, which must all lie in one slot.
    pub async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[String],
        args: &[String],
    ) -> Result<T, Unavailable> {
        let mut invocation = script.script.prepare_invoke();
        for key in keys {
            invocation.key(key);
        }
        for arg in args {
            invocation.arg(arg);
        }
        let mut manager = self.manager.clone();
        self.bounded(script.name, async move { invocation.invoke_async(&mut manager).await }).await
    }

    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Unavailable> {
        let mut manager = self.manager.clone();
        self.bounded("get", async move { manager.get(key).await }).await
    }

    pub async fn set(&self, key: &str, value: &[u8], ttl: Duration) -> Result<(), Unavailable> {
        let mut manager = self.manager.clone();
        let milliseconds = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
        self.bounded("set", async move { manager.pset_ex(key, value, milliseconds).await }).await
    }

    pub async fn delete(&self, keys: &[String]) -> Result<(), Unavailable> {
        let mut manager = self.manager.clone();
        self.bounded("del", async move { manager.del(keys).await }).await
    }

    /// Runs any command with this connection's bound and pause, for what has no method here.
    pub async fn command<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, Unavailable> {
        let mut manager = self.manager.clone();
        self.bounded("command", async move { command.query_async(&mut manager).await }).await
    }

    /// The names of the keys of this namespace that expire from now on, without the namespace. It ends with the connection.
    ///
    /// A hint and no more: Redis tells when it removes a key, which may be long after its time, and only to those who
    /// listen at that moment. A server that tells nobody is told to; one that refuses that stays silent.
    pub async fn expirations(&self) -> Result<impl Stream<Item = String> + use<>, Unavailable> {
        // A failure here pauses nobody else: some servers refuse CONFIG, and the connection is another one.
        let mut manager = self.manager.clone();
        let turn_on = async {
            let mut asked = cmd("CONFIG");
            asked.arg("GET").arg("notify-keyspace-events");
            let mut answer: Vec<String> = asked.query_async(&mut manager).await?;
            let flags = answer.pop().unwrap_or_default();
            if flags.contains('E') && (flags.contains('x') || flags.contains('A')) {
                return Ok(());
            }
            let mut set = cmd("CONFIG");
            set.arg("SET").arg("notify-keyspace-events").arg(format!("{flags}Ex"));
            set.query_async(&mut manager).await
        };
        if let Err(error) = self.timed("config", turn_on).await {
            tracing::debug!(%error, "Redis does not let us turn on the news of expired keys");
        }
        let client = self.client.clone();
        let subscribe = async move {
            let mut subscription = client.get_async_pubsub().await?;
            subscription.psubscribe("__keyevent@*__:expired").await?;
            Ok(subscription)
        };
        let messages = self.timed("psubscribe", subscribe).await?.into_on_message();
        let namespace = self.namespace.clone();
        Ok(messages.filter_map(move |message| {
            let name = message.get_payload::<String>().ok();
            future::ready(name.and_then(|name| name.strip_prefix(&*namespace).map(str::to_owned)))
        }))
    }

    async fn bounded<T>(
        &self,
        what: &'static str,
        call: impl Future<Output = redis::RedisResult<T>>,
    ) -> Result<T, Unavailable> {
        let now_ms = self.born.elapsed().as_millis() as u64;
        if now_ms < self.paused_until_ms.load(Ordering::Relaxed) {
            return Err(Unavailable::Away("paused after a failure".to_owned()));
        }
        let outcome = self.timed(what, call).await;
        let until_ms = now_ms + self.pause.as_millis() as u64;
        match &outcome {
            Err(Unavailable::Away(failure)) => {
                if self.paused_until_ms.fetch_max(until_ms, Ordering::Relaxed) < now_ms {
                    tracing::warn!(call = what, failure, "Redis is away; going on without it");
                }
            }
            Err(Unavailable::Refused(failure)) => {
                // Nothing pauses these calls: one line stands for all of a while.
                let told_until_ms = self.told_until_ms.load(Ordering::Relaxed);
                let is_due = now_ms >= told_until_ms;
                if is_due && self.told_until_ms.swap(now_ms + REFUSED_TOLD_MS, Ordering::Relaxed) == told_until_ms {
                    tracing::error!(call = what, failure, "Redis refuses a call; going on without its answer");
                }
            }
            Ok(_) => {}
        }
        outcome
    }

    /// Waits as long as a call may take.
    async fn timed<T>(
        &self,
        what: &'static str,
        call: impl Future<Output = redis::RedisResult<T>>,
    ) -> Result<T, Unavailable> {
        let (failure, unavailable) = match tokio::time::timeout(self.timeout, call).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) if !away::is_away(&error) => ("refused", Unavailable::Refused(error.to_string())),
            Ok(Err(error)) => ("away", Unavailable::Away(error.to_string())),
            Err(_) => ("away", Unavailable::Away("no answer in time".to_owned())),
        };
        metrics::counter!("stampede_redis_failures_total", "call" => what, "failure" => failure).increment(1);
        Err(unavailable)
    }
}

/// The name of a command, for [`Redis::command`].
pub fn cmd(name: &str) -> redis::Cmd {
    redis::cmd(name)
}

#[cfg(test)]
mod tests;
