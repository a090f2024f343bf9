//! How fast targets are called by all replicas together, and when one that fails is left alone.

use reqwest::Method;
use serde_json::{Value, json};
use testkit::proxy::Proxy;
use testkit::{Site, eventually};

use crate::fake_receiver::{FakeReceiver, Reply};
use crate::hub::{all_ended, delivery, is, list, newest, replica, start, state};
use crate::senders::{send, with};

/// Far away: in these tests the clock does not move, the moment does.
const AN_HOUR_MS: &str = "3600000";

/// A hub that may call programs on this machine, two of them an hour.
const SLOW: [(&str, &str); 5] = [
    ("notification_hub.webhook.allow_http", "true"),
    ("notification_hub.webhook.allow_private_addresses", "true"),
    ("notification_hub.webhook.retry_delays_seconds", "0,0,0,0,0,0,0"),
    ("notification_hub.targets.webhook_interval_ms", AN_HOUR_MS),
    ("notification_hub.targets.webhook_burst", "2"),
];

async fn enter(site: &Site, name: &str, receiver: &FakeReceiver) {
    let admin = site.admin();
    let request = admin.request(Method::PUT, &format!("/admin/webhook-endpoints/{name}"));
    admin.send(request.json(&json!({ "url": format!("http://{}/{name}", receiver.address) }))).await.expect(201);
}

async fn send_to(site: &Site, endpoint: &str, key: &str) {
    let notification = with("channels", json!([{ "channel": "WEBHOOK", "target": endpoint }]));
    send(&site.admin(), key, &notification).await.expect(201);
}

/// Deliveries that were claimed and handed back until their time comes, uncharged.
fn held_back(hours: i64) -> String {
    format!(
        "select count(*) from {{notification_hub}}.deliveries
          where status = 'PENDING' and lock_token > 0 and attempt = 0 and last_error is null
            and next_attempt_at > now() + interval '{hours} hours' - interval '10 minutes'"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_keep_the_pace_of_an_endpoint_together_and_each_endpoint_has_its_own() {
    let receiver = FakeReceiver::start(&[]);
    let (site, account) = start(&SLOW).await;
    let other = replica(&site, &account, &SLOW).await;
    enter(&site, "shop", &receiver).await;
    enter(&site, "bank", &receiver).await;
    for key in ["1", "2"] {
        send_to(&site, "shop", key).await;
    }
    receiver.has(2).await;
    // Whichever replica claims these: the limit is used up, and they come back one after the other.
    for key in ["3", "4"] {
        send_to(&other, "shop", key).await;
    }
    site.until_number(&held_back(1), 2).await;
    send_to(&other, "bank", "5").await;
    let received = receiver.has(3).await;
    assert_eq!(received.iter().filter(|one| one.path == "/shop").count(), 2);
    assert_eq!(received[2].path, "/bank", "the limit is that of one endpoint");
    other.stop().await;
    site.stop().await;
    receiver.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_a_replica_keeps_its_share_of_the_pace() {
    let receiver = FakeReceiver::start(&[]);
    let url = testkit::servers::shared().await.redis_url();
    let redis = Proxy::to(&url).await;
    let through = redis.url(&url);
    let mut settings = SLOW.to_vec();
    settings.extend([("redis.url", through.as_str()), ("notification_hub.targets.replicas", "2")]);
    let (site, _) = start(&settings).await;
    enter(&site, "shop", &receiver).await;
    redis.cut();
    send_to(&site, "shop", "1").await;
    receiver.has(1).await;
    send_to(&site, "shop", "2").await;
    // Half of two at once, and half as often.
    site.until_number(&held_back(2), 1).await;
    assert_eq!(receiver.received().len(), 1);

    redis.restore();
    let due = "update {notification_hub}.deliveries set next_attempt_at = now() where status = 'PENDING'";
    eventually("Redis counts again", async || {
        site.execute(due).await;
        (receiver.received().len() == 2).then_some(())
    })
    .await;
    site.stop().await;
    receiver.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_fails_is_left_alone_and_others_are_not() {
    let receiver = FakeReceiver::start(&[Reply::Status(500), Reply::Status(500)]);
    let mut settings = SLOW.to_vec();
    settings.extend([
        ("notification_hub.targets.webhook_interval_ms", "0"),
        ("notification_hub.targets.breaker_failures", "2"),
        ("notification_hub.targets.breaker_open_seconds", "3600"),
    ]);
    let (site, _) = start(&settings).await;
    enter(&site, "shop", &receiver).await;
    enter(&site, "bank", &receiver).await;
    send_to(&site, "shop", "1").await;
    let left_alone = "select count(*) from {notification_hub}.deliveries
                       where status = 'PENDING' and attempt = 2 and next_attempt_at > now() + interval '50 minutes'";
    site.until_number(left_alone, 1).await;
    let waiting = list(&site.admin(), "").await.remove(0);
    assert_eq!(state(delivery(&waiting, "WEBHOOK")), is("PENDING", 2, Some("UNAVAILABLE")), "it is charged no attempt");
    send_to(&site, "bank", "2").await;
    let sent = |found: &Value| found["status"] == "COMPLETED";
    newest(&site.admin(), "the other endpoint is called", sent).await;
    assert_eq!(receiver.received().len(), 3);
    site.stop().await;
    receiver.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_answers_is_called_on_however_often_it_says_no() {
    let receiver = FakeReceiver::start(&[Reply::Status(400), Reply::Status(404), Reply::Status(401)]);
    let mut settings = SLOW.to_vec();
    settings.extend([
        ("notification_hub.targets.webhook_interval_ms", "0"),
        ("notification_hub.targets.breaker_failures", "1"),
        ("notification_hub.targets.breaker_open_seconds", "3600"),
    ]);
    let (site, _) = start(&settings).await;
    enter(&site, "shop", &receiver).await;
    send_to(&site, "shop", "1").await;
    let found = all_ended(&site.admin(), 1).await.remove(0);
    assert_eq!(state(delivery(&found, "WEBHOOK")), is("SUCCESS", 4, Some("REJECTED")));
    site.stop().await;
    receiver.stop().await;
}
