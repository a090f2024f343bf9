//! What becomes known is pushed to whoever is connected, from the transaction that makes it true to the client.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use reqwest::{Method, StatusCode};
use serde_json::json;
use testkit::sse::Stream;
use testkit::{Client, PATIENCE, Site, eventually, fresh_key, text};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::site::{EXECUTABLE, system};

async fn open(client: &Client, query: &str) -> Stream {
    let response = eventually("the stream is ready", async || {
        let response = client.request(Method::GET, &format!("/stream{query}")).send().await.expect("it answers");
        (response.status() != StatusCode::SERVICE_UNAVAILABLE).then_some(response)
    })
    .await;
    assert_eq!(response.status(), 200);
    Stream::of(response)
}

/// The next frame, of which this is the `event`.
async fn next(stream: &mut Stream, kind: &str) -> serde_json::Value {
    let frame = stream.next().await.expect("the stream goes on");
    assert_eq!(frame.kind, kind, "{frame:?}");
    frame.data
}

/// A sale event that is opened by hand.
async fn sale(site: &Site) -> String {
    let product = site.product(1).await;
    let opens_at = chrono::Utc::now() + chrono::Duration::hours(1);
    let sale = json!({ "name": "Drop", "opensAt": opens_at, "productIds": [product.id], "queueManageRequired": false });
    let schedule = site.admin().request(Method::POST, "/admin/events").header("Idempotency-Key", fresh_key());
    text(&site.admin().send(schedule.json(&sale)).await.expect(201).json()["eventId"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_opening_is_pushed_to_everybody_and_an_order_to_its_buyer() {
    let site = system().start().await;
    let (buyer, other) = (site.buyer().await, site.buyer().await);
    let mut anyone = open(&site.anyone(), "").await;
    next(&mut anyone, "snapshot").await;
    let event = sale(&site).await;
    assert_eq!(next(&mut anyone, "event.scheduled").await["eventId"], event);
    let [mut own, mut foreign] = [open(&buyer, "").await, open(&other, "").await];
    for stream in [&mut own, &mut foreign] {
        assert_eq!(next(stream, "snapshot").await["events"][0]["status"], "PENDING");
    }
    let product = site.product(5).await;
    let order = text(&buyer.order("pushed", &product, 1).await.expect(201).json()["orderId"]);
    let told = next(&mut own, "order.updated").await;
    assert_eq!((&told["orderId"], &told["status"]), (&json!(order), &json!("CREATED")));
    buyer.post(&format!("/orders/{order}/cancel"), &json!({})).await.expect(200);
    let told = next(&mut own, "order.updated").await;
    assert_eq!((&told["orderId"], &told["status"]), (&json!(order), &json!("CANCELLED")));
    let mut one_order = open(&buyer, &format!("?topics=order:{order}")).await;
    assert_eq!(next(&mut one_order, "snapshot").await["orders"][0]["status"], "CANCELLED");
    other.get(&format!("/stream?topics=order:{order}")).await.refused(404, "ORDER_NOT_FOUND");
    site.admin().post(&format!("/admin/events/{event}/open"), &json!({})).await.expect(200);
    for stream in [&mut anyone, &mut own, &mut foreign] {
        assert_eq!(next(stream, "event.open").await["eventId"], event);
    }
    site.stop().await;
}

const CLIENTS: usize = 5_000;
/// Connections made at the same time.
const AT_ONCE: usize = 100;

/// What a process takes of memory, in KiB.
fn resident_kib(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux says it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Reads until the client has been told something that contains `wanted`.
async fn until(connection: &mut TcpStream, wanted: &str) -> Instant {
    let (mut told, mut buffer) = (String::new(), [0; 4096]);
    let reading = async {
        while !told.contains(wanted) {
            let length = connection.read(&mut buffer).await.expect("the stream goes on");
            assert!(length > 0, "the stream ended: {told}");
            told.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap_or_else(|_| panic!("never told {wanted:?}"));
    Instant::now()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: five thousand clients of one process"]
async fn five_thousand_clients_are_told_of_an_opening() {
    let limit = (CLIENTS + 10).to_string();
    let site = system()
        .set("notification_hub.stream.streams_max", &limit)
        .set("notification_hub.stream.streams_per_address", &limit)
        .spawn(EXECUTABLE)
        .await;
    let event = sale(&site).await;
    let address = site.api.trim_start_matches("http://").to_owned();
    let mut witness = open(&site.anyone(), "").await;
    next(&mut witness, "snapshot").await;
    let pid = site.pid().await;
    let before = resident_kib(pid);
    let connecting = stream::iter(0..CLIENTS).map(async |_| {
        let mut connection = TcpStream::connect(&address).await.expect("it listens");
        let request = format!("GET /api/v1/stream HTTP/1.1\r\nHost: {address}\r\n\r\n");
        connection.write_all(request.as_bytes()).await.expect("it reads");
        until(&mut connection, "event: snapshot").await;
        connection
    });
    let started = Instant::now();
    let mut clients: Vec<TcpStream> = connecting.buffer_unordered(AT_ONCE).collect().await;
    let (connected_in, resident) = (started.elapsed(), resident_kib(pid));
    let waiting = join_all(clients.iter_mut().map(|client| until(client, "event: event.open")));
    let opened_at = Instant::now();
    let opening = async { site.admin().post(&format!("/admin/events/{event}/open"), &json!({})).await.expect(200) };
    let (told, _) = tokio::join!(waiting, opening);
    let mut times: Vec<Duration> = told.iter().map(|told| told.duration_since(opened_at)).collect();
    times.sort_unstable();
    println!(
        "{CLIENTS} streams opened in {connected_in:.1?}; {} bytes of memory for each; from the request that opens the sale \
         to the first client {:.1?}, to the median {:.1?}, to the last {:.1?}",
        (resident - before) * 1024 / CLIENTS,
        times[0],
        times[CLIENTS / 2],
        times[CLIENTS - 1],
    );
    drop(clients);
    // A connection that has ended is met at the next heartbeat at the latest.
    eventually("their places are free", async || {
        let anyone = site.anyone();
        let metrics = anyone.send(anyone.request_root(Method::GET, "/metrics")).await.expect(200).body;
        metrics.lines().any(|line| line == "stampede_stream_clients 1").then_some(())
    })
    .await;
    assert!(site.terminate().await.success());
}
