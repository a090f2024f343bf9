//! A merchant with fakes of its own for each test.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use reqwest::{RequestBuilder, StatusCode};
use sandbox::Fakes;
use serde_json::{Value, json};

pub const APPLY: &str = "naverpay-partner/naverpay/payments/v2.2/apply/payment";
pub const HISTORY: &str = "naverpay-partner/naverpay/payments/v2.2/list/history";
pub const CANCEL: &str = "naverpay-partner/naverpay/payments/v1/cancel";

/// Nothing here takes this long unless it is broken.
const LIMIT: Duration = Duration::from_secs(20);

pub struct Merchant {
    url: String,
    /// None if they are somebody else's.
    fakes: Option<Fakes>,
    pub http: reqwest::Client,
}

impl Merchant {
    pub async fn new() -> Merchant {
        Merchant::with(Fakes::start().await.unwrap())
    }

    pub fn with(fakes: Fakes) -> Merchant {
        let merchant = Merchant::at(fakes.url());
        Merchant { fakes: Some(fakes), ..merchant }
    }

    pub fn at(url: &str) -> Merchant {
        let http = reqwest::Client::builder().no_proxy().timeout(LIMIT).build().unwrap();
        Merchant { url: url.to_owned(), fakes: None, http }
    }

    pub fn fakes(&self) -> &Fakes {
        self.fakes.as_ref().unwrap()
    }

    /// Ends the fakes.
    pub async fn stop(self) {
        self.fakes.unwrap().stop().await.unwrap();
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.url)
    }

    pub async fn get(&self, path: &str) -> Value {
        self.http.get(self.url(path)).send().await.unwrap().json().await.unwrap()
    }

    pub async fn put(&self, path: &str, body: Value) -> StatusCode {
        self.http.put(self.url(path)).json(&body).send().await.unwrap().status()
    }

    /// A payment that the buyer agrees to: its id.
    pub async fn checkout(&self, merchant_pay_key: &str, amount: i64) -> String {
        let body = json!({ "merchantPayKey": merchant_pay_key, "amount": amount });
        let answer = self.http.post(self.url("checkout")).json(&body).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["resultCode"], "Success");
        answer["paymentId"].as_str().unwrap().to_owned()
    }

    pub fn ask(&self, path: &str, key: &str) -> RequestBuilder {
        let request = self
            .http
            .post(self.url(path))
            .header("X-Naver-Client-Id", "client")
            .header("X-Naver-Client-Secret", "secret")
            .header("X-NaverPay-Chain-Id", "chain");
        if key.is_empty() { request } else { request.header("X-NaverPay-Idempotency-Key", key) }
    }

    pub fn asked_to_capture(&self, payment_id: &str, key: &str) -> RequestBuilder {
        self.ask(APPLY, key).form(&[("paymentId", payment_id)])
    }

    pub async fn capture(&self, payment_id: &str, key: &str) -> Value {
        self.asked_to_capture(payment_id, key).send().await.unwrap().json().await.unwrap()
    }

    pub fn asked_to_cancel(&self, payment_id: &str, key: &str, amount: i64) -> RequestBuilder {
        self.ask(CANCEL, key).json(&json!({
            "paymentId": payment_id,
            "cancelAmount": amount,
            "cancelReason": "why not",
            "cancelRequester": "2",
            "taxScopeAmount": amount,
            "taxExScopeAmount": 0,
        }))
    }

    pub async fn cancel(&self, payment_id: &str, key: &str, amount: i64) -> Value {
        self.asked_to_cancel(payment_id, key, amount).send().await.unwrap().json().await.unwrap()
    }

    pub async fn history(&self, query: Value) -> Value {
        self.ask(HISTORY, "").json(&query).send().await.unwrap().json().await.unwrap()
    }

    /// The codes and amounts of a payment's rows.
    pub async fn rows(&self, payment_id: &str) -> Vec<(String, i64)> {
        let answer = self.history(json!({ "paymentId": payment_id })).await;
        assert_eq!(answer["code"], "Success");
        let row = |row: &Value| {
            let code = row["admissionTypeCode"].as_str().unwrap();
            let state = row["admissionState"].as_str().unwrap();
            (format!("{code} {state}"), row["totalPayAmount"].as_i64().unwrap())
        };
        answer["body"]["list"].as_array().unwrap().iter().map(row).collect()
    }

    pub async fn totals(&self) -> Value {
        self.get("book/totals").await
    }

    /// What `path` answers, once it is as wanted.
    pub async fn until(&self, path: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let page = self.get(path).await;
            if is_wanted(&page) {
                return page;
            }
            assert!(started.elapsed() < LIMIT, "{path} is still {page}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A folder that no other test uses.
pub fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("stampede-fakes-{name}-{}", std::process::id()));
    if folder.exists() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
    folder
}
