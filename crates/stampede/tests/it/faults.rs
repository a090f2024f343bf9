//! Redis, Kafka and PostgreSQL break under the system and come back. These tests have servers of their own.

use crate::ledger::Ledger;
use crate::site::system;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use testkit::{Answer, Client, Product, Site, eventually, fresh_key, servers, text};

use futures_util::future::join_all;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use sandbox::{Sandbox, Server};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use crate::ledger::Units;

/// Close to what real sites have: here it matters that the system gives up soon.
const AS_SHIPPED: [(&str, &str); 2] = [("postgres.acquire_timeout_ms", "3000"), ("redis.timeout_ms", "250")];

/// More than anybody buys while a test goes on, however slowly a server comes back: orders must not end for want of stock.
const PLENTY: i64 = 1_000_000;

/// A site on servers that may be broken, by one test at a time. There are two sets, so that two tests need not wait.
async fn breakable() -> (MutexGuard<'static, ()>, &'static Sandbox, Site) {
    static TURNS: [Mutex<()>; 2] = [const { Mutex::const_new(()) }; 2];
    static SERVERS: [OnceCell<Sandbox>; 2] = [const { OnceCell::const_new() }; 2];
    let (turn, which) = match TURNS[0].try_lock() {
        Ok(turn) => (turn, 0),
        Err(_) => (TURNS[1].lock().await, 1),
    };
    let servers = SERVERS[which].get_or_init(|| servers::start(["breakable", "fragile"][which])).await;
    // A test that failed may have left something broken.
    for down in Server::ALL.into_iter().zip(servers.describe()).filter(|(_, info)| info.pid.is_none()) {
        servers.restart(down.0).await.expect("it starts again");
    }
    (turn, servers, system().on(servers).settings(&AS_SHIPPED).start().await)
}

