//! Spans of what failed have the status ERROR and say why; spans of what a client did wrong have none.

use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use testkit::proxy::Proxy;

use super::*;

/// An event of the order service whose relay sends it in `trace`.
async fn record_event(site: &testkit::Site, trace: &Trace, topic: &str, version: u32) {
    let (id, traceparent) = (uuid::Uuid::now_v7(), trace.traceparent());
    let insert = format!(
        "insert into {{order}}.outbox_events
             (event_id, shard, aggregate_type, topic, key, aggregate_version, payload, headers)
         values ('{id}', 0, 'order', '{topic}', 'broken', {version}, '{{}}',
             jsonb_build_object('traceparent', '{traceparent}'))"
    );
    site.execute(&insert).await;
}

fn failure(span: &Span) -> (StatusCode, Option<AnyValue>) {
    let status = span.status.as_ref().map_or(StatusCode::Unset, |status| status.code());
    (status, attribute(span, "error.type"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_refused_or_cannot_be_applied_is_an_error_in_its_trace() {
    let (collector, address) = Collector::start().await;
    let system = system().set("telemetry.otlp_endpoint", &address).environment(SOON.0, SOON.1);
    let site = system.spawn(EXECUTABLE).await;

    // It can be sent, and no handler can read it.
    let (unreadable, behind, refused) = (Trace::new(), Trace::new(), Trace::new());
    record_event(&site, &unreadable, "ORDER_CREATED", 1).await;
    let spans = unreadable.spans(&collector, &["send ORDER_CREATED", "process ORDER_CREATED"]).await;
    assert_eq!(failure(&spans["send ORDER_CREATED"]), (StatusCode::Unset, None));
    assert_eq!(failure(&spans["process ORDER_CREATED"]), (StatusCode::Error, words("INTERNAL_ERROR")));

    site.until_number("select count(*) from {notification_hub}.parked", 1).await;
    record_event(&site, &behind, "ORDER_CREATED", 2).await;
    let spans = behind.spans(&collector, &["process ORDER_CREATED"]).await;
    assert_eq!(failure(&spans["process ORDER_CREATED"]), (StatusCode::Error, words("parked")));

    // No broker has a topic of this name, nor can one be made.
    record_event(&site, &refused, "no such topic!", 3).await;
    let spans = refused.spans(&collector, &["send no such topic!"]).await;
    assert_eq!(failure(&spans["send no such topic!"]), (StatusCode::Error, words("refused")));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_the_service_fails_is_an_error_and_one_that_the_client_got_wrong_is_none() {
    let (collector, address) = Collector::start().await;
    let url = servers::shared().await.postgres_url();
    let proxy = Proxy::to(&url).await;
    // Inventory gives PostgreSQL up long before order gives inventory up.
    let settings = [
        ("telemetry.otlp_endpoint", address),
        ("postgres.url", proxy.url(&url)),
        ("postgres.acquire_timeout_ms", "3000".to_owned()),
        ("rpc.deadline_ms", "60000".to_owned()),
    ];
    let site = system().settings(&settings).environment(SOON.0, SOON.1).spawn(EXECUTABLE).await;
    let (product, buyer) = (site.product(3).await, site.buyer().await);

    const READ: &str = "GET /api/v1/orders/{orderId}";
    let ask = async |trace: &Trace| {
        let request = buyer.request(Method::GET, "/orders/018f0000-0000-7000-8000-000000000001");
        buyer.send(request.header("traceparent", trace.traceparent())).await
    };
    let (unknown, failed) = (Trace::new(), Trace::new());
    ask(&unknown).await.expect(404);
    proxy.cut();
    ask(&failed).await.expect(503);
    let found = [unknown.spans(&collector, &[READ]).await, failed.spans(&collector, &[READ]).await];
    let of_request = found.map(|spans| failure(&spans[READ]));
    assert_eq!(of_request, [(StatusCode::Unset, None), (StatusCode::Error, words("SERVICE_UNAVAILABLE"))]);

    // The order's stock is asked for over gRPC: a service that fails is an error to whoever calls it, and to the request.
    const PLACE: &str = "POST /api/v1/orders";
    const CALL: &str = "call stampede.inventory.v1.InventoryService/Hold";
    const CALLED: &str = "stampede.inventory.v1.InventoryService/Hold";
    let placed = Trace::new();
    let request = buyer.placing(&fresh_key(), &json!({ "items": [testkit::line(&product, 1)] }));
    buyer.send(request.header("traceparent", placed.traceparent())).await.expect(503);
    let spans = placed.spans(&collector, &[PLACE, CALL, CALLED]).await;
    assert_eq!(failure(&spans[PLACE]), (StatusCode::Error, words("SERVICE_UNAVAILABLE")));
    for name in [CALL, CALLED] {
        assert_eq!(failure(&spans[name]), (StatusCode::Error, words("UNAVAILABLE")), "{name}");
    }
    proxy.restore();
    site.stop().await;
}
