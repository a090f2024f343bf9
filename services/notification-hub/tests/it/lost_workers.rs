//! Five thousand deliveries whose workers are lost before and after sending, or stall past their leases and come back: each
//! arrives, each has one success in the record, and what comes twice is what a lost worker had sent. Prints what it has seen.

use std::collections::HashMap;

use common::crash::Pause;
use futures_util::stream::{self, StreamExt};
use reqwest::Method;
use serde_json::json;
use testkit::{Client, Site, eventually};

use crate::fake_receiver::FakeReceiver;
use crate::hub::{replica, start};
use crate::senders::{program, send};

const DELIVERIES: usize = 5_000;
const INCIDENTS: usize = 24;
/// Of the replicas so many may be lost for good, in the middle of a claim.
const LOST_MAX: usize = 3;

async fn number(site: &Site, condition: &str) -> i64 {
    site.number(&format!("select count(*) from {{notification_hub}}.deliveries where {condition}")).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: 5,000 deliveries, and workers that are lost among them"]
async fn five_thousand_deliveries_arrive_though_workers_are_lost_before_and_after_sending() {
    let receiver = FakeReceiver::start(&[]);
    let settings = [
        ("notification_hub.webhook.allow_http", "true"),
        ("notification_hub.webhook.allow_private_addresses", "true"),
        ("notification_hub.webhook.retry_delays_seconds", "0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0"),
        ("notification_hub.targets.webhook_interval_ms", "0"),
        ("notification_hub.reclaim_period_ms", "100"),
    ];
    let (site, account) = start(&settings).await;
    let mut replicas = Vec::new();
    for _ in 0..=LOST_MAX {
        replicas.push(replica(&site, &account, &settings).await);
    }
    let admin = site.admin();
    let endpoint = admin.request(Method::PUT, "/admin/webhook-endpoints/sink");
    admin.send(endpoint.json(&json!({ "url": format!("http://{}/", receiver.address) }))).await.expect(201);
    let (_, sender) = program(&site, "soak", &["notifications:write"]).await;
    let asking = tokio::spawn(ask(sender));
    let (lost, stalled) = lose_workers(&site).await;
    asking.await.unwrap();
    eventually("all are sent", async || {
        // What the lost workers still have is taken from them.
        site.execute(
            "update {notification_hub}.deliveries set lease_until = now() - interval '1 second'
              where status = 'PROCESSING' and updated_at < now() - interval '2 seconds'",
        )
        .await;
        (number(&site, "status = 'SUCCESS'").await >= DELIVERIES as i64).then_some(())
    })
    .await;

    let twice = check(&site, &receiver).await;
    println!("{DELIVERIES} deliveries; {} workers lost, {stalled} stalled; {twice} arrived more than once", lost.len());
    // What comes back now changes nothing.
    lost.into_iter().for_each(|worker| worker.resume());
    for replica in replicas {
        replica.stop().await;
    }
    site.stop().await;
    receiver.stop().await;
}

/// Asks for all deliveries.
async fn ask(sender: Client) {
    let asks = stream::iter(0..DELIVERIES).map(|n| {
        let sender = sender.clone();
        async move {
            let body = json!({
                "type": "SOAK", "channels": [{ "channel": "WEBHOOK", "target": "sink" }], "subject": "s", "body": "b",
            });
            send(&sender, &format!("soak-{n}"), &body).await.expect(201);
        }
    });
    asks.buffer_unordered(32).collect::<Vec<()>>().await;
}

/// Stops workers in the middle of claims. Returns those that are lost for good, and how many went on too late.
async fn lose_workers(site: &Site) -> (Vec<Pause>, usize) {
    let (mut lost, mut stalled) = (Vec::new(), 0);
    for incident in 0..INCIDENTS {
        let point = ["delivery.after_claim", "delivery.after_send"][incident % 2];
        let mut worker = site.pause("notification-hub", point);
        let goal = (incident + 1) * DELIVERIES / (INCIDENTS + 2);
        // The deliveries may be over before the last incidents are reached.
        let reached = tokio::select! {
            () = worker.reached() => true,
            () = eventually("all are sent", async || {
                (number(site, "status = 'SUCCESS'").await >= DELIVERIES as i64).then_some(())
            }) => false,
        };
        if !reached {
            break;
        }
        // Whoever has a claim now has lost it, also those that are well: their results come too late.
        site.execute(
            "update {notification_hub}.deliveries set lease_until = now() - interval '1 second' where status = 'PROCESSING'",
        )
        .await;
        eventually("others go on", async || {
            let sent = number(site, "status = 'SUCCESS'").await;
            (sent >= goal.min(DELIVERIES) as i64 || number(site, "status = 'PENDING'").await == 0).then_some(())
        })
        .await;
        if lost.len() < LOST_MAX && incident % 5 == 0 {
            lost.push(worker);
        } else {
            stalled += 1;
            worker.resume();
        }
    }
    (lost, stalled)
}

/// Each has arrived and has one success in the record. Returns how many arrived more than once.
async fn check(site: &Site, receiver: &FakeReceiver) -> usize {
    let mut times: HashMap<String, i64> = HashMap::new();
    receiver.received().iter().for_each(|one| *times.entry(one.id.clone()).or_default() += 1);
    assert_eq!(times.len(), DELIVERIES, "each arrives");
    let twice = times.values().filter(|times| **times > 1).count();
    let successes = "select count(*) from (select delivery_id from {notification_hub}.delivery_attempts
                      where error is null group by delivery_id having count(*) = 1) as once";
    assert_eq!(site.number(successes).await, DELIVERIES as i64, "each has one success in the record");
    // Every claim sends once at most, so nothing arrives more often than it was claimed.
    let claims = site.rows("select id::text as id, lock_token from {notification_hub}.deliveries").await;
    for row in claims {
        let (id, claims) = (row["id"].as_str().unwrap(), row["lock_token"].as_i64().unwrap());
        assert!(times[id] <= claims, "{id} arrived {} times and was claimed {claims} times", times[id]);
    }
    twice
}
