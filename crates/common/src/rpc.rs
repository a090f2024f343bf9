//! gRPC between services: outgoing calls carry a deadline and the request's context, incoming ones continue it.

use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use serde::Deserialize;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tower::Service;

use crate::backoff::Backoff;
use crate::error::{Result, is_unreachable};
use crate::telemetry::{Context, traceparent};

/// Section `[rpc]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RpcSettings {
    pub connect_timeout_ms: u64,
    pub deadline_ms: u64,
}

/// A channel to another service: `InventoryServiceClient::new(neighbour)`. Cheap to clone; connects on first use.
pub type Neighbour = InterceptedService<Channel, Outgoing>;

/// Puts the deadline and the context on every call.
#[derive(Clone)]
pub struct Outgoing {
    deadline: Duration,
}

/// Opens a lazy channel to `address` (`http://host:port`).
pub fn neighbour(address: &str, settings: &RpcSettings) -> anyhow::Result<Neighbour> {
    let channel = Endpoint::from_shared(address.to_owned())?
        .connect_timeout(Duration::from_millis(settings.connect_timeout_ms))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .connect_lazy();
    Ok(InterceptedService::new(channel, Outgoing { deadline: Duration::from_millis(settings.deadline_ms) }))
}

impl tonic::service::Interceptor for Outgoing {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        if request.metadata().get("grpc-timeout").is_none() {
            request.set_timeout(self.deadline);
        }
        let context = Context::current();
        if let Ok(value) = MetadataValue::try_from(context.request_id) {
            request.metadata_mut().insert("x-request-id", value);
        }
        if let Some(value) = traceparent().and_then(|value| MetadataValue::try_from(value).ok()) {
            request.metadata_mut().insert("traceparent", value);
        }
        Ok(request)
    }
}

/// Further tries of an idempotent call that failed for now. More would turn an outage into a storm.
const RETRIES_MAX: u32 = 2;

/// Calls again, up to twice and after a jittered pause, when the neighbour cannot be reached.
///
/// A neighbour that answered, even that it is in trouble, is not asked again: one layer retries, and that is the client.
/// Only for calls that are named by an id of the caller's choice, so that repeating them changes nothing.
pub async fn retrying<T, Fut>(call: impl Fn() -> Fut) -> Result<T>
where
    Fut: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
{
    const PAUSE: Backoff = Backoff { first: Duration::from_millis(50), max: Duration::from_millis(500) };
    let mut attempt = 0;
    loop {
        attempt += 1;
        match call().await {
            Ok(response) => return Ok(response.into_inner()),
            Err(status) if is_unreachable(&status) && attempt <= RETRIES_MAX => {
                tokio::time::sleep(PAUSE.delay(attempt)).await;
            }
            Err(status) => return Err(status.into()),
        }
    }
}

/// Wraps the gRPC server: each call runs in its caller's context and in a span of its own.
#[derive(Clone)]
pub struct Incoming<S>(pub S);

impl<S, B> Service<http::Request<B>> for Incoming<S>
where
    S: Service<http::Request<B>>,
    S::Future: Send + 'static,
    S::Response: 'static,
    S::Error: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, task: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(task)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let headers = request.headers();
        let context = Context::from_headers(|name| headers.get(name).and_then(|value| value.to_str().ok()));
        let span = tracing::info_span!(
            "grpc",
            requestId = context.request_id,
            method = request.uri().path(),
            orderId = tracing::field::Empty,
        );
        let answer = self.0.call(request);
        Box::pin(context.scope(span, answer))
    }
}
