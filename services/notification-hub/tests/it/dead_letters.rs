//! What happened to a delivery, and having those tried again that were given up.

use serde_json::{Value, json};
use testkit::{Answer, Client, text};

use crate::fake_slack::{Answer as Reply, FakeSlack};
use crate::hub::{STRANGER, USER, all_ended, delivery, is, payment_failed, publish_order, start, state, user};

async fn redrive(by: &Client, filter: Value) -> Answer {
    by.post("/admin/deliveries/redrive", &json!({ "filter": filter })).await
}

async fn dead(by: &Client, query: &str) -> Vec<Value> {
    let page = by.get(&format!("/admin/deliveries/dead{query}")).await.expect(200).json();
    page["items"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_tells_of_every_attempt() {
    let slack = FakeSlack::start(&[Reply::Status(500), Reply::TooFast(0), Reply::Status(502)]);
    let (site, _) = start(&slack.settings()).await;
    site.publish(&payment_failed("one")).await;
    let due = "update {notification_hub}.deliveries set next_attempt_at = now() where last_error = 'THROTTLED';
               update {notification_hub}.channel_paces set next_send_at = now()";
    testkit::eventually("the alert is sent", async || {
        site.execute(due).await;
        (slack.taken().len() == 1).then_some(())
    })
    .await;
    let found = all_ended(&site.admin(), 1).await.remove(0);
    let alert = delivery(&found, "SLACK");
    assert_eq!(state(alert), is("SUCCESS", 3, Some("UNAVAILABLE")), "a pause costs no attempt");
    let history = alert["history"].as_array().unwrap();
    let errors: Vec<_> = history.iter().map(|attempt| attempt["error"].clone()).collect();
    assert_eq!(errors, [json!("UNAVAILABLE"), json!("THROTTLED"), json!("UNAVAILABLE"), Value::Null]);
    assert!(history.windows(2).all(|pair| pair[0]["endedAt"].as_str() <= pair[1]["endedAt"].as_str()), "{history:?}");
    site.stop().await;
    slack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_handed_back_is_no_attempt() {
    let (site, account) = start(&[]).await;
    account.hang();
    publish_order(&site, "one", USER).await;
    let claimed = "select count(*) from {notification_hub}.deliveries where status = 'PROCESSING'";
    site.until_number(claimed, 1).await;
    site.stop().await;
    assert_eq!(site.number("select count(*) from {notification_hub}.deliveries where lock_token > 0").await, 1);
    assert_eq!(site.number("select count(*) from {notification_hub}.delivery_attempts").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_and_those_that_a_filter_names_are_tried_again() {
    let slack = FakeSlack::start(&[Reply::Status(404)]);
    let (site, account) = start(&slack.settings()).await;
    let admin = site.admin();
    account.forget(USER);
    account.forget(STRANGER);
    // An alert and its e-mail, and one more e-mail.
    site.publish(&payment_failed("one")).await;
    publish_order(&site, "two", STRANGER).await;
    all_ended(&admin, 2).await;
    assert_eq!((dead(&admin, "").await.len(), dead(&admin, "?channel=SLACK").await.len()), (3, 1));
    let first = admin.get("/admin/deliveries/dead?limit=2").await.expect(200).json();
    let rest = dead(&admin, &format!("?limit=2&cursor={}", text(&first["nextCursor"]))).await;
    assert_eq!((first["items"].as_array().unwrap().len(), rest.len()), (2, 1));

    account.remember(USER);
    account.remember(STRANGER);
    for (filter, expected) in [
        (json!({ "channel": "WEBHOOK" }), 0),
        (json!({ "lastError": "NO_ANSWER" }), 0),
        (json!({ "to": "2026-01-01T00:00:00Z" }), 0),
        (json!({ "from": "2999-01-01T00:00:00Z" }), 0),
        (json!({ "type": "PAYMENT_FAILED", "channel": "EMAIL", "lastError": "RECIPIENT_UNKNOWN" }), 1),
        (json!({}), 2),
        (json!({}), 0),
    ] {
        let answer = redrive(&admin, filter.clone()).await.expect(202).json();
        assert_eq!(answer["redriven"], expected, "{filter}");
    }
    let all = all_ended(&admin, 2).await;
    assert!(all.iter().all(|found| found["status"] == "COMPLETED"), "{all:?}");
    assert_eq!((dead(&admin, "").await.len(), slack.told(&payment_failed("one"))), (0, 1));
    site.stop().await;
    slack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_takes_more_than_one_batch_and_nothing_that_dies_meanwhile() {
    let (site, _) = start(&[("notification_hub.email.retry_delays_seconds", "")]).await;
    let admin = site.admin();
    // More than a batch of dead letters, whose recipients are gone for good.
    site.execute(
        "insert into {notification_hub}.notifications (id, event_id, type, data)
         select gen_random_uuid(), gen_random_uuid(), 'OFFERS', '{}' from generate_series(1, 501);
         insert into {notification_hub}.deliveries
                (id, notification_id, channel, status, priority, subject, body, dead_lettered_at, last_error)
         select gen_random_uuid(), id, 'EMAIL', 'FAILED', 100, 's', 'b', now() - interval '1 hour', 'UNAVAILABLE'
         from {notification_hub}.notifications",
    )
    .await;
    let mut pause = site.pause("notification-hub", "redrive.after_batch");
    let (by, filter) = (admin.clone(), json!({ "type": "OFFERS" }));
    let redriving = tokio::spawn(async move { redrive(&by, filter).await });
    pause.reached().await;
    // Nobody is to be told, so each dies again at once.
    let died_again = "select count(*) from {notification_hub}.deliveries where last_error = 'RECIPIENT_UNKNOWN'";
    site.until_number(died_again, 500).await;
    pause.resume();
    assert_eq!(redriving.await.unwrap().expect(202).json()["redriven"], 501);
    site.until_number(died_again, 501).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_for_administrators_and_bad_filters_are_refused() {
    let (site, _) = start(&[]).await;
    user(&site).get("/admin/deliveries/dead").await.refused(403, "FORBIDDEN");
    redrive(&user(&site), json!({})).await.refused(403, "FORBIDDEN");
    let admin = site.admin();
    for filter in [json!({ "channel": "PIGEON" }), json!({ "status": "FAILED" }), json!([]), json!({ "to": "now" })] {
        redrive(&admin, filter).await.refused(400, "VALIDATION_ERROR");
    }
    admin.post("/admin/deliveries/redrive", &json!({})).await.refused(400, "VALIDATION_ERROR");
    admin.get("/admin/deliveries/dead?limit=0").await.refused(400, "VALIDATION_ERROR");
    site.stop().await;
}
