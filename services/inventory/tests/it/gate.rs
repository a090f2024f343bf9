//! Redis may lie, forget and die: it costs speed, never truth.

use std::time::Duration;

use contract::inventory::HoldState;
use futures_util::future::join_all;
use sandbox::Server;
use uuid::Uuid;

use crate::site::{Site, code, servers, until};

async fn redis() -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(servers().await.redis_url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

async fn tokens(site: &Site, product: &str) -> Option<i64> {
    let key = format!("{}stock:{{{product}}}", site.namespace);
    redis::cmd("HGET").arg(key).arg("tokens").query_async(&mut redis().await).await.unwrap()
}

/// 20 workers buy until they are told that it is sold out for good; returns how many units they got.
async fn buy_all(site: &Site, product: &str, units: usize, trouble: impl AsyncFn(usize)) -> usize {
    let trouble = &trouble;
    let bought = join_all((0..20).map(|worker| async move {
        let (mut bought, mut refused) = (0, 0);
        // A gate that forgot may under-sell for a moment, so one refusal is not the end.
        while refused < 40 {
            match site.hold_one(product).await {
                Ok(_) => bought += 1,
                Err(_) => {
                    refused += 1;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            if worker == 0 {
                trouble(bought).await;
            }
        }
        bought
    }));
    let bought = bought.await.into_iter().sum();
    assert!(bought <= units, "{bought} of {units} were sold");
    bought
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_counts_what_postgresql_counts() {
    let site = Site::start("gatetruth").await;
    let product = site.product(10).await;
    let holds = join_all((0..7).map(|_| site.hold_one(&product))).await;
    let holds: Vec<_> = holds.into_iter().map(|hold| hold.unwrap().hold_id).collect();
    until("3 tokens", async || tokens(&site, &product).await == Some(3)).await;
    site.release(&holds[0]).await.unwrap();
    site.confirm(&holds[1]).await.unwrap();
    until("4 tokens", async || tokens(&site, &product).await == Some(4)).await;
    site.give_back(&holds[1]).await.unwrap();
    until("5 tokens", async || tokens(&site, &product).await == Some(5)).await;
    assert_eq!(site.adjust(&product, "a", 10).await.status, 200);
    until("15 tokens", async || tokens(&site, &product).await == Some(15)).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_gives_too_little_is_put_right() {
    let site = Site::start("drift").await;
    let product = site.product(5).await;
    site.hold_one(&product).await.unwrap();
    until("it is loaded", async || tokens(&site, &product).await == Some(4)).await;
    let key = format!("{}stock:{{{product}}}", site.namespace);
    let _: i64 = redis::cmd("HINCRBY").arg(key).arg("tokens").arg(-4).query_async(&mut redis().await).await.unwrap();
    assert_eq!(code(&site.hold_one(&product).await), "OUT_OF_STOCK");
    until("units are on sale again", async || site.hold_one(&product).await.is_ok()).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_gives_too_much_oversells_nothing() {
    let site = Site::start("generous").await;
    let product = site.product(5).await;
    site.hold_one(&product).await.unwrap();
    until("it is loaded", async || tokens(&site, &product).await == Some(4)).await;
    let key = format!("{}stock:{{{product}}}", site.namespace);
    let _: i64 = redis::cmd("HINCRBY").arg(key).arg("tokens").arg(1000).query_async(&mut redis().await).await.unwrap();
    let outcomes = join_all((0..50).map(|_| site.hold_one(&product))).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 4);
    assert_eq!(site.stock(&product).await, (5, 5));
    until("it is put right", async || tokens(&site, &product).await == Some(0)).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_take_that_nobody_settled_comes_back() {
    let site = Site::start_with("lapse", &[("inventory.gate.take_ms", "500")]).await;
    let product = site.product(2).await;
    site.hold_one(&product).await.unwrap();
    until("it is loaded", async || tokens(&site, &product).await == Some(1)).await;
    // As a process leaves it that dies between the gate and PostgreSQL.
    let holds = format!("{}holds:{{{product}}}", site.namespace);
    let stock = format!("{}stock:{{{product}}}", site.namespace);
    let mut redis = redis().await;
    let (seconds, micros): (i64, i64) = redis::cmd("TIME").query_async(&mut redis).await.unwrap();
    let lapses = seconds * 1000 + micros / 1000 + 3_000;
    let member = format!("{}:1", Uuid::now_v7());
    let _: i64 = redis::cmd("ZADD").arg(holds).arg(lapses).arg(member).query_async(&mut redis).await.unwrap();
    let _: i64 = redis::cmd("HINCRBY").arg(stock).arg("tokens").arg(-1).query_async(&mut redis).await.unwrap();
    assert_eq!(code(&site.hold_one(&product).await), "OUT_OF_STOCK");
    until("it is back", async || code(&site.hold_one(&product).await) == "OK").await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn emptying_redis_in_mid_sale_is_harmless() {
    let site = Site::start_alone("flush", &[]).await;
    let product = site.product(300).await;
    let sold = buy_all(&site, &product, 300, async |_| {
        let _: String = redis::cmd("FLUSHALL").query_async(&mut redis().await).await.unwrap();
    });
    assert_eq!(sold.await, 300);
    assert_eq!(site.stock(&product).await, (300, 300));
    until("the gate is empty", async || tokens(&site, &product).await.is_none_or(|tokens| tokens == 0)).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pinned_stays_taken_while_redis_forgets_everything() {
    let settings = [("inventory.hold_ttl_seconds", "1"), ("inventory.unpin_seconds_min", "1")];
    let site = Site::start_alone("pinflush", &settings).await;
    let product = site.product(2).await;
    let attempt = Uuid::now_v7();
    let paid = site.hold_one(&product).await.unwrap().hold_id;
    site.pin(&paid, attempt).await.unwrap();
    // The other unit lapses and is bought again and again meanwhile.
    let mut bought = 0;
    until("others have bought three times", async || {
        let _: String = redis::cmd("FLUSHALL").query_async(&mut redis().await).await.unwrap();
        bought += usize::from(site.hold_one(&product).await.is_ok());
        assert_eq!(site.read_hold(&paid).await.unwrap().state(), HoldState::Pinned);
        site.stock(&product).await;
        bought >= 3
    })
    .await;
    let score = async || {
        let holds = format!("{}holds:{{{product}}}", site.namespace);
        let score = redis::cmd("ZSCORE").arg(holds).arg(format!("{paid}:1")).query_async(&mut redis().await).await;
        let score: Option<String> = score.unwrap();
        drop(site.hold_one(&product).await);
        score
    };
    until("the gate was told that it is pinned", async || score().await.as_deref() == Some("inf")).await;
    site.unpin(&paid, attempt).await.unwrap();
    until("the gate has an end for it", async || score().await.as_deref() != Some("inf")).await;
    until("both units are on sale", async || site.hold(Uuid::now_v7(), Uuid::now_v7(), &[(&product, 2)]).await.is_ok())
        .await;
    assert_eq!(site.read_hold(&paid).await.unwrap().state(), HoldState::Expired);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn losing_redis_in_mid_sale_is_harmless() {
    let site = Site::start_alone("kill", &[]).await;
    let product = site.product(300).await;
    let kill = async |bought| match bought {
        5 => servers().await.kill(Server::Redis).await.unwrap(),
        10 => servers().await.restart(Server::Redis).await.unwrap(),
        _ => {}
    };
    assert_eq!(buy_all(&site, &product, 300, kill).await, 300);
    servers().await.restart(Server::Redis).await.unwrap();
    assert_eq!(site.stock(&product).await, (300, 300));
    assert_eq!(code(&site.hold_one(&product).await), "OUT_OF_STOCK");
    site.stop().await;
}
