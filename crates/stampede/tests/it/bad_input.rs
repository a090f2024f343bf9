//! Input that no honest client sends: each is refused clearly, in the error body that was promised, and changes nothing.

mod authorisation;
mod bodies;
mod edges;
mod ids;
mod owners;
mod queries;
mod tokens;

use crate::ledger::Ledger;
use crate::site::system;
use std::collections::BTreeMap;
use testkit::{Answer, Client, Product, Site, fresh_key, text};

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

/// A site with one of everything, and what its databases held before the trial.
struct Trial {
    site: Site,
    buyer: Client,
    stranger: Client,
    admin: Client,
    product: Product,
    order: String,
    payment: String,
    notification: String,
    delivery: String,
    before: BTreeMap<String, String>,
    flaws: Vec<String>,
}

impl Trial {
    async fn start() -> Trial {
        let site = system().start().await;
        let [buyer, stranger]: [_; 2] = site.buyers(2).await.try_into().expect("two buyers");
        let (admin, product) = (site.admin(), site.product(100).await);
        let order = text(&buyer.order(&fresh_key(), &product, 1).await.expect(201).json()["orderId"]);
        let won = buyer.get(&format!("/orders/{order}")).await.expect(200).json()["totals"]["amount"].clone();
        let prepare = json!({ "orderId": order, "method": "NAVERPAY", "amount": won });
        let request = buyer.request(Method::POST, "/payments/prepare").header("Idempotency-Key", fresh_key());
        let payment = text(&buyer.send(request.json(&prepare)).await.expect(201).json()["paymentId"]);
        site.settled().await;
        let notification = buyer.get("/notifications").await.expect(200).json()["items"][0].clone();
        let before = site.everything().await;
        Trial {
            notification: text(&notification["notificationId"]),
            delivery: text(&notification["deliveries"][0]["deliveryId"]),
            site,
            buyer,
            stranger,
            admin,
            product,
            order,
            payment,
            before,
            flaws: Vec::new(),
        }
    }

    /// Sends what must be refused as the client's own mistake. Returns the answer for a closer look.
    async fn refuse(&mut self, what: &str, by: &Client, request: RequestBuilder) -> Answer {
        let answer = by.send(request).await;
        let wrong = match answer.checked_problem() {
            Err(flaw) => Some(flaw),
            Ok(_) if !answer.status.is_client_error() => Some("not a 4xx".to_owned()),
            Ok(_) => None,
        };
        if let Some(wrong) = wrong {
            self.flaws.push(shortened(&format!("{what}: {wrong}: {answer}")));
        }
        answer
    }

    /// The same, with the status and the code that it must be refused with.
    async fn refuse_with(&mut self, what: &str, by: &Client, request: RequestBuilder, status: u16, code: &str) {
        let known_flaws = self.flaws.len();
        let answer = self.refuse(what, by, request).await;
        let found = serde_json::from_str::<Value>(&answer.body).unwrap_or_default()["code"].clone();
        if self.flaws.len() == known_flaws && (answer.status.as_u16(), &found) != (status, &json!(code)) {
            self.flaws.push(shortened(&format!("{what}: not {status} {code}: {answer}")));
        }
    }

    /// Everything was refused, and the databases are as they were.
    async fn end(mut self) {
        self.site.settled().await;
        let after = self.site.everything().await;
        for (table, before) in &self.before {
            if after.get(table) != Some(before) {
                self.flaws.push(format!("{table} was {before} and is {:?}", after.get(table)));
            }
        }
        let flaws = &self.flaws;
        assert!(flaws.is_empty(), "{} flaws:\n{}", flaws.len(), flaws.join("\n"));
    }

