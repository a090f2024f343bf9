//! `stampede audit`: passes over a system at rest, and names each invariant when its data is broken by hand.

mod breakages;

use std::process::Stdio;

use common::host::HostSettings;
use diesel_async::{AsyncConnection, AsyncPgConnection, SimpleAsyncConnection};
use sandbox::Fakes;
use serde_json::{Value, json};
use tokio::process::Command;

use stampede::audit::{Finding, Report};

use testkit::{Site, eventually, fresh_key, text};

use crate::ledger::Ledger as _;
use crate::payer::Payer as _;
use crate::site::system;
use breakages::BREAKAGES;

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
    let report = audit(&site).await;
    assert!(report.violated().is_empty(), "{}", report.text());
    assert!(report.invariants.iter().all(|finding| finding.note.is_none()), "the provider's book was not read");
    assert_eq!(audit_command(&site, None).await, (0, serde_json::to_value(&report).expect("a report is JSON")));

    let mut postgres = AsyncPgConnection::establish(&site.servers.postgres_url()).await.expect("PostgreSQL accepts us");
    let mut run = async |what: &str, statement: &str| {
        let names = [("{first}", &first), ("{second}", &second), ("{paid}", &paid), ("{key}", &key)];
        let spelt = names.iter().fold(site.with_schemas(statement), |text, (name, value)| text.replace(name, value));
        postgres.batch_execute(&spelt).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    };
    for (what, wrong, right, named) in BREAKAGES {
        run(what, wrong).await;
        let report = audit(&site).await;
        run(what, right).await;
        assert_eq!(report.violated(), *named, "{what}: {}", report.text());
        let silent = |finding: &&Finding| finding.value > 0 && finding.samples.is_empty();
        assert!(report.invariants.iter().find(silent).is_none(), "{what}: {}", report.text());
    }
    let (what, wrong, right, named) = BREAKAGES[0];
    run(what, wrong).await;
    let (code, printed) = audit_command(&site, None).await;
    run(what, right).await;
    assert_eq!((code, violated(&printed)), (4, named.to_vec()), "{printed}");

    let report = audit(&site).await;
    assert!(report.violated().is_empty(), "mended: {}", report.text());
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
    let report = audit(site).await;
    assert_eq!(report.violated(), ["I6"], "{}", report.text());
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
    let report = audit(site).await;
    assert!(report.violated().is_empty(), "{}", report.text());
}

async fn only_a_book_that_is_never_shown_may_stay_unread(site: &Site) {
    // Nobody listens there; by the first address it is the sandbox's provider, by the second a real one.
    let (code, report) = audit_command(site, Some("http://127.0.0.1:1")).await;
    assert_eq!((code, violated(&report)), (4, vec!["I6"]), "{report}");
    let (code, report) = audit_command(site, Some("https://127.0.0.1:1")).await;
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

async fn audit(site: &Site) -> Report {
    stampede::audit::run(&site.settings()).await.expect("the servers answer the audit")
}

/// Runs the command on `site`, with the provider at `provider` instead of the site's; its exit code and what it printed.
async fn audit_command(site: &Site, provider: Option<&str>) -> (i32, Value) {
    let own: String = site.settings().section("payment.naverpay.url").expect("every system has a provider");
    let host: HostSettings = site.settings().section("host").expect("every system has a host");
    let output = Command::new(env!("CARGO_BIN_EXE_stampede"))
        .args(["audit", "--output", "json", "--settle-seconds", "0", "--url", &site.api])
        .env("STAMPEDE__HOST__NAMESPACE", host.namespace)
        .env("STAMPEDE__PAYMENT__NAVERPAY__URL", provider.unwrap_or(&own))
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
