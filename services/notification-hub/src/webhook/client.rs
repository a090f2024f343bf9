//! The client of webhooks: it judges every address that a name leads to, calls one that it has judged, and follows
//! nobody elsewhere.

use std::error::Error as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use common::http::call;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use serde::Deserialize;

use super::address::{Allowed, NotAllowed, check, parse};
use crate::delivery::{Failure, Outcome};
use crate::http_answer::{classify, webhook_refusal};

/// Section `[notification_hub.webhook]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookSettings {
    pub connect_timeout_ms: u64,
    pub timeout_ms: u64,
    pub concurrency: u32,
    pub allow_http: bool,
    pub allow_private_addresses: bool,
    pub secret_overlap_hours: u32,
    pub retry_after_max_seconds: u64,
    pub retry_delays_seconds: Vec<u64>,
}

impl WebhookSettings {
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    pub fn allowed(&self) -> Allowed {
        Allowed { http: self.allow_http, private_addresses: self.allow_private_addresses }
    }
}

pub struct Client {
    http: reqwest::Client,
    allowed: Allowed,
    retry_after_max: Duration,
}

/// A request with its signature.
pub struct Signed {
    pub id: String,
    pub timestamp: i64,
    pub signature: String,
    pub body: Vec<u8>,
}

/// A request that was not taken.
pub struct NotTaken {
    pub outcome: Outcome,
    /// For the log. Nothing that the receiver said is in it: its answer may be that of a server that nobody outside
    /// should hear.
    pub reason: String,
}

impl Client {
    pub fn new(settings: &WebhookSettings) -> anyhow::Result<Client> {
        let allowed = settings.allowed();
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_millis(settings.connect_timeout_ms))
            .timeout(settings.timeout())
            .redirect(reqwest::redirect::Policy::none())
            // A proxy would resolve the name again, and judge nothing.
            .no_proxy()
            .dns_resolver(Arc::new(JudgingResolver { look_up: system_look_up(), allowed }))
            .build()?;
        Ok(Client { http, allowed, retry_after_max: Duration::from_secs(settings.retry_after_max_seconds) })
    }

    pub async fn post(&self, url: &str, signed: Signed) -> Result<(), NotTaken> {
        let not_sent = |failure, reason: String| NotTaken { outcome: Outcome::NotSent(failure), reason };
        // Judged again: the settings may be stricter than when it was entered.
        let url = parse(url, self.allowed).map_err(|why| not_sent(Failure::AddressRefused, why.to_string()))?;
        let request = self
            .http
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", signed.id)
            .header("webhook-timestamp", signed.timestamp)
            .header("webhook-signature", signed.signature)
            .body(signed.body);
        let answer = call::send(request).await.map_err(|error| {
            let failure = match () {
                () if is_not_allowed(&error) => Failure::AddressRefused,
                () if error.is_connect() || error.is_builder() => Failure::Unavailable,
                () => Failure::NoAnswer,
            };
            not_sent(failure, error.without_url().to_string())
        })?;
        let status = answer.status().as_u16();
        let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        match classify(status, retry_after, self.retry_after_max, webhook_refusal) {
            Outcome::Sent => Ok(()),
            outcome => Err(NotTaken { outcome, reason: status.to_string() }),
        }
    }
}

fn is_not_allowed(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(found) = cause {
        if found.is::<NotAllowed>() {
            return true;
        }
        cause = found.source();
    }
    false
}

/// Finds the addresses of a name.
type LookUp = Arc<dyn Fn(String) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> + Send + Sync>;

fn system_look_up() -> LookUp {
    Arc::new(|name| async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) }.boxed())
}

/// Hands out only addresses that may be called, so that a name cannot lead elsewhere after it was judged.
struct JudgingResolver {
    look_up: LookUp,
    allowed: Allowed,
}

impl Resolve for JudgingResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (found, allowed) = ((self.look_up)(name.as_str().to_owned()), self.allowed);
        Box::pin(async move {
            let found = found.await?;
            let addresses: Vec<IpAddr> = found.iter().map(SocketAddr::ip).collect();
            check(&addresses, allowed)?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    #[tokio::test]
    async fn a_name_is_judged_at_every_look_up() {
        // A name whose owner points it elsewhere between two look-ups.
        let answers: Vec<Vec<&str>> = vec![vec!["1.1.1.1:0"], vec!["127.0.0.1:0"], vec!["1.1.1.1:0", "[::1]:0"]];
        let answers = Mutex::new(answers.into_iter());
        let look_up: LookUp = Arc::new(move |_| {
            let found = answers.lock().next().unwrap_or_default();
            let found = found.into_iter().map(|address| address.parse().unwrap()).collect();
            std::future::ready(Ok(found)).boxed()
        });
        let resolver = JudgingResolver { look_up, allowed: Allowed::default() };
        let name = || "rebinding.example".parse::<Name>().unwrap();
        let called: Vec<_> = resolver.resolve(name()).await.ok().unwrap().collect();
        assert_eq!(called, ["1.1.1.1:0".parse().unwrap()]);
        for _ in 0..2 {
            let refused = resolver.resolve(name()).await.err().unwrap();
            assert_eq!(refused.downcast_ref(), Some(&NotAllowed::NotGlobal));
        }
    }
}
