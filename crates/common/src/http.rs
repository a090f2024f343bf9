//! The HTTP edge: request context, the error body, limits of form, and running a use case to its end.

use std::borrow::Cow;
use std::time::Instant;

use actix_cors::CorsError;
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{ConnectionType, StatusCode};
use actix_web::middleware::Next;
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse, HttpResponseBuilder, ResponseError};
use chrono::{SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::Span;
use utoipa::ToSchema;

mod allowance;
pub mod call;
mod conditional;
mod cors;
mod direct;
mod durations;
mod extract;
mod language;
mod origin;
mod routes;
pub mod sse;

pub use actix_web::web::Data;
pub use allowance::{Allowance, note as note_allowance};
pub use conditional::answer_unless_known;
pub use cors::{check_origin, cors};
pub use direct::{Answer as DirectAnswer, Direct};
pub use extract::{Json, NoParameters, OptionalJson, Path, Query, configure_extractors};
pub use origin::{ForwardedHeader, TrustedProxies, client_address};
pub use routes::{Route, RouteTable, unmatched};
pub use utoipa_actix_web::service_config::ServiceConfig;

use crate::error::{Code, Error, METHOD_NOT_ALLOWED, NOT_FOUND, Refused, Result};
use crate::health;
use crate::telemetry::{self, Context};
use crate::words;

/// Larger bodies are refused unread.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Section `[http]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSettings {
    pub allowed_origins: Vec<String>,
    pub trusted_proxies: usize,
    pub forwarded_header: ForwardedHeader,
}

/// What [`cors`] says of every answer: for a browser of another origin it has more headers.
const VARY_BY_ORIGIN: HeaderValue =
    HeaderValue::from_static("Origin, Access-Control-Request-Method, Access-Control-Request-Headers");

const PAYLOAD_TOO_LARGE: Code =
    Code::new("PAYLOAD_TOO_LARGE", 413, tonic::Code::InvalidArgument, "요청 본문이 너무 큽니다.");

/// The error body: the five members clients were promised first, and those of RFC 9457 beside them.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem<'a> {
    #[schema(example = "2026-01-01T00:00:00.000Z")]
    timestamp: String,
    #[schema(example = "/api/v1/orders")]
    path: &'a str,
    /// The contract: what a program may branch on.
    #[schema(example = "OUT_OF_STOCK")]
    code: &'a str,
    /// For a person, in the language of `Accept-Language` (`ko` or `en`).
    message: Cow<'a, str>,
    /// Particulars, e.g. the fields that are wrong.
    details: &'a [Value],
    #[serde(rename = "type")]
    kind: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    instance: &'a str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
}

impl ResponseError for Error {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.public().code.http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Only the status: [`request_middleware`] writes the body, because it knows the request.
    fn error_response(&self) -> HttpResponse<BoxBody> {
        HttpResponse::new(self.status_code())
    }
}

/// Around every request: its context and span, its metrics, and the body of what went wrong.
pub async fn request_middleware(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let started = Instant::now();
    let headers = request.headers();
    let context = Context::from_headers(|name| headers.get(name).and_then(|value| value.to_str().ok()));
    let method = routes::known_method(request.method());
    let found = routes::route_of(&request);
    if let Some(found) = &found {
        request.extensions_mut().insert(found.clone());
    }
    let pattern = if found.is_none() { request.match_pattern() } else { None };
    let route = found.as_ref().map(|found| &*found.template).or(pattern.as_deref());
    // As OpenTelemetry's semantic conventions have it.
    let span = tracing::info_span!(
        "http",
        otel.name = telemetry::is_traced().then(|| span_name(method, route)),
        otel.kind = "server",
        otel.status_code = tracing::field::Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = tracing::field::Empty,
        error.r#type = tracing::field::Empty,
        url.path = request.path(),
        requestId = context.request_id,
        method,
        path = request.path(),
        userId = tracing::field::Empty,
        orderId = tracing::field::Empty,
    );
    let id = context.request_id.clone();
    let came_with = context.traceparent.clone();
    let is_head = routes::read_head_as_get(&mut request);

    let (response, applied) = match extract::check_encoding(request.headers()) {
        Ok(()) => {
            let answering = answer(request, found.as_deref(), next);
            let (response, applied) = allowance::noting(context.scope(span.clone(), answering)).await;
            (response?, applied)
        }
        Err(refused) => (request.error_response(Error::from(refused)), Vec::new()),
    };
    let failure = response.response().error().map(|error| match error.as_error::<Error>() {
        Some(known) => known.clone(),
        None => refused_by_framework(error, response.status()),
    });
    let mut response = match &failure {
        None => response,
        Some(error) => span.in_scope(|| explained(response, error, &id, came_with)),
    };
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(HeaderName::from_static("x-request-id"), id);
    }
    allowance::write_headers(&applied, response.headers_mut());
    if is_head {
        response = response.map_body(|_, body| routes::without_body(body));
    }
    note_status(&span, response.status(), failure.as_ref());
    match &found {
        Some(found) => found.durations.record(method, &found.template, response.status(), started.elapsed()),
        // A route is left empty where none matches.
        None => durations::of(method, route.unwrap_or_default(), response.status()).record(started.elapsed()),
    }
    // Whoever is answered sends the next request over a new connection, and so to another replica.
    if health::is_draining(response.request()) {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    Ok(response)
}

