//! From an event to an e-mail: one notification for each event, and one e-mail that is sent until it arrived or is given up.

use crate::hub::{
    STRANGER, USER, all_ended, delivery, ended, is, list, newest, order, publish_order, retry, start, state, user,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_same_event_twice_is_one_notification_with_one_email() {
    let (site, _) = start(&[]).await;
    for _ in 0..3 {
        publish_order(&site, "one", USER).await;
    }
    ended(&user(&site)).await;
    publish_order(&site, "one", USER).await;
    // Once the event behind it in the log is applied, so is the repeated one.
    publish_order(&site, "behind", STRANGER).await;
    all_ended(&site.admin(), 2).await;

    let own = list(&user(&site), "").await;
    assert_eq!(own.len(), 1, "one event is one notification: {own:?}");
    assert_eq!(own[0]["deliveries"].as_array().unwrap().len(), 1);
    let email = delivery(&own[0], "EMAIL");
    assert_eq!(state(email), is("SUCCESS", 1, None));
    assert!(email["body"].as_str().unwrap().contains(&order("one", USER).1.order_id));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_inbox_has_forgotten_is_no_second_notification() {
    // No address is remembered, so each e-mail asks for one.
    let (site, account) = start(&[("notification_hub.contact_cache_seconds", "0")]).await;
    publish_order(&site, "one", USER).await;
    ended(&user(&site)).await;
    // What the inbox does with old events.
    site.execute("delete from {notification_hub}.inbox").await;
    publish_order(&site, "one", USER).await;
    publish_order(&site, "behind", STRANGER).await;
    all_ended(&site.admin(), 2).await;

    let own = list(&user(&site), "").await;
    assert_eq!(own.len(), 1, "one event is one notification: {own:?}");
    assert_eq!(state(delivery(&own[0], "EMAIL")), is("SUCCESS", 1, None));
    assert_eq!(account.asked(USER), 1, "it is not sent again");
    assert_eq!(site.number("select count(*) from {notification_hub}.parked").await, 0, "nor is it a bad event");
    assert_eq!(site.number("select count(*) from {notification_hub}.deliveries").await, 2);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_email_waits_until_account_is_back() {
    let (site, account) = start(&[("notification_hub.email.retry_delays_seconds", "3600,3600")]).await;
    account.go_away();
    publish_order(&site, "one", USER).await;
    let failed = |found: &serde_json::Value| !found["deliveries"][0]["lastError"].is_null();
    let waiting = newest(&user(&site), "the first attempt fails", failed).await;
    assert_eq!(waiting["status"], "IN_PROGRESS");
    let email = delivery(&waiting, "EMAIL");
    assert_eq!(state(email), is("PENDING", 1, Some("ADDRESS_UNAVAILABLE")));
    assert!(email["nextAttemptAt"].is_string());

    account.answer();
    site.execute("update {notification_hub}.deliveries set next_attempt_at = now()").await;
    let found = ended(&user(&site)).await;
    assert_eq!(state(delivery(&found, "EMAIL")), is("SUCCESS", 2, Some("ADDRESS_UNAVAILABLE")));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_email_is_given_up_after_its_last_attempt() {
    let (site, account) = start(&[("notification_hub.email.retry_delays_seconds", "0,0")]).await;
    account.go_away();
    publish_order(&site, "one", USER).await;
    let given_up = |found: &serde_json::Value| {
        let attempts = found["deliveries"][0]["attempts"].as_i64().unwrap();
        assert!(attempts <= 3, "there are two retries after the first attempt: {found}");
        found["status"] != "IN_PROGRESS"
    };
    let found = newest(&user(&site), "the e-mail is given up", given_up).await;
    assert_eq!(state(delivery(&found, "EMAIL")), is("FAILED", 3, Some("ADDRESS_UNAVAILABLE")));
    assert!(delivery(&found, "EMAIL")["deadLetteredAt"].is_string());
    assert_eq!(found["status"], "FAILED");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_sent_when_an_operator_says_so_and_never_twice() {
    let (site, account) = start(&[]).await;
    let operator = site.admin();
    account.forget(USER);
    publish_order(&site, "one", USER).await;
    let dead = ended(&user(&site)).await;
    let email = delivery(&dead, "EMAIL");
    assert_eq!(state(email), is("FAILED", 1, Some("RECIPIENT_UNKNOWN")), "a final failure is not tried again");
    assert!(email["deadLetteredAt"].is_string());

    retry(&user(&site), &dead, email).await.refused(403, "FORBIDDEN");
    account.remember(USER);
    assert_eq!(retry(&operator, &dead, email).await.expect(202).json()["status"], "PENDING");
    let found = ended(&user(&site)).await;
    assert_eq!(state(delivery(&found, "EMAIL")), is("SUCCESS", 1, Some("RECIPIENT_UNKNOWN")));
    assert!(delivery(&found, "EMAIL")["deadLetteredAt"].is_null());

    retry(&operator, &dead, email).await.refused(409, "DELIVERY_NOT_RETRYABLE");
    let elsewhere = serde_json::json!({ "deliveryId": dead["notificationId"] });
    retry(&operator, &dead, &elsewhere).await.refused(404, "DELIVERY_NOT_FOUND");
    site.stop().await;
}
