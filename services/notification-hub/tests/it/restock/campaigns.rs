//! A campaign tells every subscriber once, in the order of the subscriptions, and stops when the product has sold out.

use reqwest::Method;
use serde_json::json;

use super::shop::{SNEAKER, Shop, USE_UP_THE_LIMIT, depleted, replenished, subscribe, unsubscribe};

const HUB: &str = "notification-hub";

const ROUNDS: &str = "select count(*) from {notification_hub}.product_notification_history";

#[tokio::test(flavor = "multi_thread")]
async fn every_subscriber_is_told_once_in_the_order_of_the_subscriptions() {
    let shop = Shop::open(&[]).await;
    shop.subscribers(120).await;
    let level = shop.restock().await;
    let round = shop.ended(1).await;
    assert_eq!(round["status"], "COMPLETED", "{round}");
    assert_eq!((&round["recipientCount"], &round["sentCount"]), (&json!(120), &json!(120)));
    assert_eq!(shop.told(1).await, (1..=120).collect::<Vec<u64>>());

    // The same news again, and under another id.
    shop.site.deliver(HUB, &replenished(&level)).await;
    assert_eq!(shop.site.number(ROUNDS).await, 1, "one campaign for each round");
    let own = shop.user(7).get("/notifications").await.expect(200).json();
    assert_eq!(own["items"].as_array().unwrap().len(), 1, "{own}");
    assert_eq!(own["items"][0]["data"]["productId"], json!(SNEAKER));

    shop.sell_out().await;
    shop.restock().await;
    assert_eq!(shop.ended(2).await["status"], "COMPLETED");
    assert_eq!(shop.told(2).await.len(), 120, "the next round begins with the first subscriber again");
    shop.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_without_subscribers_is_completed() {
    let shop = Shop::open(&[]).await;
    shop.restock().await;
    let round = shop.ended(1).await;
    assert_eq!((&round["status"], &round["lastSubscriptionId"]), (&json!("COMPLETED"), &json!(0)));
    shop.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sold_out_in_the_middle_stops_the_campaign_and_what_is_not_sent_is_never_sent() {
    let shop = Shop::open(&[]).await;
    shop.subscribers(150).await;
    let mut second = shop.site.pause("notification-hub", "restock.after_send");
    shop.restock().await;
    second.reached().await;
    let mut unsent = shop.site.pause("notification-hub", "restock.after_commit");
    second.resume();
    unsent.reached().await;
    shop.sell_out().await;
    unsent.resume();
    let round = shop.ended(1).await;
    assert_eq!(round["status"], "CANCELED_BY_SOLD_OUT", "{round}");
    assert_eq!(shop.told(1).await, (1..=50).collect::<Vec<u64>>());
    let open = "select count(*) from {notification_hub}.deliveries where status in ('PENDING', 'PROCESSING')";
    shop.site.until_number(open, 0).await;
    let recipients = shop.round(1).await["recipientCount"].as_i64();
    assert_eq!(recipients, Some(100), "no further batch is written");

    shop.restock().await;
    assert_eq!(shop.ended(2).await["status"], "COMPLETED", "the next round is another campaign");
    assert_eq!(shop.told(2).await.len(), 150);
    shop.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_news_of_an_older_round_cancels_nothing() {
    let shop = Shop::open(&[]).await;
    shop.subscribers(60).await;
    shop.restock().await;
    shop.ended(1).await;
    // Its news is late: it comes after the restock that followed.
    let sold_out = shop.inventory.set(SNEAKER, 0);
    let mut second_round = shop.site.pause("notification-hub", "restock.after_commit");
    shop.restock().await;
    second_round.reached().await;
    shop.site.deliver(HUB, &depleted(&sold_out)).await;
    second_round.resume();
    assert_eq!(shop.ended(2).await["status"], "COMPLETED");
    assert_eq!(shop.told(2).await.len(), 60);
    shop.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_round_ends_the_one_before_it_and_is_not_ended_by_it() {
    let shop = Shop::open(&[]).await;
    shop.subscribers(60).await;
    let mut first = shop.site.pause("notification-hub", "restock.after_commit");
    let level = shop.restock().await;
    first.reached().await;
    // The news that it sold out in between has not come yet.
    let sold_out = shop.inventory.set(SNEAKER, 0);
    shop.restock().await;
    shop.site.deliver(HUB, &depleted(&sold_out)).await;
    first.resume();
    assert_eq!(shop.ended(1).await["status"], "CANCELED_BY_SOLD_OUT");
    assert_eq!(shop.ended(2).await["status"], "COMPLETED");

    let mut late = replenished(&level);
    (late.restock_round, late.stock_version) = (1, level.version);
    shop.site.deliver(HUB, &late).await;
    assert_eq!(shop.site.number(ROUNDS).await, 2);
    shop.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_subscribes_in_the_middle_of_a_campaign_comes_at_the_end() {
    let shop = Shop::open(&[]).await;
    shop.subscribers(70).await;
    let mut running = shop.site.pause("notification-hub", "restock.after_commit");
    shop.restock().await;
    running.reached().await;
    subscribe(&shop.user(500), SNEAKER).await.expect(201);
    // Who has been told, leaves and comes back is not told again; who leaves before their turn is not told at all.
    for user in [3, 60] {
        unsubscribe(&shop.user(user), SNEAKER).await.expect(204);
    }
    subscribe(&shop.user(3), SNEAKER).await.expect(201);
    running.resume();
    assert_eq!(shop.ended(1).await["status"], "COMPLETED");
    let expected: Vec<u64> = (1..=70).filter(|user| *user != 60).chain([500]).collect();
    assert_eq!(shop.told(1).await, expected);
    shop.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_commits_after_the_cursor_has_passed_it_is_told_before_the_end() {
    let shop = Shop::open(&[]).await;
    shop.subscribers(10).await;
    let late = format!(
        "insert into {{notification_hub}}.product_user_notification (product_id, user_id)
         values ('{SNEAKER}', lpad(to_hex(11), 32, '0')::uuid)"
    );
    let open = shop.site.begin(&late).await;
    // Of later ids, and visible before it.
    for user in 12..=14 {
        subscribe(&shop.user(user), SNEAKER).await.expect(201);
    }
    let mut first = shop.site.pause("notification-hub", "restock.after_send");
    shop.restock().await;
    first.reached().await;
    assert_eq!(shop.round(1).await["recipientCount"], 10, "what may be overtaken waits");
    let mut second = shop.site.pause("notification-hub", "restock.after_send");
    first.resume();
    second.reached().await;
    assert_eq!(shop.round(1).await["recipientCount"], 13, "but not for ever");
    open.commit().await;
    second.resume();
    assert_eq!(shop.ended(1).await["status"], "COMPLETED");
    let expected: Vec<u64> = (1..=10).chain([12, 13, 14, 11]).collect();
    assert_eq!(shop.told(1).await, expected, "nobody is left out");
    shop.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_whose_address_is_not_known_yet_is_tried_again_unless_the_product_has_sold_out() {
    let shop = Shop::open(&[("notification_hub.email.retry_delays_seconds", "3600,3600,3600")]).await;
    shop.subscribers(2).await;
    shop.account.go_away();
    shop.restock().await;
    let round = shop.ended(1).await;
    assert_eq!(
        (&round["status"], &round["sentCount"]),
        (&json!("COMPLETED"), &json!(0)),
        "one bad address stops nobody"
    );
    let due_now = "update {notification_hub}.deliveries set next_attempt_at = now() where status = 'PENDING'";
    let status =
        |status: &str| format!("select count(*) from {{notification_hub}}.deliveries where status = '{status}'");

    shop.account.answer();
    let first = "and id = (select min(id::text)::uuid from {notification_hub}.deliveries)";
    shop.site.execute(&format!("{due_now} {first}")).await;
    shop.site.until_number(&status("SUCCESS"), 1).await;
    shop.sell_out().await;
    shop.site.execute(due_now).await;
    shop.site.until_number(&status("FAILED"), 1).await;
    let given_up = "select last_error, dead_lettered_at from {notification_hub}.deliveries where status = 'FAILED'";
    let sold_out = json!({ "last_error": "SOLD_OUT", "dead_lettered_at": null });
    assert_eq!(shop.site.rows(given_up).await, [sold_out], "nobody has to look at it");
    shop.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_muted_alerts_gets_none() {
    let shop = Shop::open(&[]).await;
    shop.subscribers(3).await;
    let (user, path) = (shop.user(2), "/me/notification-preferences");
    let muted = json!({ "muted": [{ "type": "RESTOCK", "channel": "EMAIL" }] });
    user.send(user.request(Method::PUT, path).json(&muted)).await.expect(200);
    shop.restock().await;
    let round = shop.ended(1).await;
    assert_eq!((&round["status"], &round["recipientCount"]), (&json!("COMPLETED"), &json!(2)), "{round}");
    assert_eq!(shop.told(1).await, [1, 3]);
    let found = shop.site.admin().get("/notifications?status=SUPPRESSED").await.expect(200).json();
    assert_eq!(found["items"].as_array().unwrap().len(), 1, "{found}");
    shop.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_that_are_tried_again_take_permits_of_the_same_limit() {
    let shop = Shop::open(&[("notification_hub.email.retry_delays_seconds", "3600,3600,3600")]).await;
    shop.subscribers(20).await;
    shop.account.go_away();
    shop.restock().await;
    shop.ended(1).await;
    shop.account.answer();
    shop.site.execute(USE_UP_THE_LIMIT).await;
    shop.site
        .execute("update {notification_hub}.deliveries set next_attempt_at = now() where status = 'PENDING'")
        .await;
    let held = "select count(*) from {notification_hub}.deliveries
                 where status = 'PENDING' and lock_token > 1 and attempt = 1 and next_attempt_at > now()";
    shop.site.until_number(held, 20).await;
    shop.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_inventory_tells_stops_the_sending_before_the_event_is_there() {
    let shop = Shop::open(&[]).await;
    shop.subscribers(150).await;
    let mut sending = shop.site.pause("notification-hub", "restock.before_chunk");
    shop.restock().await;
    sending.reached().await;
    // The level that was there when the watch began may be the first that is told; the next one is not.
    let mut level = shop.inventory.set(SNEAKER, 0);
    for _ in 0..2 {
        let mut told = shop.site.pause("notification-hub", "restock.after_observe");
        level = shop.inventory.set(SNEAKER, 0);
        told.reached().await;
        told.resume();
    }
    sending.resume();
    let round = shop.ended(1).await;
    assert_eq!(round["status"], "CANCELED_BY_SOLD_OUT", "{round}");
    assert_eq!(shop.told(1).await.len(), 10, "what was on its way when it sold out: {round}");
    let depletions = "select count(*) from {notification_hub}.inbox where consumer = 'notification-hub'";
    assert_eq!(shop.site.number(depletions).await, 1, "only the restock has been heard of");
    shop.site.deliver(HUB, &depleted(&level)).await;
    assert_eq!(shop.round(1).await, round, "the event comes late and changes nothing");
    shop.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_product_that_has_sold_out_before_its_restock_is_heard_of_is_announced_to_nobody() {
    let shop = Shop::open(&[]).await;
    shop.subscribers(3).await;
    let level = shop.inventory.set(SNEAKER, 100);
    // Of two topics the later event may be read first.
    shop.site.deliver(HUB, &depleted(&shop.inventory.set(SNEAKER, 0))).await;
    shop.site.deliver(HUB, &replenished(&level)).await;
    assert_eq!(shop.ended(1).await["status"], "CANCELED_BY_SOLD_OUT");
    assert_eq!(shop.told(1).await, [0; 0]);
    shop.site.stop().await;
}
