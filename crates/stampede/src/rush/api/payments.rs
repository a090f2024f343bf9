//! The part of the interface that takes money, and the provider's payment window beside it.

use std::time::Duration;

use anyhow::Context;
use reqwest::RequestBuilder;
use reqwest::header::AUTHORIZATION;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Api, Buyer, IDEMPOTENCY_KEY, REQUEST_TIMEOUT, retry_after};

/// The service asks the provider for ten seconds before it tells its client to come back.
const APPROVE_TIMEOUT: Duration = Duration::from_secs(20);

/// What is to be paid, as the answer to the order tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bill {
    pub order_id: Uuid,
    /// Won.
    pub amount: i64,
    currency: String,
}

/// A prepared payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    pub payment_id: Uuid,
    /// The provider's window, with what it is to be told.
    pub redirect_url: String,
}

/// What came of one request about a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A definite answer.
    Told { status: u16, body: Value },
    /// Refused for the moment: ask again after this time.
    Later(Duration),
    /// It may have happened or not.
    Unknown,
}

impl Bill {
    /// Reads the answer to an order.
    pub fn of(order: &[u8]) -> anyhow::Result<Bill> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Order {
            order_id: Uuid,
            totals: Totals,
        }
        #[derive(Deserialize)]
        struct Totals {
            amount: Money,
        }
        #[derive(Deserialize)]
        struct Money {
            amount: i64,
            currency: String,
        }
        let Order { order_id, totals: Totals { amount: Money { amount, currency } } } = serde_json::from_slice(order)?;
        Ok(Bill { order_id, amount, currency })
    }

    fn money(&self) -> Value {
        json!({ "amount": self.amount, "currency": self.currency })
    }
}

impl Prepared {
    pub fn of(answer: &Value) -> Option<Prepared> {
        let payment_id = answer["paymentId"].as_str()?.parse().ok()?;
        Some(Prepared { payment_id, redirect_url: answer["pg"]["redirectUrl"].as_str()?.to_owned() })
    }
}

impl Api {
    /// `POST /payments/prepare`, with the order's id as the key: one payment for one order, however often it is asked for.
    pub async fn prepare_payment(&self, buyer: &Buyer, bill: &Bill) -> Heard {
        let body = json!({ "orderId": bill.order_id, "method": "NAVERPAY", "amount": bill.money() });
        let Ok(url) = self.base.join("payments/prepare") else { return Heard::Unknown };
        let key = bill.order_id.to_string();
        self.hear(self.client.post(url).header(IDEMPOTENCY_KEY, key).json(&body), buyer).await
    }

    /// `POST /payments/{id}/approve` for what the buyer authorised as `pg_payment_id`.
    pub async fn approve_payment(&self, buyer: &Buyer, bill: &Bill, payment: Uuid, pg_payment_id: &str) -> Heard {
        let body = json!({ "pgPaymentId": pg_payment_id, "amount": bill.money() });
        let Ok(url) = self.base.join(&format!("payments/{payment}/approve")) else { return Heard::Unknown };
        self.hear(self.client.post(url).timeout(APPROVE_TIMEOUT).json(&body), buyer).await
    }

    /// `GET /payments/{id}`.
    pub async fn read_payment(&self, buyer: &Buyer, payment: Uuid) -> Heard {
        let Ok(url) = self.base.join(&format!("payments/{payment}")) else { return Heard::Unknown };
        self.hear(self.client.get(url), buyer).await
    }

    /// The buyer agrees in the provider's window. Returns the provider's id of that.
    pub async fn authorise(&self, redirect_url: &str) -> anyhow::Result<String> {
        let mut url = reqwest::Url::parse(redirect_url)?;
        let told: std::collections::HashMap<String, String> = url.query_pairs().into_owned().collect();
        let amount: i64 = told.get("amount").context("the window is told no amount")?.parse()?;
        let merchant_pay_key = told.get("merchantPayKey").context("the window is told no payment")?;
        url.set_query(None);
        let body = json!({ "merchantPayKey": merchant_pay_key, "amount": amount });
        let answer = self.client.post(url).timeout(REQUEST_TIMEOUT).json(&body).send().await?;
        let answer: Value = answer.error_for_status()?.json().await?;
        Ok(answer["paymentId"].as_str().context("the window answered without a payment id")?.to_owned())
    }

    async fn hear(&self, request: RequestBuilder, buyer: &Buyer) -> Heard {
        let Ok(response) = request.header(AUTHORIZATION, buyer.authorization.clone()).send().await else {
            return Heard::Unknown;
        };
        let (status, delay) = (response.status().as_u16(), retry_after(response.headers()));
        let body: Option<Value> = response.json().await.ok();
        match (status, body) {
            (429, _) => Heard::Later(delay),
            // Of a provider that certainly has not taken the money.
            (502, Some(body)) if body["code"] == "PG_ERROR" => Heard::Told { status, body },
            (408 | 500.., _) | (_, None) => Heard::Unknown,
            (_, Some(body)) => Heard::Told { status, body },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bill_is_read_from_the_answer_to_an_order() {
        let id = Uuid::from_u128(7);
        let order = json!({ "orderId": id, "totals": { "amount": { "amount": 129_000, "currency": "KRW" } }, "x": 1 });
        let bill = Bill::of(order.to_string().as_bytes()).unwrap();
        assert_eq!((bill.order_id, bill.amount), (id, 129_000));
        assert_eq!(bill.money(), json!({ "amount": 129_000, "currency": "KRW" }));
        assert!(Bill::of(b"{}").is_err());
    }

    #[test]
    fn a_prepared_payment_leads_to_the_window() {
        let id = Uuid::from_u128(7);
        let answer = json!({ "paymentId": id, "pg": { "redirectUrl": "http://x/checkout?a=b" } });
        let expected = Prepared { payment_id: id, redirect_url: "http://x/checkout?a=b".to_owned() };
        assert_eq!(Prepared::of(&answer), Some(expected));
        assert_eq!(Prepared::of(&json!({ "paymentId": id })), None);
    }
}