    /// Every route that takes a body, with a request that would be accepted, and who would send it.
    fn doors(&self) -> Vec<Door> {
        let shipping =
            json!({ "recipient": "Kim", "phone": "010-0000-0000", "postalCode": "04524", "address": "Seoul" });
        let price = json!({ "amount": 1000, "currency": "KRW" });
        let item = json!({ "productId": self.product.id, "quantity": 1 });
        let refresh = json!({ "refreshToken": "A".repeat(43) });
        let mut doors = vec![
            self.door(
                Method::POST,
                "/auth/register",
                None,
                json!({ "email": "new@example.com", "password": "long enough", "name": "Kim" }),
                &[],
            ),
            self.door(
                Method::POST,
                "/auth/login",
                None,
                json!({ "email": "new@example.com", "password": "long enough" }),
                &[],
            ),
            self.door(Method::POST, "/auth/refresh", None, refresh.clone(), &[]),
            self.door(Method::POST, "/auth/logout", None, refresh, &[]),
            self.door(
                Method::POST,
                "/admin/products",
                Some(&self.admin),
                json!({ "sku": "NEW-1", "name": "New", "price": price, "initialStock": 1, "maxPerUser": 2 }),
                &["maxPerUser"],
            ),
            self.door(
                Method::PATCH,
                &format!("/admin/products/{}", self.product.id),
                Some(&self.admin),
                json!({ "name": "Other", "price": price, "maxPerUser": 2 }),
                &["name", "price", "maxPerUser"],
            ),
            self.door(
                Method::POST,
                &format!("/admin/products/{}/stock-adjust", self.product.id),
                Some(&self.admin),
                json!({ "delta": 1, "reason": "counted", "reference": "note" }),
                &["reference"],
            ),
            self.door(
                Method::POST,
                "/orders",
                Some(&self.buyer),
                json!({ "items": [item], "shippingInfo": shipping }),
                &["shippingInfo"],
            ),
            self.door(
                Method::POST,
                &format!("/orders/{}/cancel", self.order),
                Some(&self.buyer),
                json!({ "reason": "changed my mind" }),
                &["reason"],
            ),
        ];
        doors.extend(self.doors_of_money());
        doors.push(self.door_of_coupons());
        doors.extend(self.doors_of_the_hub());
        doors
    }

    fn door_of_coupons(&self) -> Door {
        let coupon = json!({
            "name": "New", "discount": { "kind": "PERCENT", "value": 10 }, "currency": "KRW", "total": 10,
            "startsAt": "2026-01-01T00:00:00Z", "expiresAt": "2036-01-01T00:00:00Z", "restoredOnRefund": true,
            "maximumDiscount": 1000,
        });
        self.door(Method::POST, "/admin/coupons", Some(&self.admin), coupon, &["maximumDiscount"])
    }

    /// Without those whose bodies may be empty lists or objects: the tests of the hub knock at them.
    fn doors_of_the_hub(&self) -> Vec<Door> {
        let scopes = json!(["notifications:read"]);
        let channels = json!([{ "channel": "SLACK" }]);
        vec![
            self.door(
                Method::POST,
                "/admin/api-keys",
                Some(&self.admin),
                json!({ "client": "monitoring", "scopes": scopes }),
                &[],
            ),
            self.door(
                Method::PUT,
                "/admin/webhook-endpoints/shop",
                Some(&self.admin),
                json!({ "url": "https://hooks.example.com/" }),
                &[],
            ),
            self.door(
                Method::POST,
                "/notifications",
                Some(&self.admin),
                json!({ "type": "INCIDENT", "channels": channels, "subject": "Down", "body": "All of it." }),
                &[],
            ),
        ]
    }

    fn doors_of_money(&self) -> Vec<Door> {
        let price = json!({ "amount": 1000, "currency": "KRW" });
        vec![
            self.door(
                Method::POST,
                "/payments/prepare",
                Some(&self.buyer),
                json!({ "orderId": self.order, "method": "NAVERPAY", "amount": price }),
                &[],
            ),
            self.door(
                Method::POST,
                &format!("/payments/{}/approve", self.payment),
                Some(&self.buyer),
                json!({ "pgPaymentId": "agreed", "amount": price }),
                // Another amount than the payment's is refused first.
                &["pgPaymentId"],
            ),
            self.door(
                Method::POST,
                &format!("/payments/{}/cancel", self.payment),
                Some(&self.buyer),
                json!({ "reason": "changed my mind" }),
                &[],
            ),
            self.door(Method::POST, "/points/charge", Some(&self.buyer), json!({ "amount": price }), &[]),
        ]
    }

    fn door(
        &self,
        method: Method,
        path: &str,
        by: Option<&Client>,
        valid: Value,
        optional: &'static [&'static str],
    ) -> Door {
        let by = by.cloned().unwrap_or_else(|| self.site.anyone());
        Door { method, path: path.to_owned(), by, valid, optional }
    }
}

/// A route that takes a body.
struct Door {
    method: Method,
    path: String,
    by: Client,
    valid: Value,
    /// Members that may be absent or null.
    optional: &'static [&'static str],
}

impl Door {
    /// A request with everything but a body.
    fn knock(&self) -> RequestBuilder {
        let request = self.by.request(self.method.clone(), &self.path).header("Idempotency-Key", fresh_key());
        if self.method == Method::PATCH { request.header("If-Match", "*") } else { request }
    }

    fn with_text(&self, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.knock().header("Content-Type", "application/json").body(body)
    }

    fn with(&self, body: &Value) -> RequestBuilder {
        self.with_text(body.to_string())
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(400).collect()
}
