//! What the provider tells: signed, repeated until it is taken, and with the lies and disorder that were asked for.

use std::sync::{Arc, Mutex};

use actix_web::dev::ServerHandle;
use actix_web::web::{Bytes, Data};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::ground::Merchant;

const SECRET: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// One attempt as it arrived.
#[derive(Clone, Debug)]
struct Heard {
    id: String,
    is_genuine: bool,
    body: Value,
}

/// Listens for webhooks; refuses the first few, and whatever is forged.
struct Listener {
    url: String,
    heard: Arc<Mutex<Vec<Heard>>>,
    server: ServerHandle,
}

async fn hear(
    heard: Data<Mutex<Vec<Heard>>>,
    refusals: Data<usize>,
    request: HttpRequest,
    body: Bytes,
) -> HttpResponse {
    let header = |name: &str| request.headers().get(name).unwrap().to_str().unwrap();
    let text = std::str::from_utf8(&body).unwrap();
    let signed = format!("{}.{}.{text}", header("webhook-id"), header("webhook-timestamp"));
    let tag = STANDARD.decode(header("webhook-signature").strip_prefix("v1,").unwrap()).unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(SECRET).unwrap());
    let is_genuine = hmac::verify(&key, signed.as_bytes(), &tag).is_ok();
    let id = header("webhook-id").to_owned();
    let mut heard = heard.lock().unwrap();
    heard.push(Heard { id, is_genuine, body: serde_json::from_str(text).unwrap() });
    match (is_genuine, heard.len() <= **refusals) {
        (false, _) => HttpResponse::Unauthorized().finish(),
        (true, true) => HttpResponse::ServiceUnavailable().finish(),
        (true, false) => HttpResponse::Ok().finish(),
    }
}

impl Listener {
    fn start(refusals: usize) -> Listener {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let data = Data::from(Arc::clone(&heard));
        let server = HttpServer::new(move || {
            App::new().app_data(data.clone()).app_data(Data::new(refusals)).route("/", web::post().to(hear))
        })
        .workers(1)
        .disable_signals()
        .bind(("127.0.0.1", 0))
        .unwrap();
        let url = format!("http://{}/", server.addrs()[0]);
        let server = server.run();
        let handle = server.handle();
        tokio::spawn(server);
        Listener { url, heard, server: handle }
    }

    fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }
}

async fn listened_to(merchant: &Merchant, refusals: usize) -> Listener {
    let listener = Listener::start(refusals);
    let target = json!({ "url": listener.url, "secret": format!("whsec_{SECRET}") });
    assert_eq!(merchant.put("webhooks", target).await, StatusCode::NO_CONTENT);
    listener
}

#[tokio::test]
async fn money_that_moves_is_told_until_it_is_taken() {
    let merchant = Merchant::new().await;
    let unheard = merchant.checkout("order-0", 12_000).await;
    merchant.capture(&unheard, "key-0").await;
    let listener = listened_to(&merchant, 2).await;
    let payment = merchant.checkout("order-1", 12_000).await;
    merchant.capture(&payment, "key-1").await;
    merchant.capture(&payment, "key-1").await;
    merchant.until("webhooks", |page| page["counts"]["taken"] == 1).await;
    let heard = listener.heard();
    assert_eq!(heard.len(), 3);
    assert!(heard.iter().all(|attempt| attempt.is_genuine));
    assert!(heard.iter().all(|attempt| attempt.id == heard[0].id && attempt.body == heard[0].body));
    assert_eq!(heard[0].body["type"], "payment.approved");
    let data = json!({ "paymentId": payment, "merchantPayKey": "order-1", "amount": 12_000, "currency": "KRW" });
    assert_eq!(heard[0].body["data"], data);

    merchant.cancel(&payment, "c-1", 5_000).await;
    let page = merchant.until("webhooks", |page| page["counts"]["taken"] == 2).await;
    let last = listener.heard().pop().unwrap();
    assert_eq!((&last.body["type"], &last.body["data"]["amount"]), (&json!("payment.cancelled"), &json!(5_000)));
    assert_ne!(last.id, heard[0].id);
    assert_eq!((&page["counts"]["answers"]["503"], &page["waiting"]), (&json!(2), &json!(0)));
    listener.server.stop(false).await;
}

#[tokio::test]
async fn told_twice_and_among_lies() {
    let merchant = Merchant::new().await;
    let listener = listened_to(&merchant, 0).await;
    merchant.put("faults", json!({ "duplicateWebhooks": 1.0, "forgedWebhooks": 1.0 })).await;
    let payment = merchant.checkout("order-1", 12_000).await;
    merchant.capture(&payment, "key-1").await;
    let page = merchant.until("webhooks", |page| page["counts"]["taken"] == 2).await;
    assert_eq!((&page["counts"]["forged"], &page["counts"]["forgedTaken"]), (&json!(1), &json!(0)));
    let (genuine, forged): (Vec<Heard>, Vec<Heard>) = listener.heard().into_iter().partition(|heard| heard.is_genuine);
    assert_eq!(genuine.len(), 2);
    assert_eq!(genuine[0].id, genuine[1].id);
    assert_eq!((forged.len(), &forged[0].body["type"]), (1, &json!("payment.cancelled")));
    assert_eq!(forged[0].body["data"]["paymentId"], payment);
    listener.server.stop(false).await;
}

#[tokio::test]
async fn a_late_one_is_overtaken() {
    let merchant = Merchant::new().await;
    let listener = listened_to(&merchant, 0).await;
    let payment = merchant.checkout("order-1", 12_000).await;
    merchant.put("faults", json!({ "reorderWebhooks": 1.0 })).await;
    merchant.capture(&payment, "key-1").await;
    merchant.until("webhooks", |page| page["counts"]["reordered"] == 1).await;
    merchant.put("faults", json!({})).await;
    merchant.cancel(&payment, "c-1", 12_000).await;
    merchant.until("webhooks", |page| page["counts"]["taken"] == 2).await;
    let kinds: Vec<Value> = listener.heard().into_iter().map(|heard| heard.body["type"].clone()).collect();
    assert_eq!(kinds, ["payment.cancelled", "payment.approved"]);
    listener.server.stop(false).await;
}

#[tokio::test]
async fn nobody_beyond_this_machine_is_told() {
    let merchant = Merchant::new().await;
    for (url, secret) in [("http://192.0.2.1/", format!("whsec_{SECRET}")), ("http://127.0.0.1:9/", "x".to_owned())] {
        assert_eq!(merchant.put("webhooks", json!({ "url": url, "secret": secret })).await, StatusCode::BAD_REQUEST);
    }
    assert_eq!(merchant.get("webhooks").await["url"], Value::Null);
}
