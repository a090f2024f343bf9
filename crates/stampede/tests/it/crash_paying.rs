//! The process dies at its worst moments while somebody pays, or gets money back. It comes back, the buyers ask again, and
//! every won is where the orders say.

use crate::ledger::Ledger;
use crate::payer::Provider;
use crate::site::{EXECUTABLE, system};
use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder};
use sandbox::Fakes;
use serde_json::json;
use testkit::{Answer, Client, Product, Site, eventually, fresh_key, text};

use crate::crash_points::{crashing, each};
use crate::payer::{authorise, won};

/// The number says at which pass.
pub const PAYING: [&str; 23] = [
    "payment.before_attempt:2",
    "payment.after_attempt:1",
    "payment.after_attempt:3",
    "payment.after_reservation:2",
    "pin.before_commit:1",
    "pin.after_commit:1",
    "payment.after_pin:2",
    "payment.after_answer:1",
    "payment.after_answer:4",
    "payment.before_record:2",
    "payment.after_record:1",
    "change_order.before_commit:2",
    "mark_paid.before_commit:1",
    "mark_paid.after_commit:1",
    "payment.after_order_told:1",
    "payment.after_order_freed:1",
    "payment.after_release:1",
    "payment.after_claim:1",
    "payment.before_retry:1",
    "payment.after_retry:1",
    "payment.after_promise:1",
    "payment.before_refund:1",
    "payment.after_refund:1",
];
pub const RECONCILING: [&str; 1] = ["reconcile.after_finding:1"];

/// A client waits briefly and the provider is given up early, so that what was cut off is found out soon.
const BRIEF: [(&str, &str); 14] = [
    // Messages that a dead process had in hand are sent by the next one while the test still waits.
    ("notification_hub.lease_seconds", "7"),
    ("notification_hub.new_lease_seconds", "7"),
    ("notification_hub.claim_batch_max", "64"),
    ("notification_hub.email.timeout_ms", "2000"),
    ("notification_hub.slack.timeout_ms", "2000"),
    ("notification_hub.webhook.timeout_ms", "2000"),
    ("payment.naverpay.query_timeout_ms", "2000"),
    ("payment.reconciliation.check_period_ms", "500"),
    ("payment.retry_seconds", "10"),
    ("payment.approve_wait_ms", "2000"),
    ("payment.naverpay.read_timeout_ms", "4000"),
    ("payment.timeouts.provider_seconds", "3"),
    ("payment.timeouts.absence_seconds", "1"),
    ("payment.reconciliation.grace_seconds", "1"),
];

const BUYERS: usize = 11;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: every point, each with restarts"]
async fn dying_while_somebody_pays_takes_their_money_once_or_not_at_all() {
    each(&PAYING, async |point| die_and_pay_again(point, BUYERS).await).await;
}

/// The moments that matter most; the soak tries every point, with declines, lost answers, regrets and points.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dying_once_at_each_step_of_a_payment_takes_the_money_once() {
    const ONE_OF_EACH: [&str; 4] =
        ["payment.after_attempt:1", "payment.after_answer:1", "payment.after_record:1", "mark_paid.after_commit:1"];
    each(&ONE_OF_EACH, async |point| die_and_pay_again(point, 1).await).await;
}

/// `buyers` of the courses are taken, of which the first pays and keeps what it has bought.
async fn die_and_pay_again(point: &'static str, buyers: usize) {
    // Orders do not end while they are paid for: a crash takes its time.
    let mut settings = BRIEF.to_vec();
    settings.extend(crashing(point));
    let site = system().settings(&settings).spawn(EXECUTABLE).await;
    println!("{point}: {}", site.log().display());
    let plain = site.product_at(20, 10_000).await;
    let declined = site.product_at(20, 10_002).await;
    let lost = site.product_at(20, 10_342).await;
    let buyers = site.buyers(buyers).await;
    let courses = buyers.iter().enumerate().map(async |(number, buyer)| match number {
        0 | 3 | 6 => pay(&site, buyer, &plain, [Regrets::Nothing, Regrets::Payment, Regrets::Order][number / 3]).await,
        1 | 4 | 7 => pay(&site, buyer, &declined, Regrets::Order).await,
        2 | 5 | 8 => pay(&site, buyer, &lost, Regrets::Nothing).await,
        9 => pay_by_points(&site, buyer, &plain, Regrets::Nothing).await,
        _ => pay_by_points(&site, buyer, &plain, Regrets::Payment).await,
    });
    let dying = async {
        eventually(&format!("{point} is passed"), async || site.is_dead().await.then_some(())).await;
        site.revive(&[("host.crash_point", "")]).await;
    };
    let (paid, ()) = tokio::join!(join_all(courses), dying);
    site.assert_consistent().await;
    for (payment, kept) in paid {
        assert_eq!(site.kept_by_provider(&payment).await, kept, "{point}: {payment}");
    }
    site.stop().await;
}

/// What a buyer cancels after having paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Regrets {
    Nothing,
    Order,
    Payment,
}

