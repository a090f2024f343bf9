//! Where traces go: what turns them on, the way to the collector, and what is told when it is lost.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use hyper_util::rt::TokioIo;
use opentelemetry::Key;
use opentelemetry_otlp::{WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::resource::{EnvResourceDetector, ResourceDetector};
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::tls::{self, Verify};

#[cfg(test)]
mod tests;

/// A collector that stays lost is told again after this.
const TELL_AGAIN: Duration = Duration::from_mins(1);

/// What OpenTelemetry's specification says where no variable says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The values of environment variables.
trait Variables: Fn(&str) -> Option<String> {}
impl<F: Fn(&str) -> Option<String>> Variables for F {}

/// Those of this process.
#[expect(clippy::disallowed_methods, reason = "OpenTelemetry's variables are the same for all programs")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// One that is empty is not set, as the specification has it.
fn set(variables: &impl Variables, name: &str) -> Option<String> {
    variables(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// That of traces, or else that of all signals.
fn set_for_traces(variables: &impl Variables, name: &str) -> Option<String> {
    let of = |signal: &str| set(variables, &format!("OTEL_EXPORTER_OTLP_{signal}{name}"));
    of("TRACES_").or_else(|| of(""))
}

/// The address of the collector, if there is one. `setting` is above the variables, except for those that turn traces off.
fn collector(setting: &str, variables: &impl Variables) -> anyhow::Result<Option<String>> {
    let is_true = |value: Option<String>| value.is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let exporter = set(variables, "OTEL_TRACES_EXPORTER").unwrap_or_else(|| "otlp".to_owned());
    if is_true(set(variables, "OTEL_SDK_DISABLED")) || exporter == "none" {
        return Ok(None);
    }
    if !setting.is_empty() {
        return Ok(Some(setting.to_owned()));
    }
    let Some(address) = set_for_traces(variables, "ENDPOINT") else { return Ok(None) };
    ensure!(exporter == "otlp", "OTEL_TRACES_EXPORTER must be otlp or none, not {exporter:?}");
    if let Some(protocol) = set_for_traces(variables, "PROTOCOL").filter(|protocol| protocol != "grpc") {
        bail!(
            "traces are sent over gRPC alone, and OTEL_EXPORTER_OTLP_PROTOCOL asks for {protocol:?}: set \
             OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc and OTEL_EXPORTER_OTLP_TRACES_ENDPOINT to the collector's port for \
             gRPC (4317), or OTEL_TRACES_EXPORTER=none"
        );
    }
    Ok(Some(match address.contains("://") {
        true => address,
        false if is_true(set_for_traces(variables, "INSECURE")) => format!("http://{address}"),
        false => format!("https://{address}"),
    }))
}

/// What collects the spans of this process, if somebody wants them. `service` is its name where no variable says otherwise.
pub(super) fn provider(setting: &str, service: &str) -> anyhow::Result<Option<SdkTracerProvider>> {
    let Some(address) = collector(setting, &variable)? else { return Ok(None) };
    let exporter = exporter(&address, &variable).with_context(|| format!("traces cannot be sent to {address:?}"))?;
    // By itself the SDK would take the name among the attributes, against the specification.
    let attributes = EnvResourceDetector::new().detect();
    let among_attributes = || Some(attributes.get(&Key::from_static_str("service.name"))?.as_str().into_owned());
    let name = set(&variable, "OTEL_SERVICE_NAME").or_else(among_attributes).unwrap_or_else(|| service.to_owned());
    let resource = Resource::builder().with_service_name(name).build();
    Ok(Some(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build()))
}

fn exporter(address: &str, variables: &impl Variables) -> anyhow::Result<Watched<opentelemetry_otlp::SpanExporter>> {
    let uri: Uri = address.parse()?;
    let host = uri.host().context("the address names no host")?;
    let timeout = match set_for_traces(variables, "TIMEOUT") {
        Some(text) => {
            let milliseconds = text.parse().ok().filter(|milliseconds| *milliseconds > 0);
            Duration::from_millis(milliseconds.context("OTEL_EXPORTER_OTLP_TIMEOUT must be a number of milliseconds")?)
        }
        None => TIMEOUT,
    };
    let endpoint = Endpoint::from(uri.clone()).timeout(timeout).connect_timeout(timeout);
    let channel = match uri.scheme_str() {
        Some("http") => endpoint.connect_lazy(),
        Some("https") => secured(&endpoint, host, variables)?,
        _ => bail!("the address must begin with http:// or https://"),
    };
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic();
    let exporter = exporter.with_channel(channel).with_timeout(timeout).build()?;
    // Without a user and a password, if there are any.
    let collector = format!("{host}:{}", port(&uri));
    Ok(Watched { exporter, collector, outage: Mutex::default() })
}

fn port(uri: &Uri) -> u16 {
    uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 })
}

/// A channel over TLS. tonic's own TLS is not used: with it, tonic takes no connections that somebody else has secured,
/// and those between services are.
fn secured(endpoint: &Endpoint, host: &str, variables: &impl Variables) -> anyhow::Result<Channel> {
    let roots = match set_for_traces(variables, "CERTIFICATE") {
        Some(file) => tls::roots(Path::new(&file))?,
        None => tls::system_roots()?,
    };
    let own = ["CLIENT_CERTIFICATE", "CLIENT_KEY"].map(|name| set_for_traces(variables, name));
    let identity = match own {
        [Some(certificate), Some(key)] => Some(tls::identity(Path::new(&certificate), Path::new(&key))?),
        [None, None] => None,
        _ => bail!("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY go together"),
    };
    let mut config = tls::client_config(&Verify::AuthorityAndName(roots), identity)?;
    config.alpn_protocols.push(b"h2".to_vec());
    let tls = TlsConnector::from(Arc::new(config));
    let name = host.trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(name).with_context(|| format!("{host:?} can be on no certificate"))?;
    Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |address: Uri| {
        let (tls, name) = (tls.clone(), name.clone());
        async move {
            let host = address.host().unwrap_or_default().trim_matches(['[', ']']);
            let tcp = TcpStream::connect((host, port(&address))).await?;
            Ok::<_, io::Error>(TokioIo::new(tls.connect(name, tcp).await?))
        }
    })))
}

