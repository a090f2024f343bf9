//! `POST /orders`: one key, one order, at the prices of the hold.

use serde_json::json;
use testkit::proxy::Proxy;
use testkit::{fresh_key, line};

use crate::inventory::UNIT_PRICE;
use crate::site::{AMOUNT, NO_SWEEP, OrderSite, Placed, outcome, sneaker, soon};

#[tokio::test(flavor = "multi_thread")]
async fn a_used_key_names_its_order_and_no_other_request_even_when_everything_is_sold() {
    let site = OrderSite::start().await;
    let (buyer, key) = (site.buyer().await, fresh_key());
    let placed = buyer.order(&key, &sneaker(), 2).await.expect(201);
    site.inventory.sell_out();

    let replayed = buyer.order(&key, &sneaker(), 2).await.expect(201);
    assert_eq!((replayed.is_replay(), &replayed.body), (true, &placed.body));
    buyer.order(&key, &sneaker(), 1).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    let with_address = json!({ "items": [line(&sneaker(), 2)], "shippingInfo": address("Seoul") });
    buyer.place(&key, &with_address).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    buyer.order(&fresh_key(), &sneaker(), 2).await.refused(409, "OUT_OF_STOCK");
    assert_eq!(site.number("select count(*) from {order}.orders").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_request_under_a_used_key_is_refused() {
    let site = OrderSite::start().await;
    let (buyer, key) = (site.buyer().await, fresh_key());
    buyer.order(&key, &sneaker(), 2).await.expect(201);
    buyer.order(&key, &sneaker(), 1).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    let with_address = json!({ "items": [line(&sneaker(), 2)], "shippingInfo": address("Seoul") });
    buyer.place(&key, &with_address).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    assert!(buyer.order(&key, &sneaker(), 2).await.expect(201).is_replay());
}

#[tokio::test(flavor = "multi_thread")]
async fn prices_come_from_the_hold_and_never_from_the_request() {
    let site = OrderSite::start().await;
    let buyer = site.buyer().await;
    for price in [json!(1), json!({ "amount": 1, "currency": "KRW" })] {
        let item = json!({ "productId": sneaker().id, "quantity": 2, "unitPrice": price });
        buyer.place(&fresh_key(), &json!({ "items": [item] })).await.refused(400, "VALIDATION_ERROR");
    }
    let order = buyer.order(&fresh_key(), &sneaker(), 2).await.expect(201).json();
    assert_eq!(order["items"][0]["unitPrice"], json!({ "amount": UNIT_PRICE, "currency": "KRW" }));
    assert_eq!(order["totals"]["amount"], json!({ "amount": AMOUNT, "currency": "KRW" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_goes_where_its_request_says() {
    let site = OrderSite::start().await;
    let buyer = site.buyer().await;
    for shipping in [
        address("Seoul"),
        json!({ "recipient": "김하나", "phone": "010-0000-0000", "postalCode": "04524", "address": "서울특별시 중구", "memo": "문 앞" }),
    ] {
        let request = json!({ "items": [line(&sneaker(), 2)], "shippingInfo": shipping });
        let placed = buyer.place(&fresh_key(), &request).await.expect(201).json();
        let order = Placed { id: testkit::text(&placed["orderId"]), buyer: buyer.clone() };
        assert_eq!(placed["shippingInfo"], shipping);
        assert_eq!(site.read(&order).await["shippingInfo"], shipping);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_that_get_one_request_at_once_place_one_order() {
    let site = OrderSite::start().await;
    let replica = site.replica(&NO_SWEEP).await;
    let (buyer, key) = (site.buyer().await, fresh_key());
    let second = replica.place(&buyer, &key);
    let (first, second) = site.overlapping("order.before_commit", site.place(&buyer, &key), second).await;
    assert_eq!((first.expect(201).is_replay(), second.is_replay()), (false, true));
    let order = Placed { id: testkit::text(&second.json()["orderId"]), buyer };
    assert_eq!(site.events(&order).await, ["ORDER_CREATED 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_that_get_two_requests_under_one_key_place_the_first() {
    let site = OrderSite::start().await;
    let replica = site.replica(&NO_SWEEP).await;
    let (buyer, key) = (site.buyer().await, fresh_key());
    let request = |city: &str| json!({ "items": [line(&sneaker(), 2)], "shippingInfo": address(city) });
    let (seoul, busan) = (request("Seoul"), request("Busan"));
    let other = replica.user_of(&buyer);
    let (first, second) =
        site.overlapping("order.before_commit", buyer.place(&key, &seoul), other.place(&key, &busan)).await;
    let first = first.expect(201).json();
    second.refused(422, "IDEMPOTENCY_KEY_REUSED");
    let order = Placed { id: testkit::text(&first["orderId"]), buyer };
    assert_eq!(site.read(&order).await["shippingInfo"]["address"], "Seoul");
    assert_eq!(site.events(&order).await, ["ORDER_CREATED 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_units_are_held_is_stored_even_if_its_client_disconnects() {
    let site = OrderSite::start().await;
    let (buyer, key) = (site.buyer().await, fresh_key());
    let mut paused = site.pause("order", "order.after_hold");
    let proxy = Proxy::to(&site.api).await;
    let client = buyer.at(&proxy.url(&site.api));
    let request = client.placing(&key, &json!({ "items": [line(&sneaker(), 2)] }));
    let answer = tokio::spawn(async move { client.try_send(request).await });
    soon("the units are held", paused.reached()).await;
    proxy.reset().await;
    assert!(answer.await.unwrap().is_err(), "the client has disconnected");
    // The site's only HTTP worker has cut off whatever ends with its connection before it answers this.
    assert!(site.listed(&buyer, "CREATED").await.is_empty());
    let promise = "an order whose units are held is stored even if its client disconnects";
    assert!(paused.is_waiting(), "{promise}");
    paused.resume();
    soon(promise, site.until_number("select count(*) from {order}.orders", 1)).await;
    assert_eq!(outcome(&buyer.order(&key, &sneaker(), 2).await), (201, "CREATED".to_owned()));
}

fn address(city: &str) -> serde_json::Value {
    json!({ "recipient": "Kim", "phone": "010-0000-0000", "postalCode": "04524", "address": city })
}
