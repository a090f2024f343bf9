//! gRPC between services: outgoing calls carry a deadline and the request's context, incoming ones continue it.

mod guard;
mod replicas;
mod secure;
mod token;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tonic::metadata::MetadataValue;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tower::Service;
use tracing::Instrument;

use self::replicas::Replicas;
use self::token::Signer;
use crate::backoff::Backoff;
use crate::error::{Result, is_unreachable};
use crate::manifest::identifier;
use crate::telemetry::{Context, mark_failed, span_in_trace, traceparent};

pub(crate) use self::guard::{Access, Door, Guard};
pub use self::guard::{CallingService, SERVICE_FORBIDDEN, SERVICE_UNAUTHENTICATED};
pub use self::secure::RpcTlsSettings;
pub(crate) use self::secure::{accept, acceptor};
pub(crate) use self::token::Callers;
pub use self::token::{ServiceKey, key_of, new_key};

/// Section `[rpc]`.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(Default))]
#[serde(deny_unknown_fields)]
pub struct RpcSettings {
    pub connect_timeout_ms: u64,
    pub deadline_ms: u64,
    /// How often the replicas behind a name are looked up.
    pub look_up_ms: u64,
    /// How long a replica gets no calls that has failed to answer one, if there are others.
    pub rest_ms: u64,
    /// With which this process proves to others which services it hosts. Empty: it calls nobody over the network.
    pub token_key: SecretString,
    /// By service, the public halves of the keys that it may have.
    pub public_keys: BTreeMap<String, String>,
    pub tls: RpcTlsSettings,
}

impl RpcSettings {
    /// This process's own key, if it has one.
    pub fn key(&self) -> anyhow::Result<Option<ServiceKey>> {
        match self.token_key.expose_secret() {
            "" => Ok(None),
            text => ServiceKey::read(text).map(Some),
        }
    }

    /// Whether tokens of `service` that `key` has signed are believed by those who have the same settings.
    pub fn is_key_of(&self, key: &ServiceKey, service: &str) -> bool {
        self.public_keys.get(&identifier(service)).is_some_and(|keys| token::has_public(keys, key.public()))
    }
}

/// What is wrong with the keys and files of the section.
pub(crate) fn problems(settings: &RpcSettings) -> Vec<String> {
    let own = settings.key().err().map(|wrong| format!("rpc.token_key cannot be used: {wrong:#}"));
    let public = settings.public_keys.iter().filter_map(|(service, keys)| {
        let wrong = token::read_public(keys).err()?;
        Some(format!("rpc.public_keys.{service} cannot be used: {wrong:#}"))
    });
    own.into_iter().chain(public).chain(secure::problems(&settings.tls)).collect()
}

/// A client's transport to another service: `InventoryServiceClient::new(upstream)`. Cheap to clone; connects on first use.
pub type Upstream = InterceptedService<Transport, Outgoing>;

/// Puts the deadline, the context and the caller's token on every call.
#[derive(Clone)]
pub struct Outgoing {
    deadline: Duration,
    signer: Option<Arc<Signer>>,
}

/// How calls get there.
#[derive(Clone)]
pub enum Transport {
    Network(Replicas),
    /// The service is mounted on the same host: the same messages, encoded and decoded as ever, through the same
    /// layers, but no socket and no HTTP/2 between them.
    InProcess(InProcess),
}

/// The gRPC services of a host, known once it has started.
pub type InProcess = Arc<OnceLock<Incoming<Routes>>>;

/// An upstream on the same host.
pub fn in_process(services: InProcess, settings: &RpcSettings) -> Upstream {
    InterceptedService::new(Transport::InProcess(services), Outgoing::new(settings))
}

/// Who calls whom, and with which key it proves that.
pub struct Call<'a> {
    pub caller: &'static str,
    pub callee: &'a str,
    pub key: ServiceKey,
}

/// Opens an upstream with one or more replicas: `http://host:port`, separated by commas; `https://` with `rpc.tls`. Connects on first use. Without
/// `call`, it answers questions about its health and no others.
pub fn upstream(addresses: &str, settings: &RpcSettings, call: Option<Call<'_>>) -> anyhow::Result<Upstream> {
    let replicas = Replicas::open(addresses, settings)?;
    let signer = call.map(|Call { caller, callee, key }| Arc::new(Signer::new(key, caller, callee)));
    let outgoing = Outgoing { signer, ..Outgoing::new(settings) };
    Ok(InterceptedService::new(Transport::Network(replicas), outgoing))
}

type Body = tonic::body::Body;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<http::Request<Body>> for Transport {
    type Response = http::Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        // Which replica is asked, and so whether it is ready, is decided by the call.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let span = span_of_call(&mut request);
        let answer = self.send(request);
        let Some(span) = span else { return answer };
        Box::pin(async move {
            let answer = answer.instrument(span.clone()).await;
            match &answer {
                Ok(answer) => note_status(&span, status_of(answer.headers())),
                Err(_) => mark_failed(&span, "no_answer"),
            }
            answer
        })
    }
}

