//! Logs, traces and metrics, and the request context that travels with every call and event.

use std::fs::File;
use std::sync::{Arc, OnceLock};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use serde::Deserialize;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::log_text::TextFields;

mod export;
mod metric;

pub use metric::{METRICS, Metric, MetricKind};

/// Section `[telemetry]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetrySettings {
    pub log_filter: String,
    pub log_format: LogFormat,
    pub otlp_endpoint: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// `text` on a terminal, `json` elsewhere.
    Auto,
    Json,
    Text,
}

/// What logs are written from: events that `log_filter` lets pass.
type Filtered = Layered<EnvFilter, Registry>;

static TRACES: OnceLock<SdkTracerProvider> = OnceLock::new();
static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// Spans that are for logs alone. A loop looks for work all the time, and a batch belongs to many traces: what they do for
/// a request is a span of its own in that request's trace.
const UNTRACED: [&str; 3] = ["periodic", "outbox.send", "inbox.batch"];

/// Libraries whose spans are for logs alone: sending spans over them would make spans that have to be sent.
const CARRIERS: [&str; 5] = ["h2", "hyper", "hyper_util", "tonic", "tower"];

/// Whether a span is for collectors. `target` is the module that makes it.
fn is_traced_span(name: &str, target: &str) -> bool {
    let library = target.split("::").next().unwrap_or_default();
    !UNTRACED.contains(&name) && !CARRIERS.contains(&library)
}

/// Installs logs, traces and metrics for this process, whose traces are `service`'s unless `OTEL_SERVICE_NAME` says
/// otherwise. A second call changes nothing.
pub fn init(settings: &TelemetrySettings, service: &str) -> anyhow::Result<()> {
    let json = match settings.log_format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::IsTerminal::is_terminal(&std::io::stderr()),
    };
    let logs = if json {
        crate::log_json::JsonLines::new(std::io::stderr).boxed()
    } else {
        tracing_subscriber::fmt::layer().fmt_fields(TextFields).with_writer(std::io::stderr).with_target(false).boxed()
    };
    install(settings, service, logs)
}

/// [`init`] for a terminal that shall stay readable: the whole log goes to `file` as JSON, and only warnings and errors
/// to standard error, as text.
pub fn init_with_file(settings: &TelemetrySettings, service: &str, file: File) -> anyhow::Result<()> {
    let file = Arc::new(file);
    let shown = tracing_subscriber::fmt::layer().fmt_fields(TextFields).with_writer(std::io::stderr).with_target(false);
    let logs = crate::log_json::JsonLines::new(move || file.clone()).and_then(shown.with_filter(LevelFilter::WARN));
    install(settings, service, logs.boxed())
}

fn install(
    settings: &TelemetrySettings,
    service: &str,
    logs: Box<dyn Layer<Filtered> + Send + Sync>,
) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&settings.log_filter)?;
    let provider = export::provider(&settings.otlp_endpoint, service)?.map(|provider| TRACES.get_or_init(|| provider));
    let traces = provider.map(|provider| {
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("stampede"));
        layer.with_filter(filter_fn(|metadata| is_traced_span(metadata.name(), metadata.target())))
    });
    // Fails when something is installed already: the first call of this process decided.
    drop(tracing_subscriber::registry().with(filter).with(logs).with(traces).try_init());
    metrics_handle();
    METRICS.iter().for_each(Metric::announce);
    Ok(())
}

/// Sends what is buffered. The last thing a process does.
pub fn flush() {
    if let Some(traces) = TRACES.get() {
        drop(traces.shutdown());
    }
}

/// The metrics of this process in Prometheus' text format.
pub fn metrics_text() -> String {
    let handle = metrics_handle();
    handle.run_upkeep();
    handle.render()
}

/// Latencies from half a millisecond to ten seconds; batch sizes share the buckets' ratio by their own list.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
const SIZES: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

fn metrics_handle() -> &'static PrometheusHandle {
    use metrics_exporter_prometheus::Matcher;
    RECORDER.get_or_init(|| {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
            .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_size".to_owned()), &SIZES))
            .expect("the bucket lists are not empty")
            .build_recorder();
        let handle = recorder.handle();
        // Fails only if a recorder is installed already, which get_or_init rules out within this crate.
        drop(metrics::set_global_recorder(recorder));
        handle
    })
}

/// What a request carries through HTTP, gRPC, the outbox and Kafka.
#[derive(Debug, Clone, Default)]
pub struct Context {
    pub request_id: String,
    /// W3C `traceparent` as it came in, if it did.
    pub traceparent: Option<String>,
}

tokio::task_local! {
    static CONTEXT: Context;
}

