//! The replicas of an upstream: calls go to each in turn, and not to one that has just failed to answer.
//!
//! An HTTP/2 connection lives on and on, so a load balancer of connections would leave all calls of a process with one
//! replica, and a new one without any.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context, ensure};
use parking_lot::RwLock;
use rustls::pki_types::ServerName;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::ServiceExt;

use super::secure::Connector;
use super::{Body, RpcSettings};

/// How a replica is reached.
struct Opener {
    settings: RpcSettings,
    /// None: without TLS.
    tls: Option<Connector>,
}

/// Those that are known now. Cheap to clone.
#[derive(Clone)]
pub struct Replicas(Arc<Shared>);

struct Shared {
    opener: Opener,
    known: RwLock<Arc<[Arc<Replica>]>>,
    next: AtomicUsize,
    /// One that failed is left alone so long, if there are others.
    rest: Duration,
    born: Instant,
}

struct Replica {
    address: String,
    channel: Channel,
    /// Milliseconds since `born`.
    rests_until: AtomicU64,
}

impl Replicas {
    /// `addresses`, each `http://host:port`, are separated by commas. Behind a host name are as many replicas as it has
    /// addresses; they are looked up again and again. Connects on first use.
    pub fn open(addresses: &str, settings: &RpcSettings) -> anyhow::Result<Replicas> {
        let opener = Opener::new(settings)?;
        let mut known = Vec::new();
        let mut names = Vec::new();
        for address in addresses.split(',').map(str::trim) {
            let uri: Uri = address.parse().with_context(|| format!("{address:?} is no address"))?;
            let (host, port) =
                uri.host().zip(uri.port_u16()).with_context(|| format!("{address:?} is not http://host:port"))?;
            let is_name = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_err();
            ensure!(
                uri.scheme_str() == Some(opener.scheme()),
                "{address:?} has to begin with {}: {}",
                opener.scheme(),
                opener.why()
            );
            let name = Name { address: address.to_owned(), host: host.to_owned(), port };
            known.push(Arc::new(opener.open(address.to_owned(), &name.host)?));
            if is_name {
                names.push(name);
            }
        }
        let shared = Arc::new(Shared {
            opener,
            known: RwLock::new(known.into()),
            next: AtomicUsize::default(),
            rest: Duration::from_millis(settings.rest_ms),
            born: Instant::now(),
        });
        if !names.is_empty() {
            tokio::spawn(look_up(Arc::downgrade(&shared), names, Duration::from_millis(settings.look_up_ms)));
        }
        Ok(Replicas(shared))
    }

    /// Sends a request to the next one. One that cannot be reached rests.
    pub fn call(
        &self,
        request: http::Request<Body>,
    ) -> impl Future<Output = Result<http::Response<Body>, tonic::transport::Error>> + Send + use<> {
        let (shared, replica) = (self.0.clone(), self.0.choose());
        async move {
            let answer = replica.channel.clone().oneshot(request).await;
            if answer.as_ref().is_err_and(|error| !is_deadline(error)) {
                replica.rests_until.store(shared.now_ms() + shared.rest.as_millis() as u64, Ordering::Relaxed);
            }
            answer
        }
    }
}

impl Shared {
    fn now_ms(&self) -> u64 {
        self.born.elapsed().as_millis() as u64
    }

    /// The next one that does not rest; if all do, the next one.
    fn choose(&self) -> Arc<Replica> {
        let (known, now) = (self.known.read().clone(), self.now_ms());
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let in_turn = || (0..known.len()).map(|n| &known[(first.wrapping_add(n)) % known.len()]);
        let awake = in_turn().find(|replica| replica.rests_until.load(Ordering::Relaxed) <= now);
        awake.unwrap_or(&known[first % known.len()]).clone()
    }
}

impl Opener {
    fn new(settings: &RpcSettings) -> anyhow::Result<Opener> {
        let tls = settings.tls.is_on().then(|| Connector::open(&settings.tls)).transpose()?;
        Ok(Opener { settings: settings.clone(), tls })
    }

