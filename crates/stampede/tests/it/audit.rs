//! `stampede audit`: passes over a system at rest, and names each invariant when its data is broken by hand.

use std::process::Stdio;

use common::host::HostSettings;
use diesel_async::{AsyncConnection, AsyncPgConnection, SimpleAsyncConnection};
use serde_json::Value;
use tokio::process::Command;

use crate::client::fresh_key;
use crate::site::TestSite;

/// What is broken, how, how it is mended, and which invariants must say so. `{first}` and `{second}` are orders of one
/// buyer, who placed the first with `{key}`.
const BREAKAGES: [(&str, &str, &str, &[&str]); 15] = [
    (
        "more is held than there is",
        "alter table {inventory}.stocks drop constraint held_is_covered; update {inventory}.stocks set held = on_hand + 1",
        "update {inventory}.stocks set held = 3;
         alter table {inventory}.stocks add constraint held_is_covered check (held <= on_hand)",
        &["I1", "I2"],
    ),
    (
        "held is not what the holds hold",
        "update {inventory}.stocks set held = held + 1",
        "update {inventory}.stocks set held = held - 1",
        &["I2"],
    ),
    (
        "units on hand came from nowhere",
        "update {inventory}.stocks set on_hand = on_hand + 1",
        "update {inventory}.stocks set on_hand = on_hand - 1",
        &["I2"],
    ),
    (
        "a sale is booked that never was",
        "insert into {inventory}.product_stock_audit (product_id, hold_id, kind, delta, on_hand_after, held_after, stock_version)
         select product_id, '{first}', 'CONFIRM', 0, on_hand, held, version from {inventory}.stocks",
        "delete from {inventory}.product_stock_audit where kind = 'CONFIRM'",
        &["I3"],
    ),
    (
        "an order has more items than its hold and its amount",
        "update {order}.order_items set quantity = quantity + 1 where order_id = '{first}'",
        "update {order}.order_items set quantity = quantity - 1 where order_id = '{first}'",
        &["I4"],
    ),
    (
        "an order lives and its hold does not",
        "update {inventory}.holds set state = 'RELEASED' where hold_id = '{first}'",
        "update {inventory}.holds set state = 'HELD' where hold_id = '{first}'",
        &["I2", "I4"],
    ),
    (
        "two orders have one key",
        "update {order}.orders set idempotency_key = (select idempotency_key from {order}.orders where id = '{second}') where id = '{first}'",
        "update {order}.orders set idempotency_key = '{key}' where id = '{first}'",
        &["I8"],
    ),
    (
        "another order was announced than the one that is stored",
        "update {order}.outbox_events set payload = replace(payload, '\"amount\":\"', '\"amount\":\"7') where key = '{first}'",
        "update {order}.outbox_events set payload = replace(payload, '\"amount\":\"7', '\"amount\":\"') where key = '{first}'",
        &["I9"],
    ),
    (
        "an order was never announced",
        "create table {order}.kept as select * from {order}.outbox_events where key = '{first}';
         delete from {order}.outbox_events where key = '{first}'",
        "insert into {order}.outbox_events overriding system value select * from {order}.kept; drop table {order}.kept",
        &["I9"],
    ),
    (
        "an event was given up",
        "update {order}.outbox_events set status = 'DEAD' where key = '{first}'",
        "update {order}.outbox_events set status = 'PUBLISHED' where key = '{first}'",
        &["I11"],
    ),
    (
        "an event counts as published and is not in Kafka",
        "insert into {inventory}.outbox_events
             (event_id, shard, aggregate_type, topic, key, aggregate_version, payload, status, published_at)
         values ('{first}', 0, 'stock', 'STOCK_DEPLETED', '{first}', 1, '{}', 'PUBLISHED', now())",
        "delete from {inventory}.outbox_events where event_id = '{first}'",
        &["I11"],
    ),
    (
        "a consumer has not applied an event",
        "create table {inventory}.kept as select * from {inventory}.inbox; delete from {inventory}.inbox",
        "insert into {inventory}.inbox select * from {inventory}.kept; drop table {inventory}.kept",
        &["I12"],
    ),
    (
        "an event was applied and its effect is gone",
        "create table {hub}.kept_notes as select * from {hub}.notifications where data ->> 'orderId' = '{first}';
         create table {hub}.kept as select * from {hub}.deliveries where notification_id in (select id from {hub}.kept_notes);
         delete from {hub}.deliveries where notification_id in (select id from {hub}.kept_notes);
         delete from {hub}.notifications where id in (select id from {hub}.kept_notes)",
        "insert into {hub}.notifications select * from {hub}.kept_notes; insert into {hub}.deliveries select * from {hub}.kept;
         drop table {hub}.kept_notes; drop table {hub}.kept",
        &["I12", "I13"],
    ),
    (
        "a notification has no delivery",
        "create table {hub}.kept as select * from {hub}.deliveries; delete from {hub}.deliveries",
        "insert into {hub}.deliveries select * from {hub}.kept; drop table {hub}.kept",
        &["I13"],
    ),
    (
        "a delivery was never made",
        "update {hub}.deliveries set status = 'PENDING', next_attempt_at = now() + interval '1 day'",
        "update {hub}.deliveries set status = 'SUCCESS'",
        &["I13"],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_names_what_was_broken_by_hand_and_passes_when_it_is_mended() {
    let site = TestSite::start().await;
    let product = site.product(5).await;
    let buyer = site.buyer().await;
    let key = fresh_key();
    let order = async |key: &str, quantity| {
        let placed = buyer.order(key, &product, quantity).await.expect(201).json();
        placed["orderId"].as_str().expect("an order has an id").to_owned()
    };
    let (first, second, cancelled) = (order(&key, 1).await, order(&fresh_key(), 2).await, order(&fresh_key(), 1).await);
    let cancel = buyer.request(reqwest::Method::POST, &format!("/orders/{cancelled}/cancel"));
    buyer.send(cancel).await.expect(200);
    site.settled().await;
    let (code, report) = audit(&site).await;
    assert_eq!((code, violated(&report)), (0, vec![]), "{report}");

    let mut postgres = AsyncPgConnection::establish(&site.servers.postgres_url()).await.expect("PostgreSQL accepts us");
    for (what, wrong, right, named) in BREAKAGES {
        let mut run = async |statement: &str| {
            let names = [("{first}", &first), ("{second}", &second), ("{key}", &key)];
            let spelt =
                names.iter().fold(with_schemas(&site, statement), |text, (name, value)| text.replace(name, value));
            postgres.batch_execute(&spelt).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        };
        run(wrong).await;
        let (code, report) = audit(&site).await;
        run(right).await;
        assert_eq!((code, violated(&report)), (4, named.to_vec()), "{what}: {report}");
        for finding in findings(&report).iter().filter(|finding| finding["value"] != 0) {
            assert!(finding["samples"].as_array().is_some_and(|samples| !samples.is_empty()), "{what}: {finding}");
        }
    }
    let (code, report) = audit(&site).await;
    assert_eq!((code, violated(&report)), (0, vec![]), "mended: {report}");
    site.stop().await;
}

#[tokio::test]
async fn an_audit_of_nothing_is_not_a_pass() {
    let output = Command::new(env!("CARGO_BIN_EXE_stampede"))
        .args(["audit", "--url", "http://127.0.0.1:1", "--output", "json"])
        .output()
        .await
        .expect("the executable starts");
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}

/// Runs the command on `site`; its exit code and what it printed.
async fn audit(site: &TestSite) -> (i32, Value) {
    let host: HostSettings = site.settings().section("host").expect("every system has a host");
    let output = Command::new(env!("CARGO_BIN_EXE_stampede"))
        .args(["audit", "--output", "json", "--settle-seconds", "0", "--url", &site.api])
        .env("STAMPEDE__HOST__NAMESPACE", host.namespace)
        .env("STAMPEDE__POSTGRES__URL", site.servers.postgres_url())
        .env("STAMPEDE__REDIS__URL", site.servers.redis_url())
        .env("STAMPEDE__KAFKA__BROKERS", site.servers.kafka_brokers())
        .stdin(Stdio::null())
        .output()
        .await
        .expect("the executable starts");
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code().expect("it ends by itself"), report)
}

fn findings(report: &Value) -> &[Value] {
    report["invariants"].as_array().expect("a report lists its invariants")
}

fn violated(report: &Value) -> Vec<&str> {
    findings(report)
        .iter()
        .filter(|finding| finding["value"] != 0)
        .filter_map(|finding| finding["name"].as_str())
        .collect()
}

fn with_schemas(site: &TestSite, statement: &str) -> String {
    [("{account}", "account"), ("{inventory}", "inventory"), ("{order}", "order"), ("{hub}", "notification-hub")]
        .iter()
        .fold(statement.to_owned(), |text, (name, service)| text.replace(name, &site.schema(service)))
}
