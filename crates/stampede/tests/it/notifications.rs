//! Notifications: one for each order, however often its event is delivered, and only for whom it concerns.

use crate::ledger::Ledger;
use crate::site::system;
use std::time::Duration;
use testkit::{PATIENCE, Site, eventually, fresh_key, text};

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use reqwest::Method;
use serde_json::json;

const COUNT: &str = "select count(*) from {notification_hub}.notifications";

fn producer(site: &Site) -> FutureProducer {
    let brokers = site.servers.kafka_brokers();
    ClientConfig::new().set("bootstrap.servers", brokers).create().expect("the settings are right")
}

/// Produces a message of `ORDER_CREATED` as a relay would, or as somebody else might.
async fn produce(site: &Site, key: &str, payload: &[u8], event_id: Option<&str>) {
    let topic = site.topic("ORDER_CREATED");
    let headers = event_id.map(|id| OwnedHeaders::new().insert(Header { key: "ce_id", value: Some(id) }));
    let record = FutureRecord::to(&topic).key(key).payload(payload).headers(headers.unwrap_or_default());
    producer(site).send(record, Duration::from_secs(20)).await.expect("Kafka takes it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_order_leads_to_one_notification_that_its_buyer_can_read() {
    let site = system().start().await;
    let product = site.product(10).await;
    let [buyer, stranger]: [_; 2] = site.buyers(2).await.try_into().expect("two buyers");
    for _ in 0..3 {
        buyer.order(&fresh_key(), &product, 1).await.expect(201);
    }
    site.assert_consistent().await;
    let page = buyer.get("/notifications").await.expect(200).json();
    let items = page["items"].as_array().expect("items");
    assert_eq!(items.len(), 3);
    for item in items {
        assert_eq!((&item["type"], &item["status"]), (&json!("ORDER_CREATED"), &json!("COMPLETED")));
        assert_eq!(item["userId"], json!(buyer.user_id));
        assert_eq!(
            (&item["deliveries"][0]["channel"], &item["deliveries"][0]["status"]),
            (&json!("EMAIL"), &json!("SUCCESS"))
        );
    }
    let path = format!("/notifications/{}", text(&items[0]["notificationId"]));
    assert_eq!(&buyer.get(&path).await.expect(200).json(), &items[0]);
    stranger.get(&path).await.refused(404, "NOTIFICATION_NOT_FOUND");
    assert_eq!(stranger.get("/notifications").await.expect(200).json()["items"], json!([]));
    site.anyone().get(&path).await.refused(401, "UNAUTHORIZED");

    let admin = site.admin();
    assert_eq!(&admin.get(&path).await.expect(200).json(), &items[0]);
    let filtered =
        format!("/notifications?userId={}&status=COMPLETED&channel=EMAIL&type=ORDER_CREATED&limit=2", buyer.user_id);
    let first = admin.get(&filtered).await.expect(200).json();
    assert_eq!(first["items"].as_array().map(Vec::len), Some(2));
    let rest = admin.get(&format!("{filtered}&cursor={}", text(&first["nextCursor"]))).await.expect(200).json();
    assert_eq!(rest["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(admin.get("/notifications?status=FAILED").await.expect(200).json()["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_event_delivered_again_is_not_told_again() {
    let site = system().start().await;
    let (product, buyer) = (site.product(10).await, site.buyer().await);
    buyer.order(&fresh_key(), &product, 1).await.expect(201);
    site.settled().await;
    assert_eq!(site.number(COUNT).await, 1);
    let event = site
        .rows("select event_id, key, payload from {order}.outbox_events where topic = 'ORDER_CREATED'")
        .await
        .remove(0);
    let (id, key, payload) = (text(&event["event_id"]), text(&event["key"]), text(&event["payload"]));
    for _ in 0..5 {
        produce(&site, &key, payload.as_bytes(), Some(&id)).await;
    }
    // When an order that is placed afterwards has been told, the repeats have been seen, on every partition.
    for _ in 0..8 {
        buyer.order(&fresh_key(), &product, 1).await.expect(201);
    }
    site.assert_consistent().await;
    assert_eq!(site.number(COUNT).await, 9);
    assert_eq!(site.number("select count(*) from {notification_hub}.deliveries").await, 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_nobody_can_read_is_parked_and_holds_up_nobody() {
    let site = system().start().await;
    let (product, buyer) = (site.product(10).await, site.buyer().await);
    let mut produced = 0;
    for garbage in [
        &b"not JSON"[..],
        b"",
        b"{}",
        b"[]",
        b"\xff\xfe",
        b"{\"orderId\":1}",
        br#"{"orderId":"x","userId":"y","version":"1"}"#,
    ] {
        produce(&site, &format!("poison-{produced}"), garbage, None).await;
        produced += 1;
    }
    for _ in 0..8 {
        buyer.order(&fresh_key(), &product, 1).await.expect(201);
    }
    eventually("the orders are told all the same", async || (site.number(COUNT).await == 8).then_some(())).await;
    let parked = "select count(*) from {notification_hub}.parked";
    eventually("the garbage is parked", async || (site.number(parked).await == produced).then_some(())).await;
    let rows = site.rows("select key, error, topic from {notification_hub}.parked").await;
    assert!(rows.iter().all(|row| !text(&row["error"]).is_empty() && row["topic"] == "ORDER_CREATED"), "{rows:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_carry_what_a_stranger_needs_to_understand_them() {
    let site = system().start().await;
    let (product, buyer) = (site.product(10).await, site.buyer().await);
    let order = buyer.order(&fresh_key(), &product, 2).await.expect(201).json();
    site.settled().await;
    let (topic, brokers) = (site.topic("ORDER_CREATED"), site.servers.kafka_brokers());
    let read = tokio::task::spawn_blocking(move || first_message(&brokers, &topic));
    let (key, payload, headers) = read.await.expect("the reader ends");
    assert_eq!(json!(key), order["orderId"]);
    let event: serde_json::Value = serde_json::from_str(&payload).expect("it is JSON");
    assert_eq!((&event["orderId"], &event["userId"]), (&order["orderId"], &json!(buyer.user_id)));
    assert_eq!((&event["items"][0]["quantity"], &event["amount"]), (&json!(2), &json!("258000")), "{event}");
    for name in ["ce_id", "ce_type", "ce_source", "ce_specversion", "ce_time", "content-type"] {
        assert!(headers.iter().any(|(header, value)| header == name && !value.is_empty()), "no {name} in {headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_cannot_be_retried() {
    let site = system().start().await;
    let (product, buyer, admin) = (site.product(10).await, site.buyer().await, site.admin());
    buyer.order(&fresh_key(), &product, 1).await.expect(201);
    site.settled().await;
    let sent = buyer.get("/notifications").await.expect(200).json()["items"][0].clone();
    let path = format!(
        "/notifications/{}/deliveries/{}/retry",
        text(&sent["notificationId"]),
        text(&sent["deliveries"][0]["deliveryId"])
    );
    admin.send(admin.request(Method::POST, &path)).await.refused(409, "DELIVERY_NOT_RETRYABLE");
    buyer.send(buyer.request(Method::POST, &path)).await.refused(403, "FORBIDDEN");
}

/// Key, payload and headers of the first message in `topic`.
fn first_message(brokers: &str, topic: &str) -> (String, String, Vec<(String, String)>) {
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::message::{Headers, Message};
    use rdkafka::{Offset, TopicPartitionList};
    let group = format!("reader-of-{topic}");
    let config = [("bootstrap.servers", brokers), ("group.id", &group), ("enable.auto.commit", "false")];
    let config = config.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let consumer: BaseConsumer = ClientConfig::from_iter(config).create().expect("the settings are right");
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).expect("Kafka answers");
    let mut partitions = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        partitions.add_partition_offset(topic, partition.id(), Offset::Beginning).expect("it is an offset");
    }
    consumer.assign(&partitions).expect("the partitions are there");
    let started = std::time::Instant::now();
    let message = loop {
        match consumer.poll(Duration::from_millis(200)) {
            Some(message) => break message.expect("it can be read"),
            None => assert!(started.elapsed() < PATIENCE, "{topic} stays empty"),
        }
    };
    let utf8 = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    let headers = message.headers().map(|headers| headers.iter().map(|h| (h.key.to_owned(), utf8(h.value))).collect());
    (utf8(message.key()), utf8(message.payload()), headers.unwrap_or_default())
}
