//! `asyncapi.json`: it is what the contracts make and what AsyncAPI allows, and what a real system says to Kafka keeps to it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use contract::events::{TOPICS, TOPICS_OF_ANYBODY};
use jsonschema::Validator;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use reqwest::Method;
use sandbox::Fakes;
use serde_json::{Value, json};
use stampede::asyncapi;
use testkit::{Answer, Client, Site, eventually, fresh_key, text};

use crate::ledger::Ledger as _;
use crate::payer::{Payer as _, Provider as _, misbehaves};
use crate::site::system;
use crate::tidy;

/// AsyncAPI's own schema of descriptions. Its `$comment` names the source.
const SPECIFICATION: &str = include_str!("../asyncapi/schema-3.1.0.json");

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
fn the_file_is_what_asyncapi_allows_and_a_broken_one_is_refused() {
    let schema: Value = serde_json::from_str(SPECIFICATION).expect("it is JSON");
    let specification = jsonschema::draft7::new(&schema).expect("it is a schema");
    let document = asyncapi::document().expect("the contracts can be described");
    tidy::holds("asyncapi.json is a description as AsyncAPI 3.1 defines it.", flaws(&specification, &document));
    let text = document.to_string();
    let refers = text.match_indices("\"$ref\":\"#").filter_map(|(at, _)| text[at + 9..].split('"').next());
    let dangling = refers.filter(|pointer| document.pointer(pointer).is_none());
    tidy::holds("What asyncapi.json refers to is in it.", dangling.map(str::to_owned).collect());

    let broken: [(&str, &str, Value); 6] = [
        ("", "asyncapi", json!("3.0.0")),
        ("", "topics", json!({})),
        ("/channels/ORDER_CREATED", "adress", json!("ORDER_CREATED")),
        ("/channels/ORDER_CREATED/bindings/kafka", "partitions", json!("3")),
        ("/operations/order.send.ORDER_CREATED", "action", json!("publish")),
        ("/components/schemas/OrderCreated", "type", json!("text")),
    ];
    for (place, member, value) in broken {
        let mut wrong = document.clone();
        wrong.pointer_mut(place).unwrap_or_else(|| panic!("{place} is not there"))[member] = value.clone();
        assert!(!specification.is_valid(&wrong), "{place}: {member} {value} passes");
    }
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
    let provider = Fakes::start().await.expect("the provider starts");
    let checkout = format!("{}/checkout", provider.url());
    let settings = [
        ("order.expire_sweep_ms", "50"),
        ("payment.naverpay.url", provider.url()),
        ("payment.naverpay.checkout_url", &checkout),
        ("payment.approve_wait_ms", "1000"),
        ("coupon.takes.sweep_period_ms", "20"),
    ];
    let site = system().settings(&settings).start().await;
    orders_of_every_end(&site).await;
    a_payment_of_which_the_provider_says_nothing(&site, &provider).await;
    a_coupon_that_cannot_be_stored(&site).await;
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
    let expected: BTreeSet<&str> = TOPICS.into_iter().filter(|topic| !TOPICS_OF_ANYBODY.contains(topic)).collect();
    assert_eq!(topics, expected, "each topic is tried");
    site.stop().await;
    provider.stop().await.expect("the provider ends");
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

    let coupon = coupon(site).await;
    let issue = issue(&buyer, &coupon).await.expect(201).json();
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

async fn coupon(site: &Site) -> String {
    let coupon = json!({
        "name": "10 %", "discount": { "kind": "PERCENT", "value": 10 }, "currency": "KRW", "total": 1,
        "startsAt": "2026-01-01T00:00:00Z", "expiresAt": "2036-01-01T00:00:00Z", "restoredOnRefund": true,
    });
    site.admin().create_coupon(&fresh_key(), &coupon).await.expect("an administrator makes coupons").to_string()
}

async fn issue(buyer: &Client, coupon: &str) -> Answer {
    buyer.send(buyer.request(Method::POST, &format!("/coupons/{coupon}/issue"))).await
}

/// The money is taken, and nobody is told, until the provider talks again.
async fn a_payment_of_which_the_provider_says_nothing(site: &Site, provider: &Fakes) {
    let (product, buyer) = (site.product(1).await, site.buyer().await);
    let agreed = buyer.agrees(site, &product).await;
    misbehaves(provider, &json!({ "lostAfter": 1.0, "lostQuery": 1.0 })).await;
    buyer.approve(&agreed).await.expect(202);
    site.until_number("select count(*) from {payment}.outbox_events where topic = 'PAYMENT_UNKNOWN'", 1).await;
    misbehaves(provider, &json!({})).await;
    site.admin().post(&format!("/admin/payments/{}/sync", agreed.payment), &json!({})).await.expect(202);
    buyer.sees_payment(&agreed.payment, "PAID").await;
}

/// The buyer may try again once PostgreSQL takes it.
async fn a_coupon_that_cannot_be_stored(site: &Site) {
    let (coupon, buyer) = (coupon(site).await, site.buyer().await);
    let refuse = format!("alter table {{coupon}}.coupon_issue add constraint refuses check (coupon_id <> '{coupon}')");
    site.execute(&refuse).await;
    issue(&buyer, &coupon).await.refused(500, "INTERNAL_ERROR");
    site.until_number("select count(*) from {coupon}.outbox_events where topic = 'COUPON_ISSUE_FAILED'", 1).await;
    site.execute("alter table {coupon}.coupon_issue drop constraint refuses").await;
    issue(&buyer, &coupon).await.expect(201);
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
