//! `GET /stream`: facts in by Kafka, frames out over HTTP, on one and on two replicas.

use std::collections::BTreeSet;

use common::auth::Role;
use contract::events::{
    CouponIssued, EventClosed, EventOpen, OrderCancelled, OrderCreated, OrderPlaced, PaymentApproved, PaymentFailed,
};
use contract::order::order_service_server::OrderServiceServer;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::sse::{Frame, Stream};
use testkit::{Client, eventually};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::fake_order::FakeOrder;
use crate::hub::{STRANGER, USER, payment_failed, replica, start, start_beside, stranger, user};

/// A stream of `client`, once the hub has read what was said before.
async fn open(client: &Client, query: &str, last_seen: Option<&str>) -> Stream {
    let response = eventually("the stream is ready", async || {
        let mut request = client.request(Method::GET, &format!("/stream{query}"));
        if let Some(last_seen) = last_seen {
            request = request.header("Last-Event-ID", last_seen);
        }
        let response = request.send().await.unwrap();
        (response.status() != StatusCode::SERVICE_UNAVAILABLE).then_some(response)
    })
    .await;
    assert_eq!(response.status(), 200);
    // For gateways and caches that are not ours.
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    assert_eq!(response.headers()["cache-control"], "no-store");
    Stream::of(response)
}

/// [`open`], and its snapshot.
async fn begin(client: &Client, query: &str) -> (Stream, Frame) {
    let mut stream = open(client, query, None).await;
    let snapshot = next(&mut stream).await;
    assert_eq!(snapshot.kind, "snapshot");
    (stream, snapshot)
}

async fn next(stream: &mut Stream) -> Frame {
    stream.next().await.expect("the stream goes on")
}

/// A sale event that has opened.
fn sale(name: &str) -> EventOpen {
    let event_id = Uuid::now_v7().to_string();
    EventOpen { event_id, version: 2, name: name.to_owned(), ..EventOpen::default() }
}

