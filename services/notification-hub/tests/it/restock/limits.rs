//! The pace of all replicas together: a row in the hub's database.

use diesel::sql_types::BigInt;
use diesel::{QueryableByName, sql_query};
use futures_util::future::join_all;
use serde_json::json;
use testkit::proxy::Proxy;

use super::shop::{Shop, USE_UP_THE_LIMIT};

const HUB: &str = "notification-hub";

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_the_limit_sees_what_another_replica_has_taken() {
    let shop = Shop::open(&[]).await;
    shop.subscribers(20).await;
    let other = shop.site.begin(USE_UP_THE_LIMIT).await;
    let mut waiting = shop.site.pause(HUB, "restock.no_permit");
    shop.restock().await;
    shop.site.until_blocked(HUB, 1).await;
    other.commit().await;
    waiting.reached().await;
    assert!(shop.told(1).await.is_empty(), "the other replica has taken all permits");
    shop.site.execute("update {notification_hub}.restock_limit set rested_at = clock_timestamp()").await;
    waiting.resume();
    assert_eq!(shop.ended(1).await["status"], "COMPLETED");
    assert_eq!(shop.told(1).await, (1..=20).collect::<Vec<u64>>());
    shop.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_alert_takes_a_permit_of_the_limit() {
    // One permit a second.
    let pace = [
        ("notification_hub.restock.per_second_max", "2"),
        ("notification_hub.restock.burst", "1"),
        ("notification_hub.restock.reserve", "0"),
    ];
    let shop = Shop::open(&pace).await;
    shop.subscribers(1).await;
    shop.restock().await;
    assert_eq!(shop.ended(1).await["status"], "COMPLETED");
    let taken = "select rested_at >= round.started_at + interval '1 second' as taken
                   from {notification_hub}.restock_limit, {notification_hub}.product_notification_history as round";
    assert_eq!(shop.site.rows(taken).await, [json!({ "taken": true })]);
    shop.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_gives_a_burst_after_a_rest_and_then_one_permit_for_each_interval() {
    let shop = Shop::open(&[]).await;
    // Nobody waits for an hour: only what is far from a full one is compared.
    for (rested_in, wanted, granted, wait_minutes) in [
        ("-5 hours", 2, 2, None),
        ("-5 hours", 5, 3, None),
        ("90 minutes", 5, 1, None),
        ("2 hours 30 minutes", 1, 0, Some(30)),
        // The clock was set back: as if the burst had just been given but for one.
        ("10 hours", 5, 1, None),
    ] {
        shop.site.execute(&limit_rested_in(rested_in)).await;
        let taken = take(&shop, wanted).await;
        assert_eq!(taken.granted, granted, "{rested_in}: {taken:?}");
        if let Some(minutes) = wait_minutes {
            assert!((minutes - 5..=minutes).contains(&(taken.wait_us / 60_000_000)), "{rested_in}: {taken:?}");
        }
    }
    assert_eq!(take(&shop, 5).await.granted, 0, "the one that was left was taken");
    shop.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_take_at_once_get_no_more_than_there_is() {
    let shop = Shop::open(&[]).await;
    shop.site.execute(&limit_rested_in("-5 hours")).await;
    let taken = join_all((0..8).map(|_| take(&shop, 1))).await;
    assert_eq!(taken.iter().map(|permits| permits.granted).sum::<i64>(), 3, "{taken:?}");
    shop.site.stop().await;
}

fn limit_rested_in(time: &str) -> String {
    format!("update {{notification_hub}}.restock_limit set rested_at = clock_timestamp() + interval '{time}'")
}

/// What was granted, and the microseconds until the next permit.
#[derive(Debug, QueryableByName)]
struct Permits {
    #[diesel(sql_type = BigInt)]
    granted: i64,
    #[diesel(sql_type = BigInt)]
    wait_us: i64,
}

/// Takes permits as a replica does, with other numbers: one permit an hour, three after a rest.
async fn take(shop: &Shop, wanted: i64) -> Permits {
    // Here alone: a site executes as well.
    use diesel_async::RunQueryDsl;
    let hour_us: i64 = 3_600_000_000;
    let query = sql_query(include_str!("../../../src/restock/take_permits.sql"))
        .bind::<BigInt, _>(hour_us)
        .bind::<BigInt, _>(3)
        .bind::<BigInt, _>(wanted);
    shop.site.db(HUB).await.tx("take_restock_permits", async |tx| Ok(query.get_result(tx).await?)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_whose_limit_is_broken_ends_and_goes_on_when_it_is_mended() {
    let shop = Shop::open(&[]).await;
    shop.subscribers(20).await;
    shop.site.execute("delete from {notification_hub}.restock_limit").await;
    shop.restock().await;
    assert_eq!(shop.ended(1).await["status"], "CANCELED_BY_ERROR");
    assert!(shop.told(1).await.is_empty());
    shop.site.execute("insert into {notification_hub}.restock_limit (rested_at) values (now())").await;
    shop.resume(1).await.expect(202);
    assert_eq!(shop.ended(1).await["status"], "COMPLETED");
    assert_eq!(shop.told(1).await, (1..=20).collect::<Vec<u64>>());
    shop.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_the_mail_servers_turn_costs_no_attempt_and_no_permit() {
    // One e-mail in an hour.
    let pace =
        [("notification_hub.targets.email_interval_ms", "3600000"), ("notification_hub.targets.email_burst", "1")];
    let shop = Shop::open(&pace).await;
    shop.subscribers(5).await;
    let mut waiting = shop.site.pause(HUB, "restock.no_turn");
    shop.restock().await;
    waiting.reached().await;
    let limit = "select rested_at::text as rested_at from {notification_hub}.restock_limit";
    let before = shop.site.rows(limit).await;
    let mut again = shop.site.pause(HUB, "restock.no_turn");
    waiting.resume();
    again.reached().await;
    assert_eq!(shop.site.rows(limit).await, before, "who has no turn takes no permit");
    again.resume();
    shop.sell_out().await;
    let ended = "select count(*) from {notification_hub}.deliveries where status <> 'PROCESSING' and attempt = 1";
    shop.site.until_number(ended, 5).await;
    assert_eq!(shop.round(1).await["status"], "CANCELED_BY_SOLD_OUT");
    assert_eq!(shop.told(1).await, [1]);
    shop.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_needs_no_redis() {
    let url = testkit::servers::shared().await.redis_url();
    let proxy = Proxy::to(&url).await;
    let shop = Shop::open(&[("redis.url", &proxy.url(&url))]).await;
    shop.subscribers(120).await;
    proxy.cut();
    shop.restock().await;
    assert_eq!(shop.ended(1).await["status"], "COMPLETED");
    assert_eq!(shop.told(1).await, (1..=120).collect::<Vec<u64>>());
    shop.site.stop().await;
}
