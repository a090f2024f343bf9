//! The provider's webhooks: signed, repeated until they are taken, duplicated, reordered and forged as asked for.

use std::sync::Arc;

use actix_web::dev::ServerHandle;
use actix_web::web::{Bytes, Data};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::Merchant;

const SECRET: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// One attempt as it arrived.
#[derive(Clone, Debug)]
struct Received {
    id: String,
    is_genuine: bool,
    body: Value,
}

/// Listens for webhooks; refuses the first few, and whatever is forged.
struct Listener {
    url: String,
    received: Arc<Mutex<Vec<Received>>>,
    server: ServerHandle,
}

async fn receive(
    received: Data<Mutex<Vec<Received>>>,
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
    let mut received = received.lock();
    received.push(Received { id, is_genuine, body: serde_json::from_str(text).unwrap() });
    match (is_genuine, received.len() <= **refusals) {
        (false, _) => HttpResponse::Unauthorized().finish(),
        (true, true) => HttpResponse::ServiceUnavailable().finish(),
        (true, false) => HttpResponse::Ok().finish(),
    }
}

impl Listener {
    fn start(refusals: usize) -> Listener {
        let received = Arc::new(Mutex::new(Vec::new()));
        let data = Data::from(Arc::clone(&received));
        let server = HttpServer::new(move || {
            App::new().app_data(data.clone()).app_data(Data::new(refusals)).route("/", web::post().to(receive))
        })
        .workers(1)
        .disable_signals()
        .bind(("127.0.0.1", 0))
        .unwrap();
        let url = format!("http://{}/", server.addrs()[0]);
        let server = server.run();
        let handle = server.handle();
        tokio::spawn(server);
        Listener { url, received, server: handle }
    }

    fn received(&self) -> Vec<Received> {
        self.received.lock().clone()
    }
}

async fn listening(merchant: &Merchant, refusals: usize) -> Listener {
    let listener = Listener::start(refusals);
    let target = json!({ "url": listener.url, "secret": format!("whsec_{SECRET}") });
    assert_eq!(merchant.put("webhooks", target).await, StatusCode::NO_CONTENT);
    listener
}

#[tokio::test]
async fn a_webhook_is_sent_again_until_it_is_taken() {
    let merchant = Merchant::new().await;
    let not_told = merchant.checkout("order-0", 12_000).await;
    merchant.capture(&not_told, "key-0").await;
    let listener = listening(&merchant, 2).await;
    let payment = merchant.checkout("order-1", 12_000).await;
    merchant.capture(&payment, "key-1").await;
    merchant.capture(&payment, "key-1").await;
    for attempt in 1..=2 {
        merchant.until("webhooks", |page| page["counts"]["answers"]["503"] == attempt).await;
        merchant.fakes().until_silent(1).await;
        merchant.fakes().end_silences();
    }
    merchant.until("webhooks", |page| page["counts"]["taken"] == 1).await;
    let received = listener.received();
    assert_eq!(received.len(), 3);
    assert!(received.iter().all(|attempt| attempt.is_genuine));
    assert!(received.iter().all(|attempt| attempt.id == received[0].id && attempt.body == received[0].body));
    assert_eq!(received[0].body["type"], "payment.approved");
    let data = json!({ "paymentId": payment, "merchantPayKey": "order-1", "amount": 12_000, "currency": "KRW" });
    assert_eq!(received[0].body["data"], data);

    merchant.cancel(&payment, "c-1", 5_000).await;
    let page = merchant.until("webhooks", |page| page["counts"]["taken"] == 2).await;
    let last = listener.received().pop().unwrap();
    assert_eq!((&last.body["type"], &last.body["data"]["amount"]), (&json!("payment.cancelled"), &json!(5_000)));
    assert_ne!(last.id, received[0].id);
    assert_eq!((&page["counts"]["answers"]["503"], &page["waiting"]), (&json!(2), &json!(0)));
    listener.server.stop(false).await;
}

#[tokio::test]
async fn webhooks_can_be_duplicated_and_accompanied_by_forged_ones() {
    let merchant = Merchant::new().await;
    let listener = listening(&merchant, 0).await;
    merchant.put("faults", json!({ "duplicateWebhooks": 1.0, "forgedWebhooks": 1.0 })).await;
    let payment = merchant.checkout("order-1", 12_000).await;
    merchant.capture(&payment, "key-1").await;
    let page = merchant.until("webhooks", |page| page["counts"]["taken"] == 2).await;
    assert_eq!((&page["counts"]["forged"], &page["counts"]["forgedTaken"]), (&json!(1), &json!(0)));
    let (genuine, forged): (Vec<Received>, Vec<Received>) =
        listener.received().into_iter().partition(|received| received.is_genuine);
    assert_eq!(genuine.len(), 2);
    assert_eq!(genuine[0].id, genuine[1].id);
    assert_eq!((forged.len(), &forged[0].body["type"]), (1, &json!("payment.cancelled")));
    assert_eq!(forged[0].body["data"]["paymentId"], payment);
    listener.server.stop(false).await;
}

#[tokio::test]
async fn a_reordered_webhook_is_overtaken() {
    let merchant = Merchant::new().await;
    let listener = listening(&merchant, 0).await;
    let payment = merchant.checkout("order-1", 12_000).await;
    merchant.put("faults", json!({ "reorderWebhooks": 1.0, "reorderMs": 90_000 })).await;
    merchant.capture(&payment, "key-1").await;
    merchant.fakes().until_silent(1).await;
    merchant.put("faults", json!({})).await;
    merchant.cancel(&payment, "c-1", 12_000).await;
    merchant.until("webhooks", |page| page["counts"]["taken"] == 1).await;
    merchant.fakes().end_silences();
    let page = merchant.until("webhooks", |page| page["counts"]["taken"] == 2).await;
    assert_eq!(page["counts"]["reordered"], 1);
    let kinds: Vec<Value> = listener.received().into_iter().map(|received| received.body["type"].clone()).collect();
    assert_eq!(kinds, ["payment.cancelled", "payment.approved"]);
    listener.server.stop(false).await;
}

#[tokio::test]
async fn webhooks_stay_on_this_machine() {
    let merchant = Merchant::new().await;
    for (url, secret) in [("http://192.0.2.1/", format!("whsec_{SECRET}")), ("http://127.0.0.1:9/", "x".to_owned())] {
        assert_eq!(merchant.put("webhooks", json!({ "url": url, "secret": secret })).await, StatusCode::BAD_REQUEST);
    }
    assert_eq!(merchant.get("webhooks").await["url"], Value::Null);
}
