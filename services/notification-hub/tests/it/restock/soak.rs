//! A campaign of 20,000 on two replicas, whose runners are lost and whose Redis is killed: nobody is left out, nobody is
//! told twice, and no second has more alerts than the limit. Prints what it has seen.

use std::collections::BTreeSet;

use sandbox::{Sandbox, Server};
use serde_json::json;
use testkit::servers;
use uuid::Uuid;

use super::shop::{SNEAKER, Shop};
use crate::smtp::MailServer;

const HUB: &str = "notification-hub";

const SUBSCRIBERS: i64 = 20_000;

const BOOT: Uuid = Uuid::from_u128(0xb007);

/// The real pace.
const REAL: [(&str, &str); 1] = [("notification_hub.restock.per_second_max", "500")];

/// A lost runner keeps its place in its process until the end.
const LOSING: [(&str, &str); 2] =
    [("notification_hub.restock.runners", "25"), ("notification_hub.restock.poll_ms", "1000")];

/// The alerts of all rounds: how many went out, the most in any second, and how many a second from the first to the last.
async fn pace(shop: &Shop) -> (i64, i64, f64) {
    let rows = shop
        .site
        .rows(
            "select count(*) as alerts, max(in_a_second) as most,
                    extract(epoch from max(attempted_at) - min(attempted_at))::float8 as seconds
               from (select attempted_at, count(*) over (
                            order by attempted_at
                            range between current row and interval '999999 microseconds' following) as in_a_second
                       from {notification_hub}.product_user_notification_history
                      where attempted_at is not null) as sent",
        )
        .await;
    let number = |name: &str| rows[0][name].as_i64().unwrap();
    (number("alerts"), number("most"), number("alerts") as f64 / rows[0]["seconds"].as_f64().unwrap())
}

async fn assert_all_told_in_order(shop: &Shop) {
    let round = shop.round(1).await;
    assert_eq!((&round["status"], &round["recipientCount"]), (&json!("COMPLETED"), &json!(SUBSCRIBERS)), "{round}");
    assert_eq!(shop.told(1).await, (1..=SUBSCRIBERS as u64).collect::<Vec<u64>>(), "all, once, in order");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: 45 s at the pace of the limit, and Redis is killed"]
async fn no_second_has_more_than_500_alerts_while_redis_is_killed() {
    let sandbox: &'static Sandbox = Box::leak(Box::new(servers::start("restock").await));
    let shop = Shop::open_on(sandbox, &REAL).await;
    let replica = shop.replica().await;
    shop.subscribers(SUBSCRIBERS).await;
    // A second round, so that both replicas run one.
    shop.inventory.set(BOOT, 0);
    shop.subscribers_of(BOOT, SUBSCRIBERS / 4).await;
    shop.restock().await;
    shop.restock_of(BOOT).await;
    let reaches = async |count: i64| {
        testkit::eventually(&format!("{count} are told"), async || {
            (shop.round(1).await["recipientCount"].as_i64().unwrap() >= count).then_some(())
        })
        .await;
    };
    reaches(SUBSCRIBERS / 3).await;
    sandbox.kill(Server::Redis).await.expect("it is ours");
    reaches(SUBSCRIBERS / 3 + 500).await;
    sandbox.restart(Server::Redis).await.expect("it starts again");
    reaches(SUBSCRIBERS).await;
    let ended = "select count(*) from {notification_hub}.product_notification_history where status = 'COMPLETED'";
    shop.site.until_number(ended, 2).await;
    let (alerts, most, mean) = pace(&shop).await;
    println!("{alerts} alerts, {most} in the fullest second, {mean:.1}/s from the first to the last");
    assert_all_told_in_order(&shop).await;
    assert_eq!(alerts, SUBSCRIBERS + SUBSCRIBERS / 4);
    assert!(most <= 500, "{most} in one second");
    replica.stop().await;
    shop.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: 30 s of a mail server that needs 3 s for each message"]
async fn a_slow_mail_server_gets_each_alert_once() {
    let server = MailServer::start_slow("smtp-slow", 3).await;
    let shop = Shop::open(&[("notification_hub.email.smtp_url", &server.url)]).await;
    shop.subscribers(40).await;
    shop.restock().await;
    assert_eq!(shop.ended(1).await["status"], "COMPLETED");
    let received = server.has(40).await;
    let to = |message: &String| message.lines().find(|line| line.starts_with("To: ")).map(str::to_owned);
    let people: BTreeSet<Option<String>> = received.iter().map(to).collect();
    assert_eq!(
        (received.len(), people.len()),
        (40, 40),
        "a lease that is renewed in time lets no other runner send them again"
    );
    shop.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: 20 runners are lost"]
async fn twenty_runners_lost_in_one_campaign_of_20_000_leave_nobody_out_and_tell_nobody_twice() {
    let shop = Shop::open(&LOSING).await;
    shop.subscribers(SUBSCRIBERS).await;
    let points = ["restock.after_commit", "restock.after_send", "restock.before_chunk"];
    shop.restock().await;
    let mut lost = Vec::new();
    for number in 0..20 {
        testkit::eventually("the campaign goes on", async || {
            (shop.round(1).await["recipientCount"].as_i64().unwrap() >= number * 900).then_some(())
        })
        .await;
        let mut runner = shop.site.pause(HUB, points[number as usize % points.len()]);
        runner.reached().await;
        shop.end_lease().await;
        lost.push(runner);
    }
    shop.ended(1).await;
    println!("20 runners were lost among {SUBSCRIBERS} subscribers of {SNEAKER}");
    assert_all_told_in_order(&shop).await;
    lost.into_iter().for_each(|late| late.resume());
    shop.site.stop().await;
}
