//! `stampede audit`: passes over a system at rest, and names each invariant when its data is broken by hand.

use crate::ledger::Ledger;
use crate::payer::Payer;
use crate::site::system;
use std::process::Stdio;
use testkit::{Site, eventually, fresh_key, text};

use common::host::HostSettings;
use diesel_async::{AsyncConnection, AsyncPgConnection, SimpleAsyncConnection};
use sandbox::Fakes;
use serde_json::{Value, json};
use tokio::process::Command;

/// What is broken, how, how it is mended, and which invariants must say so. `{first}` and `{second}` are orders of one
/// buyer, who placed the first with `{key}` and has prepared a payment for the second; `{paid}` is paid.
const BREAKAGES: [(&str, &str, &str, &[&str]); 31] = [
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
        "delete from {inventory}.product_stock_audit where kind = 'CONFIRM' and hold_id = '{first}'",
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
        "create table {notification_hub}.kept_notes as select * from {notification_hub}.notifications where data ->> 'orderId' = '{first}';
         create table {notification_hub}.kept as select * from {notification_hub}.deliveries where notification_id in (select id from {notification_hub}.kept_notes);
         delete from {notification_hub}.deliveries where notification_id in (select id from {notification_hub}.kept_notes);
         delete from {notification_hub}.notifications where id in (select id from {notification_hub}.kept_notes)",
        "insert into {notification_hub}.notifications select * from {notification_hub}.kept_notes; insert into {notification_hub}.deliveries select * from {notification_hub}.kept;
         drop table {notification_hub}.kept_notes; drop table {notification_hub}.kept",
        &["I12", "I13"],
    ),
    (
        "a notification has no delivery",
        "create table {notification_hub}.kept as select * from {notification_hub}.deliveries; delete from {notification_hub}.deliveries",
        "insert into {notification_hub}.deliveries select * from {notification_hub}.kept; drop table {notification_hub}.kept",
        &["I13"],
    ),
    (
        "a delivery was never made",
        "update {notification_hub}.deliveries set status = 'PENDING', next_attempt_at = now() + interval '1 day'",
        "update {notification_hub}.deliveries set status = 'SUCCESS'",
        &["I13"],
    ),
    (
        "a delivery was given up",
        "update {notification_hub}.deliveries set status = 'FAILED', dead_lettered_at = now()",
        "update {notification_hub}.deliveries set status = 'SUCCESS', dead_lettered_at = null",
        &["I13"],
    ),
    (
        "an order is sold and has forgotten who paid it",
        "create table {order}.kept as select * from {order}.orders where id = '{paid}';
         update {order}.orders set status = 'CANCELLED', paid_payment_id = null, updated_at = now() - interval '1 hour'
          where id = '{paid}'",
        "update {order}.orders set status = kept.status, paid_payment_id = kept.paid_payment_id, updated_at = kept.updated_at
           from {order}.kept where orders.id = kept.id;
         drop table {order}.kept",
        &["I4", "I5", "I6"],
    ),
    (
        "nobody was told that an order is paid",
        "create table {order}.kept as select * from {order}.outbox_events where key = '{paid}' and topic = 'ORDER_PLACED';
         delete from {order}.outbox_events where key = '{paid}' and topic = 'ORDER_PLACED'",
        "insert into {order}.outbox_events overriding system value select * from {order}.kept; drop table {order}.kept",
        &["I5"],
    ),
    (
        "a payment took another amount than the order's",
        "update {payment}.payments set amount = amount + 1, captured = captured + 1 where order_id = '{paid}'",
        "update {payment}.payments set amount = amount - 1, captured = captured - 1 where order_id = '{paid}'",
        &["I6"],
    ),
    (
        "money was given back by no refund",
        "update {payment}.refunds set status = 'FAILED'",
        "update {payment}.refunds set status = 'SUCCEEDED'",
        &["I6"],
    ),
    (
        "a balance is not what was charged",
        "update {payment}.point set balance = balance + 1",
        "update {payment}.point set balance = balance - 1",
        &["I7"],
    ),
    (
        "points came from nowhere",
        "alter table {payment}.point_entries disable trigger user;
         update {payment}.point_entries set amount = amount + 1 where account = 'ISSUED'",
        "update {payment}.point_entries set amount = amount - 1 where account = 'ISSUED';
         alter table {payment}.point_entries enable trigger user",
        &["I7"],
    ),
    (
        "points are held for a payment that does not exist",
        "insert into {payment}.point_holds (payment_id, user_id, amount) values ('{first}', '{first}', 5)",
        "delete from {payment}.point_holds",
        &["I7"],
    ),
    (
        "a service has forgotten what it applied",
        "create table {payment}.kept as select * from {payment}.inbox; delete from {payment}.inbox",
        "insert into {payment}.inbox select * from {payment}.kept; drop table {payment}.kept",
        &["I12"],
    ),
    (
        "nobody ends a hold whose time is up",
        "update {inventory}.holds set expires_at = expires_at - interval '1 hour' where hold_id = '{first}'",
        "update {inventory}.holds set expires_at = expires_at + interval '1 hour' where hold_id = '{first}'",
        &["I17"],
    ),
    (
        "nobody asks what became of a payment",
        "update {payment}.payments set status = 'UNKNOWN', ask_at = null where order_id = '{second}'",
        "update {payment}.payments set status = 'PENDING' where order_id = '{second}'",
        &["I17"],
    ),
    (
        "a debt is never paid",
        "update {payment}.payments set owes_release = true, updated_at = now() - interval '2 minutes' where order_id = '{second}'",
        "update {payment}.payments set owes_release = false where order_id = '{second}'",
        &["I17"],
    ),
    (
        "an order waits for a refund that nobody promised",
        "update {order}.orders set status = 'REFUND_PENDING', updated_at = now() - interval '2 minutes' where id = '{paid}'",
        "update {order}.orders set status = 'PAID' where id = '{paid}'",
        &["I17"],
    ),
    (
        "a refund was refused and the money is still there",
        "insert into {payment}.refunds (id, payment_id, amount, reason, fingerprint, pg_payment_id, status, ask_at)
         select '{first}', id, amount, 'a test', '', pg_payment_id, 'FAILED', null
           from {payment}.payments where order_id = '{paid}'",
        "delete from {payment}.refunds where id = '{first}'",
        &["I17"],
    ),
    (
        "an order is reserved for nobody",
        "update {order}.orders set approving_payment_id = '{first}', approving_attempt_id = '{first}' where id = '{second}'",
        "update {order}.orders set approving_payment_id = null, approving_attempt_id = null where id = '{second}'",
        &["I17"],
    ),
    (
        "a hold is pinned for nobody",
        "update {inventory}.holds set state = 'PINNED', pinned_by = '{first}' where hold_id = '{first}'",
        "update {inventory}.holds set state = 'HELD', pinned_by = null where hold_id = '{first}'",
        &["I17"],
    ),
];