/// The span of an outgoing call, which the callee's is a part of. None where there is no trace, or nobody collects them.
fn span_of_call(request: &mut http::Request<Body>) -> Option<tracing::Span> {
    let parent = traceparent();
    let span =
        span_in_trace(parent.as_deref(), || rpc_span(request.uri().path(), "client", &Context::current().request_id));
    let own = span.as_ref().and_then(|span| span.in_scope(traceparent)).or(parent);
    if let Some(value) = own.and_then(|value| http::HeaderValue::try_from(value).ok()) {
        request.headers_mut().insert("traceparent", value);
    }
    span
}

impl Transport {
    fn send(&mut self, request: http::Request<Body>) -> <Transport as Service<http::Request<Body>>>::Future {
        match self {
            Transport::Network(replicas) => {
                let answer = replicas.call(request);
                Box::pin(async move { Ok(answer.await?) })
            }
            Transport::InProcess(services) => {
                let Some(mut services) = services.get().cloned() else {
                    let status = tonic::Status::unavailable("this process has not started yet");
                    return Box::pin(std::future::ready(Err(status.into())));
                };
                let deadline =
                    request.headers().get("grpc-timeout").and_then(|value| parse_timeout(value.to_str().ok()?));
                Box::pin(async move {
                    let answer = services.call(request);
                    // As a channel does it.
                    let late = |_| tonic::Status::cancelled("Timeout expired");
                    match tokio::time::timeout(deadline.unwrap_or(Duration::MAX), answer).await.map_err(late)? {
                        Ok(answer) => Ok(answer),
                        Err(never) => match never {},
                    }
                })
            }
        }
    }
}

/// `grpc-timeout`: at most eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_hours(number),
        "M" => Duration::from_mins(number),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

impl Outgoing {
    fn new(settings: &RpcSettings) -> Outgoing {
        Outgoing { deadline: Duration::from_millis(settings.deadline_ms), signer: None }
    }
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
        if let Some(signer) = &self.signer {
            let bearer = signer.bearer(jsonwebtoken::get_current_timestamp())?;
            request.metadata_mut().insert("authorization", bearer);
        }
        Ok(request)
    }
}

/// Further tries of an idempotent call that failed for now. More would turn an outage into a storm.
const RETRIES_MAX: u32 = 2;

/// Calls again, up to twice and after a jittered pause, when the upstream cannot be reached.
///
/// An upstream that answered, even that it is in trouble, is not asked again: one layer retries, and that is the client.
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

impl<S, B, R> Service<http::Request<B>> for Incoming<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    R: 'static,
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
        let span = rpc_span(request.uri().path(), "server", &context.request_id);
        let (answer, answered) = (self.0.call(request), span.clone());
        Box::pin(context.scope(span, async move {
            let answer = answer.await?;
            note_status(&answered, status_of(answer.headers()));
            Ok(answer)
        }))
    }
}

/// As OpenTelemetry's semantic conventions have it. `path` is `/package.Service/Method`.
fn rpc_span(path: &str, kind: &str, request_id: &str) -> tracing::Span {
    let method = path.trim_start_matches('/');
    let (service, name) = method.split_once('/').unwrap_or((method, ""));
    tracing::info_span!(
        "grpc",
        otel.name = method,
        otel.kind = kind,
        otel.status_code = tracing::field::Empty,
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = name,
        rpc.grpc.status_code = tracing::field::Empty,
        error.r#type = tracing::field::Empty,
        requestId = request_id,
        method = path,
        orderId = tracing::field::Empty,
    )
}

/// The status of a call that was answered at once; 0 where the answer is still to come, which then began well.
fn status_of(headers: &http::HeaderMap) -> i64 {
    headers.get("grpc-status").and_then(|status| status.to_str().ok()?.parse().ok()).unwrap_or(0)
}

/// What a server answers for its own fault is an error of the span; what its caller did wrong is none.
fn note_status(span: &tracing::Span, status: i64) {
    span.record("rpc.grpc.status_code", status);
    if let Some(name) = fault_name(status) {
        mark_failed(span, name);
    }
}

/// The name of a status that is the server's own fault.
fn fault_name(status: i64) -> Option<&'static str> {
    use tonic::Code;
    match Code::from(i32::try_from(status).unwrap_or(Code::Unknown as i32)) {
        Code::Unknown => Some("UNKNOWN"),
        Code::DeadlineExceeded => Some("DEADLINE_EXCEEDED"),
        Code::Unimplemented => Some("UNIMPLEMENTED"),
        Code::Internal => Some("INTERNAL"),
        Code::Unavailable => Some("UNAVAILABLE"),
        Code::DataLoss => Some("DATA_LOSS"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_read_as_tonic_writes_it() {
        for given in [1_u64, 999, 1_500, 3_000, 123_456_789] {
            let mut request = tonic::Request::new(());
            request.set_timeout(Duration::from_millis(given));
            let text = request.metadata().get("grpc-timeout").unwrap().to_str().unwrap().to_owned();
            let read = parse_timeout(&text).unwrap();
            assert!(read.abs_diff(Duration::from_millis(given)) < Duration::from_secs(1), "{given}: {text}");
        }
        for bad in ["", "5", "S", "1x", "-1S", "é"] {
            assert_eq!(parse_timeout(bad), None, "{bad}");
        }
    }
}
