//! Slack's pace: one message at a time from all replicas together, and no faster than Slack takes them.

use std::time::Duration;

use serde_json::Value;
use testkit::Site;

use crate::fake_slack::{Answer, FakeSlack};
use crate::hub::{all_ended, delivery, is, newest, payment_failed, replica, start, state};

/// Far away: in these tests the clock does not move, the moment does.
const AN_HOUR_MS: &str = "3600000";

const PENDING: &str =
    "select count(*) from {notification_hub}.deliveries where channel = 'SLACK' and status = 'PENDING'";

/// Alerts that are written, sent or not.
const WRITTEN: &str = "select count(*) from {notification_hub}.deliveries where channel = 'SLACK'";

/// Lets the next message go now.
async fn end_pause(site: &Site) {
    site.execute("update {notification_hub}.channel_paces set next_send_at = now()").await;
}

/// Returns when Slack workers of this site had a whole turn since it was called.
async fn whole_turn(site: &Site) {
    for _ in 0..2 {
        let mut turn = site.pause("notification-hub", "slack.before_turn");
        turn.reached().await;
        turn.resume();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_message_the_next_one_waits_for_the_interval() {
    let slack = FakeSlack::start(&[]);
    let mut settings = slack.settings();
    settings.push(("notification_hub.slack.interval_ms", AN_HOUR_MS));
    let (site, _) = start(&settings).await;
    site.publish(&payment_failed("one")).await;
    all_ended(&site.admin(), 1).await;
    site.publish(&payment_failed("two")).await;
    site.until_number(WRITTEN, 2).await;
    whole_turn(&site).await;
    assert_eq!(slack.posts().len(), 1, "the second message waits for the interval");

    end_pause(&site).await;
    all_ended(&site.admin(), 2).await;
    assert_eq!((slack.told(&payment_failed("one")), slack.told(&payment_failed("two"))), (1, 1));
    site.stop().await;
    slack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_keeps_the_pace_that_another_has_set() {
    let slack = FakeSlack::start(&[]);
    let mut settings = slack.settings();
    settings.push(("notification_hub.slack.interval_ms", AN_HOUR_MS));
    let (site, account) = start(&settings).await;
    site.publish(&payment_failed("one")).await;
    all_ended(&site.admin(), 1).await;
    site.stop().await;

    let replica = replica(&site, &account, &settings).await;
    replica.publish(&payment_failed("two")).await;
    replica.until_number(WRITTEN, 2).await;
    whole_turn(&replica).await;
    assert_eq!(slack.posts().len(), 1, "the pace is that of the webhook, whoever sends");
    end_pause(&replica).await;
    slack.posted(2).await;
    replica.stop().await;
    slack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_one_replica_has_the_turn_no_other_sends() {
    let slack = FakeSlack::start(&[]);
    let mut settings = slack.settings();
    settings.extend([("notification_hub.slack.interval_ms", AN_HOUR_MS), ("notification_hub.slack.digest_max", "1")]);
    let (site, account) = start(&settings).await;
    let replica = replica(&site, &account, &settings).await;
    let mut in_turn = site.pause("notification-hub", "slack.in_turn");
    in_turn.reached().await;
    for name in ["one", "two"] {
        site.publish(&payment_failed(name)).await;
    }
    site.until_number(PENDING, 2).await;
    // The turns that end here are those of the other replica.
    whole_turn(&site).await;
    assert_eq!(slack.posts().len(), 0, "only who has the turn sends");
    in_turn.resume();
    slack.posted(1).await;
    whole_turn(&site).await;
    assert_eq!(slack.posts().len(), 1, "the next message waits for the interval, in both replicas");
    replica.stop().await;
    site.stop().await;
    slack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_slack_asks_for_delays_every_message_and_costs_no_attempt() {
    let slack = FakeSlack::start(&[Answer::TooFast(60)]);
    let (site, _) = start(&slack.settings()).await;
    site.publish(&payment_failed("one")).await;
    let throttled = |found: &Value| delivery(found, "SLACK")["lastError"] == "THROTTLED";
    let found = newest(&site.admin(), "the alert is throttled", throttled).await;
    assert_eq!(state(delivery(&found, "SLACK")), is("PENDING", 0, Some("THROTTLED")));
    let kept = "select count(*)
         from {notification_hub}.deliveries
         join {notification_hub}.channel_paces using (channel)
         where deliveries.next_attempt_at >= deliveries.created_at + interval '60 seconds'
           and channel_paces.next_send_at >= deliveries.created_at + interval '60 seconds'";
    assert_eq!(site.number(kept).await, 1, "the delivery waits for 60 seconds, and so does everything else");

    site.execute("update {notification_hub}.deliveries set next_attempt_at = now() where channel = 'SLACK'").await;
    end_pause(&site).await;
    let found = all_ended(&site.admin(), 1).await.remove(0);
    assert_eq!(state(delivery(&found, "SLACK")), is("SUCCESS", 1, Some("THROTTLED")));
    assert_eq!((slack.told(&payment_failed("one")), slack.posts().len()), (1, 2));
    site.stop().await;
    slack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_is_one_message_and_one_bad_alert_does_not_take_the_others_along() {
    // The digest is refused, and then the first of its parts.
    let slack = FakeSlack::start(&[Answer::Status(400), Answer::Status(400)]);
    let (site, _) = start(&slack.settings()).await;
    site.execute("update {notification_hub}.channel_paces set next_send_at = now() + interval '1 hour'").await;
    let storm: Vec<_> = (0..6).map(|name| payment_failed(&name.to_string())).collect();
    for failed in &storm {
        site.publish(failed).await;
    }
    site.until_number(PENDING, 6).await;
    end_pause(&site).await;
    let all = all_ended(&site.admin(), 6).await;

    let parts: Vec<_> = slack.posts().iter().map(|post| post.parts()).collect();
    assert_eq!(parts, [6, 1, 1, 1, 1, 1, 1], "all in one message, then each alone");
    let refused: Vec<_> = all.iter().filter(|found| found["status"] == "PARTIALLY_FAILED").collect();
    assert_eq!(refused.len(), 1, "one bad part");
    assert_eq!(delivery(refused[0], "SLACK")["lastError"], "MESSAGE_REFUSED");
    let mut told: Vec<_> = storm.iter().map(|failed| slack.told(failed)).collect();
    told.sort_unstable();
    assert_eq!(told, [0, 1, 1, 1, 1, 1], "every other alert is told once");
    site.stop().await;
    slack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: seven messages a second apart"]
async fn replicas_keep_slacks_pace_together() {
    let slack = FakeSlack::start(&[]);
    let mut settings = slack.settings();
    settings.extend([("notification_hub.slack.interval_ms", "1000"), ("notification_hub.slack.digest_max", "1")]);
    let (site, account) = start(&settings).await;
    let other = replica(&site, &account, &settings).await;
    let all: Vec<_> = (0..8).map(|name| payment_failed(&name.to_string())).collect();
    for failed in &all {
        site.publish(failed).await;
    }
    all_ended(&site.admin(), 8).await;
    for failed in &all {
        assert_eq!(slack.told(failed), 1);
    }
    let posts = slack.posts();
    assert_eq!(posts.len(), 8);
    for pair in posts.windows(2) {
        let pause = pair[1].at - pair[0].at;
        assert!(pause >= Duration::from_millis(200), "only {pause:?}");
    }
    // Seven seconds, or three if each kept a pace of its own.
    let all_took = posts[7].at - posts[0].at;
    assert!(all_took >= Duration::from_secs(5), "only {all_took:?}");
    site.stop().await;
    other.stop().await;
    slack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: two pauses of a second each"]
async fn a_pause_that_slack_asks_for_is_kept() {
    let slack = FakeSlack::start(&[Answer::TooFast(1), Answer::TooFast(1)]);
    let (site, _) = start(&slack.settings()).await;
    site.publish(&payment_failed("one")).await;
    let found = all_ended(&site.admin(), 1).await.remove(0);
    assert_eq!(slack.told(&payment_failed("one")), 1);
    let posts = slack.posts();
    assert_eq!(posts.len(), 3);
    for pair in posts.windows(2) {
        let pause = pair[1].at - pair[0].at;
        assert!(pause >= Duration::from_millis(950), "only {pause:?}");
    }
    assert_eq!(state(delivery(&found, "SLACK")), is("SUCCESS", 1, Some("THROTTLED")));
    site.stop().await;
    slack.stop().await;
}
