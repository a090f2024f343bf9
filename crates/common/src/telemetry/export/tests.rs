//! What turns traces on, and real collectors: one that is away and comes back, and one behind TLS.

use std::time::SystemTime;

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status as SpanStatus};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_sdk::trace::{SpanEvents, SpanLinks};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use testkit::tls::{Authority, Certificate};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::*;

/// Variables with their values.
type Set<'s> = &'s [(&'s str, &'s str)];

fn among<'v>(pairs: Set<'v>) -> impl Variables + 'v {
    |name: &str| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
}

#[test]
fn the_setting_is_above_the_variables_and_what_turns_traces_off_is_above_all() {
    const ALL: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4317");
    const TRACES: (&str, &str) = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces:4317");
    const HTTP: (&str, &str) = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    let setting = "http://setting:4317";
    let cases: [(&str, Set<'_>, Option<&str>); 14] = [
        ("", &[], None),
        ("", &[("OTEL_EXPORTER_OTLP_ENDPOINT", " "), ("OTEL_SDK_DISABLED", "")], None),
        ("", &[ALL], Some("http://all:4317")),
        ("", &[ALL, TRACES], Some("https://traces:4317")),
        (setting, &[ALL, TRACES], Some(setting)),
        (setting, &[("OTEL_SDK_DISABLED", "True")], None),
        (setting, &[("OTEL_TRACES_EXPORTER", "none")], None),
        ("", &[ALL, HTTP, ("OTEL_TRACES_EXPORTER", "none")], None),
        ("", &[ALL, ("OTEL_SDK_DISABLED", "false"), ("OTEL_TRACES_EXPORTER", "otlp")], Some("http://all:4317")),
        ("", &[ALL, HTTP, ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")], Some("http://all:4317")),
        // The setting is documented as gRPC.
        (setting, &[HTTP], Some(setting)),
        ("", &[("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4317")], Some("https://c:4317")),
        (
            "",
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4317"), ("OTEL_EXPORTER_OTLP_INSECURE", "true")],
            Some("http://c:4317"),
        ),
        (
            "",
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4317"), ("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "TRUE")],
            Some("http://c:4317"),
        ),
    ];
    for (setting, variables, expected) in cases {
        let found = collector(setting, &among(variables)).unwrap();
        assert_eq!(found.as_deref(), expected, "{setting:?} {variables:?}");
    }
    for (variables, told) in
        [([ALL, HTTP], "TRACES_PROTOCOL=grpc"), ([ALL, ("OTEL_TRACES_EXPORTER", "zipkin")], "must be otlp or none")]
    {
        let error = collector("", &among(&variables)).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
}

#[tokio::test]
async fn what_can_never_reach_a_collector_is_told_at_start() {
    let missing = ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nothing/there.pem");
    let half = ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/some.key");
    let cases: [(&str, Set<'_>, &str); 5] = [
        ("ftp://collector:4317", &[], "must begin with http:// or https://"),
        ("https://collector:4317", &[missing], "/nothing/there.pem cannot be read"),
        ("https://collector:4317", &[half], "go together"),
        ("http://collector:4317", &[("OTEL_EXPORTER_OTLP_TIMEOUT", "10s")], "milliseconds"),
        ("http://collector:4317", &[("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0")], "milliseconds"),
    ];
    for (address, variables, told) in cases {
        let error = format!("{:#}", exporter(address, &among(variables)).unwrap_err());
        assert!(error.contains(told), "{address}: {error}");
    }
}

#[test]
fn a_lost_collector_is_told_once_a_minute_and_once_when_it_is_back() {
    let (mut outage, start) = (Outage::default(), Instant::now());
    let mut after =
        |taken: bool, spans: usize, seconds: u64| outage.news(taken, spans, start + Duration::from_secs(seconds));
    assert_eq!(after(true, 9, 0), None, "it was never lost");
    assert_eq!(after(false, 3, 1), Some(News::Lost(3)));
    assert_eq!(after(false, 4, 60), None, "59 s later");
    assert_eq!(after(false, 5, 61), Some(News::Lost(12)));
    assert_eq!(after(true, 9, 62), Some(News::Back(12)));
    assert_eq!(after(true, 9, 63), None);
    // It comes and goes: what is lost silently is told with the next line.
    assert_eq!([after(false, 1, 64), after(true, 9, 65), after(false, 2, 66)], [None, None, None]);
    assert_eq!(after(false, 4, 121), Some(News::Lost(7)));
    assert_eq!(after(true, 9, 122), Some(News::Back(7)));
}

/// Takes everything.
struct Taker;

#[tonic::async_trait]
impl TraceService for Taker {
    async fn export(
        &self,
        _: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn take(listener: TcpListener) {
    let server = Server::builder().add_service(TraceServiceServer::new(Taker));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
}

fn span() -> SpanData {
    SpanData {
        span_context: SpanContext::empty_context(),
        parent_span_id: SpanId::INVALID,
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: "a".into(),
        start_time: SystemTime::now(),
        end_time: SystemTime::now(),
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: SpanStatus::Unset,
        instrumentation_scope: opentelemetry::InstrumentationScope::default(),
    }
}

fn failures() -> u64 {
    let text = crate::telemetry::metrics_text();
    let value = text.lines().find_map(|line| line.strip_prefix("stampede_trace_exports_failed_total "));
    value.map_or(0, |value| value.parse().unwrap())
}

#[tokio::test]
async fn a_collector_that_was_away_is_counted_and_takes_spans_when_it_is_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // It accepts nothing from now on: the port is closed.
    drop(listener);
    let exporter = exporter(&format!("http://user:hunter2@{address}"), &among(&[])).unwrap();
    assert_eq!(exporter.collector, address.to_string(), "no password is logged");
    let before = failures();
    let error = exporter.export(vec![span(), span()]).await.unwrap_err().to_string();
    assert!(error.contains("Connection refused"), "the line says why: {error}");
    assert!(failures() > before);
    assert_eq!(exporter.outage.lock().lost, 2);
    take(TcpListener::bind(address).await.unwrap());
    exporter.export(vec![span()]).await.unwrap();
    let outage = exporter.outage.lock();
    assert!(!outage.is_told && outage.lost == 0, "{outage:?}");
}

/// A collector behind TLS that shows `own`. Returns its port.
async fn secured_collector(own: &Certificate) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = listener.local_addr().unwrap();
    take(listener);
    let (chain, key) = tls::identity(Path::new(&own.file), Path::new(&own.key)).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols.push(b"h2".to_vec());
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut inside = acceptor.accept(tcp).await?;
                tokio::io::copy_bidirectional(&mut inside, &mut TcpStream::connect(plain).await?).await
            });
        }
    });
    port
}

#[tokio::test]
async fn a_collector_behind_tls_proves_itself() {
    let folder = std::env::temp_dir().join(format!("stampede-collector-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let [ours, stranger] = ["ours", "stranger"].map(|name| Authority::new(&folder, name));
    let port = secured_collector(&ours.sign("collector", "localhost")).await;
    let address = |host: &str| format!("https://{host}:{port}");
    let known = [("OTEL_EXPORTER_OTLP_CERTIFICATE", ours.file.as_str())];
    exporter(&address("localhost"), &among(&known)).unwrap().export(vec![span()]).await.unwrap();
    let unknown = [("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", stranger.file.as_str()), known[0]];
    for (host, variables, why) in
        [("localhost", &unknown[..], "UnknownIssuer"), ("127.0.0.1", &known[..], "not valid for name")]
    {
        let refused = exporter(&address(host), &among(variables)).unwrap().export(vec![span()]).await.unwrap_err();
        assert!(refused.to_string().contains(why), "{host}: {refused}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