/// Orders, pays, and has it all undone if there are `regrets`, each step as often as it takes. Returns the payment and what of its
/// money the shop must have in the end.
async fn pay(site: &Site, buyer: &Client, product: &Product, regrets: Regrets) -> (String, i64) {
    pay_by("NAVERPAY", site, buyer, product, regrets).await
}

/// The same with points. Of the provider's money the shop has nothing then.
async fn pay_by_points(site: &Site, buyer: &Client, product: &Product, regrets: Regrets) -> (String, i64) {
    const PRICE: i64 = 10_000;
    let (key, charge) = (fresh_key(), json!({ "amount": won(PRICE) }));
    let request = || buyer.request(Method::POST, "/points/charge").header("Idempotency-Key", &key).json(&charge);
    patiently(buyer, request).await.expect(201);
    let (payment, taken) = pay_by("POINTS", site, buyer, product, regrets).await;
    eventually("the points are where they belong", async || {
        let points = patiently(buyer, || buyer.request(Method::GET, "/points/me")).await.expect(200).json();
        (points["balance"]["amount"] == PRICE - taken).then_some(())
    })
    .await;
    (payment, 0)
}

async fn pay_by(method: &str, site: &Site, buyer: &Client, product: &Product, regrets: Regrets) -> (String, i64) {
    let (order_key, payment_key) = (fresh_key(), fresh_key());
    let order = json!({ "items": [testkit::line(product, 1)] });
    let order = patiently(buyer, || buyer.placing(&order_key, &order)).await.expect(201).json();
    let (order_id, amount) =
        (text(&order["orderId"]), order["totals"]["amount"]["amount"].as_i64().expect("an amount"));
    let prepare = json!({ "orderId": order_id, "method": method, "amount": won(amount) });
    let prepared = patiently(buyer, || {
        buyer.request(Method::POST, "/payments/prepare").header("Idempotency-Key", &payment_key).json(&prepare)
    });
    let payment = text(&prepared.await.expect(201).json()["paymentId"]);
    let mut approval = json!({ "amount": won(amount) });
    if method == "NAVERPAY" {
        approval["pgPaymentId"] = authorise(site, &payment, amount).await.into();
    }
    let approve = format!("/payments/{payment}/approve");
    let outcome = eventually(&format!("payment {payment} is decided"), async || {
        let answer = patiently(buyer, || buyer.request(Method::POST, &approve).json(&approval)).await;
        [200, 402].contains(&answer.status.as_u16()).then_some(answer)
    })
    .await;
    let is_paid = outcome.status == 200;
    if is_paid && regrets == Regrets::Nothing {
        return (payment, amount);
    }
    if regrets == Regrets::Payment {
        let (key, cancel) = (fresh_key(), format!("/payments/{payment}/cancel"));
        let body = json!({ "reason": "regretted" });
        let request = || buyer.request(Method::POST, &cancel).header("Idempotency-Key", &key).json(&body);
        // Not before the order knows that it is paid.
        eventually(&format!("payment {payment} is cancelled"), async || {
            (patiently(buyer, request).await.status != 409).then_some(())
        })
        .await;
    }
    let cancel = format!("/orders/{order_id}/cancel");
    eventually(&format!("order {order_id} is undone"), async || {
        let answer = patiently(buyer, || buyer.request(Method::POST, &cancel).json(&json!({}))).await;
        let status = answer.json()["status"].clone();
        (status == if is_paid { "REFUNDED" } else { "CANCELLED" }).then_some(())
    })
    .await;
    (payment, 0)
}

/// Asks until somebody is there to answer.
async fn patiently(client: &Client, request: impl Fn() -> RequestBuilder) -> Answer {
    eventually("an answer", async || {
        let answer = client.try_send(request()).await.ok()?;
        (!answer.status.is_server_error()).then_some(answer)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: every point, each with restarts"]
async fn dying_while_strays_are_given_back_gives_them_back_once() {
    let fakes = Fakes::start().await.expect("the provider starts");
    let mut settings = BRIEF.to_vec();
    settings.extend([("payment.naverpay.url", fakes.url())]);
    settings.extend(crashing(RECONCILING[0]));
    settings.push(("payment.reconciliation.lease_seconds", "5"));
    let site = system().settings(&settings).spawn(EXECUTABLE).await;
    // Captures in the shop's name that it has never heard of.
    for number in 0..3 {
        let pg_payment = authorise(&site, &format!("nobody-{number}"), 5_000).await;
        crate::pay_late::capture(&site, &pg_payment).await;
    }
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let from = (chrono::Utc::now() - chrono::TimeDelta::hours(1)).to_rfc3339();
    site.admin().post("/admin/reconciliation/runs", &json!({ "from": from })).await.expect(202);
    eventually("it dies in the middle", async || site.is_dead().await.then_some(())).await;
    site.revive(&[("host.crash_point", "")]).await;
    eventually("every stray has gone back", async || (site.fakes("/book/totals").await["net"] == 0).then_some(()))
        .await;
    let totals = site.fakes("/book/totals").await;
    assert_eq!((&totals["captured"], &totals["cancelled"]), (&json!(15_000), &json!(15_000)), "{totals}");
    site.stop().await;
    fakes.stop().await.expect("the provider ends");
}
