//! Several processes of one system: they share the work, and one that dies or is stopped leaves nothing undone.

use crate::commands::Place;
use crate::ledger::Ledger;
use crate::site::{EXECUTABLE, system};
use stampede::services::SERVICES;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;
use testkit::{Answer, Client, Product, Site, eventually, fresh_key, line, text};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::ledger::Units;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_retries_at_two_replicas_place_one_order() {
    let site = system().start().await;
    let replica = site.replica().await;
    let (product, buyer, key) = (site.product(10).await, site.buyer().await, fresh_key());
    let doors = [buyer.clone(), buyer.at(&replica.api)];
    let answers = join_all((0..40).map(async |n| doors[n % 2].order(&key, &product, 1).await)).await;
    let bodies: HashSet<String> = answers.iter().map(|answer| answer.clone().expect(201).body).collect();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    assert_eq!(answers.iter().filter(|answer| !answer.is_replay()).count(), 1);
    assert_eq!(site.units(&product).await, Units { on_hand: 10, held: 1 });
    site.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_sell_exactly_what_there_is() {
    let site = system().start().await;
    let replica = site.replica().await;
    let (product, buyers) = (site.product(20).await, site.buyers(48).await);
    let answers = join_all(buyers.iter().enumerate().map(async |(n, buyer)| {
        let buyer = if n % 2 == 0 { buyer.clone() } else { buyer.at(&replica.api) };
        buyer.order(&fresh_key(), &product, 1).await
    }))
    .await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 20);
    for refused in answers.iter().filter(|answer| answer.status != 201) {
        refused.refused(409, "OUT_OF_STOCK");
    }
    assert_eq!(site.units(&product).await, Units { on_hand: 20, held: 20 });
    site.assert_consistent().await;
    // What one changes, the other shows.
    site.admin().adjust(&fresh_key(), &product, 3).await.expect(200);
    replica.shows(&product, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: a kill in the middle of a sale"]
async fn what_a_killed_replica_leaves_behind_is_finished_by_the_other() {
    let victim = system().spawn(EXECUTABLE).await;
    let other = victim.replica().await;
    let (product, buyers) = (other.product(100).await, other.buyers(6).await);
    let wanted: Vec<(usize, String)> = (0..60).map(|n| (n % buyers.len(), fresh_key())).collect();
    let killing = async {
        let placed = "select count(*) from {order}.orders";
        eventually("some orders are placed", async || (other.number(placed).await >= 5).then_some(())).await;
        victim.kill().await;
    };
    let (told, ()) = tokio::join!(place_all(&victim, &buyers, &wanted, &product), killing);
    let asked_again = join_all(wanted.iter().map(async |(buyer, key)| {
        let answer = buyers[*buyer].order(key, &product, 1).await.expect(201);
        if let Some(first) = told.get(key) {
            assert_eq!((first, answer.is_replay()), (&answer.body, true));
        }
        text(&answer.json()["orderId"])
    }))
    .await;
    assert_eq!(asked_again.into_iter().collect::<BTreeSet<_>>().len(), wanted.len());
    assert_eq!(other.units(&product).await, Units { on_hand: 100, held: 60 });
    other.assert_consistent().await;
    assert_eq!(other.number("select count(*) from {notification_hub}.notifications").await, 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_told_to_stop_finishes_what_it_has_begun() {
    let site = system().spawn(EXECUTABLE).await;
    let (product, buyers) = (site.product(100).await, site.buyers(6).await);
    let wanted: Vec<(usize, String)> = (0..60).map(|n| (n % buyers.len(), fresh_key())).collect();
    let stopping = async {
        let placed = "select count(*) from {order}.orders";
        eventually("some orders are placed", async || (site.number(placed).await >= 5).then_some(())).await;
        site.terminate().await
    };
    let (told, status) = tokio::join!(place_all(&site, &buyers, &wanted, &product), stopping);
    assert!(status.success(), "{status}; see {}", site.log().display());
    // Nothing is stored that its buyer was not told: stopping is no crash.
    let stored = site.number("select count(*) from {order}.orders").await;
    assert_eq!(stored, told.len() as i64, "orders stored, and orders acknowledged");
    assert_eq!(site.number("select count(*) from {inventory}.holds").await, stored);
    site.revive(&[]).await;
    for (buyer, key) in &wanted {
        let answer = buyers[*buyer].order(key, &product, 1).await.expect(201);
        assert_eq!(answer.is_replay(), told.contains_key(key));
    }
    site.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_stays_open_until_the_process_is_told_to_stop() {
    stays_open(&[0, 0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: a connection is idle for seconds"]
async fn an_idle_connection_stays_open_until_the_process_is_told_to_stop() {
    stays_open(&[0, 7]).await;
}

/// Asks after each of these pauses, in seconds, on one connection.
async fn stays_open(pauses: &[u64]) {
    let site = system().spawn(EXECUTABLE).await;
    let address = site.api.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("the site accepts");
    let request = format!("GET /actuator/health/liveness HTTP/1.1\r\nHost: {address}\r\n\r\n");
    for pause in pauses {
        tokio::time::sleep(Duration::from_secs(*pause)).await;
        stream.write_all(request.as_bytes()).await.expect("the connection is open");
        let mut answer = [0; 4_096];
        let read = stream.read(&mut answer).await.expect("the site answers");
        assert!(answer[..read].starts_with(b"HTTP/1.1 200 "), "after {pause} s: {:?}", &answer[..read]);
    }
    assert!(site.terminate().await.success());
    assert_eq!(stream.read(&mut [0; 1]).await.expect("it is closed in order"), 0);
}

/// Places every order at once. Returns the bodies of those that were acknowledged, by key.
async fn place_all(
    site: &Site,
    buyers: &[Client],
    wanted: &[(usize, String)],
    product: &Product,
) -> HashMap<String, String> {
    let order = json!({ "items": [line(product, 1)] });
    let placing = wanted.iter().map(async |(buyer, key)| {
        let buyer = buyers[*buyer].at(&site.api);
        let answer: Option<Answer> = buyer.try_send(buyer.placing(key, &order)).await.ok();
        answer.filter(|answer| answer.status == 201).map(|answer| (key.clone(), answer.body))
    });
    join_all(placing).await.into_iter().flatten().collect()
}

/// As when a new version is rolled out. A request that a buyer has to repeat has failed: no answer, 5xx, 408 or 429.
async fn restart_each(name: &str, options: &str) -> Value {
    let place = Place::new(name).await.unset("postgres.url").unset("redis.url");
    let restarts: String = SERVICES.iter().map(|service| format!(" --restart {}-1", service.name)).collect();
    let rush = format!(
        "rush --sandbox --split --duplicates 0 --concurrency 16 --timeout-seconds 600 --output json --data-dir {{data}} \
         {options}{restarts}"
    );
    let outcome = place.stampede(&rush).await.expect(0, &[]).json();
    println!("{outcome}");
    assert_eq!((&outcome["verdict"], &outcome["unknownLeft"]), (&json!("PASS"), &json!(0)));
    assert_eq!((&outcome["retries"], &outcome["unexpectedAnswers"]), (&json!(0), &json!({})), "no request fails");
    assert_eq!(outcome["kills"].as_array().map(Vec::len), Some(SERVICES.len()));
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: 20,000 requests, and each service is told to stop among them"]
async fn every_buyer_is_answered_while_each_service_is_restarted_that_has_another_replica() {
    let outcome = restart_each("rolling", "--replicas 3 --buyers 20000 --stock 1000 --sample 2").await;
    assert_eq!(json!([outcome["sold"], outcome["requests"]]), json!([1000, 20_000]));
}

/// Here payment, coupon, order and inventory answer buyers and each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: 1,500 buyers ask for a coupon, order and pay, and each service is told to stop among them"]
async fn every_buyer_with_a_coupon_pays_while_each_service_is_restarted_that_has_another_replica() {
    let outcome = restart_each(
        "paying",
        "--replicas 2 --buyers 1500 --stock 1000 --pay --double-click 0 --coupons 500 --sample 50",
    )
    .await;
    assert_eq!(json!([outcome["sold"], outcome["paid"]]), json!([1000, 1000]));
    assert_eq!(outcome["couponsIssued"], 500);
}
