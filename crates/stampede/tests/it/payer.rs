//! How a buyer pays: prepare, agree in the provider's window, approve.

use sandbox::Fakes;
use serde_json::{Value, json};
use testkit::{Answer, Client, Product, Site, eventually, fresh_key, text};

/// A payment that the buyer has agreed to.
#[derive(Debug, Clone)]
pub struct Agreed {
    pub order: String,
    pub payment: String,
    /// The provider's name for it.
    pub pg_payment: String,
    pub amount: i64,
}

/// The fake payment provider behind a site.
pub trait Provider {
    /// A new product with `stock` units of `price` won each: the last digits may make the provider misbehave.
    async fn product_at(&self, stock: i64, price: i64) -> Product;

    /// What the sandbox's provider answers.
    async fn fakes(&self, path: &str) -> Value;

    /// The provider's own word for what a payment has left: captured less cancelled.
    async fn kept_by_provider(&self, payment: &str) -> i64;

    fn provider(&self) -> String;
}

impl Provider for Site {
    async fn product_at(&self, stock: i64, price: i64) -> Product {
        self.product_with(json!({ "initialStock": stock, "price": won(price) })).await
    }

    async fn fakes(&self, path: &str) -> Value {
        let asked = reqwest::get(format!("{}{path}", self.provider())).await.expect("the provider answers");
        asked.json().await.expect("in JSON")
    }

    async fn kept_by_provider(&self, payment: &str) -> i64 {
        let book = self.fakes(&format!("/book/payments?merchantPayKey={payment}")).await;
        let list = book["payments"].as_array().unwrap_or_else(|| panic!("{book}"));
        let sum = |name: &str| -> i64 {
            let own = list.iter().filter(|one| one["merchantPayKey"] == payment);
            own.map(|one| one[name].as_i64().unwrap_or_default()).sum()
        };
        sum("captured") - sum("cancelled")
    }

    fn provider(&self) -> String {
        self.settings().section("payment.naverpay.url").expect("it is set")
    }
}

/// Somebody who pays.
pub trait Payer {
    /// Orders one unit. Returns the order's id and amount.
    async fn orders(&self, product: &Product) -> (String, i64);

    async fn prepare(&self, key: &str, order: &str, amount: i64) -> Answer;

    async fn prepare_by(&self, method: &str, key: &str, order: &str, amount: i64) -> Answer;

    /// Orders, prepares, and agrees in the provider's window.
    async fn agrees(&self, site: &Site, product: &Product) -> Agreed;

    async fn agrees_to(&self, site: &Site, order: &str, amount: i64) -> Agreed;

    async fn approve(&self, agreed: &Agreed) -> Answer;

    async fn approve_with(&self, payment: &str, body: Value) -> Answer;

    /// Buys points for `amount` won.
    async fn charges(&self, amount: i64);

    async fn payment(&self, id: &str) -> Value;

    /// Waits until the payment has this status.
    async fn sees_payment(&self, id: &str, status: &str) -> Value;

    async fn sees_order(&self, id: &str, status: &str) -> Value;

    async fn cancels_payment(&self, key: &str, payment: &str, body: &Value) -> Answer;
}

impl Payer for Client {
    async fn orders(&self, product: &Product) -> (String, i64) {
        let order = self.order(&fresh_key(), product, 1).await.expect(201).json();
        (text(&order["orderId"]), order["totals"]["amount"]["amount"].as_i64().expect("an amount"))
    }

    async fn prepare(&self, key: &str, order: &str, amount: i64) -> Answer {
        self.prepare_by("NAVERPAY", key, order, amount).await
    }

    async fn prepare_by(&self, method: &str, key: &str, order: &str, amount: i64) -> Answer {
        let body = json!({ "orderId": order, "method": method, "amount": won(amount) });
        self.send(self.request(reqwest::Method::POST, "/payments/prepare").header("Idempotency-Key", key).json(&body))
            .await
    }

    async fn agrees(&self, site: &Site, product: &Product) -> Agreed {
        let (order, amount) = self.orders(product).await;
        self.agrees_to(site, &order, amount).await
    }

    async fn agrees_to(&self, site: &Site, order: &str, amount: i64) -> Agreed {
        let payment = text(&self.prepare(&fresh_key(), order, amount).await.expect(201).json()["paymentId"]);
        let pg_payment = authorise(site, &payment, amount).await;
        Agreed { order: order.to_owned(), payment, pg_payment, amount }
    }

    async fn approve(&self, agreed: &Agreed) -> Answer {
        self.approve_with(&agreed.payment, json!({ "pgPaymentId": agreed.pg_payment, "amount": won(agreed.amount) }))
            .await
    }

    async fn approve_with(&self, payment: &str, body: Value) -> Answer {
        self.post(&format!("/payments/{payment}/approve"), &body).await
    }

    async fn charges(&self, amount: i64) {
        let request = self.request(reqwest::Method::POST, "/points/charge").header("Idempotency-Key", fresh_key());
        self.send(request.json(&json!({ "amount": won(amount) }))).await.expect(201);
    }

    async fn payment(&self, id: &str) -> Value {
        self.get(&format!("/payments/{id}")).await.expect(200).json()
    }

    async fn sees_payment(&self, id: &str, status: &str) -> Value {
        eventually(&format!("payment {id} is {status}"), async || {
            let payment = self.payment(id).await;
            (payment["status"] == status).then_some(payment)
        })
        .await
    }

    async fn sees_order(&self, id: &str, status: &str) -> Value {
        eventually(&format!("order {id} is {status}"), async || {
            let order = self.get(&format!("/orders/{id}")).await.expect(200).json();
            (order["status"] == status).then_some(order)
        })
        .await
    }

    async fn cancels_payment(&self, key: &str, payment: &str, body: &Value) -> Answer {
        let request = self.request(reqwest::Method::POST, &format!("/payments/{payment}/cancel"));
        self.send(request.header("Idempotency-Key", key).json(body)).await
    }
}

/// The buyer presses the button in the provider's window.
pub async fn authorise(site: &Site, payment: &str, amount: i64) -> String {
    let agreed = json!({ "merchantPayKey": payment, "amount": amount });
    let url = format!("{}/checkout", site.provider());
    let answer = reqwest::Client::new().post(url).json(&agreed).send().await.expect("the provider answers");
    text(&answer.json::<Value>().await.expect("in JSON")["paymentId"])
}

pub fn won(amount: i64) -> Value {
    json!({ "amount": amount, "currency": "KRW" })
}

/// What the provider does from now on.
pub async fn misbehaves(fakes: &Fakes, faults: &Value) {
    let put = reqwest::Client::new().put(format!("{}/faults", fakes.url())).json(faults).send();
    assert!(put.await.expect("the provider answers").status().is_success());
}
