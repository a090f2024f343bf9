//! Providers that hang, lie and lose answers, approvals that come too late, webhooks that nobody should believe: money and
//! orders agree in the end.

use crate::ledger::Ledger;
use crate::payer::Payer;
use crate::payer::Provider;
use crate::site::system;
use std::time::Duration;
use testkit::{Answer, Client, Product, Site, eventually, fresh_key, text};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::Utc;
use futures_util::future::join_all;
use serde_json::json;

use crate::ledger::Units;
use crate::payer::{Agreed, authorise};

/// Amounts whose last digits make the sandbox's provider misbehave once, and what a buyer may be told at first.
const TROUBLES: [(i64, &str); 7] = [
    (10_341, "the answer is lost after the work"),
    (10_342, "the connection is lost before the work"),
    (10_343, "silence first, then the work"),
    (10_344, "an answer about another payment"),
    (10_345, "500, nothing done"),
    (10_346, "500 after the work"),
    (19_995, "no answer at all"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_provider_does_the_buyer_pays_once_in_the_end() {
    // A client waits for 2 s here, so silence becomes a 202 soon; and we for 4 s, since the provider stays silent for as
    // long as we do.
    let brief = [("payment.approve_wait_ms", "2000"), ("payment.naverpay.read_timeout_ms", "4000")];
    let site = system().settings(&brief).start().await;
    let paying = TROUBLES.iter().map(async |(price, trouble)| {
        let (product, buyer) = (site.product_at(1, *price).await, site.buyer().await);
        let agreed = buyer.agrees(&site, &product).await;
        let told = buyer.approve(&agreed).await;
        assert!([200, 202, 502].contains(&told.status.as_u16()), "{trouble}: {told}");
        if told.status == 502 {
            // Known not to have been charged: the buyer tries again.
            buyer.approve(&agreed).await;
        }
        buyer.sees_payment(&agreed.payment, "PAID").await;
        buyer.sees_order(&agreed.order, "PAID").await;
        (product, agreed)
    });
    let paid = join_all(paying).await;
    site.assert_consistent().await;
    for (product, agreed) in paid {
        assert_eq!(site.kept_by_provider(&agreed.payment).await, agreed.amount);
        assert_eq!(site.units(&product).await, Units { on_hand: 0, held: 0 });
    }
}

/// What was authorised is not what was asked for: the buyer gets it back at once and may try again; the units do not wait for
/// somebody to look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_amount_than_the_orders_buys_nothing_and_goes_back() {
    let site = system().start().await;
    let (product, buyer) = (site.product_at(1, 10_000).await, site.buyer().await);
    let (order, amount) = buyer.orders(&product).await;
    let payment = text(&buyer.prepare(&fresh_key(), &order, amount).await.expect(201).json()["paymentId"]);
    let cheap = Agreed { pg_payment: authorise(&site, &payment, 1).await, order, payment, amount };
    buyer.approve(&cheap).await.expect(202);
    buyer.sees_payment(&cheap.payment, "PENDING").await;
    assert_eq!(site.kept_by_provider(&cheap.payment).await, 0);
    let right = Agreed { pg_payment: authorise(&site, &cheap.payment, amount).await, ..cheap };
    eventually("the order is free again", async || (buyer.approve(&right).await.status == 200).then_some(())).await;
    site.assert_consistent().await;
    assert_eq!(site.kept_by_provider(&right.payment).await, amount);
}

const SECRET: &str = "whsec_c3RhbXBlZGUtdGVzdHMtd2ViaG9vay1zZWNyZXQ=";

/// The headers of a webhook, as the provider would sign it.
fn signed(secret: &str, id: &str, timestamp: i64, body: &str) -> [(&'static str, String); 3] {
    let key = STANDARD.decode(secret.trim_start_matches("whsec_")).expect("base64");
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let tag = hmac::sign(&key, format!("{id}.{timestamp}.{body}").as_bytes());
    [
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", timestamp.to_string()),
        ("webhook-signature", format!("v1,{}", STANDARD.encode(tag))),
    ]
}

async fn call(site: &Site, headers: &[(&str, String)], body: &str) -> Answer {
    let client = site.anyone();
    let mut request = client.request(reqwest::Method::POST, "/webhooks/pg/naverpay").body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    client.send(request).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_are_hints_and_only_the_providers_own_are_heard() {
    let secrets = [("payment.webhooks.naverpay_secret", SECRET), ("payment.approve_wait_ms", "2000")];
    let site = system().settings(&secrets).start().await;
    let (product, buyer) = (site.product_at(2, 20_000).await, site.buyer().await);
    let agreed = buyer.agrees(&site, &product).await;
    let now = Utc::now().timestamp();
    let body = json!({ "type": "payment.approved", "data": { "merchantPayKey": agreed.payment, "amount": 20_000 } });
    let body = body.to_string();
    let right = signed(SECRET, "msg_1", now, &body);
    let with = |index: usize, value: &str| {
        let mut changed = right.clone();
        changed[index].1 = value.to_owned();
        changed.to_vec()
    };
    let without =
        |index: usize| right.iter().enumerate().filter(|(at, _)| *at != index).map(|(_, one)| one.clone()).collect();
    let signature = right[2].1.clone();
    let forged: Vec<(Vec<(&str, String)>, String)> = vec![
        (Vec::new(), body.clone()),
        (without(0), body.clone()),
        (without(1), body.clone()),
        (without(2), body.clone()),
        (with(0, "msg_2"), body.clone()),
        (with(0, ""), body.clone()),
        (with(1, &(now + 1).to_string()), body.clone()),
        (with(1, "soon"), body.clone()),
        (with(1, "-1"), body.clone()),
        (with(1, "99999999999999999999"), body.clone()),
        (with(2, ""), body.clone()),
        (with(2, "v1,"), body.clone()),
        (with(2, &signature.replace("v1,", "v2,")), body.clone()),
        (with(2, &signature[..signature.len() - 4]), body.clone()),
        (with(2, "v1,not base64!"), body.clone()),
        (with(2, &format!("v1,{}", STANDARD.encode([0_u8; 32]))), body.clone()),
        (right.to_vec(), body.replace("20000", "20001")),
        (right.to_vec(), format!("{body} ")),
        (right.to_vec(), String::new()),
        (signed(SECRET, "msg_1", now - 301, &body).to_vec(), body.clone()),
        (signed(SECRET, "msg_1", now + 310, &body).to_vec(), body.clone()),
        (signed("whsec_b3RoZXIgc2VjcmV0IG9mIHNvbWVib2R5IGVsc2U=", "msg_1", now, &body).to_vec(), body.clone()),
    ];
    site.settled().await;
    let before = site.everything().await;
    for (headers, body) in &forged {
        call(&site, headers, body).await.refused(401, "INVALID_SIGNATURE");
    }
    site.anyone().post("/webhooks/pg/nobody", &json!({})).await.refused(404, "NOT_FOUND");
    assert_eq!(site.everything().await, before, "{} forged webhooks", forged.len());

    // The provider's own is stored once, and not believed: nothing was captured.
    for _ in 0..3 {
        call(&site, &right, &body).await.expect(200);
    }
    assert_eq!(site.number("select count(*) from {payment}.psp_webhooks").await, 1);
    assert_eq!(buyer.payment(&agreed.payment).await["status"], "PENDING");
    buyer.approve(&agreed).await.expect(200);
    site.assert_consistent().await;
}

/// The provider is given up soon.
pub const SHORT_LIVED: [(&str, &str); 7] = [
    ("inventory.unpin_seconds_min", "1"),
    ("payment.retry_seconds", "1"),
    ("order.expire_sweep_ms", "200"),
    ("payment.approve_wait_ms", "1000"),
    ("payment.naverpay.read_timeout_ms", "3000"),
    ("payment.timeouts.provider_seconds", "2"),
    ("payment.timeouts.absence_seconds", "1"),
];

/// The provider captures behind our back what had been given up: the order gets it if it can, else it goes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_that_comes_too_late_is_honoured_or_given_back() {
    let site = system().settings(&SHORT_LIVED).start().await;
    let late = LateMoney::comes(&site).await;
    late.ask(&site).await;
    late.is_settled(&site).await;
}

/// Two payments that were given up, and are captured all the same.
pub struct LateMoney {
    buyer: Client,
    /// Its unit has gone elsewhere meanwhile.
    lost: Agreed,
    lucky: Agreed,
    plenty: Product,
}

impl LateMoney {
    pub async fn comes(site: &Site) -> LateMoney {
        let (scarce, plenty) = (site.product_at(1, 19_995).await, site.product_at(9, 29_995).await);
        let buyer = site.buyer().await;
        let lost = gives_up(site, &buyer, &scarce).await;
        let lucky = gives_up(site, &buyer, &plenty).await;
        site.admin().adjust(&fresh_key(), &scarce, -1).await.expect(200);
        for agreed in [&lost, &lucky] {
            capture(site, &agreed.pg_payment).await;
        }
        LateMoney { buyer, lost, lucky, plenty }
    }

    /// An operator has the provider asked. The site may die over it.
    pub async fn ask(&self, site: &Site) {
        let admin = site.admin();
        for agreed in [&self.lost, &self.lucky] {
            let path = format!("/admin/payments/{}/sync", agreed.payment);
            if let Ok(told) = admin.try_send(admin.request(reqwest::Method::POST, &path).json(&json!({}))).await {
                told.expect(202);
            }
        }
    }

    pub async fn is_settled(&self, site: &Site) {
        let LateMoney { buyer, lost, lucky, plenty } = self;
        buyer.sees_payment(&lucky.payment, "PAID").await;
        buyer.sees_order(&lucky.order, "PAID").await;
        buyer.sees_payment(&lost.payment, "REFUNDED").await;
        buyer.sees_order(&lost.order, "EXPIRED").await;
        site.assert_consistent().await;
        assert_eq!(site.kept_by_provider(&lost.payment).await, 0);
        assert_eq!(site.kept_by_provider(&lucky.payment).await, lucky.amount);
        assert_eq!(site.units(plenty).await, Units { on_hand: 8, held: 0 });
    }
}

/// Orders, and asks a provider that hangs and does nothing: the order's time runs out, and absence is believed.
async fn gives_up(site: &Site, buyer: &Client, product: &Product) -> Agreed {
    let agreed = buyer.agrees(site, product).await;
    buyer.approve(&agreed).await.expect(202);
    site.time_is_up(&agreed.order).await;
    buyer.sees_payment(&agreed.payment, "FAILED").await;
    buyer.sees_order(&agreed.order, "EXPIRED").await;
    agreed
}

/// Somebody who has the merchant's keys captures directly at the provider.
pub async fn capture(site: &Site, pg_payment: &str) {
    let url = format!("{}/naverpay-partner/naverpay/payments/v2.2/apply/payment", site.provider());
    eventually("the provider captures", async || {
        let asked = reqwest::Client::new()
            .post(&url)
            .timeout(Duration::from_secs(5))
            .header("X-Naver-Client-Id", "tests")
            .header("X-Naver-Client-Secret", "tests")
            .header("X-NaverPay-Chain-Id", "tests")
            .header("X-NaverPay-Idempotency-Key", fresh_key())
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(format!("paymentId={pg_payment}"))
            .send();
        let answer: serde_json::Value = asked.await.ok()?.json().await.ok()?;
        (answer["code"] == "Success").then_some(())
    })
    .await;
}