impl Context {
    /// The context of the running request; empty in background work.
    pub fn current() -> Context {
        CONTEXT.try_with(Clone::clone).unwrap_or_default()
    }

    /// The running request as those see it who are called or told by it: its id, and this span as their parent.
    pub fn outgoing() -> Context {
        Context { traceparent: traceparent(), ..Context::current() }
    }

    /// Takes up what the caller sent; makes a request id where there is none or an unusable one.
    pub fn from_headers<'h>(header: impl Fn(&str) -> Option<&'h str>) -> Context {
        let usable = |id: &&str| (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
        Context {
            request_id: header("x-request-id")
                .filter(usable)
                .map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned),
            traceparent: header("traceparent")
                .filter(|value| is_traceparent(value))
                .map(str::to_owned)
                .or_else(|| (!is_traced()).then(new_traceparent)),
        }
    }

    /// Runs `work` with this context and inside `span`, which continues the caller's trace.
    pub async fn scope<T>(self, span: Span, work: impl Future<Output = T>) -> T {
        use tracing::Instrument;
        if let Some(traceparent) = &self.traceparent {
            continue_trace(&span, traceparent);
        }
        CONTEXT.scope(self, work).instrument(span).await
    }
}

/// `work` with the context and the span of what runs now: for a task of its own, which has neither by itself.
pub fn carried<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    use tracing::Instrument;
    let (context, span) = (Context::current(), Span::current());
    context.scope(Span::none(), work).instrument(span)
}

/// Whether somebody collects the traces of this process.
pub fn is_traced() -> bool {
    TRACES.get().is_some()
}

/// Makes `span` a part of the trace that `traceparent` names.
fn continue_trace(span: &Span, traceparent: &str) {
    if is_traced() {
        let parent = TraceContextPropagator::new().extract(&Carrier(Some(traceparent.to_owned())));
        // Fails only without the trace layer, and then there is no trace to continue.
        drop(span.set_parent(parent));
    }
}

/// The span that `make` makes, in the trace that `traceparent` names. None where there is no trace, or nobody collects them.
pub fn span_in_trace(traceparent: Option<&str>, make: impl FnOnce() -> Span) -> Option<Span> {
    let traceparent = traceparent.filter(|_| is_traced())?;
    let span = make();
    continue_trace(&span, traceparent);
    Some(span)
}

/// Tells that `span` joins what the traces of `traceparents` wait for, beside its own.
pub fn link(span: &Span, traceparents: impl IntoIterator<Item = String>) {
    for traceparent in traceparents {
        let other = TraceContextPropagator::new().extract(&Carrier(Some(traceparent)));
        span.add_link(other.span().span_context().clone());
    }
}

/// Marks `span` as failed, in the terms of OpenTelemetry: one that is made with `otel.status_code` and `error.type` empty.
pub fn mark_failed(span: &Span, error_type: &str) {
    span.record("otel.status_code", "ERROR");
    span.record("error.type", error_type);
}

/// Whether `value` has the form of a W3C `traceparent`: 55 hexadecimal digits and dashes.
pub fn is_traceparent(value: &str) -> bool {
    value.len() == 55 && value.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// Where nobody collects traces, a request that comes without one has an id all the same: logs, events and the bodies of
/// errors name it, and whoever is called is told it.
fn new_traceparent() -> String {
    format!("00-{:032x}-{:016x}-00", rand::random::<u128>().max(1), rand::random::<u64>().max(1))
}

/// The trace that the running request belongs to.
pub fn trace_id() -> Option<String> {
    traceparent().and_then(|traceparent| traceparent.get(3..35).map(str::to_owned))
}

/// The W3C `traceparent` to send along with a call or an event made here.
pub fn traceparent() -> Option<String> {
    if is_traced() {
        let mut carrier = Carrier(None);
        TraceContextPropagator::new().inject_context(&Span::current().context(), &mut carrier);
        if carrier.0.is_some() {
            return carrier.0;
        }
    }
    Context::current().traceparent
}

struct Carrier(Option<String>);

impl Injector for Carrier {
    fn set(&mut self, key: &str, value: String) {
        if key == "traceparent" {
            self.0 = Some(value);
        }
    }
}

impl Extractor for Carrier {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.as_deref().filter(|_| key == "traceparent")
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent"]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_idle_loops_nor_the_sending_of_spans_make_spans() {
        assert!(is_traced_span("http", "common::http") && is_traced_span("call", "common::rpc"));
        assert!(!is_traced_span("periodic", "common::periodic"));
        assert!(!is_traced_span("Connection", "h2::proto::connection") && !is_traced_span("buffer", "tower"));
    }
}