/// Buys one unit after the other with a moment's thought between them, until `enough`; asks again with the same key when
/// the answer is that something is away. Returns the final answers, and how many were asked again.
async fn keep_buying(buyer: &Client, product: &Product, enough: &AtomicBool) -> (Vec<Answer>, usize) {
    let (mut answers, mut asked_again) = (Vec::new(), 0);
    while !enough.load(Ordering::SeqCst) {
        let key = fresh_key();
        let answer = loop {
            let answer = buyer.order(&key, product, 1).await;
            if !answer.status.is_server_error() {
                break answer;
            }
            assert_eq!(answer.status, 503, "{answer}");
            asked_again += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        answers.push(answer);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    (answers, asked_again)
}

/// Lets `buyers` buy while `torment` goes on. Returns how many orders were placed, and how many requests answered 503.
async fn sell_during(buyers: &[Client], product: &Product, torment: impl Future<Output = ()>) -> (usize, usize) {
    let enough = AtomicBool::new(false);
    let buying = join_all(buyers.iter().map(|buyer| keep_buying(buyer, product, &enough)));
    let ending = async {
        torment.await;
        enough.store(true, Ordering::SeqCst);
    };
    let (bought, ()) = tokio::join!(buying, ending);
    let mut placed = 0;
    for answer in bought.iter().flat_map(|(answers, _)| answers) {
        match answer.status.as_u16() {
            201 => placed += 1,
            _ => drop(answer.refused(409, "OUT_OF_STOCK")),
        }
    }
    (placed, bought.iter().map(|(_, asked_again)| asked_again).sum())
}

async fn orders(site: &Site) -> i64 {
    site.number("select count(*) from {order}.orders").await
}

/// Waits until `more` orders have been placed.
async fn orders_grow_by(site: &Site, more: i64) {
    let wanted = orders(site).await + more;
    eventually("orders go on", async || (orders(site).await >= wanted).then_some(())).await;
}

async fn flush_redis(site: &Site) {
    let settings = site.settings().section("redis").expect("the settings are right");
    let redis = common::redis::Redis::open(&settings, "").expect("the address is one");
    redis.command::<()>(common::redis::cmd("FLUSHALL").arg("SYNC")).await.expect("Redis answers");
}

/// Takes all but a few of the units that are left of `PLENTY`, sells the few one by one, and sees that it was exactly that
/// much.
async fn sell_out(site: &Site, buyer: &Client, product: &Product, placed: usize) {
    let stock = placed as i64 + 5;
    site.admin().adjust(&fresh_key(), product, stock - PLENTY).await.expect(200);
    eventually("everything that is left can be bought", async || {
        let answer = buyer.order(&fresh_key(), product, 1).await;
        if answer.status != 201 {
            answer.refused(409, "OUT_OF_STOCK");
        }
        (site.units(product).await == Units { on_hand: stock, held: stock }).then_some(())
    })
    .await;
    buyer.order(&fresh_key(), product, 1).await.refused(409, "OUT_OF_STOCK");
    assert_eq!(orders(site).await, stock);
    site.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: servers are killed in the middle of a sale"]
async fn a_redis_that_is_killed_and_comes_back_costs_no_order() {
    let (_turn, servers, site) = breakable().await;
    let (product, buyers) = (site.product(PLENTY).await, site.buyers(4).await);
    let (placed, away) = sell_during(&buyers, &product, async {
        orders_grow_by(&site, 5).await;
        servers.kill(Server::Redis).await.expect("it is ours");
        orders_grow_by(&site, 10).await;
        // Pages are shown without their cache, people log in.
        site.anyone().get("/products").await.expect(200);
        site.anyone().get(&format!("/products/{}", product.id)).await.expect(200);
        site.buyer().await;
        servers.restart(Server::Redis).await.expect("it starts again");
        orders_grow_by(&site, 10).await;
    })
    .await;
    assert_eq!(away, 0, "without Redis, PostgreSQL answers");
    assert_eq!(orders(&site).await, placed as i64);
    sell_out(&site, &buyers[0], &product, placed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: servers are killed in the middle of a sale"]
async fn a_redis_that_hangs_is_not_waited_for() {
    let (_turn, servers, site) = breakable().await;
    let (product, buyers) = (site.product(PLENTY).await, site.buyers(4).await);
    let redis = servers.describe().into_iter().find(|server| server.name == "Redis").expect("there is one");
    let pid = Pid::from_raw(redis.pid.and_then(|pid| i32::try_from(pid).ok()).expect("it runs"));
    let (placed, away) = sell_during(&buyers, &product, async {
        orders_grow_by(&site, 3).await;
        signal::kill(pid, Signal::SIGSTOP).expect("it is ours");
        orders_grow_by(&site, 5).await;
        site.anyone().get(&format!("/products/{}", product.id)).await.expect(200);
        signal::kill(pid, Signal::SIGCONT).expect("it is ours");
    })
    .await;
    assert_eq!(away, 0, "PostgreSQL answers alone");
    assert_eq!(orders(&site).await, placed as i64);
    sell_out(&site, &buyers[0], &product, placed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: servers are killed in the middle of a sale"]
async fn a_site_starts_and_sells_without_redis_and_kafka() {
    let (_turn, servers, settled_before) = breakable().await;
    settled_before.stop().await;
    for server in [Server::Redis, Server::Kafka] {
        servers.kill(server).await.expect("it is ours");
    }
    let site = system().on(servers).settings(&AS_SHIPPED).start().await;
    let (product, buyer) = (site.product(2).await, site.buyer().await);
    for _ in 0..2 {
        buyer.order(&fresh_key(), &product, 1).await.expect(201);
    }
    buyer.order(&fresh_key(), &product, 1).await.refused(409, "OUT_OF_STOCK");
    for server in [Server::Redis, Server::Kafka] {
        servers.restart(server).await.expect("it starts again");
    }
    site.assert_consistent().await;
    assert_eq!(site.number("select count(*) from {notification_hub}.notifications").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: servers are killed in the middle of a sale"]
async fn a_redis_that_forgets_everything_in_mid_sale_oversells_nothing() {
    let (_turn, _, site) = breakable().await;
    let (product, buyers) = (site.product(PLENTY).await, site.buyers(8).await);
    let (placed, _) = sell_during(&buyers, &product, async {
        for _ in 0..2 {
            orders_grow_by(&site, 8).await;
            flush_redis(&site).await;
        }
        // Everybody is after the last units, and Redis keeps forgetting how many there are.
        let stock = leave_few(&site, &product).await;
        eventually("it is sold out", async || {
            flush_redis(&site).await;
            (site.units(&product).await.held >= stock).then_some(())
        })
        .await;
        flush_redis(&site).await;
        buyers[0].order(&fresh_key(), &product, 1).await.refused(409, "OUT_OF_STOCK");
    })
    .await;
    let sold = placed as i64;
    assert_eq!(site.units(&product).await, Units { on_hand: sold, held: sold });
    assert_eq!(orders(&site).await, sold);
    site.assert_consistent().await;
}

/// Takes all but some forty of the units that are left of `PLENTY` while they are being sold. Returns the stock as it is then.
async fn leave_few(site: &Site, product: &Product) -> i64 {
    eventually("few units are left", async || {
        let stock = site.units(product).await.held + 40;
        // Refused when that many were sold meanwhile.
        let adjusted = site.admin().adjust(&fresh_key(), product, stock - PLENTY).await;
        (adjusted.status == 200).then_some(stock)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: servers are killed in the middle of a sale"]
async fn orders_go_on_without_kafka_and_are_announced_when_it_is_back() {
    let (_turn, servers, site) = breakable().await;
    let (product, buyers) = (site.product(PLENTY).await, site.buyers(4).await);
    let cancelled = text(&buyers[0].order(&fresh_key(), &product, 1).await.expect(201).json()["orderId"]);
    site.settled().await;
    let (placed, away) = sell_during(&buyers, &product, async {
        servers.kill(Server::Kafka).await.expect("it is ours");
        let cancel = format!("/orders/{cancelled}/cancel");
        buyers[0].post(&cancel, &serde_json::json!({})).await.expect(200);
        orders_grow_by(&site, 40).await;
        let unpublished = "select count(*) from {order}.outbox_events where status = 'NEW'";
        assert!(site.number(unpublished).await >= 20);
        servers.restart(Server::Kafka).await.expect("it starts again");
    })
    .await;
    assert_eq!(away, 0, "no request needs Kafka");
    site.assert_consistent().await;
    let told = site.number("select count(*) from {notification_hub}.notifications").await;
    assert_eq!(told, placed as i64 + 1);
    assert_eq!(site.units(&product).await.held, placed as i64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: servers are killed in the middle of a sale"]
async fn a_kafka_that_lost_its_data_is_told_everything_again_and_nobody_hears_it_twice() {
    let (_turn, servers, site) = breakable().await;
    let (product, buyers) = (site.product(PLENTY).await, site.buyers(4).await);
    let (placed, _) = sell_during(&buyers, &product, async {
        orders_grow_by(&site, 20).await;
        servers.wipe_kafka().await.expect("it is ours");
        orders_grow_by(&site, 20).await;
    })
    .await;
    site.assert_consistent().await;
    assert_eq!(site.number("select count(*) from {notification_hub}.notifications").await, placed as i64);
    assert_eq!(site.number("select count(*) from {notification_hub}.deliveries").await, placed as i64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: servers are killed in the middle of a sale"]
async fn without_postgres_requests_are_told_to_come_back_and_then_succeed_once() {
    let (_turn, servers, site) = breakable().await;
    let (product, buyers) = (site.product(PLENTY).await, site.buyers(4).await);
    let (key, patient) = (fresh_key(), &buyers[0]);
    let (placed, away) = sell_during(&buyers[1..], &product, async {
        orders_grow_by(&site, 10).await;
        servers.kill(Server::Postgres).await.expect("it is ours");
        for _ in 0..2 {
            let answer = patient.order(&key, &product, 1).await;
            answer.refused(503, "SERVICE_UNAVAILABLE");
            assert!(answer.header("Retry-After").is_some(), "{answer}");
        }
        patient.get("/orders").await.refused(503, "SERVICE_UNAVAILABLE");
        let ready = patient.send(patient.request_root(reqwest::Method::GET, "/readyz")).await;
        assert_eq!(ready.status, 503, "{ready}");
        let live = patient.send(patient.request_root(reqwest::Method::GET, "/livez")).await;
        assert_eq!(live.status, 200, "a restart would not help: {live}");
        servers.restart(Server::Postgres).await.expect("it starts again");
        eventually("the same key succeeds", async || {
            let answer = patient.order(&key, &product, 1).await;
            (answer.status != 503).then_some(answer)
        })
        .await
        .expect(201);
        orders_grow_by(&site, 10).await;
    })
    .await;
    assert!(away > 0);
    site.assert_consistent().await;
    assert_eq!(orders(&site).await, placed as i64 + 1);
    assert_eq!(site.units(&product).await, Units { on_hand: PLENTY, held: placed as i64 + 1 });
}