    /// What addresses begin with.
    const fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Why they do.
    const fn why(&self) -> &'static str {
        if self.tls.is_some() { "rpc.tls is set" } else { "rpc.tls is not set" }
    }

    /// A replica at `address`. Over TLS it has to have a certificate for `host`.
    fn open(&self, address: String, host: &str) -> anyhow::Result<Replica> {
        let endpoint = Endpoint::from_shared(address.clone())?
            .connect_timeout(Duration::from_millis(self.settings.connect_timeout_ms))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5));
        let channel = match &self.tls {
            None => endpoint.connect_lazy(),
            Some(connector) => {
                let name = host.trim_matches(['[', ']']).to_owned();
                let name = ServerName::try_from(name).with_context(|| format!("{host:?} can be on no certificate"))?;
                connector.channel(&endpoint, name)
            }
        };
        Ok(Replica { address, channel, rests_until: AtomicU64::default() })
    }
}

/// The caller had no more time, which says nothing about the replica.
fn is_deadline(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| error.is::<tonic::TimeoutExpired>())
}

struct Name {
    /// As the settings have it.
    address: String,
    host: String,
    port: u16,
}

/// Looks the names up until nobody calls any more. While a name has no addresses, what was known of it stays.
async fn look_up(shared: Weak<Shared>, names: Vec<Name>, period: Duration) {
    // What stands for each name.
    let mut of_names: Vec<BTreeSet<String>> = names.iter().map(|name| BTreeSet::from([name.address.clone()])).collect();
    loop {
        for (name, known) in names.iter().zip(&mut of_names) {
            match tokio::net::lookup_host((name.host.as_str(), name.port)).await {
                Ok(found) => {
                    let Some(shared) = shared.upgrade() else { return };
                    let scheme = shared.opener.scheme();
                    let found: BTreeSet<String> = found.map(|address| format!("{scheme}://{address}")).collect();
                    if !found.is_empty() && found != *known {
                        tracing::info!(
                            upstream = name.address, replicas = ?found,
                            "Upstream {} has {} replicas", name.address, found.len()
                        );
                        shared.replace(known, &found, &name.host);
                        *known = found;
                    }
                }
                Err(error) => tracing::debug!(upstream = name.address, %error, "The name has no addresses for now"),
            }
        }
        if shared.strong_count() == 0 {
            return;
        }
        tokio::time::sleep(period).await;
    }
}

