//! Redis, Kafka and PostgreSQL are away, or fall silent, and come back. Each is behind a proxy of the test's own, so that the
//! servers that all tests share stay as they are; the soak kills real ones (`faults.rs`).

use testkit::proxy::Proxy;
use testkit::{Answer, eventually, fresh_key, servers};

use crate::ledger::{Ledger, Units};
use crate::site::system;

const NOBODY: &str = "127.0.0.1:1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_starts_and_sells_exactly_without_redis_and_kafka() {
    let redis = format!("redis://{NOBODY}/0");
    let site = system().set("redis.url", redis).set("kafka.brokers", NOBODY).start().await;
    let (product, buyer) = (site.product(2).await, site.buyer().await);
    for _ in 0..2 {
        buyer.order(&fresh_key(), &product, 1).await.expect(201);
    }
    buyer.order(&fresh_key(), &product, 1).await.refused(409, "OUT_OF_STOCK");
    let unpublished = "select count(*) from {order}.outbox_events where status = 'NEW'";
    assert_eq!(site.number(unpublished).await, 2, "both orders are recorded as events while Kafka is away");

    // A replica that reaches both publishes what the first could not.
    let servers = servers::shared().await;
    let replica = system().namespace(site.namespace());
    let replica = replica.set("redis.url", servers.redis_url()).set("kafka.brokers", servers.kafka_brokers());
    let replica = replica.start().await;
    site.stop().await;
    replica.assert_consistent().await;
    assert_eq!(replica.number("select count(*) from {notification_hub}.notifications").await, 2);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_falls_silent_or_is_cut_off_costs_no_order_and_oversells_nothing() {
    let url = servers::shared().await.redis_url();
    let proxy = Proxy::to(&url).await;
    let site = system().set("redis.url", proxy.url(&url)).set("redis.timeout_ms", 250).start().await;
    let (product, buyer) = (site.product(4).await, site.buyer().await);
    let buy = async || buyer.order(&fresh_key(), &product, 1).await;
    buy().await.expect(201);
    proxy.fall_silent();
    buy().await.expect(201);
    site.anyone().get(&format!("/products/{}", product.id)).await.expect(200);
    proxy.cut();
    buy().await.expect(201);
    site.anyone().get("/products").await.expect(200);
    proxy.restore();
    eventually("the last unit is sold, whatever the gate remembers", async || {
        let answer: Answer = buy().await;
        if answer.status != 201 {
            answer.refused(409, "OUT_OF_STOCK");
        }
        (site.units(&product).await == Units { on_hand: 4, held: 4 }).then_some(())
    })
    .await;
    buy().await.refused(409, "OUT_OF_STOCK");
    assert_eq!(site.number("select count(*) from {order}.orders").await, 4);
    site.assert_consistent().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_postgresql_requests_get_503_and_the_same_key_succeeds_once_afterwards() {
    let url = servers::shared().await.postgres_url();
    let proxy = Proxy::to(&url).await;
    let settings = [("postgres.url", proxy.url(&url)), ("postgres.acquire_timeout_ms", "1000".to_owned())];
    let site = system().settings(&settings).start().await;
    let (product, buyer, key) = (site.product(5).await, site.buyer().await, fresh_key());
    proxy.cut();
    for _ in 0..2 {
        let answer = buyer.order(&key, &product, 1).await;
        answer.refused(503, "SERVICE_UNAVAILABLE");
        assert!(answer.header("Retry-After").is_some(), "{answer}");
    }
    buyer.get("/orders").await.refused(503, "SERVICE_UNAVAILABLE");
    let probe = async |path| buyer.send(buyer.request_root(reqwest::Method::GET, path)).await.status;
    assert_eq!(probe("/readyz").await, 503);
    assert_eq!(probe("/livez").await, 200, "a restart would not help");
    proxy.restore();
    let placed = eventually("the same key succeeds", async || {
        let answer = buyer.order(&key, &product, 1).await;
        (answer.status != 503).then_some(answer)
    });
    placed.await.expect(201);
    assert!(buyer.order(&key, &product, 1).await.expect(201).is_replay());
    assert_eq!(site.units(&product).await, Units { on_hand: 5, held: 1 });
    site.assert_consistent().await;
    site.stop().await;
}
