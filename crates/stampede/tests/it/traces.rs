//! What a collector of traces gets: one trace from a request through gRPC and Kafka to the deliveries that it leads to, and
//! nothing of loops that are idle.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
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

use crate::commands::Place;
use crate::ledger::Ledger as _;
use crate::payer::{Payer as _, won};
use crate::site::{EXECUTABLE, system};

mod status;
mod variables;

/// A collector that keeps what it gets.
#[derive(Clone, Default)]
struct Collector {
    /// Each with the name of its service.
    spans: Arc<Mutex<Vec<(String, Span)>>>,
    /// What processes tell of themselves: the texts among their attributes.
    resources: Arc<Mutex<Vec<BTreeMap<String, String>>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource_spans in request.into_inner().resource_spans {
            let attributes = resource_spans.resource.map(|resource| resource.attributes).unwrap_or_default();
            let texts = attributes.into_iter().filter_map(|attribute| match attribute.value?.value? {
                AnyValue::StringValue(text) => Some((attribute.key, text)),
                _ => None,
            });
            let resource: BTreeMap<String, String> = texts.collect();
            let service = resource.get("service.name").cloned().unwrap_or_default();
            self.resources.lock().push(resource);
            let spans = resource_spans.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.spans.lock().extend(spans.map(|span| (service.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Listens on a port of its own, until this process ends.
    async fn start() -> (Collector, String) {
        let address = format!("127.0.0.1:{}", servers::port());
        (Collector::at(&address), format!("http://{address}"))
    }

    fn at(address: &str) -> Collector {
        let collector = Collector::default();
        let serving = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(collector.clone()))
            .serve(address.parse().expect("it is an address"));
        tokio::spawn(serving);
        collector
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

/// A trace of a client's own.
struct Trace([u8; 16]);

impl Trace {
    fn new() -> Trace {
        Trace(uuid::Uuid::now_v7().into_bytes())
    }

    fn traceparent(&self) -> String {
        format!("00-{}-{CALLER}-01", hex(&self.0))
    }

    /// Its spans, once all of `expected` have come.
    async fn spans(&self, collector: &Collector, expected: &[&str]) -> BTreeMap<String, Span> {
        let mut missing = Vec::new();
        eventually("the whole trace has come", async || {
            let spans = collector.of_trace(&self.0);
            let lacking: Vec<&str> = expected.iter().copied().filter(|name| !spans.contains_key(*name)).collect();
            if lacking != missing {
                println!("the trace has {:?} and lacks {lacking:?}", spans.keys());
                missing.clone_from(&lacking);
            }
            lacking.is_empty().then_some(spans)
        })
        .await
    }
}

/// The span of the client that begins a trace.
const CALLER: &str = "00f067aa0ba902b7";

fn attribute(span: &Span, key: &str) -> Option<AnyValue> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key);
    found.and_then(|attribute| attribute.value.clone()?.value)
}

fn words(text: &str) -> Option<AnyValue> {
    Some(AnyValue::StringValue(text.to_owned()))
}

/// Each span is a part of another one of the trace, or of the client's.
fn assert_is_one_tree(spans: &BTreeMap<String, Span>) {
    for (name, span) in spans {
        let parent = spans.values().find(|other| other.span_id == span.parent_span_id);
        assert!(parent.is_some() || hex(&span.parent_span_id) == CALLER, "{name} has a parent in the trace: {span:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_goes_from_the_request_to_the_delivery_and_idle_loops_are_not_traced() {
    let (collector, address) = Collector::start().await;
    let settings = [("telemetry.otlp_endpoint", address.as_str())];
    let site = system().settings(&settings).spawn(EXECUTABLE).await;
    let (product, buyer) = (site.product(3).await, site.buyer().await);
    let trace = Trace::new();
    let order = json!({ "items": [testkit::line(&product, 1)] });
    let request = buyer.request(Method::POST, "/orders").header("Idempotency-Key", fresh_key());
    buyer.send(request.header("traceparent", trace.traceparent()).json(&order)).await.expect(201);
    site.settled().await;

    const REQUEST: &str = "POST /api/v1/orders";
    const CALL: &str = "call stampede.inventory.v1.InventoryService/Hold";
    const CALLED: &str = "stampede.inventory.v1.InventoryService/Hold";
    const SENT: &str = "send ORDER_CREATED";
    const HEARD: &str = "process ORDER_CREATED";
    const DELIVERED: &str = "deliver EMAIL";
    let expected = [REQUEST, CALL, CALLED, SENT, HEARD, DELIVERED];
    let spans = trace.spans(&collector, &expected).await;
    let kind = |name: &str| spans[name].kind();
    use SpanKind::{Client, Consumer, Producer, Server};
    assert_eq!(expected.map(kind), [Server, Client, Server, Producer, Consumer, Consumer]);
    assert_eq!(
        [CALL, CALLED].map(|name| &spans[name].parent_span_id),
        [REQUEST, CALL].map(|name| &spans[name].span_id)
    );
    assert_is_one_tree(&spans);
    let attribute = |name: &str, key: &str| attribute(&spans[name], key);
    assert_eq!(attribute(REQUEST, "http.route"), words("/api/v1/orders"));
    assert_eq!(attribute(REQUEST, "http.response.status_code"), Some(AnyValue::IntValue(201)));
    for name in [CALL, CALLED] {
        assert_eq!(attribute(name, "rpc.system"), words("grpc"));
        assert_eq!(attribute(name, "rpc.method"), words("Hold"));
        assert_eq!(attribute(name, "rpc.grpc.status_code"), Some(AnyValue::IntValue(0)));
    }
    assert_eq!(attribute(SENT, "messaging.destination.name"), words("ORDER_CREATED"));
    assert_eq!(attribute(HEARD, "messaging.consumer.group.name"), words("notification-hub"));
    assert_eq!(attribute(DELIVERED, "messaging.destination.name"), words("EMAIL"));
    assert_eq!(attribute(DELIVERED, "delivery.outcome"), words("success"));

    let refused: Value = buyer.get("/orders/018f0000-0000-7000-8000-000000000001").await.expect(404).json();
    eventually("the refused request is traced under the id that its body names", async || {
        let spans = collector.spans.lock();
        let own = spans.iter().find(|(_, span)| hex(&span.trace_id) == refused["traceId"].as_str().unwrap_or_default());
        own.filter(|(_, span)| span.name == "GET /api/v1/orders/{orderId}").map(|_| ())
    })
    .await;

    let stored = "select headers from {order}.outbox_events where topic = 'ORDER_CREATED'";
    let traceparent = site.rows(stored).await[0]["headers"]["traceparent"].as_str().expect("it has one").to_owned();
    assert_eq!(traceparent.get(3..35), Some(hex(&trace.0).as_str()), "the outbox row carries the trace");
    let told = "select traceparent from {notification_hub}.notifications";
    assert_eq!(site.rows(told).await[0]["traceparent"], json!(traceparent), "the notification's row carries it on");
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
    assert_eq!(trace_of_mail(&log), hex(&trace.0), "the line of the e-mail has the trace's id");
    site.stop().await;
}

/// The trace that the line of the only e-mail in `log` names.
fn trace_of_mail(log: &str) -> String {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mails: Vec<Value> = lines.filter(|line| line["target"] == "mail").collect();
    assert_eq!(mails.len(), 1, "{mails:?}");
    mails[0]["traceId"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paying_is_one_trace_from_the_approval_to_the_receipt() {
    let (collector, address) = Collector::start().await;
    let site = system().settings(&[("telemetry.otlp_endpoint", address.as_str())]).spawn(EXECUTABLE).await;
    let (product, buyer) = (site.product(3).await, site.buyer().await);
    let agreed = buyer.agrees(&site, &product).await;
    let trace = Trace::new();
    let request = buyer.request(Method::POST, &format!("/payments/{}/approve", agreed.payment));
    let body = json!({ "pgPaymentId": agreed.pg_payment, "amount": won(agreed.amount) });
    buyer.send(request.header("traceparent", trace.traceparent()).json(&body)).await.expect(200);

    const CAPTURED: &str = "call POST";
    let expected = [
        "POST /api/v1/payments/{paymentId}/approve",
        "stampede.order.v1.OrderService/BeginApproval",
        "stampede.inventory.v1.InventoryService/PinHold",
        CAPTURED,
        "send PAYMENT_APPROVED",
        "stampede.order.v1.OrderService/MarkPaid",
        "send ORDER_PLACED",
        "process ORDER_PLACED",
        "deliver EMAIL",
    ];
    let spans = trace.spans(&collector, &expected).await;
    assert_is_one_tree(&spans);
    assert_eq!(attribute(&spans[CAPTURED], "http.response.status_code"), Some(AnyValue::IntValue(200)));
    assert_eq!(attribute(&spans[CAPTURED], "server.address"), words("127.0.0.1"));
    assert_eq!(attribute(&spans[CAPTURED], "url.full"), None, "paths may be secrets");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_message_for_two_traces_is_in_the_first_and_linked_to_the_other() {
    let (collector, address) = Collector::start().await;
    let site = system().settings(&[("telemetry.otlp_endpoint", address.as_str())]).spawn(EXECUTABLE).await;
    let (admin, traces) = (site.admin(), [Trace::new(), Trace::new()]);
    let in_an_hour = chrono::Utc::now() + chrono::TimeDelta::hours(1);
    for trace in &traces {
        let request = admin.request(Method::POST, "/notifications").header("Idempotency-Key", fresh_key());
        let body = json!({
            "type": "SYSTEM_INCIDENT", "channels": [{ "channel": "SLACK" }], "subject": "s", "body": "b",
            "notBefore": in_an_hour,
        });
        admin.send(request.header("traceparent", trace.traceparent()).json(&body)).await.expect(201);
    }
    // Due at one moment, they are claimed together.
    site.execute("update {notification_hub}.deliveries set next_attempt_at = now()").await;

    const DELIVERED: &str = "deliver SLACK";
    const SENT: &str = "call send SLACK";
    let both = [
        traces[0].spans(&collector, &["POST /api/v1/notifications", DELIVERED]).await,
        traces[1].spans(&collector, &["POST /api/v1/notifications", DELIVERED]).await,
    ];
    both.iter().for_each(assert_is_one_tree);
    let [first, other] = if both[0].contains_key(SENT) { [&both[0], &both[1]] } else { [&both[1], &both[0]] };
    assert_eq!(first[SENT].parent_span_id, first[DELIVERED].span_id);
    assert_eq!(first["call POST"].parent_span_id, first[SENT].span_id);
    let links: Vec<_> = first[SENT].links.iter().map(|link| (&link.trace_id, &link.span_id)).collect();
    assert_eq!(links, [(&other[DELIVERED].trace_id, &other[DELIVERED].span_id)]);
    assert!(!other.contains_key(SENT) && !other.contains_key("call POST"), "there was one message");
    site.stop().await;
}

/// Has the SDK send what it has at once, and not each five seconds.
const SOON: (&str, &str) = ("OTEL_BSP_SCHEDULE_DELAY", "50");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_lost_is_told_and_counted_and_so_is_its_return() {
    let address = format!("127.0.0.1:{}", servers::port());
    let endpoint = format!("http://{address}");
    let system = system().set("telemetry.otlp_endpoint", &endpoint).environment(SOON.0, SOON.1);
    let site = system.spawn(EXECUTABLE).await;
    let told = async |words: &str| {
        eventually(&format!("the log has a line with {words:?}"), async || {
            site.anyone().get("/products").await.expect(200);
            let log = std::fs::read_to_string(site.log()).expect("the child writes a log");
            let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            let of_collector = |line: &&Value| line["message"].as_str().is_some_and(|text| text.contains(words));
            let found: Vec<Value> = lines.iter().filter(of_collector).cloned().collect();
            (!found.is_empty()).then_some(found)
        })
        .await
    };
    let lost = told("has not taken").await;
    assert!(lost.iter().all(|line| line["level"] == "WARN" && line.to_string().contains(&address)), "{lost:?}");
    let anyone = site.anyone();
    let metrics = anyone.send(anyone.request_root(Method::GET, "/metrics")).await.expect(200).body;
    let failed = metrics.lines().find_map(|line| line.strip_prefix("stampede_trace_exports_failed_total "));
    assert!(failed.is_some_and(|count| count != "0"), "{failed:?}");
    let collector = Collector::at(&address);
    let back = told("takes spans again").await;
    assert!(back[0]["level"] == "INFO" && back[0].to_string().contains(&address), "{back:?}");
    let spans = collector.spans.lock().clone();
    assert!(spans.iter().any(|(_, span)| span.name == "GET /api/v1/products"), "it has what came after");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_of_its_own_process_has_its_own_name_and_a_variable_turns_its_traces_on() {
    let (collector, address) = Collector::start().await;
    let place = Place::new("traced").await;
    let listens = format!("127.0.0.1:{}", servers::port());
    let mut account = place.command("account");
    account.env(testkit::variable("host.http_listen"), &listens).env(SOON.0, SOON.1);
    account.env("OTEL_EXPORTER_OTLP_ENDPOINT", &address);
    let mut account = account.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let keys = format!("http://{listens}/.well-known/jwks.json");
    let services = eventually("its spans have come", async || {
        drop(reqwest::get(&keys).await);
        let spans = collector.spans.lock().clone();
        let asked = spans.iter().any(|(_, span)| span.name == "GET /.well-known/jwks.json");
        asked.then(|| spans.into_iter().map(|(service, _)| service).collect::<BTreeSet<_>>())
    })
    .await;
    assert_eq!(services, BTreeSet::from(["account".to_owned()]));
    account.kill().await.expect("it is ours");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_collector_a_request_has_a_trace_id_all_the_same() {
    let site = system().spawn(EXECUTABLE).await;
    let (product, buyer) = (site.product(1).await, site.buyer().await);
    buyer.order(&fresh_key(), &product, 1).await.expect(201);
    site.settled().await;
    let stored = "select headers from {order}.outbox_events where topic = 'ORDER_CREATED'";
    let traceparent = site.rows(stored).await[0]["headers"]["traceparent"].as_str().expect("it has one").to_owned();
    assert!(traceparent.len() == 55 && traceparent.starts_with("00-"), "{traceparent}");
    let refused: Value = buyer.get("/orders/018f0000-0000-7000-8000-000000000001").await.expect(404).json();
    let trace = refused["traceId"].as_str().expect("the body of an error names its trace");
    assert!(trace.len() == 32 && trace.chars().all(|digit| digit.is_ascii_hexdigit()), "{trace}");
    let log = std::fs::read_to_string(site.log()).expect("the child writes a log");
    assert_eq!(
        Some(trace_of_mail(&log).as_str()),
        traceparent.get(3..35),
        "the line of the e-mail has the order's trace"
    );
    site.stop().await;
}
