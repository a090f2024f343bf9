//! `asyncapi.json`: it is what the contracts make, and what a real system says to Kafka keeps to it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use contract::events::{TOPICS, TOPICS_OF_ANYBODY};
use jsonschema::Validator;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use reqwest::Method;
use serde_json::{Value, json};
use stampede::asyncapi;
use testkit::{Client, Site, eventually, fresh_key, text};

use crate::ledger::Ledger as _;
use crate::payer::{Payer as _, Provider as _};
use crate::site::system;
use crate::tidy;

/// What is said only where something fails that this test does not break.
const SAID_IN_TROUBLE: [&str; 2] = ["COUPON_ISSUE_FAILED", "PAYMENT_UNKNOWN"];

/// Validators of each topic's payload and headers. Consumers let unknown fields pass; here each must be in the contract.
struct Contract {
    payloads: BTreeMap<&'static str, Validator>,
    headers: Validator,
}

impl Contract {
    fn read() -> Contract {
        let mut document = asyncapi::document().expect("the contracts can be described");
        for schema in document["components"]["schemas"].as_object_mut().expect("there are some").values_mut() {
            schema["additionalProperties"] = json!(false);
        }
        let validator = |root: Value| {
            let mut schema = json!({ "$schema": "https://json-schema.org/draft/2020-12/schema" });
            schema["components"] = document["components"].clone();
            schema["allOf"] = json!([root]);
            jsonschema::options().should_validate_formats(true).build(&schema).expect("it is a schema")
        };
        let payload = |topic: &str| {
            let channel = &document["channels"][topic]["messages"];
            let name = channel.as_object().and_then(|messages| messages.keys().next()).expect("each has a message");
            validator(document["components"]["messages"][name]["payload"].clone())
        };
        Contract {
            payloads: TOPICS.into_iter().map(|topic| (topic, payload(topic))).collect(),
            headers: validator(document["components"]["messageTraits"]["cloudEvent"]["headers"].clone()),
        }
    }

    /// What is wrong with this payload.
    fn flaws(&self, topic: &str, payload: &Value) -> Vec<String> {
        flaws(&self.payloads[topic], payload)
    }
}

