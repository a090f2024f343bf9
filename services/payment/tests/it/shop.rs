//! `Shop`: the payment service between order, inventory, coupon and a provider, and what buyers do there.

use client::{Answer, Client, fresh_key, text};
use contract::coupon::coupon_service_server::CouponServiceServer;
use contract::inventory::inventory_service_server::InventoryServiceServer;
use contract::order::order_service_server::OrderServiceServer;
use reqwest::Method;
use sandbox::Fakes;
use serde_json::{Value, json};
use testkit::{PATIENT, Site, eventually};
use uuid::Uuid;

use crate::cases::{OLD_SECRET, SECRET};
use crate::upstreams::Upstreams;

pub const AMOUNT: i64 = 1_000;

pub struct Shop {
    pub site: Site,
    pub upstreams: Upstreams,
    /// Its own, because reconciliation refunds every capture that belongs to no payment.
    provider: Fakes,
    http: reqwest::Client,
}

/// A payment that the buyer has authorised at the provider.
#[derive(Debug, Clone)]
pub struct Authorised {
    pub order: String,
    pub payment: String,
    pub pg_payment: String,
    pub amount: i64,
}

impl Shop {
    /// The loops look often. What they do is due late, unless a test moves its time by SQL.
    pub async fn start() -> Shop {
        Shop::start_with(&[]).await
    }

    pub async fn start_with(settings: &[(&str, &str)]) -> Shop {
        let provider = Fakes::start().await.unwrap();
        let upstreams = Upstreams::default();
        let played = upstreams.clone();
        let site = Site::builder(&[payment::spec()])
            .settings(&PATIENT)
            .set("payment.naverpay.url", provider.url())
            .set("payment.webhooks.naverpay_secret", format!("{SECRET},{OLD_SECRET}"))
            .set("payment.resolve_poll_ms", 100)
            .set("payment.refund_poll_ms", 100)
            // Whoever owes something to order and inventory settles it at once; no loop does it once more.
            .set("payment.step_poll_ms", 600_000)
            // Nothing is too young to be compared.
            .set("payment.reconciliation.grace_seconds", 0)
            .set("payment.reconciliation.check_period_ms", 100)
            .settings(settings)
            .with(move |host| {
                host.grpc(OrderServiceServer::new(played.clone()));
                host.grpc(InventoryServiceServer::new(played.clone()));
                host.grpc(CouponServiceServer::new(played));
            })
            .start()
            .await;
        Shop { site, upstreams, provider, http: reqwest::Client::new() }
    }

    pub async fn stop(self) {
        self.site.stop().await;
        self.provider.stop().await.unwrap();
    }

    // --- buyers

    /// Prepares a payment of `amount` for a new order, and authorises it.
    pub async fn authorised(&self, buyer: &Client, amount: i64) -> Authorised {
        self.authorised_for(buyer, &Uuid::now_v7().to_string(), amount).await
    }

    pub async fn authorised_for(&self, buyer: &Client, order: &str, amount: i64) -> Authorised {
        let prepared = prepare(buyer, &fresh_key(), order, amount).await.expect(201).json();
        let payment = text(&prepared["paymentId"]);
        let pg_payment = self.authorise(&payment, amount).await;
        Authorised { order: order.to_owned(), payment, pg_payment, amount }
    }

    /// Prepares, authorises and approves a payment.
    pub async fn paid(&self, buyer: &Client, amount: i64) -> Authorised {
        let authorised = self.authorised(buyer, amount).await;
        approve(buyer, &authorised).await.expect(200);
        authorised
    }

    // --- the payment's row

    pub async fn status(&self, payment: &str) -> String {
        let rows = self.site.rows(&format!("select status from {{payment}}.payments where id = '{payment}'")).await;
        text(&rows[0]["status"])
    }

    pub async fn until_status(&self, payment: &str, status: &str) {
        eventually(&format!("payment {payment} is {status}"), async || {
            (self.status(payment).await == status).then_some(())
        })
        .await;
    }

    /// Changes the payment's row, such as to move a time into the past.
    pub async fn update(&self, payment: &str, set: &str) {
        self.site.execute(&format!("update {{payment}}.payments set {set} where id = '{payment}'")).await;
    }

    /// How many rows of the payment fulfil `condition`: 0 or 1.
    pub async fn count(&self, payment: &str, condition: &str) -> i64 {
        let query = format!("select count(*) from {{payment}}.payments where id = '{payment}' and ({condition})");
        self.site.number(&query).await
    }

    // --- the provider