impl Shared {
    /// Those at `found` take the place of those at `old`, which are all behind `host`. Who stays keeps its connection.
    fn replace(&self, old: &BTreeSet<String>, found: &BTreeSet<String>, host: &str) {
        let mut known = self.known.write();
        let stay = known.iter().filter(|replica| found.contains(&replica.address) || !old.contains(&replica.address));
        let mut replicas: Vec<Arc<Replica>> = stay.cloned().collect();
        for address in found {
            if !replicas.iter().any(|replica| replica.address == *address) {
                match self.opener.open(address.clone(), host) {
                    Ok(replica) => replicas.push(Arc::new(replica)),
                    Err(error) => tracing::warn!(%address, "The replica at {address} gets no calls: {error:#}"),
                }
            }
        }
        if !replicas.is_empty() {
            *known = replicas.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::{Outgoing, Transport};
    use tokio::net::TcpListener;
    use tonic::service::interceptor::InterceptedService;
    use tonic::transport::Server;
    use tonic::transport::server::TcpIncoming;
    use tonic_health::ServingStatus;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    /// The least that there may be.
    fn one() -> RpcSettings {
        RpcSettings { connect_timeout_ms: 1, deadline_ms: 1, look_up_ms: 1, rest_ms: 1, ..RpcSettings::default() }
    }

    /// Calls are made one after the other; who has answered, is known by the name that only one of them knows.
    struct Pair {
        client: HealthClient<InterceptedService<Transport, Outgoing>>,
        replicas: Replicas,
    }

    impl Pair {
        fn open(addresses: &str) -> Pair {
            let settings = RpcSettings {
                connect_timeout_ms: 5_000,
                deadline_ms: 20_000,
                look_up_ms: 10,
                rest_ms: 600_000,
                ..RpcSettings::default()
            };
            let replicas = Replicas::open(addresses, &settings).unwrap();
            let transport = Transport::Network(replicas.clone());
            Pair { client: HealthClient::new(InterceptedService::new(transport, Outgoing::new(&settings))), replicas }
        }

        /// Whether the first one answers, or why nobody does.
        async fn asks_first(&self) -> Result<bool, tonic::Code> {
            let request = HealthCheckRequest { service: "first".to_owned() };
            match self.client.clone().check(request).await {
                Ok(_) => Ok(true),
                Err(status) if status.code() == tonic::Code::NotFound => Ok(false),
                Err(status) => Err(status.code()),
            }
        }
    }

    async fn serve(name: &'static str, listener: TcpListener) {
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_service_status(name, ServingStatus::Serving).await;
        let server = Server::builder().add_service(health).serve_with_incoming(TcpIncoming::from(listener));
        tokio::spawn(server);
    }

    async fn listen() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        (listener, address)
    }

    #[tokio::test]
    async fn replicas_are_called_in_turn_and_one_that_fails_rests() {
        let ((first, at_first), (second, at_second)) = (listen().await, listen().await);
        // A runtime of its own: when it ends, connections end too.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let first = first.into_std().unwrap();
        runtime.spawn(async move { serve("first", TcpListener::from_std(first).unwrap()).await });
        serve("second", second).await;
        let pair = Pair::open(&format!("{at_first}, {at_second}"));
        for _ in 0..3 {
            assert_eq!((pair.asks_first().await, pair.asks_first().await), (Ok(true), Ok(false)));
        }
        runtime.shutdown_background();
        // One call finds out.
        while pair.asks_first().await.is_ok() {}
        for _ in 0..4 {
            assert_eq!(pair.asks_first().await, Ok(false), "the first one rests");
        }
    }

    #[tokio::test]
    async fn a_call_that_has_no_time_lets_nobody_rest() {
        // It takes connections and never answers.
        let (_silent, address) = listen().await;
        let (second, at_second) = listen().await;
        serve("second", second).await;
        let pair = Pair::open(&format!("{address},{at_second}"));
        let mut request = tonic::Request::new(HealthCheckRequest::default());
        request.set_timeout(Duration::from_millis(1));
        let status = pair.client.clone().check(request).await.unwrap_err();
        assert!(matches!(status.code(), tonic::Code::DeadlineExceeded | tonic::Code::Cancelled), "{status}");
        let known = pair.replicas.0.known.read().clone();
        assert!(known.iter().all(|replica| replica.rests_until.load(Ordering::Relaxed) == 0));
    }

    #[tokio::test]
    async fn a_name_stands_for_all_its_addresses() {
        let (listener, address) = listen().await;
        serve("first", listener).await;
        let port = address.rsplit_once(':').unwrap().1;
        let pair = Pair::open(&format!("http://localhost:{port}"));
        loop {
            let known = pair.replicas.0.known.read().clone();
            if known.iter().any(|replica| replica.address == address) {
                break;
            }
            tokio::task::yield_now().await;
        }
        // The other one, if there is one, is that of IPv6, where nobody listens: it rests once it is known.
        let answers = [pair.asks_first().await, pair.asks_first().await];
        assert!(answers.contains(&Ok(true)), "{answers:?}");
        assert_eq!(pair.asks_first().await, Ok(true));
    }

    #[tokio::test]
    async fn a_replica_that_stays_keeps_its_connection() {
        let settings = one();
        let Replicas(shared) =
            Replicas::open("http://10.0.0.1:1,http://10.0.0.2:1,http://10.0.0.9:1", &settings).unwrap();
        let before = shared.known.read().clone();
        let set = |addresses: &[&str]| addresses.iter().map(|address| (*address).to_owned()).collect::<BTreeSet<_>>();
        shared.replace(
            &set(&["http://10.0.0.1:1", "http://10.0.0.2:1"]),
            &set(&["http://10.0.0.2:1", "http://10.0.0.3:1"]),
            "replicas",
        );
        let after = shared.known.read().clone();
        let addresses: Vec<&str> = after.iter().map(|replica| replica.address.as_str()).collect();
        assert_eq!(addresses, ["http://10.0.0.2:1", "http://10.0.0.9:1", "http://10.0.0.3:1"]);
        assert!(Arc::ptr_eq(&after[0], &before[1]));
    }

    #[tokio::test]
    async fn what_is_no_address_is_refused() {
        let settings = one();
        for bad in ["", "order", "http://order", "http://a:1,", "http://a b:1", "https://a:1"] {
            assert!(Replicas::open(bad, &settings).is_err(), "{bad:?}");
        }
    }
}
