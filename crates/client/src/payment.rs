//! Paying for an order: prepare the payment, agree in the provider's window, approve.

use std::time::Duration;

use anyhow::Context;
use reqwest::{Method, Url};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::Client;
use crate::buyer::{Buyer, IDEMPOTENCY_KEY, Reply};

/// The service asks the provider for ten seconds before it tells its client to come back.
const APPROVE_TIMEOUT: Duration = Duration::from_secs(20);

/// What is to be paid, as the answer to the order says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bill {
    pub order_id: Uuid,
    /// Won.
    pub amount: i64,
    currency: String,
}

/// A prepared payment, and the provider's window in which the buyer agrees to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    pub payment_id: Uuid,
    /// Without a query.
    pub window: Url,
    /// What the window is sent when the buyer agrees.
    pub consent: Value,
}

impl Bill {
    /// Reads the answer to an order.
    pub fn of(order: &[u8]) -> serde_json::Result<Bill> {
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

    /// The body of `POST /payments/prepare`.
    pub fn preparation(&self) -> Value {
        json!({ "orderId": self.order_id, "method": "NAVERPAY", "amount": self.money() })
    }

    /// The body of `POST /payments/{id}/approve`; `pg_payment_id` is what the provider's window answered.
    pub fn approval(&self, pg_payment_id: &str) -> Value {
        json!({ "pgPaymentId": pg_payment_id, "amount": self.money() })
    }

    fn money(&self) -> Value {
        json!({ "amount": self.amount, "currency": self.currency })
    }
}

impl Prepared {
    /// Reads the answer to `POST /payments/prepare`.
    pub fn of(answer: &[u8]) -> anyhow::Result<Prepared> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Payment {
            payment_id: Uuid,
            pg: Pg,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Pg {
            redirect_url: String,
        }
        let Payment { payment_id, pg: Pg { redirect_url } } = serde_json::from_slice(answer)?;
        let mut window = Url::parse(&redirect_url)?;
        let value = |name: &str| window.query_pairs().find(|(found, _)| found == name).map(|(_, value)| value);
        let amount: i64 = value("amount").context("the window has no amount")?.parse()?;
        let merchant_pay_key = value("merchantPayKey").context("the window has no payment")?;
        let consent = json!({ "merchantPayKey": merchant_pay_key, "amount": amount });
        window.set_query(None);
        Ok(Prepared { payment_id, window, consent })
    }
}

/// Reads what the window answered: the provider's id of what the buyer has agreed to.
pub fn pg_payment_id(answer: &Value) -> anyhow::Result<&str> {
    answer["paymentId"].as_str().with_context(|| format!("the provider's window answered {answer}"))
}

impl Client {
    /// `POST /payments/prepare`, with the order's id as the key: one payment for one order, however often it is asked for.
    pub async fn prepare_payment_for(&self, buyer: &Buyer, bill: &Bill) -> Reply {
        let request = self.request(Method::POST, "/payments/prepare").json(&bill.preparation());
        self.attempt_built(buyer, request.header(IDEMPOTENCY_KEY, bill.order_id.to_string())).await
    }

    /// The buyer agrees in the provider's window. Returns the provider's id of that.
    pub async fn agree(&self, prepared: &Prepared) -> anyhow::Result<String> {
        let answer = self.http.post(prepared.window.clone()).json(&prepared.consent).send().await?;
        Ok(pg_payment_id(&answer.error_for_status()?.json().await?)?.to_owned())
    }

    /// `POST /payments/{id}/approve` for what the buyer agreed to as `pg_payment_id`.
    pub async fn approve_payment_for(&self, buyer: &Buyer, bill: &Bill, payment: Uuid, pg_payment_id: &str) -> Reply {
        let request = self.request(Method::POST, &format!("/payments/{payment}/approve"));
        self.attempt_built(buyer, request.timeout(APPROVE_TIMEOUT).json(&bill.approval(pg_payment_id))).await
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
        assert_eq!(bill.approval("p")["amount"], json!({ "amount": 129_000, "currency": "KRW" }));
        assert!(Bill::of(b"{}").is_err());
    }

    #[test]
    fn a_prepared_payment_has_a_window_and_what_to_send_it() {
        let id = Uuid::from_u128(7);
        let of =
            |url: &str| Prepared::of(json!({ "paymentId": id, "pg": { "redirectUrl": url } }).to_string().as_bytes());
        let prepared = of("http://127.0.0.1:9/a/checkout?merchantPayKey=key&amount=5").unwrap();
        assert_eq!((prepared.payment_id, prepared.window.as_str()), (id, "http://127.0.0.1:9/a/checkout"));
        assert_eq!(prepared.consent, json!({ "merchantPayKey": "key", "amount": 5 }));
        assert!(of("http://127.0.0.1:9/checkout?amount=5").is_err());
        assert!(of("http://127.0.0.1:9/checkout?merchantPayKey=key").is_err());
        assert!(Prepared::of(json!({ "paymentId": id }).to_string().as_bytes()).is_err());
    }
}