    /// The buyer agrees in the provider's window. Returns the provider's id.
    pub async fn authorise(&self, merchant_pay_key: &str, amount: i64) -> String {
        let agreed = json!({ "merchantPayKey": merchant_pay_key, "amount": amount });
        text(&self.ask_provider("/checkout", &agreed).await["paymentId"])
    }

    /// The provider captures money that payment has not asked for. Returns the provider's id.
    pub async fn capture(&self, merchant_pay_key: &str, amount: i64) -> String {
        let pg = self.authorise(merchant_pay_key, amount).await;
        let apply = "/naverpay-partner/naverpay/payments/v2.2/apply/payment";
        let captured = self.ask_provider(apply, &json!({ "paymentId": pg })).await;
        assert_eq!(captured["code"], "Success", "{captured}");
        pg
    }

    /// The provider refunds money that payment has not asked it to refund.
    pub async fn cancel_at_provider(&self, pg: &str, amount: i64) {
        let cancel = json!({ "paymentId": pg, "cancelAmount": amount, "cancelReason": "an operator of the provider" });
        let cancelled = self.ask_provider("/naverpay-partner/naverpay/payments/v1/cancel", &cancel).await;
        assert_eq!(cancelled["code"], "Success", "{cancelled}");
    }

    async fn ask_provider(&self, path: &str, body: &Value) -> Value {
        let request = self
            .http
            .post(format!("{}{path}", self.provider.url()))
            .header("X-Naver-Client-Id", "tests")
            .header("X-Naver-Client-Secret", "tests")
            .header("X-NaverPay-Chain-Id", "tests")
            .header("X-NaverPay-Idempotency-Key", fresh_key());
        request.json(body).send().await.unwrap().json().await.unwrap()
    }

    /// What the provider has captured and cancelled for a payment.
    pub async fn at_provider(&self, payment: &str) -> (i64, i64) {
        let url = format!("{}/book/payments?merchantPayKey={payment}", self.provider.url());
        let book: Value = self.http.get(url).send().await.unwrap().json().await.unwrap();
        let sum = |name: &str| book["payments"].as_array().unwrap().iter().map(|one| one[name].as_i64().unwrap()).sum();
        (sum("captured"), sum("cancelled"))
    }

    /// What the shop has at the provider.
    pub async fn net_at_provider(&self) -> i64 {
        let url = format!("{}/book/totals", self.provider.url());
        let totals: Value = self.http.get(url).send().await.unwrap().json().await.unwrap();
        totals["net"].as_i64().unwrap()
    }
}

pub fn won(amount: i64) -> Value {
    json!({ "amount": amount, "currency": "KRW" })
}

pub async fn prepare(buyer: &Client, key: &str, order: &str, amount: i64) -> Answer {
    prepare_by(buyer, "NAVERPAY", key, order, amount).await
}

pub async fn prepare_by(buyer: &Client, method: &str, key: &str, order: &str, amount: i64) -> Answer {
    let body = json!({ "orderId": order, "method": method, "amount": won(amount) });
    let request = buyer.request(Method::POST, "/payments/prepare").header("Idempotency-Key", key);
    buyer.send(request.json(&body)).await
}

pub async fn charge_points(buyer: &Client, amount: i64) {
    let request = buyer.request(Method::POST, "/points/charge").header("Idempotency-Key", fresh_key());
    buyer.send(request.json(&json!({ "amount": won(amount) }))).await.expect(201);
}

pub async fn approve(buyer: &Client, authorised: &Authorised) -> Answer {
    let Authorised { payment, pg_payment, amount, .. } = authorised;
    let body = json!({ "pgPaymentId": pg_payment, "amount": won(*amount) });
    buyer.post(&format!("/payments/{payment}/approve"), &body).await
}

/// [`approve`] in a task of its own, for a test that has it wait.
pub fn approving(buyer: &Client, authorised: &Authorised) -> tokio::task::JoinHandle<Answer> {
    let (buyer, authorised) = (buyer.clone(), authorised.clone());
    tokio::spawn(async move { approve(&buyer, &authorised).await })
}

/// Cancels all of a payment, or a part of it.
pub async fn cancel(client: &Client, key: &str, payment: &str, amount: Option<i64>) -> Answer {
    let body = match amount {
        Some(amount) => json!({ "amount": won(amount), "reason": "scratched" }),
        None => json!({ "reason": "scratched" }),
    };
    let request = client.request(Method::POST, &format!("/payments/{payment}/cancel"));
    client.send(request.header("Idempotency-Key", key).json(&body)).await
}
