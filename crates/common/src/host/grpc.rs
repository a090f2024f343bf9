//! The gRPC side of a host: what is mounted by which service, who may call it from outside, and the way to other services.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::TcpListener;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::service::RoutesBuilder;
use tonic::transport::server::{Server, TcpIncoming};

use super::Host;
use crate::manifest::{ServiceSpec, identifier};
use crate::rpc::{self, Access, Call, Callers, Door, Guard, RpcSettings, Upstream};
use crate::telemetry::Metric;

type Body = tonic::body::Body;

/// A gRPC service, as tonic generates it.
pub trait Served:
    tower::Service<
        ::http::Request<Body>,
        Response = ::http::Response<Body>,
        Error = std::convert::Infallible,
        Future: Send + 'static,
    > + NamedService
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Served for S where
    S: tower::Service<
            ::http::Request<Body>,
            Response = ::http::Response<Body>,
            Error = std::convert::Infallible,
            Future: Send + 'static,
        > + NamedService
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// What was mounted so far.
#[derive(Default)]
pub(super) struct Mounted {
    routes: RoutesBuilder,
    doors: HashMap<&'static str, Door>,
    edges: BTreeSet<(&'static str, &'static str)>,
    in_process: rpc::InProcess,
    /// The service that is mounting itself.
    mounting: Option<&'static str>,
    /// Why this host could not call whom it has to.
    problems: Mutex<Vec<String>>,
}

impl Mounted {
    pub fn add_open<S: Served>(&mut self, service: S) {
        self.add(service, Door::Open);
    }

    fn add<S: Served>(&mut self, service: S, door: Door) {
        self.doors.insert(S::NAME, door);
        self.routes.add_service(service);
    }

    /// The names of all gRPC services.
    pub fn names(&self) -> Vec<&'static str> {
        self.doors.keys().copied().collect()
    }

    /// Fails when a call to another process would be refused.
    pub fn check_calls(&self) -> anyhow::Result<()> {
        let problems = self.problems.lock();
        ensure!(problems.is_empty(), "{}", problems.join("\n"));
        Ok(())
    }

    /// Opens the way within the process, and listens to the network.
    pub fn serve(
        self,
        settings: &RpcSettings,
        listener: TcpListener,
        stop: CancellationToken,
    ) -> anyhow::Result<BoxFuture<'static, Result<(), tonic::transport::Error>>> {
        let routes = self.routes.routes().prepare();
        let first = self.in_process.set(rpc::Incoming(routes.clone())).is_ok();
        debug_assert!(first, "a host starts once");
        let callers = Callers::new(&settings.public_keys)?;
        let from: BTreeSet<&'static str> = self.edges.iter().map(|(caller, _)| *caller).collect();
        let is_certified = settings.tls.is_on();
        let access = Arc::new(Access { doors: self.doors, edges: self.edges, callers, is_certified });
        let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener)?).with_nodelay(Some(true));
        let server = Server::builder()
            .layer(tower::layer::layer_fn(rpc::Incoming))
            .layer(tower::layer::layer_fn(move |inner| Guard { inner, access: access.clone() }))
            .add_routes(routes);
        if !is_certified {
            return Ok(server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).boxed());
        }
        let secured = rpc::accept(incoming, rpc::acceptor(&settings.tls)?, from.into_iter().collect());
        Ok(server.serve_with_incoming_shutdown(secured, stop.cancelled_owned()).boxed())
    }
}

impl Host {
    /// Mounts a service: its schema, routes, gRPC services, consumers and loops.
    pub async fn mount(&mut self, service: &ServiceSpec) -> anyhow::Result<()> {
        service.metrics.iter().for_each(Metric::announce);
        self.topics.extend(service.topics());
        self.grpc.mounting = Some(service.name);
        let mounted = (service.mount)(self).await;
        self.grpc.mounting = None;
        mounted
    }

    /// Lets `caller` call the gRPC services of `callee` over the network.
    pub fn allow(&mut self, caller: &'static str, callee: &'static str) {
        self.grpc.edges.insert((caller, callee));
    }

    /// Adds a gRPC service. Over the network those may call it that may call the service which mounts it; if none does,
    /// nobody.
    pub fn grpc<S: Served>(&mut self, service: S) {
        let door = self.grpc.mounting.map_or(Door::Closed, Door::Of);
        self.grpc.add(service, door);
    }

    /// Adds a gRPC service that everybody may call.
    pub fn open_grpc<S: Served>(&mut self, service: S) {
        self.grpc.add_open(service);
    }

    /// The upstream `service`: the address in `[upstreams]`, else it is on this host.
    pub fn upstream(&self, service: &'static str) -> anyhow::Result<Upstream> {
        let named: BTreeMap<String, String> = self.settings.section("upstreams")?;
        let settings: RpcSettings = self.settings.section("rpc")?;
        let Some(address) = named.get(&identifier(service)).filter(|address| !address.is_empty()) else {
            return Ok(rpc::in_process(self.grpc.in_process.clone(), &settings));
        };
        let caller = self.grpc.mounting.context("only a service that is being mounted calls another")?;
        let setting = identifier(caller);
        let call = settings.key()?.map(|key| Call { caller, callee: service, key });
        // Told when the host starts: whoever only migrates calls nobody.
        match &call {
            None => self.grpc.problems.lock().push(format!(
                "rpc.token_key is empty, and {caller} calls {service} in another process; `stampede keys {caller}` makes one"
            )),
            Some(call) if !settings.is_key_of(&call.key, caller) => self.grpc.problems.lock().push(format!(
                "rpc.public_keys.{setting} does not have the public half of rpc.token_key: nobody would believe {caller}"
            )),
            Some(_) => {}
        }
        rpc::upstream(address, &settings, call).with_context(|| format!("the address of upstream {service}"))
    }
}
