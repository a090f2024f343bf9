//! The buyer's side: the provider's window, where a payment is agreed to before any money moves.

use actix_web::http::header::ContentType;
use actix_web::web::{Data, Query, ServiceConfig};
use actix_web::{HttpResponse, get, post};
use chrono::{TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answers::broken;
use super::provider::Provider;
use crate::connection::{FormOrJson, form_or_json};

/// How long a buyer's consent is good for.
const AUTHORISATION_SECONDS: u32 = 600;

/// A trillion won.
const AMOUNT_MAX: i64 = 1_000_000_000_000;

const MERCHANT_PAY_KEY_CHARS_MAX: usize = 64;

const PRODUCT_NAME_CHARS_MAX: usize = 128;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Checkout {
    merchant_pay_key: String,
    amount: i64,
    product_name: Option<String>,
    /// Less than the usual ten minutes, for tests.
    valid_seconds: Option<u32>,
}

impl Checkout {
    fn is_in_bounds(&self) -> bool {
        let key = &self.merchant_pay_key;
        // What cannot be in a merchant's key cannot be in the page either.
        let plain = key.chars().all(|char| char.is_ascii_alphanumeric() || "-_.".contains(char));
        let titled = self.product_name.as_ref().is_none_or(|name| name.chars().count() <= PRODUCT_NAME_CHARS_MAX);
        let keyed = plain && (1..=MERCHANT_PAY_KEY_CHARS_MAX).contains(&key.len());
        keyed && titled && (1..=AMOUNT_MAX).contains(&self.amount)
    }
}

/// A button to press; what it says is for a person.
#[get("/checkout")]
async fn show_window(request: Query<Checkout>) -> HttpResponse {
    if !request.is_in_bounds() {
        return out_of_bounds();
    }
    let Checkout { merchant_pay_key, amount, .. } = request.into_inner();
    HttpResponse::Ok().content_type(ContentType::html()).body(format!(
        "<!doctype html><title>Pay</title><h1>₩{amount}</h1><form method=post action=/checkout>\
         <input type=hidden name=merchantPayKey value=\"{merchant_pay_key}\">\
         <input type=hidden name=amount value={amount}><button>Agree</button></form>\
         <p>A pretended payment provider: no money moves. Approve the payment with the paymentId that this answers."
    ))
}

#[post("/checkout")]
async fn checkout(provider: Data<Provider>, request: FormOrJson<Checkout>) -> HttpResponse {
    let request = form_or_json(request);
    if !request.is_in_bounds() {
        return out_of_bounds();
    }
    let Checkout { merchant_pay_key, amount, product_name, valid_seconds } = request;
    let now = Utc::now();
    let valid_seconds = valid_seconds.unwrap_or(AUTHORISATION_SECONDS).min(AUTHORISATION_SECONDS);
    let lapses_at = now + TimeDelta::seconds(valid_seconds.into());
    let entry = provider.book().authorise(merchant_pay_key, product_name, amount, now, lapses_at);
    let Some((payment_id, entry)) = entry else {
        return HttpResponse::ServiceUnavailable().json(fail("the book is full: start with a fresh data folder"));
    };
    // A buyer who leaves does not take it back.
    match tokio::spawn(async move { provider.record(entry).await }).await {
        Ok(Ok(_)) => HttpResponse::Ok().json(json!({ "paymentId": payment_id, "resultCode": "Success" })),
        failed => broken(&failed),
    }
}

fn out_of_bounds() -> HttpResponse {
    HttpResponse::BadRequest().json(fail("merchantPayKey, amount or productName is out of bounds"))
}

fn fail(message: &str) -> Value {
    json!({ "resultCode": "Fail", "resultMessage": message })
}

pub(super) fn routes(routes: &mut ServiceConfig) {
    routes.service(show_window).service(checkout);
}
