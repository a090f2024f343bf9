//! What operators do: begin a round, have one go on that an error ended, and see who was told.

use serde_json::{Value, json};

use super::shop::{SNEAKER, Shop, rounds};

const HUB: &str = "notification-hub";

#[tokio::test(flavor = "multi_thread")]
async fn a_round_that_an_error_ended_goes_on_with_the_next_subscriber_when_an_operator_says_so() {
    let shop = Shop::open(&[]).await;
    shop.subscribers(120).await;
    let table = "alter table {notification_hub}.product_user_notification_history";
    shop.site.execute(&format!("{table} add constraint broken check (subscription_id <= 50)")).await;
    shop.restock().await;
    let round = shop.ended(1).await;
    assert_eq!((&round["status"], &round["lastSubscriptionId"]), (&json!("CANCELED_BY_ERROR"), &json!(50)), "{round}");
    assert!(round["error"].as_str().unwrap().contains("broken"), "the reason is told: {round}");
    assert_eq!(shop.told(1).await, (1..=50).collect::<Vec<u64>>());

    shop.site.execute(&format!("{table} drop constraint broken")).await;
    let resumed = shop.resume(1).await.expect(202).json();
    assert_eq!((&resumed["round"], &resumed["status"]), (&json!(1), &json!("IN_PROGRESS")));
    let round = shop.ended(1).await;
    assert_eq!((&round["status"], &round["error"]), (&json!("COMPLETED"), &Value::Null));
    assert_eq!(shop.told(1).await, (1..=120).collect::<Vec<u64>>(), "nobody is told twice");

    shop.resume(1).await.refused(409, "ROUND_NOT_RESUMABLE");
    shop.resume(9).await.refused(404, "ROUND_NOT_FOUND");
    let user = shop.user(1);
    user.send(user.request(reqwest::Method::POST, &rounds("/1/resume"))).await.refused(403, "FORBIDDEN");
    shop.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_pass_is_tried_again_before_a_round_is_given_up() {
    let shop = Shop::open(&[("notification_hub.restock.attempts_max", "2")]).await;
    shop.subscribers(1).await;
    shop.inventory.set(SNEAKER, 100);
    let level = shop.inventory.set(SNEAKER, 100);
    shop.inventory.go_away();
    shop.site.deliver(HUB, &super::shop::replenished(&level)).await;
    let round = shop.ended(1).await;
    assert_eq!(round["status"], "CANCELED_BY_ERROR", "{round}");
    shop.inventory.come_back();
    shop.resume(1).await.expect(202);
    assert_eq!(shop.ended(1).await["status"], "COMPLETED");
    assert_eq!(shop.told(1).await, [1]);
    shop.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_begins_a_round_of_what_is_in_stock_and_one_at_a_time() {
    let shop = Shop::open(&[]).await;
    shop.subscribers(60).await;
    let refused = shop.start_round().await.refused(409, "OUT_OF_STOCK");
    assert_eq!(refused["path"], json!(format!("/api/v1{}", rounds(""))));
    // It was never sold out, so no round has begun by itself.
    shop.inventory.set(SNEAKER, 5);
    let before = shop.inventory.set(SNEAKER, 6).restock_round;
    let mut running = shop.site.pause("notification-hub", "restock.after_commit");
    let started = shop.start_round().await.expect(202).json();
    assert_eq!((&started["round"], &started["status"]), (&json!(before + 1), &json!("IN_PROGRESS")));
    running.reached().await;
    let refused = shop.start_round().await.refused(409, "ROUND_IN_PROGRESS");
    assert_eq!(refused["details"], json!([{ "productId": SNEAKER, "round": before + 1 }]));
    running.resume();
    let round = shop.ended(before + 1).await;
    assert_eq!((&round["status"], &round["roundId"]), (&json!("COMPLETED"), &started["roundId"]));
    assert_eq!(shop.told(before + 1).await.len(), 60);

    let user = shop.user(1);
    user.send(user.request(reqwest::Method::POST, &rounds(""))).await.refused(403, "FORBIDDEN");
    let unknown = "/admin/products/00000000-0000-0000-0000-000000000404/restock-rounds";
    let operator = shop.site.admin();
    operator.send(operator.request(reqwest::Method::POST, unknown)).await.refused(404, "PRODUCT_NOT_FOUND");
    shop.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rounds_and_their_recipients_are_read_to_the_end() {
    let shop = Shop::open(&[]).await;
    shop.subscribers(5).await;
    for round in 1..=3 {
        shop.restock().await;
        shop.ended(round).await;
        shop.sell_out().await;
    }
    let numbers = |items: &[Value]| items.iter().map(|item| item["round"].as_i64().unwrap()).collect::<Vec<_>>();
    assert_eq!(numbers(&all(&shop, &rounds("")).await), [3, 2, 1], "the newest first");

    let recipients = all(&shop, &rounds("/2/recipients")).await;
    let ids: Vec<i64> = recipients.iter().map(|recipient| recipient["subscriptionId"].as_i64().unwrap()).collect();
    assert_eq!((ids.len(), ids.is_sorted()), (5, true));
    assert!(
        recipients.iter().all(|one| one["status"] == "SUCCESS" && one["attemptedAt"].is_string()),
        "{recipients:?}"
    );
    let operator = shop.site.admin();
    operator.get(&rounds("/9")).await.refused(404, "ROUND_NOT_FOUND");
    operator.get(&rounds("/9/recipients")).await.refused(404, "ROUND_NOT_FOUND");
    for bad in ["?limit=0", "?cursor=x", "?nobody=knows"] {
        operator.get(&rounds(bad)).await.refused(400, "VALIDATION_ERROR");
    }
    shop.user(1).get(&rounds("")).await.refused(403, "FORBIDDEN");
    shop.site.stop().await;
}

/// Everything below `path`, two at a time.
async fn all(shop: &Shop, path: &str) -> Vec<Value> {
    let (operator, mut found, mut cursor) = (shop.site.admin(), Vec::new(), String::new());
    loop {
        let page = operator.get(&format!("{path}?limit=2{cursor}")).await.expect(200).json();
        found.extend(page["items"].as_array().unwrap().iter().cloned());
        let Some(next) = page["nextCursor"].as_str() else { return found };
        cursor = format!("&cursor={next}");
    }
}
