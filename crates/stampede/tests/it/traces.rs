//! What a collector of traces gets: one trace from a request through gRPC and Kafka, and nothing of loops that are idle.

use std::collections::BTreeMap;
use std::sync::Arc;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyValue;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use parking_lot::Mutex;
use reqwest::Method;
use serde_json::{Value, json};
use testkit::{eventually, fresh_key, servers};
use tonic::{Request, Response, Status};

use crate::ledger::Ledger as _;
use crate::site::{EXECUTABLE, system};

/// A collector that keeps what it gets.
#[derive(Clone, Default)]
struct Collector {
    /// Each with the name of its service.
    spans: Arc<Mutex<Vec<(String, Span)>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource_spans in request.into_inner().resource_spans {
            let attributes = resource_spans.resource.map(|resource| resource.attributes).unwrap_or_default();
            let named = attributes.into_iter().find(|attribute| attribute.key == "service.name");
            let service = match named.and_then(|name| name.value?.value) {
                Some(AnyValue::StringValue(name)) => name,
                _ => String::new(),
            };
            let spans = resource_spans.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.spans.lock().extend(spans.map(|span| (service.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Listens on a port of its own, until this process ends.
    async fn start() -> (Collector, String) {
        let collector = Collector::default();
        let address = format!("127.0.0.1:{}", servers::port());
        let serving = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(collector.clone()))
            .serve(address.parse().expect("it is an address"));
        tokio::spawn(serving);
        (collector, format!("http://{address}"))
    }

    /// The spans of a trace, by name. That of an outgoing call has the name of the incoming one, after `call`.
    fn of_trace(&self, trace: &[u8]) -> BTreeMap<String, Span> {
        let spans = self.spans.lock();
        let own = spans.iter().filter(|(_, span)| span.trace_id == trace);
        let name = |span: &Span| match span.kind() {
            SpanKind::Client => format!("call {}", span.name),
            _ => span.name.clone(),
        };
        own.map(|(_, span)| (name(span), span.clone())).collect()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_goes_from_the_request_through_grpc_and_kafka_and_idle_loops_are_not_traced() {
    let (collector, address) = Collector::start().await;
    let settings = [("telemetry.otlp_endpoint", address.as_str())];
    let site = system().settings(&settings).spawn(EXECUTABLE).await;
    let (product, buyer) = (site.product(3).await, site.buyer().await);
    let trace: [u8; 16] = uuid::Uuid::now_v7().into_bytes();
    let order = json!({ "items": [testkit::line(&product, 1)] });
    let caller = format!("00-{}-00f067aa0ba902b7-01", hex(&trace));
    let request = buyer.request(Method::POST, "/orders").header("Idempotency-Key", fresh_key());
    buyer.send(request.header("traceparent", &caller).json(&order)).await.expect(201);
    site.settled().await;

    const REQUEST: &str = "POST /api/v1/orders";
    const CALL: &str = "call stampede.inventory.v1.InventoryService/Hold";
    const CALLED: &str = "stampede.inventory.v1.InventoryService/Hold";
    const SENT: &str = "send ORDER_CREATED";
    const HEARD: &str = "process ORDER_CREATED";
    let expected = [REQUEST, CALL, CALLED, SENT, HEARD];
    let spans = eventually("the whole trace has come", async || {
        let spans = collector.of_trace(&trace);
        expected.iter().all(|name| spans.contains_key(*name)).then_some(spans)
    })
    .await;
    let kind = |name: &str| spans[name].kind();
    assert_eq!(
        expected.map(kind),
        [SpanKind::Server, SpanKind::Client, SpanKind::Server, SpanKind::Producer, SpanKind::Consumer]
    );
    assert_eq!(
        [CALL, CALLED].map(|name| &spans[name].parent_span_id),
        [REQUEST, CALL].map(|name| &spans[name].span_id)
    );
    for (name, span) in &spans {
        let parent = spans.values().find(|other| other.span_id == span.parent_span_id);
        let is_callers = hex(&span.parent_span_id) == "00f067aa0ba902b7";
        assert!(parent.is_some() || is_callers, "{name} has a parent in the trace: {span:?}");
    }
    let attribute = |name: &str, key: &str| {
        let found = spans[name].attributes.iter().find(|attribute| attribute.key == key);
        found.and_then(|attribute| attribute.value.clone()?.value)
    };
    let text = |text: &str| Some(AnyValue::StringValue(text.to_owned()));
    assert_eq!(attribute(REQUEST, "http.route"), text("/api/v1/orders"));
    assert_eq!(attribute(REQUEST, "http.response.status_code"), Some(AnyValue::IntValue(201)));
    for name in [CALL, CALLED] {
        assert_eq!(attribute(name, "rpc.system"), text("grpc"));
        assert_eq!(attribute(name, "rpc.method"), text("Hold"));
        assert_eq!(attribute(name, "rpc.grpc.status_code"), Some(AnyValue::IntValue(0)));
    }
    assert_eq!(attribute(SENT, "messaging.destination.name"), text("ORDER_CREATED"));
    assert_eq!(attribute(HEARD, "messaging.consumer.group.name"), text("notification-hub"));

    let refused: Value = buyer.get("/orders/018f0000-0000-7000-8000-000000000001").await.expect(404).json();
    eventually("the refused request is traced under the id that its body names", async || {
        let spans = collector.spans.lock();
        let own = spans.iter().find(|(_, span)| hex(&span.trace_id) == refused["traceId"].as_str().unwrap_or_default());
        own.filter(|(_, span)| span.name == "GET /api/v1/orders/{orderId}").map(|_| ())
    })
    .await;

    let stored = "select headers from {order}.outbox_events where topic = 'ORDER_CREATED'";
    let traceparent = site.rows(stored).await[0]["headers"]["traceparent"].as_str().expect("it has one").to_owned();
    assert_eq!(traceparent.get(3..35), Some(hex(&trace).as_str()), "the outbox row carries the trace");
    let collected = collector.spans.lock().clone();
    assert!(collected.iter().all(|(service, _)| service == "stampede"), "all services are in this process");
    let idle: Vec<&String> = collected
        .iter()
        .map(|(_, span)| &span.name)
        .filter(|name| ["periodic", "outbox.send"].contains(&name.as_str()))
        .collect();
    assert!(idle.is_empty(), "loops look for work all the time: {idle:?}");
    let log = std::fs::read_to_string(site.log()).expect("the child writes a log");
    assert!(log.lines().all(|line| line.starts_with('{')), "a collector changes nothing of the log");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_collector_a_request_has_a_trace_id_all_the_same() {
    let site = system().start().await;
    let (product, buyer) = (site.product(1).await, site.buyer().await);
    buyer.order(&fresh_key(), &product, 1).await.expect(201);
    let stored = "select headers from {order}.outbox_events where topic = 'ORDER_CREATED'";
    let traceparent = site.rows(stored).await[0]["headers"]["traceparent"].as_str().expect("it has one").to_owned();
    assert!(traceparent.len() == 55 && traceparent.starts_with("00-"), "{traceparent}");
    let refused: Value = buyer.get("/orders/018f0000-0000-7000-8000-000000000001").await.expect(404).json();
    let trace = refused["traceId"].as_str().expect("the body of an error names its trace");
    assert!(trace.len() == 32 && trace.chars().all(|digit| digit.is_ascii_hexdigit()), "{trace}");
}
