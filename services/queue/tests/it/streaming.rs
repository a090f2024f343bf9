//! The same answers, pushed.

use serde_json::{Value, json};
use testkit::Client;
use testkit::sse::Stream;

use crate::site::Site;

async fn open(client: &Client, path: &str, ticket: Option<&str>) -> Stream {
    let mut request = client.request(reqwest::Method::GET, path);
    if let Some(ticket) = ticket {
        request = request.header("X-Queue-Ticket", ticket);
    }
    Stream::open(request).await
}

/// The next frame: its kind and its data. None: the stream has ended.
async fn next(stream: &mut Stream) -> Option<(String, Value)> {
    stream.next().await.map(|frame| (frame.kind, frame.data))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_is_told_that_it_moves_that_its_turn_has_come_and_that_it_is_over() {
    let site = Site::start_with(&[]).await;
    let event = site.room(json!({ "maxActive": 1 })).await;
    let guests = site.guests(&event, 2).await;
    let path = format!("/queues/{event}/tickets/{}/stream", guests[1].ticket);
    let mut stream = open(&guests[1].client, &path, Some(&guests[1].token)).await;
    let (kind, view) = next(&mut stream).await.unwrap();
    assert_eq!((kind.as_str(), view["ahead"].as_i64()), ("queue.tick", Some(0)));
    site.complete(&event, &guests[0]).await;
    site.tick(&event).await;
    let (kind, view) = next(&mut stream).await.unwrap();
    assert_eq!(kind, "queue.admitted");
    site.try_pass(&guests[1].client, &event, view["passToken"].as_str().unwrap()).await.expect(200);
    site.complete(&event, &guests[1]).await;
    assert_eq!(next(&mut stream).await.unwrap().0, "queue.ended");
    assert!(next(&mut stream).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_who_watches_a_sale_sees_it_open() {
    let site = Site::start_with(&[]).await;
    let event = site.event(json!({})).await;
    let mut stream = open(&site.anyone(), &format!("/events/{event}/stream"), None).await;
    assert_eq!(next(&mut stream).await.unwrap().0, "event.pending");
    site.command(&event, "open").await.expect(200);
    let (kind, view) = next(&mut stream).await.unwrap();
    assert_eq!((kind.as_str(), view["status"].as_str()), ("event.open", Some("OPEN")));
    site.command(&event, "close").await.expect(200);
    assert_eq!(next(&mut stream).await.unwrap().0, "event.closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_streams_than_a_process_bears_are_refused() {
    let site = Site::start_with(&[("queue.streams_max", "1")]).await;
    let event = site.event(json!({})).await;
    let path = format!("/events/{event}/stream");
    let mut first = open(&site.anyone(), &path, None).await;
    assert_eq!(next(&mut first).await.unwrap().0, "event.pending");
    site.anyone().get(&path).await.refused(503, "SERVICE_UNAVAILABLE");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_stops_does_not_wait_for_its_streams() {
    // Requests under way could hold the stop up for so long.
    let site = Site::start_with(&[("host.shutdown_seconds", "3600")]).await;
    let event = site.event(json!({})).await;
    let mut stream = open(&site.anyone(), &format!("/events/{event}/stream"), None).await;
    assert_eq!(next(&mut stream).await.unwrap().0, "event.pending");
    let ((), rest) = tokio::join!(site.stop(), next(&mut stream));
    assert!(rest.is_none(), "{rest:?}");
}
