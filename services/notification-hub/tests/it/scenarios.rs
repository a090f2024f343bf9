//! The three scenarios that the founding document of the hub names, each from its cause to what its readers see.

use serde_json::json;
use testkit::text;

use crate::fake_slack::FakeSlack;
use crate::hub::{USER, delivery, ended, is, newest, payment_failed, publish_order, start, state, user};
use crate::senders::{incident, program, send};

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_confirmed_to_its_buyer_by_email() {
    let (site, account) = start(&[]).await;
    publish_order(&site, "one", USER).await;
    let found = ended(&user(&site)).await;
    assert_eq!((&found["type"], state(delivery(&found, "EMAIL"))), (&json!("ORDER_CREATED"), is("SUCCESS", 1, None)));
    assert_eq!(account.asked(USER), 1);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_payment_is_told_to_the_customer_by_email_and_to_operators_over_slack() {
    let slack = FakeSlack::start(&[]);
    let (site, _) = start(&slack.settings()).await;
    site.publish(&payment_failed("one")).await;
    let found = newest(&site.admin(), "both are sent", |found| found["status"] == "COMPLETED").await;
    for channel in ["EMAIL", "SLACK"] {
        assert_eq!(state(delivery(&found, channel)), is("SUCCESS", 1, None), "{channel}");
    }
    assert_eq!(slack.told(&payment_failed("one")), 1);
    site.stop().await;
    slack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_tells_operators_of_an_incident_over_slack_and_they_look_it_up() {
    let slack = FakeSlack::start(&[]);
    let (site, _) = start(&slack.settings()).await;
    let scopes = ["notifications:write", "notifications:read"];
    let (_, monitoring) = program(&site, "monitoring", &scopes).await;
    let sent = send(&monitoring, "INC-1", &incident()).await.expect(201).json();
    slack.posted(1).await;
    let message = slack.taken().remove(0).to_string();
    let id = text(&sent["notificationId"]);
    for part in ["The payment provider is slow", "p99 is 9 s since 09:10.", id.as_str()] {
        assert!(message.contains(part), "{part} is missing in {message}");
    }
    // The message names the notification: who reads it finds the details under that id.
    let is_sent = |found: &serde_json::Value| found["status"] == "COMPLETED";
    newest(&site.admin(), "it is recorded", is_sent).await;
    for reader in [&site.admin(), &monitoring] {
        let found = reader.get(&format!("/notifications/{id}")).await.expect(200).json();
        assert_eq!((&found["type"], &found["data"]), (&json!("SYSTEM_INCIDENT"), &json!({ "incidentId": "INC-1" })));
        let alert = delivery(&found, "SLACK");
        assert_eq!((state(alert), alert["history"].as_array().unwrap().len()), (is("SUCCESS", 1, None), 1));
        let listed = reader.get("/notifications?type=SYSTEM_INCIDENT&channel=SLACK&status=COMPLETED").await.expect(200);
        assert_eq!(listed.json()["items"], json!([found]));
    }
    user(&site).get(&format!("/notifications/{id}")).await.refused(404, "NOTIFICATION_NOT_FOUND");
    site.stop().await;
    slack.stop().await;
}
