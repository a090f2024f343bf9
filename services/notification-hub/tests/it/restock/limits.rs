//! The pace of all replicas together, on a real Redis. Its clock is not waited for: intervals here are hours long.

use common::redis::{Redis, Script, cmd};
use testkit::Site;
use testkit::proxy::Proxy;

use super::shop::Shop;

const AN_HOUR_US: u64 = 3_600_000_000;

/// The allowance as every replica asks for it.
struct Allowance {
    redis: Redis,
    script: Script,
    key: String,
}

impl Allowance {
    async fn of(site: &Site) -> Allowance {
        let settings = site.settings().section("redis").unwrap();
        let redis = Redis::open(&settings, site.namespace()).unwrap();
        let key = redis.key("{rl:hub:restock}");
        redis.delete(std::slice::from_ref(&key)).await.unwrap();
        let script = Script::new("tests_shared_limit", include_str!("../../../src/shared_limit.lua"));
        Allowance { redis, script, key }
    }

    /// Permits, and the wait for the next; the burst is 3.
    async fn take(&self, wanted: u32, pause_us: u64) -> (u32, u64) {
        let args = [AN_HOUR_US, 3, wanted.into(), pause_us].map(|argument| argument.to_string());
        self.redis.run(&self.script, std::slice::from_ref(&self.key), &args).await.unwrap()
    }

    /// As if nobody had asked for hours.
    async fn rest(&self) {
        let _: String = self.redis.command(cmd("SET").arg(&self.key).arg("1")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_is_given_after_a_rest_and_then_nobody_gets_more_before_the_interval_is_over() {
    let shop = Shop::open(&[]).await;
    let (first, second) = (Allowance::of(&shop.site).await, Allowance::of(&shop.site).await);
    first.take(1, 0).await;
    first.rest().await;
    assert_eq!(first.take(2, 0).await, (2, 0));
    assert_eq!(second.take(5, 0).await, (1, 0), "the allowance is one for all replicas");
    let (granted, wait_us) = first.take(1, 0).await;
    assert!(granted == 0 && (AN_HOUR_US / 2..=AN_HOUR_US).contains(&wait_us), "{granted}, {wait_us}");
    shop.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_has_lost_its_memory_gives_nothing_while_others_may_take_their_shares() {
    let shop = Shop::open(&[]).await;
    let allowance = Allowance::of(&shop.site).await;
    assert_eq!(allowance.take(3, AN_HOUR_US).await, (0, AN_HOUR_US));
    let (granted, wait_us) = allowance.take(3, AN_HOUR_US).await;
    assert!(granted == 0 && (AN_HOUR_US / 2..=AN_HOUR_US).contains(&wait_us), "{granted}, {wait_us}");
    shop.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_goes_on_while_redis_is_away_and_when_it_is_back() {
    let url = testkit::servers::shared().await.redis_url();
    let proxy = Proxy::to(&url).await;
    let shop = Shop::open(&[("redis.url", &proxy.url(&url))]).await;
    shop.subscribers(120).await;
    let mut first = shop.site.pause("notification-hub", "restock.after_send");
    shop.restock().await;
    first.reached().await;
    proxy.cut();
    let mut second = shop.site.pause("notification-hub", "restock.after_send");
    first.resume();
    second.reached().await;
    assert_eq!(shop.round(1).await["recipientCount"], 100, "the second batch went out without Redis");
    proxy.restore();
    second.resume();
    assert_eq!(shop.ended(1).await["status"], "COMPLETED");
    assert_eq!(shop.told(1).await, (1..=120).collect::<Vec<u64>>());
    shop.site.stop().await;
}