/// Sends spans, counts what fails, and tells of it. It runs in the SDK's own thread, where nothing is traced.
#[derive(Debug)]
struct Watched<E> {
    exporter: E,
    collector: String,
    outage: Mutex<Outage>,
}

impl<E: SpanExporter> SpanExporter for Watched<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let outcome = self.exporter.export(batch).await;
        let news = self.outage.lock().news(outcome.is_ok(), spans, Instant::now());
        let collector = &self.collector;
        if let Err(error) = &outcome {
            metrics::counter!("stampede_trace_exports_failed_total").increment(1);
            if let Some(News::Lost(lost)) = news {
                tracing::warn!(
                    "The collector of traces at {collector} has not taken {lost} spans, which are lost ({error}); later \
                     ones are tried as they come, and requests do not wait for it"
                );
            }
        }
        if let Some(News::Back(lost)) = news {
            tracing::info!("The collector of traces at {collector} takes spans again; {lost} were lost");
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn shutdown(&self) -> OTelSdkResult {
        self.exporter.shutdown()
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// What is known of a collector that does not take what it is sent.
#[derive(Debug, Default)]
struct Outage {
    /// Spans that nobody has been told of as lost and over.
    lost: usize,
    is_told: bool,
    told_at: Option<Instant>,
}

/// What is worth a line. With the spans that were lost.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Lost(usize),
    Back(usize),
}

impl Outage {
    /// `spans` were taken or lost. A collector that comes and goes is told as lost once in [`TELL_AGAIN`] too.
    fn news(&mut self, taken: bool, spans: usize, now: Instant) -> Option<News> {
        if taken {
            return std::mem::take(&mut self.is_told).then(|| News::Back(std::mem::take(&mut self.lost)));
        }
        self.lost += spans;
        let is_due = self.told_at.is_none_or(|told_at| now.duration_since(told_at) >= TELL_AGAIN);
        is_due.then(|| {
            (self.is_told, self.told_at) = (true, Some(now));
            News::Lost(self.lost)
        })
    }
}
