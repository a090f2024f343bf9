//! The HTTP edge: request context, the error body, limits of form, and running a use case to its end.

use std::borrow::Cow;
use std::time::Instant;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, AcceptLanguage, Header, HeaderName, HeaderValue, Quality};
use actix_web::middleware::Next;
use actix_web::{FromRequest, HttpRequest, HttpResponse, HttpResponseBuilder, Responder, ResponseError, web};
use chrono::{SecondsFormat, Utc};
use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, ready};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tracing::Instrument;
use utoipa::ToSchema;

pub use actix_web::web::{Data, Path, Query};
pub use utoipa_actix_web::service_config::ServiceConfig;

use crate::error::{Code, Error, METHOD_NOT_ALLOWED, NOT_FOUND, Refused, Result};
use crate::object::Object;
use crate::telemetry::Context;

/// Larger bodies are refused unread.
const BODY_BYTES_MAX: usize = 64 * 1024;

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
    details: &'a [serde_json::Value],
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
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let started = Instant::now();
    let headers = request.headers();
    let context = Context::from_headers(|name| headers.get(name).and_then(|value| value.to_str().ok()));
    let span = tracing::info_span!(
        "http",
        requestId = context.request_id,
        method = %request.method(),
        path = request.path(),
        userId = tracing::field::Empty,
        orderId = tracing::field::Empty,
    );
    let request_id = HeaderValue::from_str(&context.request_id).ok();
    let trace_id = context.traceparent.as_ref().and_then(|parent| parent.get(3..35)).map(str::to_owned);
    let id = context.request_id.clone();
    let route = request.match_pattern();
    let method = request.method().clone();

    let response = context.scope(span.clone(), next.call(request)).await?.map_into_boxed_body();
    let failure = response.response().error().map(|error| error.as_error::<Error>().cloned());
    let mut response = match failure {
        None => response,
        Some(known) => {
            let error = known.unwrap_or_else(|| refused_by_framework(response.status()));
            span.in_scope(|| log(&error));
            let refused = error.public();
            let body = problem(response.request(), &refused, &id, trace_id.as_deref());
            response.into_response(body)
        }
    };
    if let Some(request_id) = request_id {
        response.headers_mut().insert(HeaderName::from_static("x-request-id"), request_id);
    }
    metrics::histogram!(
        "http_server_request_duration_seconds",
        "method" => method.to_string(),
        "route" => route.unwrap_or_else(|| "unmatched".to_owned()),
        "status" => response.status().as_str().to_owned(),
    )
    .record(started.elapsed());
    Ok(response)
}

