//! `POST /orders` with a coupon: what it takes off comes from the coupon service, once for each key.

use contract::codes::COUPON_NOT_APPLICABLE;
use serde_json::{Value, json};
use testkit::{fresh_key, line, text};
use uuid::Uuid;

use crate::coupon::DISCOUNT;
use crate::inventory::UNIT_PRICE;
use crate::site::{AMOUNT, OrderSite, Placed, code, sneaker, soon};

fn won(amount: i64) -> Value {
    json!({ "amount": amount, "currency": "KRW" })
}

fn request(issue: Uuid) -> Value {
    json!({ "items": [line(&sneaker(), 2)], "couponIssueId": issue })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_costs_less_by_what_the_coupon_service_says() {
    let site = OrderSite::start().await;
    let (buyer, key, issue) = (site.buyer().await, fresh_key(), Uuid::now_v7());
    let placed = buyer.place(&key, &request(issue)).await.expect(201);
    let order = placed.json();
    let totals = json!({ "items": won(AMOUNT), "discount": won(DISCOUNT), "amount": won(AMOUNT - DISCOUNT) });
    assert_eq!((&order["totals"], &order["couponIssueId"]), (&totals, &json!(issue)));
    let item = &order["items"][0];
    assert_eq!((&item["unitPrice"], &item["discount"]), (&won(UNIT_PRICE), &won(DISCOUNT)));
    assert_eq!(buyer.place(&key, &request(issue)).await.expect(201).body, placed.body, "a replay is the same");
    buyer.place(&key, &request(Uuid::now_v7())).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    buyer.order(&key, &sneaker(), 2).await.refused(422, "IDEMPOTENCY_KEY_REUSED");

    let order = Placed { id: text(&order["orderId"]), buyer };
    assert_eq!(code(&site.begin_payment(&order, Uuid::now_v7()).await), "AMOUNT_MISMATCH", "the price is the new one");
    let told = site.get(&order).await;
    assert_eq!((told.amount, told.discount, told.coupon_issue_id), (AMOUNT - DISCOUNT, DISCOUNT, issue.to_string()));
    let reserved = site.coupon.reserved(&order.id).unwrap();
    assert_eq!(reserved.expires_at, told.hold_expires_at, "it is reserved as long as the units");
    site.cancel(&order).await.expect(200);
    for (event, payload) in site.events_with_payloads(&order).await {
        assert_eq!(payload["couponIssueId"], json!(issue), "{event}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_coupon_is_refused_is_not_stored_and_its_units_go_back() {
    let site = OrderSite::start().await;
    let (buyer, key) = (site.buyer().await, fresh_key());
    site.coupon.refuse(COUPON_NOT_APPLICABLE);
    buyer.place(&key, &request(Uuid::now_v7())).await.refused(422, "COUPON_NOT_APPLICABLE");
    assert_eq!(site.inventory.released().len(), 1);
    assert_eq!(site.number("select count(*) from {order}.orders").await, 0);
    buyer.order(&fresh_key(), &sneaker(), 2).await.expect(201);
}

/// An order that exists is not touched by what is refused now: its coupon may be used up by the order itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_coupon_takes_no_units_from_an_order_that_exists() {
    let site = OrderSite::start().await;
    let (buyer, key, issue) = (site.buyer().await, fresh_key(), Uuid::now_v7());
    let mut paused = site.pause("order", "order.after_coupon");
    let first = tokio::spawn({
        let (buyer, key) = (buyer.clone(), key.clone());
        async move { buyer.place(&key, &request(issue)).await }
    });
    soon("the coupon is reserved", paused.reached()).await;
    let placed = buyer.place(&key, &request(issue)).await.expect(201);
    paused.resume();
    let replayed = first.await.unwrap().expect(201);
    assert_eq!((replayed.is_replay(), &replayed.body), (true, &placed.body), "two requests place one order");
    site.coupon.refuse(COUPON_NOT_APPLICABLE);
    assert_eq!(buyer.place(&key, &request(issue)).await.expect(201).body, placed.body);
    assert_eq!(site.inventory.released(), [""; 0], "the units of a stored order stay held");
}
