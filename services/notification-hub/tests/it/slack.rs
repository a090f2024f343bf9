//! Slack as it is on bad days: slow, full, broken, gone. Every alert arrives once, and e-mails do not notice.

use std::time::{Duration, Instant};

use common::auth::Role;
use contract::events::PaymentFailed;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::payments::payment_failed;
use crate::pretended_slack::{Answer, PretendedSlack};
use crate::site::{OPERATOR, PATIENCE, Site, is, order};

fn delivery<'a>(notification: &'a Value, channel: &str) -> &'a Value {
    notification["deliveries"].as_array().unwrap().iter().find(|one| one["channel"] == channel).unwrap()
}

/// How often `payment` is told of in the messages that were taken.
fn told(slack: &PretendedSlack, payment: &PaymentFailed) -> usize {
    slack.taken().iter().map(|message| message["blocks"].to_string().matches(&payment.payment_id).count()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_slack_asks_for_is_kept_and_costs_no_try() {
    let slack = PretendedSlack::start(&[Answer::TooFast(1), Answer::TooFast(1)]);
    let site = Site::start_with("too_fast", &slack.settings()).await;
    site.hears(&payment_failed("one")).await;
    let found = site.operators(is("COMPLETED")).await;

    assert_eq!(told(&slack, &payment_failed("one")), 1);
    let heard = slack.heard();
    assert_eq!(heard.len(), 3);
    for pair in heard.windows(2) {
        let pause = pair[1].at - pair[0].at;
        assert!(pause >= Duration::from_millis(950), "only {pause:?}");
    }
    let alert = delivery(&found, "SLACK");
    assert_eq!((&alert["attempts"], &alert["lastError"]), (&1.into(), &"THROTTLED".into()));
    site.stop().await;
    slack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_slack_is_tried_again() {
    let slack = PretendedSlack::start(&[Answer::Status(500), Answer::Status(503)]);
    let site = Site::start_with("broken", &slack.settings()).await;
    site.hears(&payment_failed("one")).await;
    let found = site.operators(is("COMPLETED")).await;

    assert_eq!((told(&slack, &payment_failed("one")), slack.heard().len()), (1, 3));
    let alert = delivery(&found, "SLACK");
    assert_eq!((&alert["attempts"], &alert["lastError"]), (&3.into(), &"UNAVAILABLE".into()));
    site.stop().await;
    slack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn emails_do_not_wait_for_a_slack_that_hangs() {
    let slack = PretendedSlack::start(&[Answer::Hang]);
    let mut settings = slack.settings();
    settings.push(("notification_hub.slack.timeout_ms", "15000"));
    let site = Site::start_with("hangs", &settings).await;
    site.hears(&payment_failed("one")).await;
    let started = Instant::now();
    while slack.heard().is_empty() {
        assert!(started.elapsed() < PATIENCE, "nothing was posted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // From here on Slack hangs for fifteen seconds.
    let own = site.notification(is("COMPLETED")).await;
    assert_eq!(delivery(&own, "EMAIL")["status"], "SUCCESS");
    let (event_id, order) = order("later", crate::site::USER);
    site.order_created(event_id, &order).await;
    site.notification(|found| found["type"] == "ORDER_CREATED" && is("COMPLETED")(found)).await;
    let (_, page) = site.call(Method::GET, "/notifications?status=IN_PROGRESS", OPERATOR, Role::Admin).await;
    assert_eq!(delivery(&page["items"][0], "SLACK")["status"], "PROCESSING", "{page}");

    let all = site.all(2, is("COMPLETED")).await;
    let failed = all.iter().find(|one| one["type"] == "PAYMENT_FAILED").unwrap();
    assert_eq!(delivery(failed, "SLACK")["lastError"], "NO_ANSWER");
    assert_eq!(told(&slack, &payment_failed("one")), 1);
    site.stop().await;
    slack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_alert_is_a_dead_letter_beside_an_email_that_arrived() {
    for (name, answer, error) in [
        ("refused", Answer::Status(400), "MESSAGE_REFUSED"),
        ("gone", Answer::Status(404), "WEBHOOK_REFUSED"),
        ("archived", Answer::Status(410), "WEBHOOK_REFUSED"),
        ("moved", Answer::Moved, "WEBHOOK_REFUSED"),
    ] {
        let slack = PretendedSlack::start(&[answer]);
        let site = Site::start_with(name, &slack.settings()).await;
        site.hears(&payment_failed("one")).await;
        let found = site.operators(is("PARTIALLY_FAILED")).await;
        let alert = delivery(&found, "SLACK");
        assert_eq!((&alert["attempts"], &alert["lastError"]), (&1.into(), &error.into()));
        assert!(alert["deadLetteredAt"].is_string());
        assert_eq!(slack.heard().len(), 1, "a final refusal is not repeated and a redirect is not followed");
        // The customer's part is done: what operators get is not the customer's business.
        site.notification(is("COMPLETED")).await;
        let (_, page) = site.get("/notifications?status=PARTIALLY_FAILED").await;
        assert_eq!(page["items"], Value::Array(Vec::new()));

        let id = |value: &Value| value.as_str().unwrap().to_owned();
        let path =
            format!("/notifications/{}/deliveries/{}/retry", id(&found["notificationId"]), id(&alert["deliveryId"]));
        let (status, _) = site.call(Method::POST, &path, OPERATOR, Role::Admin).await;
        assert_eq!(status, StatusCode::ACCEPTED);
        site.operators(is("COMPLETED")).await;
        assert_eq!(told(&slack, &payment_failed("one")), 1);
        site.stop().await;
        slack.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_is_a_few_messages_and_one_bad_alert_does_not_take_the_others_along() {
    // The first message has to wait, so that the others gather; the digest is refused, and then one of its parts.
    let slack = PretendedSlack::start(&[Answer::TooFast(2), Answer::Status(400), Answer::Status(400)]);
    let site = Site::start_with("storm", &slack.settings()).await;
    let storm: Vec<_> = (0..6).map(|name| payment_failed(&name.to_string())).collect();
    site.hears(&storm[0]).await;
    while slack.heard().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for failed in &storm[1..] {
        site.hears(failed).await;
    }
    let ended = |found: &Value| is("COMPLETED")(found) || is("PARTIALLY_FAILED")(found);
    let all = site.all(6, ended).await;

    let digest = &slack.heard()[1].message;
    // A header, and a section and a context for each. The one that had to wait may be in it or a moment too late.
    let told_at_once = (digest["blocks"].as_array().unwrap().len() - 1) / 2;
    assert!((5..=6).contains(&told_at_once), "{digest}");
    let refused: Vec<_> = all.iter().filter(|found| is("PARTIALLY_FAILED")(found)).collect();
    assert_eq!(refused.len(), 1);
    assert_eq!(delivery(refused[0], "SLACK")["lastError"], "MESSAGE_REFUSED");
    let told: Vec<_> = storm.iter().map(|failed| told(&slack, failed)).collect();
    assert_eq!((told.iter().filter(|times| **times == 1).count(), told.iter().sum::<usize>()), (5, 5), "{told:?}");
    site.stop().await;
    slack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_keep_slacks_pace_together() {
    let slack = PretendedSlack::start(&[]);
    let mut settings = slack.settings();
    settings.extend([("notification_hub.slack.interval_ms", "1000"), ("notification_hub.slack.digest_max", "1")]);
    let site = Site::start_with("pace", &settings).await;
    let other = Site::start_with("pace", &settings).await;
    let all: Vec<_> = (0..8).map(|name| payment_failed(&name.to_string())).collect();
    for failed in &all {
        site.hears(failed).await;
    }
    site.all(8, is("COMPLETED")).await;
    for failed in &all {
        assert_eq!(told(&slack, failed), 1);
    }
    let heard = slack.heard();
    assert_eq!(heard.len(), 8);
    for pair in heard.windows(2) {
        let pause = pair[1].at - pair[0].at;
        assert!(pause >= Duration::from_millis(200), "only {pause:?}");
    }
    // Seven seconds, or three if each kept a pace of its own.
    let all_took = heard[7].at - heard[0].at;
    assert!(all_took >= Duration::from_secs(5), "only {all_took:?}");
    site.stop().await;
    other.stop().await;
    slack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_called_by_what_a_provider_writes() {
    let slack = PretendedSlack::start(&[]);
    let site = Site::start_with("injection", &slack.settings()).await;
    let pg_code = "<!channel> & <https://evil.example|click>".to_owned();
    site.hears(&PaymentFailed { pg_code, ..payment_failed("one") }).await;
    site.operators(is("COMPLETED")).await;
    let message = slack.taken()[0].to_string();
    assert!(message.contains("&lt;!channel&gt; &amp; &lt;https://evil.example|click&gt;"), "{message}");
    assert!(!message.contains('<'));
    site.stop().await;
    slack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_whose_worker_has_died_is_sent_after_its_lease() {
    let slack = PretendedSlack::start(&[Answer::Status(404)]);
    let site = Site::start_with("slack_died", &slack.settings()).await;
    site.hears(&payment_failed("one")).await;
    site.operators(is("PARTIALLY_FAILED")).await;
    // What a worker leaves behind that dies after its claim.
    site.sql(
        "update deliveries set status = 'PROCESSING', lock_token = lock_token + 1, dead_lettered_at = null,
         lease_until = now() + interval '1 second' where channel = 'SLACK'",
    )
    .await;
    let found = site.operators(is("COMPLETED")).await;
    assert_eq!(delivery(&found, "SLACK")["lastError"], "LEASE_LOST");
    assert_eq!(told(&slack, &payment_failed("one")), 1);
    site.stop().await;
    slack.stop().await;
}
