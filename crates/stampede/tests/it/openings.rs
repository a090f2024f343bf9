//! Many sales open one after the other while their replicas are killed around those moments.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use common::redis::Redis;
use reqwest::Method;
use serde_json::json;
use testkit::{Site, fresh_key, text};
use uuid::Uuid;

use crate::ledger::Ledger as _;
use crate::site::{EXECUTABLE, system};

const SALES: usize = 200;
const APART: TimeDelta = TimeDelta::milliseconds(250);
const KILLS: usize = 12;

/// One of two replicas is killed a moment before or after an opening, again and again, and Redis forgets every other key whose
/// end would tell of one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: 200 openings by the clock, and twelve kills"]
async fn sales_open_once_and_never_early_while_replicas_are_killed() {
    let first = system().spawn(EXECUTABLE).await;
    let second = system().namespace(first.namespace()).spawn(EXECUTABLE).await;
    let redis = Redis::open(&first.settings().section("redis").unwrap(), first.namespace()).unwrap();
    let begin = Utc::now() + TimeDelta::seconds(15);
    for number in 0..SALES {
        let event = schedule(&first, begin + APART * number as i32).await;
        if number % 2 == 0 {
            redis.delete(&[redis.key(&format!("event:{{{event}}}:due"))]).await.unwrap();
        }
    }
    for kill in 0..KILLS {
        let opening = begin + APART * (kill * SALES / KILLS) as i32;
        // From 200 ms before to 200 ms after it.
        let moment = opening + TimeDelta::milliseconds((kill as i64 * 37) % 401 - 200);
        tokio::time::sleep((moment - Utc::now()).to_std().unwrap_or_default()).await;
        let victim = if kill % 2 == 0 { &first } else { &second };
        victim.kill().await;
        victim.revive(&[]).await;
    }
    first.until_number("select count(*) from {queue}.sale_events where status = 'OPEN'", SALES as i64).await;
    let late = "select percentile_disc(array[0.5, 0.99, 1]) within group (
                           order by (1000 * extract(epoch from opened_at - opens_at))::bigint)::text as ms,
                       count(*) filter (where opened_at < opens_at) as early
                  from {queue}.sale_events";
    let told = "select count(*) from (select key from {queue}.outbox_events where topic = 'EVENT_OPEN' group by key
                                      having count(*) = 1) as once";
    let rows = first.rows(late).await;
    println!("{SALES} openings, {KILLS} kills: late by (p50, p99, most) {} ms", rows[0]["ms"]);
    assert_eq!(rows[0]["early"], 0, "no sale opens before its time");
    assert_eq!(first.number(told).await, SALES as i64, "each opening is told once");
    first.assert_consistent().await;
    first.stop().await;
    second.stop().await;
}

async fn schedule(site: &Site, opens_at: DateTime<Utc>) -> Uuid {
    let admin = site.admin();
    let sale = json!({
        "name": "A sale",
        "opensAt": opens_at.to_rfc3339_opts(SecondsFormat::Millis, true),
        "productIds": [Uuid::now_v7()],
        "queueManageRequired": false,
    });
    let request = admin.request(Method::POST, "/admin/events").header("Idempotency-Key", fresh_key());
    text(&admin.send(request.json(&sale)).await.expect(201).json()["eventId"]).parse().expect("an id")
}
