//! Subscribing adds a row, unsubscribing removes it, and the row's id is the place in the order.

use serde_json::{Value, json};
use uuid::Uuid;

use super::shop::{SNEAKER, Shop, subscribe, subscriptions, unsubscribe};

#[tokio::test(flavor = "multi_thread")]
async fn subscribing_adds_one_row_and_unsubscribing_removes_it() {
    let shop = Shop::open(&[]).await;
    let (first, second) = (shop.user(1), shop.user(2));
    let subscription = subscribe(&first, SNEAKER).await.expect(201).json();
    assert_eq!(subscription["productId"], json!(SNEAKER));
    assert_eq!(subscribe(&first, SNEAKER).await.expect(200).json(), subscription, "again is the same one");
    let behind = subscribe(&second, SNEAKER).await.expect(201).json();
    assert!(behind["subscriptionId"].as_i64() > subscription["subscriptionId"].as_i64(), "{behind} {subscription}");
    assert_eq!(subscriptions(&first, "").await["items"], json!([subscription]));

    unsubscribe(&first, SNEAKER).await.expect(204);
    unsubscribe(&first, SNEAKER).await.expect(204);
    assert_eq!(subscriptions(&first, "").await["items"], json!([]));
    let rows = shop.site.rows("select user_id from {notification_hub}.product_user_notification").await;
    assert_eq!(rows, [json!({ "user_id": second.user_id })]);

    let again = subscribe(&first, SNEAKER).await.expect(201).json();
    assert!(
        again["subscriptionId"].as_i64() > behind["subscriptionId"].as_i64(),
        "who comes back is behind the others"
    );
    shop.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_subscribes_without_a_token_or_to_a_product_that_is_not_there() {
    let shop = Shop::open(&[]).await;
    subscribe(&shop.user(1), Uuid::from_u128(404)).await.refused(404, "PRODUCT_NOT_FOUND");
    subscribe(&shop.site.anyone(), SNEAKER).await.refused(401, "UNAUTHORIZED");
    shop.inventory.go_away();
    subscribe(&shop.user(1), SNEAKER).await.refused(503, "SERVICE_UNAVAILABLE");
    let count = "select count(*) from {notification_hub}.product_user_notification";
    assert_eq!(shop.site.number(count).await, 0);
    shop.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_stock_can_be_subscribed_to_only_where_the_shop_says_so() {
    let open = Shop::open(&[]).await;
    open.inventory.set(SNEAKER, 1);
    subscribe(&open.user(1), SNEAKER).await.expect(201);
    open.site.stop().await;

    let strict = Shop::open(&[("notification_hub.restock.subscribe_in_stock", "false")]).await;
    subscribe(&strict.user(1), SNEAKER).await.expect(201);
    strict.inventory.set(SNEAKER, 1);
    let refused = subscribe(&strict.user(2), SNEAKER).await.refused(409, "PRODUCT_IN_STOCK");
    assert_eq!(refused["details"], json!([{ "productId": SNEAKER }]));
    subscribe(&strict.user(1), SNEAKER).await.expect(200);
    strict.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_requests_at_once_one_subscribes_and_all_get_its_row() {
    let shop = Shop::open(&[]).await;
    let user = shop.user(1);
    let answers = futures_util::future::join_all((0..8).map(|_| subscribe(&user, SNEAKER))).await;
    let created = answers.iter().filter(|answer| answer.status == 201).count();
    let bodies: Vec<Value> = answers.iter().map(|answer| answer.json()).collect();
    assert_eq!(created, 1, "{bodies:?}");
    assert!(bodies.iter().all(|body| *body == bodies[0] && body["subscriptionId"].is_i64()), "{bodies:?}");
    shop.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ones_own_subscriptions_are_listed_to_the_end() {
    let shop = Shop::open(&[]).await;
    let user = shop.user(1);
    let mut expected = Vec::new();
    for number in 1..=5 {
        let product = Uuid::from_u128(number);
        shop.inventory.set(product, 0);
        expected.push(subscribe(&user, product).await.expect(201).json());
    }
    subscribe(&shop.user(2), SNEAKER).await.expect(201);
    let (mut found, mut query) = (Vec::new(), "?limit=2".to_owned());
    loop {
        let page = subscriptions(&user, &query).await;
        found.extend(page["items"].as_array().unwrap().iter().cloned());
        let Some(cursor) = page["nextCursor"].as_str() else { break };
        query = format!("?limit=2&cursor={cursor}");
    }
    assert_eq!(found, expected);
    for bad in ["?limit=0", "?limit=101", "?cursor=x", "?nobody=knows"] {
        user.get(&format!("/me/restock-subscriptions{bad}")).await.refused(400, "VALIDATION_ERROR");
    }
    shop.site.stop().await;
}