fn cancelled(order: Uuid, owner: Uuid) -> OrderCancelled {
    OrderCancelled { order_id: order.to_string(), user_id: owner.to_string(), version: 2, ..OrderCancelled::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opening_reaches_every_client_of_every_replica() {
    let (site, account) = start(&[]).await;
    let other = replica(&site, &account, &[]).await;
    let open = sale("Sneaker");
    let named = format!("?topics=event:{}", open.event_id);
    let mut streams = Vec::new();
    for site in [&site, &other] {
        for (client, query) in
            [(site.anyone(), ""), (user(site), ""), (stranger(site), "?topics=events"), (site.anyone(), &*named)]
        {
            let (stream, snapshot) = begin(&client, query).await;
            assert_eq!(snapshot.data, json!({ "events": [], "orders": [] }));
            assert!(stream.retry_ms.is_some_and(|retry| (2_500..4_500).contains(&retry)));
            streams.push(stream);
        }
    }
    // They want something else.
    let (mut orders, _) = begin(&user(&site), "?topics=orders").await;
    let (mut another, _) = begin(&site.anyone(), &format!("?topics=event:{}", Uuid::now_v7())).await;
    site.publish(&open).await;
    for stream in &mut streams {
        let frame = next(stream).await;
        assert_eq!(frame.kind, "event.open");
        assert_eq!(
            frame.data,
            json!({ "eventId": open.event_id, "version": 2, "status": "OPEN", "name": "Sneaker", "productIds": [] })
        );
    }
    site.publish(&cancelled(Uuid::now_v7(), USER)).await;
    assert_eq!(next(&mut orders).await.kind, "order.updated", "it was told nothing before");
    let ((), rest) = tokio::join!(site.stop(), another.next());
    assert_eq!(rest.unwrap().kind, "end");
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_an_account_is_told_to_its_owner_alone() {
    let (site, _) = start(&[]).await;
    let (mut own, _) = begin(&user(&site), "").await;
    let order = Uuid::now_v7();
    // Who names somebody else's order is told nothing either; order itself refuses to show it.
    let (mut foreign, _) = begin(&stranger(&site), "").await;
    let (mut anyone, _) = begin(&site.anyone(), "").await;
    let (order_id, user_id) = (order.to_string(), USER.to_string());
    let created =
        OrderCreated { order_id: order_id.clone(), user_id: user_id.clone(), version: 1, ..Default::default() };
    let placed = OrderPlaced { order_id: order_id.clone(), user_id: user_id.clone(), version: 3, ..Default::default() };
    let failed = PaymentFailed { order_id: order_id.clone(), ..payment_failed("p") };
    let approved = PaymentApproved {
        payment_id: failed.payment_id.clone(),
        order_id: order_id.clone(),
        user_id: user_id.clone(),
        version: 4,
        amount: 129_000,
        currency: "KRW".to_owned(),
        provider: "naverpay".to_owned(),
        ..Default::default()
    };
    let coupon = CouponIssued {
        issue_id: Uuid::now_v7().to_string(),
        coupon_id: Uuid::now_v7().to_string(),
        user_id,
        coupon_and_user: "c:u".to_owned(),
        ..Default::default()
    };
    site.publish(&created).await;
    site.publish(&placed).await;
    site.publish(&failed).await;
    site.publish(&approved).await;
    site.publish(&coupon).await;
    let mut told = BTreeSet::new();
    for _ in 0..5 {
        let frame = next(&mut own).await;
        told.insert(format!("{} {}", frame.kind, frame.data));
    }
    let payment = &failed.payment_id;
    let expected = [
        ("order.updated", json!({ "orderId": order_id, "status": "CREATED", "version": 1 })),
        ("order.updated", json!({ "orderId": order_id, "status": "PAID", "version": 3 })),
        (
            "payment.updated",
            json!({ "paymentId": payment, "orderId": order_id, "outcome": "FAILED", "amount": 129_000,
                    "currency": "KRW", "code": "PAYMENT_DECLINED", "version": 2 }),
        ),
        (
            "payment.updated",
            json!({ "paymentId": payment, "orderId": order_id, "outcome": "APPROVED", "amount": 129_000,
                    "currency": "KRW", "version": 4 }),
        ),
        ("coupon.issued", json!({ "couponId": coupon.coupon_id, "issueId": coupon.issue_id })),
    ];
    let expected = expected.map(|(kind, data)| format!("{kind} {}", sorted(&data)));
    let told: BTreeSet<String> = told
        .iter()
        .map(|frame| {
            let (kind, data) = frame.split_once(' ').unwrap();
            format!("{kind} {}", sorted(&serde_json::from_str(data).unwrap()))
        })
        .collect();
    assert_eq!(told, BTreeSet::from(expected));
    // The others were told nothing meanwhile.
    site.publish(&sale("next")).await;
    for stream in [&mut foreign, &mut anyone] {
        assert_eq!(next(stream).await.kind, "event.open");
    }
    site.stop().await;
}

/// With its members in one order.
fn sorted(data: &Value) -> String {
    let members: std::collections::BTreeMap<_, _> = data.as_object().unwrap().iter().collect();
    format!("{members:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_back_gets_what_it_missed_in_order() {
    let (site, account) = start(&[]).await;
    let (mut stream, _) = begin(&user(&site), "").await;
    let (mut witness, _) = begin(&site.anyone(), "?topics=events").await;
    let sales = [sale("1"), sale("2"), sale("3")];
    site.publish(&sales[0]).await;
    let first = next(&mut stream).await;
    drop(stream);
    for sale in &sales[1..] {
        site.publish(sale).await;
    }
    for _ in &sales {
        next(&mut witness).await;
    }
    let mut stream = open(&user(&site), "", Some(&first.id)).await;
    for sale in &sales[1..] {
        let frame = next(&mut stream).await;
        assert_eq!((frame.kind.as_str(), &frame.data["name"]), ("event.open", &json!(sale.name)));
    }
    // And goes on with what is new.
    site.publish(&cancelled(Uuid::now_v7(), USER)).await;
    let last = next(&mut stream).await;
    assert_eq!(last.kind, "order.updated");

    // Another replica cannot tell what was missed, and says so.
    let other = replica(&site, &account, &[]).await;
    let mut stream = open(&user(&other), "", Some(&last.id)).await;
    let resync = next(&mut stream).await;
    assert_eq!((resync.kind.as_str(), resync.data), ("resync", json!({ "cause": "OTHER_EPOCH" })));
    let snapshot = next(&mut stream).await;
    assert_eq!(snapshot.kind, "snapshot");
    let names: Vec<&Value> = snapshot.data["events"].as_array().unwrap().iter().map(|sale| &sale["name"]).collect();
    assert_eq!(names, ["1", "2", "3"], "it knows what was said before it started");
    site.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_has_what_is_known_of_each_topic() {
    let orders = FakeOrder::default();
    let service = OrderServiceServer::new(orders.clone());
    let site = start_beside(&[], move |host| host.grpc(service)).await;
    let (mut witness, _) = begin(&site.anyone(), "").await;
    let sale = sale("over");
    site.publish(&sale).await;
    next(&mut witness).await;
    site.publish(&EventClosed { event_id: sale.event_id.clone(), version: 3, ..EventClosed::default() }).await;
    assert_eq!(next(&mut witness).await.kind, "event.closed");
    let (own, foreign) = (orders.add(USER, "PAID"), orders.add(STRANGER, "PAID"));
    let query = format!("?topics=event:{},order:{own}", sale.event_id);
    let (mut stream, snapshot) = begin(&user(&site), &query).await;
    assert_eq!(snapshot.data["orders"], json!([{ "orderId": own, "status": "PAID", "version": 3 }]));
    assert_eq!(snapshot.data["events"][0]["status"], "CLOSED");
    let (_, all) = begin(&site.anyone(), "").await;
    assert_eq!(all.data["events"], json!([]), "what is over is not among all");
    // News of another order of the same account are not among the topics.
    site.publish(&cancelled(Uuid::now_v7(), USER)).await;
    site.publish(&cancelled(own, USER)).await;
    assert_eq!(next(&mut stream).await.data["orderId"], json!(own));

    for order in [foreign, Uuid::now_v7()] {
        user(&site).get(&format!("/stream?topics=order:{order}")).await.refused(404, "ORDER_NOT_FOUND");
    }
    orders.go_away();
    user(&site).get(&format!("/stream?topics=order:{own}")).await.refused(503, "SERVICE_UNAVAILABLE");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_is_cut_and_may_come_back() {
    let (site, _) = start(&[("notification_hub.stream.client_frames", "2")]).await;
    let mut pause = site.pause("notification-hub", "stream.before_frame");
    let (mut slow, _) = begin(&site.anyone(), "").await;
    pause.reached().await;
    let (mut quick, _) = begin(&site.anyone(), "").await;
    for name in ["1", "2", "3"] {
        site.publish(&sale(name)).await;
        assert_eq!(next(&mut quick).await.data["name"], name);
    }
    pause.resume();
    let mut last = next(&mut slow).await;
    assert_eq!(last.data["name"], "1");
    last = next(&mut slow).await;
    assert_eq!(last.data["name"], "2");
    let end = next(&mut slow).await;
    assert_eq!((end.kind.as_str(), end.data), ("end", json!({ "reason": "SLOW" })));
    assert_eq!(slow.next().await, None);
    let mut back = open(&site.anyone(), "", Some(&last.id)).await;
    assert_eq!(next(&mut back).await.data["name"], "3");
    site.stop().await;
}

/// More than the buffers of a connection take, in frames that Kafka takes.
const FRAMES: usize = 40;
const FRAME_BYTES: usize = 400_000;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: the kernel gives a client up after a second"]
async fn a_connection_that_takes_nothing_ends_though_nobody_can_write_to_it() {
    let settings = [("host.http_write_seconds", "1"), ("notification_hub.stream.streams_per_address", "1")];
    let (site, _) = start(&settings).await;
    let (mut witness, _) = begin(&user(&site), "").await;
    let mut stuck = TcpStream::connect(site.api.trim_start_matches("http://")).await.unwrap();
    stuck.write_all(b"GET /api/v1/stream HTTP/1.1\r\nHost: stampede\r\n\r\n").await.unwrap();
    let name = "x".repeat(FRAME_BYTES);
    eventually("it has the place of its address", async || {
        let response = site.anyone().request(Method::GET, "/stream").send().await.unwrap();
        (response.status() == StatusCode::TOO_MANY_REQUESTS).then_some(())
    })
    .await;
    for _ in 0..FRAMES {
        site.publish(&sale(&name)).await;
        next(&mut witness).await;
    }
    eventually("its place is free", async || {
        let response = site.anyone().request(Method::GET, "/stream").send().await.unwrap();
        (response.status() == StatusCode::OK).then_some(())
    })
    .await;
    drop(stuck);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_bounded_for_each_account_each_address_and_the_process() {
    let limits = [
        ("notification_hub.stream.streams_max", "3"),
        ("notification_hub.stream.streams_per_account", "1"),
        ("notification_hub.stream.streams_per_address", "1"),
        // Whoever has gone is missed at the next heartbeat.
        ("notification_hub.stream.heartbeat_seconds", "1"),
    ];
    let (site, _) = start(&limits).await;
    let (own, _) = begin(&user(&site), "").await;
    let refused = user(&site).get("/stream").await;
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(refused.refused(429, "RATE_LIMITED")["details"][0]["limit"], 1);
    let _anyone = begin(&site.anyone(), "").await;
    site.anyone().get("/stream").await.refused(429, "RATE_LIMITED");
    let _stranger = begin(&stranger(&site), "").await;
    let another = site.user(Uuid::now_v7(), Role::User);
    let refused = another.get("/stream").await;
    assert!(refused.headers.contains_key("retry-after"));
    refused.refused(503, "SERVICE_UNAVAILABLE");
    drop(own);
    // Its place is free again.
    begin(&another, "").await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_token() {
    let (site, _) = start(&[]).await;
    drop(begin(&site.anyone(), "").await);
    // It is over, and accepted for as long as the clocks of two hosts may differ.
    let mut stream = eventually("the token is accepted", async || {
        let client = site.user_for(USER, Role::User, 0);
        let response = client.request(Method::GET, "/stream").send().await.unwrap();
        (response.status() == StatusCode::OK).then(|| Stream::of(response))
    })
    .await;
    assert_eq!(next(&mut stream).await.kind, "snapshot");
    let end = next(&mut stream).await;
    assert_eq!((end.kind.as_str(), end.data), ("end", json!({ "reason": "TOKEN_EXPIRED" })));
    assert_eq!(stream.next().await, None);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_stops_says_so_and_does_not_wait_for_its_streams() {
    // Requests under way could hold the stop up for so long.
    let (site, _) = start(&[("host.shutdown_seconds", "3600")]).await;
    let (mut stream, _) = begin(&user(&site), "").await;
    stream.retry_ms = None;
    let ((), end) = tokio::join!(site.stop(), next(&mut stream));
    assert_eq!((end.kind.as_str(), end.data), ("end", json!({ "reason": "SHUTDOWN" })));
    assert!(stream.retry_ms.is_some_and(|retry| (2_500..4_500).contains(&retry)), "not all come back at once");
    assert_eq!(stream.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_cannot_be_had_are_refused() {
    let (site, _) = start(&[]).await;
    drop(begin(&site.anyone(), "").await);
    let ticket = Uuid::now_v7();
    for query in ["topics=", "topics=event:7", "topics=weather", "topic=events", &format!("topics=queue:{ticket}")] {
        user(&site).get(&format!("/stream?{query}")).await.refused(400, "VALIDATION_ERROR");
    }
    let order = Uuid::now_v7();
    for query in ["topics=orders", "topics=events,coupons", &format!("topics=order:{order}")] {
        site.anyone().get(&format!("/stream?{query}")).await.refused(401, "UNAUTHORIZED");
    }
    // Whoever sends a token means to be known.
    site.anyone().with_token("a.b.c").get("/stream").await.refused(401, "UNAUTHORIZED");
    site.stop().await;
}
