//! One key prepares one payment, whatever happens at the same time.

use client::fresh_key;
use uuid::Uuid;

use crate::shop::{AMOUNT, Shop, prepare, prepare_by};

/// Both have looked for a payment of their key and found none when one of them is faster.
#[tokio::test(flavor = "multi_thread")]
async fn another_body_under_a_key_is_refused_while_the_first_request_is_under_way() {
    let shop = Shop::start().await;
    let (buyer, key, order) = (shop.site.buyer().await, fresh_key(), Uuid::now_v7().to_string());
    let mut wait = shop.upstreams.wait("BeginPayment");
    let slow = tokio::spawn({
        let (buyer, key, order) = (buyer.clone(), key.clone(), order.clone());
        async move { prepare(&buyer, &key, &order, AMOUNT).await }
    });
    wait.reached().await;
    prepare_by(&buyer, "POINTS", &key, &order, AMOUNT).await.expect(201);
    wait.resume();
    slow.await.unwrap().refused(422, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(shop.site.number("select count(*) from {payment}.payments").await, 1);
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_keeps_its_answer_after_the_order_has_ended() {
    let shop = Shop::start().await;
    let (buyer, key, order) = (shop.site.buyer().await, fresh_key(), Uuid::now_v7().to_string());
    let first = prepare(&buyer, &key, &order, AMOUNT).await.expect(201);
    shop.upstreams.set(&order, "EXPIRED");
    let again = prepare(&buyer, &key, &order, AMOUNT).await.expect(201);
    assert_eq!((again.is_replay(), &again.body), (true, &first.body));
    prepare_by(&buyer, "POINTS", &key, &order, AMOUNT).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    prepare(&buyer, &key, &order, AMOUNT + 1).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    prepare(&buyer, &fresh_key(), &order, AMOUNT).await.refused(409, "ORDER_NOT_PAYABLE");
    shop.stop().await;
}

/// The order ends between the faster and the slower of two equal requests.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_retry_gets_the_first_answer_although_the_order_has_ended() {
    let shop = Shop::start().await;
    let (buyer, key, order) = (shop.site.buyer().await, fresh_key(), Uuid::now_v7().to_string());
    let mut wait = shop.upstreams.wait("BeginPayment");
    let slow = tokio::spawn({
        let (buyer, key, order) = (buyer.clone(), key.clone(), order.clone());
        async move { prepare(&buyer, &key, &order, AMOUNT).await }
    });
    wait.reached().await;
    let first = prepare(&buyer, &key, &order, AMOUNT).await.expect(201);
    shop.upstreams.set(&order, "CANCELLED");
    wait.resume();
    let again = slow.await.unwrap().expect(201);
    assert_eq!((again.is_replay(), again.body), (true, first.body));
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_two_buyers_are_different_keys() {
    let shop = Shop::start().await;
    let (key, order) = (fresh_key(), Uuid::now_v7().to_string());
    let first = prepare(&shop.site.buyer().await, &key, &order, AMOUNT).await.expect(201).json();
    let second = prepare(&shop.site.buyer().await, &key, &order, AMOUNT).await.expect(201).json();
    assert_ne!(first["paymentId"], second["paymentId"]);
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_has_a_limited_number_of_payments() {
    let shop = Shop::start_with(&[("payment.payments_per_order_max", "1")]).await;
    let (buyer, key, order) = (shop.site.buyer().await, fresh_key(), Uuid::now_v7().to_string());
    prepare(&buyer, &key, &order, AMOUNT).await.expect(201);
    prepare(&buyer, &fresh_key(), &order, AMOUNT).await.refused(409, "ORDER_NOT_PAYABLE");
    assert!(prepare(&buyer, &key, &order, AMOUNT).await.expect(201).is_replay());
    shop.stop().await;
}