fn flaws(validator: &Validator, value: &Value) -> Vec<String> {
    validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

#[test]
fn the_file_is_what_the_contracts_make() {
    let committed = std::fs::read_to_string(tidy::root().join("asyncapi.json")).unwrap_or_default();
    let committed: Value = serde_json::from_str(&committed).unwrap_or_default();
    let made = asyncapi::document().expect("the contracts can be described");
    assert!(committed == made, "run `cargo run -p stampede -- asyncapi > asyncapi.json`");
}

#[test]
fn everything_in_the_contracts_says_what_it_is() {
    let mut silent = Vec::new();
    for file in tidy::files("proto") {
        let mut before = "";
        for (number, line) in file.text.lines().enumerate().map(|(number, line)| (number + 1, line.trim())) {
            let is_named = ["message ", "enum ", "service ", "rpc "].iter().any(|word| line.starts_with(word));
            let is_field = line.ends_with(';') && line.contains(" = ") && !line.starts_with("syntax");
            if (is_named || is_field) && !before.starts_with("//") {
                silent.push(format!("{}:{number}: {line}", file.path));
            }
            before = line;
        }
    }
    tidy::holds(
        "Each message, field, value, service and call has a comment above it; `buf lint` asks for it too.",
        silent,
    );
}

#[test]
fn every_example_of_the_events_page_keeps_to_the_contract() {
    let contract = Contract::read();
    let page = std::fs::read_to_string(tidy::root().join("docs/events.md")).expect("it is there");
    let (mut shown, mut broken) = (0, Vec::new());
    for section in page.split("\n## `").skip(1) {
        let topic = section.split('`').next().unwrap_or_default();
        for example in section.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            let example: Value = serde_json::from_str(example).unwrap_or_else(|error| panic!("{topic}: {error}"));
            broken.extend(contract.flaws(topic, &example).into_iter().map(|flaw| format!("{topic}: {flaw}")));
            shown += 1;
        }
    }
    assert!(shown > 15, "only {shown} examples were found");
    tidy::holds("docs/events.md shows events as they are.", broken);
    // A test that cannot fail proves nothing.
    let wrong = [json!({ "orderID": "x" }), json!({ "amount": 1 }), json!({ "createdAt": "yesterday" })];
    for event in wrong {
        assert!(!contract.flaws("ORDER_CREATED", &event).is_empty(), "{event} passes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_real_system_says_keeps_to_the_contract() {
    let site = system().settings(&[("order.expire_sweep_ms", "50")]).start().await;
    orders_of_every_end(&site).await;
    a_sale_that_sells_out(&site).await;
    site.settled().await;

    let contract = Contract::read();
    let names: Vec<String> = TOPICS.iter().map(|topic| site.topic(topic)).collect();
    let brokers = site.servers.kafka_brokers();
    let said = tokio::task::spawn_blocking(move || read(&brokers, &names)).await.expect("Kafka is read");
    let mut broken = Vec::new();
    for Said { topic, key, headers, payload } in &said {
        let topic = topic.strip_prefix(site.namespace()).expect("it is a topic of this site");
        let of_payload = contract.flaws(topic, payload);
        let of_headers = flaws(&contract.headers, headers);
        broken.extend(of_payload.into_iter().chain(of_headers).map(|flaw| format!("{topic} {payload}: {flaw}")));
        assert_eq!((&headers["ce_subject"], &headers["ce_type"]), (&json!(key), &json!(topic)));
    }
    tidy::holds("What is said keeps to asyncapi.json.", broken);
    let topics: BTreeSet<&str> = said.iter().filter_map(|said| said.topic.strip_prefix(site.namespace())).collect();
    let expected: BTreeSet<&str> = TOPICS.into_iter().filter(|topic| is_said_by_us(topic)).collect();
    assert_eq!(topics, expected, "each topic is tried");
}

fn is_said_by_us(topic: &str) -> bool {
    !SAID_IN_TROUBLE.contains(&topic) && !TOPICS_OF_ANYBODY.contains(&topic)
}

/// Cancelled, expired, declined, paid with a coupon, and refunded.
async fn orders_of_every_end(site: &Site) {
    let (product, buyer) = (site.product(9).await, site.buyer().await);
    let (cancelled, _) = buyer.orders(&product).await;
    buyer.post(&format!("/orders/{cancelled}/cancel"), &json!({})).await.expect(200);
    let (expired, _) = buyer.orders(&product).await;
    site.settled().await;
    site.time_is_up(&expired).await;
    let stored = format!("select count(*) from {{order}}.orders where id = '{expired}' and status = 'EXPIRED'");
    site.until_number(&stored, 1).await;

    let declined = site.product_at(1, 10_002).await;
    let agreed = buyer.agrees(site, &declined).await;
    buyer.approve(&agreed).await.refused(402, "PAYMENT_DECLINED");

    let coupon = json!({
        "name": "10 %", "discount": { "kind": "PERCENT", "value": 10 }, "currency": "KRW", "total": 1,
        "startsAt": "2026-01-01T00:00:00Z", "expiresAt": "2036-01-01T00:00:00Z", "restoredOnRefund": true,
    });
    let coupon = site.admin().create_coupon(&fresh_key(), &coupon).await.expect("an administrator makes coupons");
    let issue = buyer.send(buyer.request(Method::POST, &format!("/coupons/{coupon}/issue"))).await.expect(201).json();
    let items = json!([{ "productId": product.id, "quantity": 1 }]);
    let body = json!({ "items": items, "couponIssueId": issue["issueId"] });
    let placed = buyer.place(&fresh_key(), &body).await.expect(201).json();
    let order = text(&placed["orderId"]);
    let amount = placed["totals"]["amount"]["amount"].as_i64().expect("a number of won");
    let agreed = buyer.agrees_to(site, &order, amount).await;
    buyer.approve(&agreed).await.expect(200);
    buyer.sees_order(&order, "PAID").await;
    site.settled().await;
    buyer.post(&format!("/orders/{order}/cancel"), &json!({})).await.expect(202);
    buyer.sees_order(&order, "REFUNDED").await;
}

/// The only unit of a sale event is bought, comes back, and the sale is closed.
async fn a_sale_that_sells_out(site: &Site) {
    let (product, buyer, admin) = (site.product(1).await, site.buyer().await, site.admin());
    let sale = json!({
        "name": "Drop", "opensAt": "2026-01-01T00:00:00Z", "productIds": [product.id], "queueManageRequired": true,
    });
    let schedule = admin.request(Method::POST, "/admin/events").header("Idempotency-Key", fresh_key()).json(&sale);
    let event = text(&admin.send(schedule).await.expect(201).json()["eventId"]);
    site.until_number("select count(*) from {order}.sale_events", 1).await;
    let pass = eventually("it is the buyer's turn", async || {
        let ticket = buyer.send(buyer.request(Method::POST, &format!("/queues/{event}/tickets"))).await.json();
        ticket["passToken"].as_str().map(str::to_owned)
    })
    .await;
    let wanted = json!({ "items": [{ "productId": product.id, "quantity": 1 }] });
    buyer.send(buyer.placing(&fresh_key(), &wanted).header("X-Queue-Token", pass)).await.expect(201);
    let sold_out = "select count(*) from {queue}.outbox_events where topic = 'EVENT_SOLD_OUT'";
    eventually("the sale is sold out", async || (site.number(sold_out).await > 0).then_some(())).await;
    adjust(&admin, &product.id).await;
    let opened = "select count(*) from {queue}.outbox_events where topic = 'EVENT_OPEN'";
    site.until_number(opened, 1).await;
    admin.post(&format!("/admin/events/{event}/close"), &json!({})).await.expect(200);
}

async fn adjust(admin: &Client, product: &str) {
    let path = format!("/admin/products/{product}/stock-adjust");
    let body = json!({ "delta": 1, "reason": "found one" });
    let adjust = admin.request(Method::POST, &path).header("Idempotency-Key", fresh_key()).json(&body);
    admin.send(adjust).await.expect(200);
}

/// A message, with its headers as one object.
struct Said {
    topic: String,
    key: String,
    headers: Value,
    payload: Value,
}

/// Everything in these topics. Blocking.
fn read(brokers: &str, topics: &[String]) -> Vec<Said> {
    let limit = Duration::from_secs(30);
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "nobody")
        .set("enable.auto.commit", "false")
        .create()
        .expect("the settings are right");
    let (mut assigned, mut left) = (TopicPartitionList::new(), BTreeMap::new());
    for topic in topics {
        // Tests have one partition. Where nothing was said there may be no topic.
        let (low, high) = consumer.fetch_watermarks(topic, 0, limit).unwrap_or_default();
        if low < high {
            assigned.add_partition_offset(topic, 0, Offset::Beginning).expect("it is a topic");
            left.insert(topic.clone(), high);
        }
    }
    consumer.assign(&assigned).expect("they are there");
    let mut said = Vec::new();
    while !left.is_empty() {
        let message = consumer.poll(limit).expect("Kafka goes on").expect("it can be read");
        let headers = message.headers().into_iter().flat_map(Headers::iter);
        let value = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        let headers: BTreeMap<String, String> =
            headers.map(|header| (header.key.to_owned(), value(header.value))).collect();
        said.push(Said {
            topic: message.topic().to_owned(),
            key: value(message.key()),
            headers: json!(headers),
            payload: serde_json::from_slice(message.payload().unwrap_or_default()).expect("it is JSON"),
        });
        if left.get(message.topic()).is_some_and(|high| message.offset() + 1 >= *high) {
            left.remove(message.topic());
        }
    }
    said
}
