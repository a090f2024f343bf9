//! Claims that outlive their lease: the delivery goes to another worker, and only that worker's result counts.

use serde_json::json;
use testkit::{Client, Site, eventually};

use crate::fake_slack::FakeSlack;
use crate::hub::{
    STRANGER, USER, all_ended, delivery, ended, is, list, payment_failed, publish_order, start, state, stranger, user,
};
use crate::senders::send;

/// What a moment later would look like: the lease of the user's delivery is over.
async fn end_lease(site: &Site, user: &Client) {
    let of_user = format!("select id from {{notification_hub}}.notifications where user_id = '{}'", user.user_id);
    let update = "update {notification_hub}.deliveries set lease_until = now() - interval '1 second'";
    site.execute(&format!("{update} where notification_id in ({of_user})")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_goes_to_another_worker_when_its_lease_is_over_and_not_before() {
    let (site, _) = start(&[]).await;
    let (user, stranger) = (user(&site), stranger(&site));
    let mut stalled = site.pause("notification-hub", "delivery.after_claim");
    publish_order(&site, "one", USER).await;
    stalled.reached().await;
    // It is claimed as it is written, and waits behind the worker that stalls.
    publish_order(&site, "two", STRANGER).await;
    let claimed = "select count(*) from {notification_hub}.deliveries where status = 'PROCESSING'";
    site.until_number(claimed, 2).await;

    end_lease(&site, &user).await;
    let found = ended(&user).await;
    assert_eq!(state(delivery(&found, "EMAIL")), is("SUCCESS", 2, Some("LEASE_LOST")), "the lost attempt counts");
    let waiting = list(&stranger, "").await.remove(0);
    assert_eq!(state(delivery(&waiting, "EMAIL")), is("PROCESSING", 1, None), "a lease that lasts is respected");

    stalled.resume();
    let found = ended(&stranger).await;
    assert_eq!(state(delivery(&found, "EMAIL")), is("SUCCESS", 1, None));
    let found = list(&user, "").await.remove(0);
    assert_eq!(state(delivery(&found, "EMAIL")), is("SUCCESS", 2, Some("LEASE_LOST")), "the late result is dropped");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_lease_is_over_does_not_record_over_the_new_owner() {
    let (site, _) = start(&[]).await;
    let (user, stranger) = (user(&site), stranger(&site));
    let mut first_owner = site.pause("notification-hub", "delivery.after_send");
    publish_order(&site, "one", USER).await;
    first_owner.reached().await;
    let mut new_owner = site.pause("notification-hub", "delivery.after_claim");
    end_lease(&site, &user).await;
    new_owner.reached().await;
    let of_user = "select deliveries.status, deliveries.attempt, deliveries.lock_token
         from {notification_hub}.deliveries
         join {notification_hub}.notifications on notifications.id = deliveries.notification_id
         where notifications.user_id = '00000000-0000-0000-0000-0000000000aa'";
    let owned = json!({ "status": "PROCESSING", "attempt": 2, "lock_token": 2 });
    assert_eq!(site.rows(of_user).await, std::slice::from_ref(&owned), "each claim has a lock token of its own");

    first_owner.resume();
    // The worker that was resumed sends this one afterwards: it has recorded its first result by then.
    publish_order(&site, "two", STRANGER).await;
    assert_eq!(ended(&stranger).await["status"], "COMPLETED");
    assert_eq!(site.rows(of_user).await, [owned], "a result under an old lock token changes nothing");

    new_owner.resume();
    let found = ended(&user).await;
    assert_eq!(state(delivery(&found, "EMAIL")), is("SUCCESS", 2, Some("LEASE_LOST")));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_whose_workers_die_with_every_attempt_is_given_up() {
    let (site, _) = start(&[("notification_hub.email.retry_delays_seconds", "0")]).await;
    let (user, stranger) = (user(&site), stranger(&site));
    let mut first_owner = site.pause("notification-hub", "delivery.after_claim");
    publish_order(&site, "one", USER).await;
    first_owner.reached().await;
    let mut second_owner = site.pause("notification-hub", "delivery.after_claim");
    end_lease(&site, &user).await;
    second_owner.reached().await;
    end_lease(&site, &user).await;
    let given_up = is("FAILED", 2, Some("LEASE_LOST"));
    assert_eq!(state(delivery(&ended(&user).await, "EMAIL")), given_up, "a lost attempt counts like a failed one");

    first_owner.resume();
    second_owner.resume();
    publish_order(&site, "two", STRANGER).await;
    assert_eq!(ended(&stranger).await["status"], "COMPLETED");
    assert_eq!(state(delivery(&ended(&user).await, "EMAIL")), given_up, "late results change nothing");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_whose_worker_has_died_is_sent_after_its_lease() {
    let slack = FakeSlack::start(&[]);
    let (site, _) = start(&slack.settings()).await;
    // The Slack worker waits, so that the alert is not sent before the test has changed it.
    let mut worker = site.pause("notification-hub", "slack.before_turn");
    worker.reached().await;
    site.publish(&payment_failed("one")).await;
    ended(&user(&site)).await;
    // What a worker leaves behind that dies after its claim.
    site.execute(
        "update {notification_hub}.deliveries
         set status = 'PROCESSING', attempt = 1, lock_token = 1, lease_until = now() - interval '1 second'
         where channel = 'SLACK'",
    )
    .await;
    worker.resume();
    let all = all_ended(&site.admin(), 1).await;
    assert_eq!(state(delivery(&all[0], "SLACK")), is("SUCCESS", 2, Some("LEASE_LOST")));
    assert_eq!(slack.told(&payment_failed("one")), 1);
    site.stop().await;
    slack.stop().await;
}

/// Leases here are no longer than the margin for recording, so a claim always comes too late to be sent.
#[tokio::test(flavor = "multi_thread")]
async fn an_email_that_cannot_be_sent_before_its_lease_ends_is_handed_back_and_not_charged() {
    let mut settings = vec![("notification_hub.reclaim_period_ms", "3600000")];
    for lease in ["notification_hub.lease_seconds", "notification_hub.new_lease_seconds"] {
        settings.push((lease, "5"));
    }
    for timeout in [
        "notification_hub.email.timeout_ms",
        "notification_hub.slack.timeout_ms",
        "notification_hub.webhook.timeout_ms",
    ] {
        settings.push((timeout, "0"));
    }
    let (site, _) = start(&settings).await;
    let invitation = json!({
        "type": "INVITATION", "recipient": { "email": "ann@example.com" }, "channels": [{ "channel": "EMAIL" }],
        "subject": "Hello", "body": "Come in.",
    });
    send(&site.admin(), "k", &invitation).await.expect(201);
    let claims = "select max(lock_token) from {notification_hub}.deliveries";
    eventually("it is claimed more than once", async || (site.number(claims).await > 1).then_some(())).await;
    let untried = "select count(*) from {notification_hub}.deliveries where attempt <= 1 and last_error is null
                    and status in ('PENDING', 'PROCESSING')";
    assert_eq!(site.number(untried).await, 1, "a claim that comes too late costs no attempt");
    assert_eq!(site.number("select count(*) from {notification_hub}.delivery_attempts").await, 0, "and sends nothing");
    site.stop().await;
}

/// The same for what goes to operators.
#[tokio::test(flavor = "multi_thread")]
async fn an_alert_that_cannot_be_sent_before_its_lease_ends_is_handed_back_and_not_charged() {
    let slack = FakeSlack::start(&[]);
    let mut settings = slack.settings();
    // However long this takes, no claim is taken for lost.
    settings.push(("notification_hub.reclaim_period_ms", "3600000"));
    for lease in ["notification_hub.lease_seconds", "notification_hub.new_lease_seconds"] {
        settings.push((lease, "5"));
    }
    for timeout in [
        "notification_hub.email.timeout_ms",
        "notification_hub.slack.timeout_ms",
        "notification_hub.webhook.timeout_ms",
    ] {
        settings.push((timeout, "0"));
    }
    let (site, _) = start(&settings).await;
    site.publish(&payment_failed("one")).await;
    let tried = "select count(*) from {notification_hub}.deliveries
         where channel = 'SLACK' and (lock_token > 1 or last_error is not null or status = 'SUCCESS')";
    site.until_number(tried, 1).await;
    let handed_back = "select count(*) from {notification_hub}.deliveries
         where channel = 'SLACK' and last_error is null and status in ('PENDING', 'PROCESSING') and attempt <= 1";
    assert_eq!(site.number(handed_back).await, 1, "what cannot be sent before its lease ends is handed back");
    assert_eq!(slack.posts().len(), 0, "and is not sent");
    site.stop().await;
    slack.stop().await;
}