/// An error of the framework's own (a malformed header, a broken payload) in our words.
fn refused_by_framework(status: StatusCode) -> Error {
    match status {
        StatusCode::NOT_FOUND => Refused::new(NOT_FOUND, "There is nothing here.").into(),
        StatusCode::METHOD_NOT_ALLOWED => Refused::new(METHOD_NOT_ALLOWED, "This method is not for here.").into(),
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
    let korean = prefers_korean(request) && !code.korean.is_empty();
    let body = Problem {
        timestamp: Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true),
        path: request.path(),
        code: &code.reason,
        message: if korean { Cow::Borrowed(&*code.korean) } else { Cow::Borrowed(message) },
        details,
        kind: format!("urn:stampede:error:{}", code.reason),
        title: &code.reason,
        status: code.http,
        detail: message,
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
    if status == StatusCode::UNAUTHORIZED {
        response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
    }
    response.body(serde_json::to_vec(&body).unwrap_or_default())
}

/// Whether `Accept-Language` ranks Korean above English. Without the header, or with one that is not valid: English.
fn prefers_korean(request: &HttpRequest) -> bool {
    let Ok(accepted) = AcceptLanguage::parse(request) else { return false };
    let weight = |language: &str| {
        accepted
            .iter()
            .filter(|range| range.item.item().is_some_and(|tag| tag.primary_language().eq_ignore_ascii_case(language)))
            .map(|range| range.quality)
            .max()
            .unwrap_or(Quality::ZERO)
    };
    weight("ko") > weight("en")
}

/// The extractors' limits, and their failures in the error body's form.
pub fn configure_extractors(config: &mut web::ServiceConfig) {
    config
        .app_data(web::JsonConfig::default().limit(BODY_BYTES_MAX).error_handler(|error, _| {
            use actix_web::error::JsonPayloadError as Payload;
            match &error {
                Payload::OverflowKnownLength { .. } | Payload::Overflow { .. } => {
                    let message = format!("The body is larger than {BODY_BYTES_MAX} bytes.");
                    Error::from(Refused::new(PAYLOAD_TOO_LARGE, message)).into()
                }
                Payload::ContentType => {
                    Error::from(Refused::invalid("Content-Type", "Send the body as application/json.")).into()
                }
                Payload::Deserialize(cause) => Error::from(Refused::invalid("", cause.to_string())).into(),
                other => Error::from(Refused::invalid("", other.to_string())).into(),
            }
        }))
        .app_data(
            web::QueryConfig::default()
                .error_handler(|error, _| Error::from(Refused::invalid("query", error.to_string())).into()),
        )
        .app_data(
            web::PathConfig::default()
                .error_handler(|error, _| Error::from(Refused::invalid("path", error.to_string())).into()),
        );
}

/// A JSON body or answer. As a body it must be an object, see [`object`](crate::object).
pub struct Json<T>(pub T);

impl<T> Json<T> {
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T: DeserializeOwned + 'static> FromRequest for Json<T> {
    type Error = actix_web::Error;
    type Future = LocalBoxFuture<'static, Result<Self, actix_web::Error>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let body = web::Json::<Box<RawValue>>::from_request(request, payload);
        async move { Ok(Self(read(&body.await?)?)) }.boxed_local()
    }
}

/// What is wrong is told with its place.
fn read<T: DeserializeOwned>(body: &RawValue) -> Result<T> {
    let mut body = serde_json::Deserializer::from_str(body.get());
    match serde_path_to_error::deserialize::<_, Object<T>>(&mut body) {
        Ok(Object(value)) => Ok(value),
        Err(error) => {
            let path = error.path().to_string();
            let field = if path == "." { "" } else { &path };
            Err(Refused::invalid(field, error.inner().to_string()).into())
        }
    }
}

impl<T: Serialize> Responder for Json<T> {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        HttpResponse::Ok().json(self.0)
    }
}

/// A JSON body that may be left out. One that is there must be right: a broken body is refused, not overlooked.
pub struct OptionalJson<T>(pub Option<T>);

impl<T: DeserializeOwned + 'static> FromRequest for OptionalJson<T> {
    type Error = actix_web::Error;
    type Future = LocalBoxFuture<'static, Result<Self, actix_web::Error>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let headers = request.headers();
        let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        if length.is_none_or(|length| length == "0") && !headers.contains_key(header::TRANSFER_ENCODING) {
            return ready(Ok(Self(None))).boxed_local();
        }
        let body = Json::<T>::from_request(request, payload);
        async move { Ok(Self(Some(body.await?.into_inner()))) }.boxed_local()
    }
}

/// What answers where no route matches.
pub async fn not_found() -> Result<HttpResponse> {
    Err(Refused::new(NOT_FOUND, "There is nothing here.").into())
}

/// Runs `work` to its end even if the client goes away meanwhile: a use case is never cut in half by a closed window.
///
/// It keeps the request's context and span.
pub async fn detach<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let (context, span) = (Context::current(), tracing::Span::current());
    tokio::spawn(async move { context.scope(tracing::Span::none(), work).instrument(span).await }).await?
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn the_language_with_the_higher_weight_wins() {
        for (accepted, korean) in [
            ("ko", true),
            ("ko-KR,ko;q=0.9,en;q=0.8", true),
            ("en-US,en;q=0.9,ko;q=0.8", false),
            ("fr", false),
            ("*", false),
            ("ko;q=0", false),
            ("ko;q=x", false),
        ] {
            let request = TestRequest::default().insert_header((header::ACCEPT_LANGUAGE, accepted));
            assert_eq!(prefers_korean(&request.to_http_request()), korean, "{accepted}");
        }
    }
}
