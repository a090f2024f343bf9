//! What needs many rounds to show, or kills and empties servers. Each has deterministic sisters in the other files.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use sandbox::Sandbox;
use serde_json::Value;
use testkit::{eventually, servers, text};
use tokio::sync::watch;

use crate::site::Site;

/// Servers of a test's own. They end with this process.
async fn own_servers(purpose: &str) -> &'static Sandbox {
    Box::leak(Box::new(servers::start(purpose).await))
}

const ACCOUNTS: usize = 10_000;
const TOTAL: usize = 1_000;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: 30,000 requests while Redis is emptied"]
async fn emptying_redis_while_a_coupon_is_issued_is_harmless() {
    let settings = [
        ("coupon.takes.sweep_period_ms", "200"),
        ("coupon.takes.idle_ms", "500"),
        ("coupon.issue_batch.requests_max", "16"),
    ];
    let site = Site::start_on(own_servers("coupons").await, &settings).await;
    let (coupon, other) = (site.coupon(TOTAL as i64).await, site.replica_with(&settings).await);
    let users: Vec<_> = (0..ACCOUNTS).map(|_| site.somebody()).collect();
    let (done, mut ended) = watch::channel(false);
    let flushing = async {
        let mut flushed = 0;
        while !*ended.borrow_and_update() {
            let _: String = site.ask(&redis::cmd("FLUSHALL")).await;
            flushed += 1;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        flushed
    };
    let asking = async {
        let tries = (0..3 * ACCOUNTS).map(|number| {
            let replica = if number % 2 == 0 { &site } else { &other };
            let (user, coupon) = (&users[number % ACCOUNTS], &coupon);
            async move { replica.issue(user, coupon).await }
        });
        let answers: Vec<_> = stream::iter(tries).buffer_unordered(64).collect().await;
        done.send(true).unwrap();
        answers
    };
    let (answers, flushed) = tokio::join!(asking, flushing);

    let mut counts = std::collections::BTreeMap::new();
    for answer in &answers {
        let code = if answer.status == 201 { "ISSUED".to_owned() } else { answer.code() };
        *counts.entry(code).or_insert(0) += 1;
    }
    println!("{flushed} times emptied; {counts:?}");
    let known = ["ISSUED", "COUPON_SOLD_OUT", "COUPON_ALREADY_ISSUED", "SERVICE_UNAVAILABLE"];
    assert!(counts.keys().all(|code| known.contains(&code.as_str())), "{counts:?}");
    let issue = |answer: &Value| text(&answer["issueId"]);
    let told: Vec<String> =
        answers.iter().filter(|answer| answer.status == 201).map(|answer| issue(&answer.json())).collect();
    assert_eq!(told.iter().collect::<HashSet<_>>().len(), told.len(), "nobody is told twice");
    // What was left behind is stored by the sweep; what was refused while Redis was empty can still be had.
    eventually("all are issued", async || {
        for user in &users {
            if site.stored(&coupon).await.0 == TOTAL as i64 {
                return Some(());
            }
            drop(site.issue(user, &coupon).await);
        }
        None
    })
    .await;
    let (issued, rows, events) = site.stored(&coupon).await;
    assert_eq!((issued, rows, events), (TOTAL as i64, TOTAL as i64, TOTAL as i64));
    let stored = site.rows("select id::text from {coupon}.coupon_issue").await;
    let stored: HashSet<String> = stored.iter().map(|row| text(&row["id"])).collect();
    assert!(told.iter().all(|issue| stored.contains(issue)), "whoever was told has a row");
    // Redis was emptied last, and nobody has asked since.
    site.reconcile(&coupon).await;
    site.gate_agrees(&coupon).await;
    other.stop().await;
    site.stop().await;
}
