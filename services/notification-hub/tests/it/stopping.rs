//! SIGTERM: what is claimed is sent or handed back, so that nobody waits until its lease ends.

use serde_json::json;
use testkit::{Site, eventually};

use crate::fake_slack::{Answer, FakeSlack};
use crate::hub::{USER, newest, payment_failed, publish_order, start, user};

const DELIVERIES: &str =
    "select channel, status, attempt, lease_until from {notification_hub}.deliveries order by channel";

/// Returns when the loops of a site that stops have been told to.
async fn loops_stop(site: &Site) {
    let address = site.grpc.trim_start_matches("http://");
    eventually("the gRPC port, which closes before the loops stop, is closed", async || {
        tokio::net::TcpStream::connect(address).await.is_err().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_email_that_waits_for_its_address_is_handed_back_and_not_charged() {
    let (site, account) = start(&[]).await;
    account.hang();
    publish_order(&site, "one", USER).await;
    newest(&user(&site), "the e-mail is claimed", |found| found["deliveries"][0]["status"] == "PROCESSING").await;
    site.stop().await;
    let handed_back = json!({ "channel": "EMAIL", "status": "PENDING", "attempt": 0, "lease_until": null });
    assert_eq!(site.rows(DELIVERIES).await, [handed_back]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_email_that_is_claimed_while_the_hub_stops_is_handed_back() {
    let (site, account) = start(&[]).await;
    account.hang();
    let mut claims = site.pause("notification-hub", "notification.before_commit");
    publish_order(&site, "one", USER).await;
    claims.reached().await;
    tokio::join!(site.stop(), async {
        loops_stop(&site).await;
        claims.resume();
    });
    let handed_back = json!({ "channel": "EMAIL", "status": "PENDING", "attempt": 0, "lease_until": null });
    assert_eq!(site.rows(DELIVERIES).await, [handed_back], "the worker stops after the transactions that claim for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_slack_is_taking_is_recorded_before_the_hub_stops() {
    let slack = FakeSlack::start(&[Answer::Hang]);
    let (site, _) = start(&slack.settings()).await;
    site.publish(&payment_failed("one")).await;
    slack.posted(1).await;
    tokio::join!(site.stop(), async {
        loops_stop(&site).await;
        slack.release();
    });
    let sent = json!({ "channel": "SLACK", "status": "SUCCESS", "attempt": 1, "lease_until": null });
    assert_eq!(site.rows(DELIVERIES).await[1], sent, "it is not sent again by the next process");
    assert_eq!(slack.told(&payment_failed("one")), 1);
    slack.stop().await;
}
