//! Redis may lie, forget and be away: it costs speed, never truth.

use futures_util::future::join_all;
use uuid::Uuid;

use crate::site::{Site, code};

/// Gates are compared and loaded anew all the time.
const CHECKING: [(&str, &str); 2] =
    [("inventory.gate.check_period_ms", "50"), ("inventory.gate.rebuild_pause_ms", "20")];

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_counts_what_postgresql_counts() {
    let site = Site::start().await;
    let product = site.product(10).await;
    let holds = join_all((0..7).map(|_| site.hold_one(&product))).await;
    let holds: Vec<_> = holds.into_iter().map(|hold| hold.unwrap().hold_id).collect();
    site.gate_agrees(&product).await;
    site.pin(&holds[2], Uuid::now_v7()).await.unwrap();
    site.release(&holds[0]).await.unwrap();
    site.confirm(&holds[1]).await.unwrap();
    site.gate_agrees(&product).await;
    assert_eq!(site.tokens(&product).await, Some(4));
    site.return_stock(&holds[1]).await.unwrap();
    site.gate_agrees(&product).await;
    site.admin().adjust("delivery", &product, 10).await.expect(200);
    site.gate_agrees(&product).await;
    assert_eq!(site.tokens(&product).await, Some(15));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_gate_is_loaded_with_what_postgresql_has() {
    let site = Site::start().await;
    let product = site.product(5).await;
    let (pinned, lapsed) = (site.hold_one(&product).await.unwrap(), site.hold_one(&product).await.unwrap());
    let sold = site.hold_one(&product).await.unwrap();
    site.pin(&pinned.hold_id, Uuid::now_v7()).await.unwrap();
    site.confirm(&sold.hold_id).await.unwrap();
    site.expire(&[&pinned, &lapsed]).await;
    site.lose_gate(&product).await;
    site.load_gate(&product).await;
    assert_eq!(site.tokens(&product).await, Some(3), "5 units, of which one is sold and one pinned");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_is_lost_in_mid_sale_sells_what_there_is() {
    let site = Site::start().await;
    let product = site.product(9).await;
    for _ in 0..3 {
        let outcomes = join_all((0..3).map(|_| site.hold_one(&product))).await;
        assert!(outcomes.iter().all(Result::is_ok), "whoever the gate cannot judge is served by PostgreSQL");
        site.lose_gate(&product).await;
    }
    assert_eq!(code(&site.hold_one(&product).await), "OUT_OF_STOCK");
    assert_eq!(site.stock(&product).await, (9, 9));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_everything_is_sold_and_no_more() {
    // Nobody listens there.
    let site = Site::start().await;
    let without = site.replica_with(&[("redis.url", "redis://127.0.0.1:1/0")]).await;
    let product = site.product(5).await;
    let outcomes = join_all((0..8).map(|_| without.hold_one(&product))).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 5);
    assert_eq!(outcomes.iter().filter(|outcome| code(outcome) == "OUT_OF_STOCK").count(), 3);
    assert_eq!(site.stock(&product).await, (5, 5));
    let hold = outcomes.into_iter().find_map(Result::ok).unwrap();
    without.pin(&hold.hold_id, Uuid::now_v7()).await.unwrap();
    without.confirm(&hold.hold_id).await.unwrap();
    assert_eq!(site.stock(&product).await, (4, 4));
    without.stop().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_gives_too_little_is_put_right() {
    let site = Site::start_with(&CHECKING).await;
    let product = site.product(5).await;
    site.hold_one(&product).await.unwrap();
    site.gate_agrees(&product).await;
    site.set_tokens(&product, 0).await;
    // Gates are compared while they are asked. This one may be right again already.
    drop(site.hold_one(&product).await);
    site.gate_agrees(&product).await;
    assert_eq!(code(&site.hold_one(&product).await), "OK");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_gives_too_much_oversells_nothing() {
    let site = Site::start_with(&[("inventory.gate.rebuild_pause_ms", "20")]).await;
    let product = site.product(5).await;
    site.hold_one(&product).await.unwrap();
    site.gate_agrees(&product).await;
    site.set_tokens(&product, 1000).await;
    let outcomes = join_all((0..50).map(|_| site.hold_one(&product))).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 4);
    assert_eq!(site.stock(&product).await, (5, 5));
    // Whoever finds it out has it loaded.
    site.gate_agrees(&product).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_older_than_one_that_was_seen_is_not_believed() {
    let site = Site::start().await;
    let product = site.product(5).await;
    site.hold_one(&product).await.unwrap();
    site.gate_agrees(&product).await;
    // As from a Redis that came back with what it had saved before.
    let [stock, _] = site.gate_keys(&product.id);
    let _: i64 = site.ask(redis::cmd("HINCRBY").arg(&stock).arg("epoch").arg(-1)).await;
    site.set_tokens(&product, 0).await;
    assert_eq!(code(&site.hold_one(&product).await), "OK", "PostgreSQL decides instead of an old gate");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_older_than_the_gate_does_not_replace_it() {
    let site = Site::start().await;
    let product = site.product(5).await;
    let publish = redis::Script::new(include_str!("../../src/gate_publish.lua"));
    let [stock, holds] = site.gate_keys(&product.id);
    let next = holds.replace("holds:", "holds-next:");
    let epoch: i64 = site.ask(redis::cmd("HGET").arg(&stock).arg("epoch")).await;
    let keys = [stock, holds, next];
    for (age, tokens, published) in [(1, 1000, 0), (0, 1000, 0), (-1, 4, 1)] {
        let [stock, holds, next] = &keys;
        let mut call = publish.key(stock);
        call.key(holds).key(next).arg(epoch - age).arg(tokens).arg(60_000);
        let answer: i64 = call.invoke_async(&mut site.redis()).await.unwrap();
        assert_eq!(answer, published, "{age} ms older");
    }
    assert_eq!(site.tokens(&product).await, Some(4));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_take_that_nobody_committed_comes_back() {
    let site = Site::start().await;
    let product = site.product(2).await;
    site.hold_one(&product).await.unwrap();
    site.gate_agrees(&product).await;
    // As a process leaves it that dies between the gate and PostgreSQL.
    let [_, holds] = site.gate_keys(&product.id);
    let member = format!("{}:1", Uuid::now_v7());
    let (seconds, _): (i64, i64) = site.ask(&redis::cmd("TIME")).await;
    let later = (seconds + 60) * 1000;
    let _: i64 = site.ask(redis::cmd("ZADD").arg(&holds).arg(later).arg(&member)).await;
    site.set_tokens(&product, 0).await;
    assert_eq!(code(&site.hold_one(&product).await), "OUT_OF_STOCK");
    // And its time is up.
    let _: i64 = site.ask(redis::cmd("ZADD").arg(&holds).arg(1).arg(&member)).await;
    assert_eq!(code(&site.hold_one(&product).await), "OK");
    site.gate_agrees(&product).await;
    site.stop().await;
}
