//! Calls of others' HTTP interfaces, as spans of the trace that leads to them.

use reqwest::{Request, RequestBuilder, Response, Result};
use tracing::{Instrument, Span};

use crate::telemetry::{span_in_trace, traceparent};

/// Sends `request`. Others are not told our trace: it is no business of theirs.
pub async fn send(request: RequestBuilder) -> Result<Response> {
    let (client, request) = request.build_split();
    let request = request?;
    let Some(span) = span_in_trace(traceparent().as_deref(), || call_span(&request)) else {
        return client.execute(request).await;
    };
    let answer = client.execute(request).instrument(span.clone()).await;
    note(&span, &answer);
    answer
}

/// As OpenTelemetry's semantic conventions have it, but for the path: whoever knows that of some webhooks may post there.
/// Numbers are `i64`: others would arrive as texts.
fn call_span(request: &Request) -> Span {
    let (method, url) = (request.method().as_str(), request.url());
    tracing::info_span!(
        "call",
        otel.name = method,
        otel.kind = "client",
        otel.status_code = tracing::field::Empty,
        http.request.method = method,
        http.response.status_code = tracing::field::Empty,
        server.address = url.host_str(),
        server.port = url.port_or_known_default().map(i64::from),
        error.r#type = tracing::field::Empty,
    )
}

/// To who calls, 4xx is an error too.
fn note(span: &Span, answer: &Result<Response>) {
    let error = match answer {
        Ok(answer) => {
            let status = answer.status();
            span.record("http.response.status_code", i64::from(status.as_u16()));
            (status.is_client_error() || status.is_server_error()).then(|| status.as_str().to_owned())
        }
        Err(error) if error.is_timeout() => Some("timeout".to_owned()),
        Err(error) if error.is_connect() => Some("connect".to_owned()),
        Err(_) => Some("_OTHER".to_owned()),
    };
    if let Some(error) = error {
        span.record("otel.status_code", "ERROR");
        span.record("error.type", error);
    }
}
