//! Slack when it is slow, broken or gone: every alert arrives once or is given up, and e-mails do not wait for it.

use contract::events::PaymentFailed;
use serde_json::Value;

use crate::fake_slack::{Answer, FakeSlack};
use crate::hub::{all_ended, delivery, ended, is, list, newest, payment_failed, retry, start, state, user};

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_that_was_sent_is_not_sent_again() {
    let slack = FakeSlack::start(&[]);
    let (site, _) = start(&slack.settings()).await;
    site.publish(&payment_failed("one")).await;
    all_ended(&site.admin(), 1).await;
    site.publish(&payment_failed("two")).await;
    let all = all_ended(&site.admin(), 2).await;
    for (name, found) in ["two", "one"].into_iter().zip(&all) {
        assert_eq!(slack.told(&payment_failed(name)), 1, "alert {name} is told once");
        assert_eq!(state(delivery(found, "SLACK")), is("SUCCESS", 1, None));
    }
    site.stop().await;
    slack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_slack_is_tried_again() {
    let slack = FakeSlack::start(&[Answer::Status(500), Answer::Status(503)]);
    let (site, _) = start(&slack.settings()).await;
    site.publish(&payment_failed("one")).await;
    let found = all_ended(&site.admin(), 1).await.remove(0);
    assert_eq!(state(delivery(&found, "SLACK")), is("SUCCESS", 3, Some("UNAVAILABLE")));
    assert_eq!((slack.told(&payment_failed("one")), slack.posts().len()), (1, 3));
    site.stop().await;
    slack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn emails_do_not_wait_for_a_slack_that_hangs() {
    let slack = FakeSlack::start(&[Answer::Hang]);
    let (site, _) = start(&slack.settings()).await;
    site.publish(&payment_failed("one")).await;
    slack.posted(1).await;
    // From here on Slack hangs, until it is released.
    assert_eq!(ended(&user(&site)).await["status"], "COMPLETED");
    crate::hub::publish_order(&site, "later", crate::hub::USER).await;
    newest(&user(&site), "the order is told", |found| found["type"] == "ORDER_CREATED").await;
    assert_eq!(ended(&user(&site)).await["status"], "COMPLETED");
    let hanging = list(&site.admin(), "?status=IN_PROGRESS").await.remove(0);
    assert_eq!(state(delivery(&hanging, "SLACK")), is("PROCESSING", 1, None));

    slack.release();
    all_ended(&site.admin(), 2).await;
    assert_eq!(slack.told(&payment_failed("one")), 1);
    site.stop().await;
    slack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_that_slack_does_not_answer_is_tried_again() {
    let slack = FakeSlack::start(&[Answer::Hang]);
    let mut settings = slack.settings();
    settings.push(("notification_hub.slack.timeout_ms", "300"));
    let (site, _) = start(&settings).await;
    site.publish(&payment_failed("one")).await;
    let found = all_ended(&site.admin(), 1).await.remove(0);
    assert_eq!(delivery(&found, "SLACK")["lastError"], "NO_ANSWER");
    assert_eq!(found["status"], "COMPLETED");
    site.stop().await;
    slack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_alert_is_a_dead_letter_beside_an_email_that_arrived() {
    for (answer, error) in [
        (Answer::Status(400), "MESSAGE_REFUSED"),
        (Answer::Status(404), "WEBHOOK_REFUSED"),
        (Answer::Status(410), "WEBHOOK_REFUSED"),
        (Answer::Moved, "WEBHOOK_REFUSED"),
    ] {
        let slack = FakeSlack::start(&[answer]);
        let (site, _) = start(&slack.settings()).await;
        let operator = site.admin();
        site.publish(&payment_failed("one")).await;
        let found = all_ended(&operator, 1).await.remove(0);
        let alert = delivery(&found, "SLACK");
        assert_eq!(state(alert), is("FAILED", 1, Some(error)), "{answer:?}");
        assert!(alert["deadLetteredAt"].is_string());
        assert_eq!(slack.posts().len(), 1, "a final refusal is not repeated and a redirect is not followed");
        assert_eq!(found["status"], "PARTIALLY_FAILED");
        // The customer's part is done: whether the alert arrived is not for customers.
        assert_eq!(list(&user(&site), "").await[0]["status"], "COMPLETED");
        assert_eq!(list(&user(&site), "?status=PARTIALLY_FAILED").await, [] as [Value; 0]);

        retry(&operator, &found, alert).await.expect(202);
        assert_eq!(all_ended(&operator, 1).await[0]["status"], "COMPLETED");
        assert_eq!(slack.told(&payment_failed("one")), 1);
        site.stop().await;
        slack.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn markup_in_a_providers_code_arrives_as_text() {
    let slack = FakeSlack::start(&[]);
    let (site, _) = start(&slack.settings()).await;
    let pg_code = "<!channel> & <https://evil.example|click>".to_owned();
    site.publish(&PaymentFailed { pg_code, ..payment_failed("one") }).await;
    all_ended(&site.admin(), 1).await;
    let message = slack.taken()[0].to_string();
    assert!(message.contains("&lt;!channel&gt; &amp; &lt;https://evil.example|click&gt;"), "{message}");
    assert!(!message.contains('<'));
    site.stop().await;
    slack.stop().await;
}