/// The provider takes whoever has a name.
const MERCHANT: [(&str, &str); 3] = [
    ("payment.naverpay.client_id", "audit"),
    ("payment.naverpay.client_secret", "audit"),
    ("payment.naverpay.chain_id", "audit"),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_names_what_was_broken_by_hand_and_passes_when_it_is_mended() {
    // A provider of its own: in the common one's book are the payments of others.
    let fakes = Fakes::start().await.expect("the provider starts");
    let checkout = format!("{}/checkout", fakes.url());
    let mut overrides = MERCHANT.to_vec();
    overrides.extend([("payment.naverpay.url", fakes.url()), ("payment.naverpay.checkout_url", &checkout)]);
    // Nobody tidies away what is broken here.
    overrides.push(("inventory.sweep_period_ms", "3600000"));
    let site = system().settings(&overrides).start().await;
    let product = site.product(8).await;
    let buyer = site.buyer().await;
    let key = fresh_key();
    let order = async |key: &str, quantity| buyer.order(key, &product, quantity).await.expect(201).json();
    let (first, second) = (order(&key, 1).await, order(&fresh_key(), 2).await);
    let (cancelled, paid) = (order(&fresh_key(), 1).await, order(&fresh_key(), 1).await);
    let refunded = order(&fresh_key(), 1).await;
    let amount = |order: &Value| order["totals"]["amount"]["amount"].as_i64().expect("an amount");
    buyer.prepare(&fresh_key(), &text(&second["orderId"]), amount(&second)).await.expect(201);
    for order in [&paid, &refunded] {
        let agreed = buyer.agrees_to(&site, &text(&order["orderId"]), amount(order)).await;
        buyer.approve(&agreed).await.expect(200);
    }
    site.settled().await;
    for (order, status) in [(&cancelled, 200), (&refunded, 202)] {
        let path = format!("/orders/{}/cancel", text(&order["orderId"]));
        buyer.send(buyer.request(reqwest::Method::POST, &path)).await.expect(status);
    }
    buyer.charges(1_000).await;
    let [first, second, paid, refunded] = [first, second, paid, refunded].map(|order| text(&order["orderId"]));
    eventually("the money is back", async || {
        let order = buyer.get(&format!("/orders/{refunded}")).await.expect(200).json();
        (order["status"] == "REFUNDED").then_some(())
    })
    .await;
    site.settled().await;
    let (code, report) = audit(&site).await;
    assert_eq!((code, violated(&report)), (0, vec![]), "{report}");
    assert!(
        findings(&report).iter().all(|finding| finding["note"].is_null()),
        "the provider's book was read: {report}"
    );

    let mut postgres = AsyncPgConnection::establish(&site.servers.postgres_url()).await.expect("PostgreSQL accepts us");
    for (what, wrong, right, named) in BREAKAGES {
        let mut run = async |statement: &str| {
            let names = [("{first}", &first), ("{second}", &second), ("{paid}", &paid), ("{key}", &key)];
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
    a_capture_that_only_the_provider_knows_is_named(&site, fakes.url()).await;
    only_a_book_that_is_never_shown_may_stay_unread(&site).await;
    site.stop().await;
}

async fn a_capture_that_only_the_provider_knows_is_named(site: &Site, provider: &str) {
    let http = reqwest::Client::new();
    let ask = async |request: reqwest::RequestBuilder| {
        let merchant = ["X-Naver-Client-Id", "X-Naver-Client-Secret", "X-NaverPay-Chain-Id"];
        let request = merchant.iter().fold(request, |request, name| request.header(*name, "audit"));
        let answer = request.header("X-NaverPay-Idempotency-Key", fresh_key()).send().await.expect("it answers");
        answer.json::<Value>().await.expect("JSON")
    };
    let window = json!({ "merchantPayKey": "nobody-knows-it", "amount": 1_000 });
    let authorised = ask(http.post(format!("{provider}/checkout")).json(&window)).await;
    let path = format!("{provider}/naverpay-partner/naverpay/payments");
    let apply = [("paymentId", authorised["paymentId"].as_str().expect("an id"))];
    let captured = ask(http.post(format!("{path}/v2.2/apply/payment")).form(&apply)).await;
    assert_eq!(captured["code"], "Success", "{captured}");
    let (code, report) = audit(site).await;
    assert_eq!((code, violated(&report)), (4, vec!["I6"]), "{report}");
    let cancel = json!({
        "paymentId": authorised["paymentId"],
        "cancelAmount": 1_000,
        "cancelReason": "a test",
        "cancelRequester": "2",
        "taxScopeAmount": 1_000,
        "taxExScopeAmount": 0,
    });
    let cancelled = ask(http.post(format!("{path}/v1/cancel")).json(&cancel)).await;
    assert_eq!(cancelled["code"], "Success", "{cancelled}");
    let (code, report) = audit(site).await;
    assert_eq!((code, violated(&report)), (0, vec![]), "{report}");
}

async fn only_a_book_that_is_never_shown_may_stay_unread(site: &Site) {
    // Nobody listens there; by the first address it is the sandbox's provider, by the second a real one.
    let (code, report) = audit_with(site, "http://127.0.0.1:1").await;
    assert_eq!((code, violated(&report)), (4, vec!["I6"]), "{report}");
    let (code, report) = audit_with(site, "https://127.0.0.1:1").await;
    assert_eq!((code, violated(&report)), (0, vec![]), "{report}");
    let note = |finding: &Value| finding["name"] == "I6" && finding["note"].is_string();
    assert!(findings(&report).iter().any(note), "{report}");
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
async fn audit(site: &Site) -> (i32, Value) {
    let provider: String = site.settings().section("payment.naverpay.url").expect("every system has a provider");
    audit_with(site, &provider).await
}

/// The same with the provider at another address.
async fn audit_with(site: &Site, provider: &str) -> (i32, Value) {
    let host: HostSettings = site.settings().section("host").expect("every system has a host");
    let output = Command::new(env!("CARGO_BIN_EXE_stampede"))
        .args(["audit", "--output", "json", "--settle-seconds", "0", "--url", &site.api])
        .env("STAMPEDE__HOST__NAMESPACE", host.namespace)
        .env("STAMPEDE__PAYMENT__NAVERPAY__URL", provider)
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

fn with_schemas(site: &Site, statement: &str) -> String {
    let names = [
        ("{account}", "account"),
        ("{inventory}", "inventory"),
        ("{order}", "order"),
        ("{payment}", "payment"),
        ("{notification_hub}", "notification-hub"),
    ];
    names.iter().fold(statement.to_owned(), |text, (name, service)| text.replace(name, &site.schema(service)))
}