/// Answers without the framework's routing if the route can, else by it.
async fn answer(
    request: ServiceRequest,
    found: Option<&Route>,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let Some(answering) = found.and_then(|route| route.direct_answer(request.request())) else {
        return Ok(next.call(request).await?.map_into_boxed_body());
    };
    let (request, mut payload) = request.into_parts();
    let answered = match extract::skip_body(&request, &mut payload).await {
        Ok(()) => answering.await,
        Err(error) => Err(error),
    };
    let mut response = answered.unwrap_or_else(HttpResponse::from_error);
    response.headers_mut().insert(header::VARY, VARY_BY_ORIGIN);
    Ok(ServiceResponse::new(request, response))
}

/// A failure with its body, and a line in the log.
fn explained(
    response: ServiceResponse<BoxBody>,
    error: &Error,
    id: &str,
    came_with: Option<String>,
) -> ServiceResponse<BoxBody> {
    log(error);
    let traceparent = telemetry::traceparent().or(came_with);
    let trace_id = traceparent.as_ref().and_then(|parent| parent.get(3..35)).map(str::to_owned);
    let mut body = problem(response.request(), &error.public(), id, trace_id.as_deref());
    add_missing(body.headers_mut(), response.headers());
    response.into_response(body)
}

/// What a client did wrong is no error of the span. `error.type` is the code of the error, else the status.
fn note_status(span: &Span, status: StatusCode, failure: Option<&Error>) {
    span.record("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        let reason = failure.map(|error| error.public().code.reason);
        telemetry::mark_failed(span, reason.as_deref().unwrap_or(status.as_str()));
    }
}

fn span_name(method: &str, route: Option<&str>) -> String {
    route.map_or_else(|| method.to_owned(), |route| format!("{method} {route}"))
}

/// What others have said about an answer (`Allow`, `Access-Control-Allow-Origin`) is true of its new body too.
fn add_missing(headers: &mut HeaderMap, others: &HeaderMap) {
    for (name, value) in others {
        if !headers.contains_key(name) && name != header::CONTENT_LENGTH {
            headers.append(name.clone(), value.clone());
        }
    }
}

/// An error of the framework's own (a malformed header, a broken payload) in our words.
fn refused_by_framework(error: &actix_web::Error, status: StatusCode) -> Error {
    if error.as_error::<CorsError>().is_some() {
        return Refused::invalid("Origin", "This origin may not call from a browser.").into();
    }
    match status {
        StatusCode::NOT_FOUND => Refused::new(NOT_FOUND, "There is nothing at this path.").into(),
        StatusCode::METHOD_NOT_ALLOWED => {
            Refused::new(METHOD_NOT_ALLOWED, "This path does not have this method.").into()
        }
        StatusCode::PAYLOAD_TOO_LARGE => {
            Refused::new(PAYLOAD_TOO_LARGE, format!("The body is larger than {BODY_BYTES_MAX} bytes.")).into()
        }
        status if status.is_client_error() => Refused::invalid("", "The request cannot be read.").into(),
        status => Error::fault(anyhow::anyhow!("the framework answered {status}")),
    }
}

/// One line per failure, here at the boundary.
fn log(error: &Error) {
    match error {
        Error::Refused(refused) => {
            tracing::debug!(code = %refused.code.reason, "Refused: {}", refused.message);
        }
        Error::Fault(fault) if fault.transient => {
            tracing::warn!(error = format!("{:#}", fault.cause), "A request failed for now");
        }
        Error::Fault(fault) => tracing::error!(error = format!("{:#}", fault.cause), "A request failed"),
    }
}

fn problem(request: &HttpRequest, refused: &Refused, request_id: &str, trace_id: Option<&str>) -> HttpResponse {
    let Refused { code, message, details, retry_after } = refused;
    let korean = language::prefers_korean(request) && !code.korean.is_empty();
    let message = if korean { Cow::Borrowed(&*code.korean) } else { Cow::Borrowed(message.as_str()) };
    let details = if korean { Cow::Owned(details_in_korean(details)) } else { Cow::Borrowed(details.as_slice()) };
    let body = Problem {
        timestamp: Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true),
        path: request.path(),
        code: &code.reason,
        message: message.clone(),
        details: &details,
        kind: format!("urn:stampede:error:{}", code.reason),
        title: &code.reason,
        status: code.http,
        detail: &message,
        instance: request.path(),
        request_id,
        trace_id,
    };
    let status = StatusCode::from_u16(code.http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponseBuilder::new(status);
    response.content_type("application/problem+json");
    if let Some(delay) = retry_after {
        response.insert_header((header::RETRY_AFTER, delay.as_secs().max(1)));
    }
    if status == StatusCode::TOO_MANY_REQUESTS {
        let allowance = details.first();
        for (header, member) in
            [("ratelimit-limit", "limit"), ("ratelimit-remaining", "remaining"), ("ratelimit-reset", "resetSeconds")]
        {
            if let Some(value) = allowance.and_then(|allowance| allowance.get(member)) {
                response.insert_header((header, value.to_string()));
            }
        }
    }
    if status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
        response.insert_header((header::ACCEPT_ENCODING, "identity"));
    }
    if status == StatusCode::UNAUTHORIZED {
        response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
    }
    response.body(serde_json::to_vec(&body).unwrap_or_default())
}

/// The same particulars, with the texts among them in Korean.
fn details_in_korean(details: &[Value]) -> Vec<Value> {
    let mut details = details.to_vec();
    for detail in &mut details {
        let field = detail["field"].as_str().unwrap_or_default().to_owned();
        if let Some(message) = detail.get_mut("message")
            && let Some(english) = message.as_str()
        {
            *message = words::in_korean(&field, english).into();
        }
    }
    details
}

/// Runs `work` to its end even if the client goes away meanwhile: a use case is never cut in half by a closed window.
///
/// It keeps the request's context and span.
pub async fn detach<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(telemetry::carried(work)).await?
}
