//! A sale opens at its time, once, whichever of the triggers is lost.

use serde_json::{Value, json};
use testkit::eventually;

use crate::site::Site;

const TIMER: [(&str, &str); 1] = [("queue.timer_period_ms", "20")];
const SCAN: [(&str, &str); 1] = [("queue.scan_period_ms", "20")];
const RECOVERY: [(&str, &str); 1] = [("queue.recovery_period_ms", "20")];

/// As if Redis had never told that the key has expired.
async fn lose_the_key(site: &Site, event: &str) {
    let () = site.redis(&["DEL", &format!(":event:{{{event}}}:due")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_timer_opens_a_sale_whose_key_told_nobody() {
    let site = Site::start_with(&TIMER).await;
    let event = site.event(json!({})).await;
    lose_the_key(&site, &event).await;
    assert_eq!(site.read(&event).await["status"], "PENDING");
    site.opening_is_over(&event).await;
    site.until_open(&event).await;
    assert_eq!(site.openings(&event).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_timer_wakes_at_the_opening_and_not_before() {
    let site = Site::start_with(&[]).await;
    let event = site.event(json!({ "opensAt": crate::site::in_seconds(1) })).await;
    lose_the_key(&site, &event).await;
    site.until_open(&event).await;
    let early = format!("select count(*) from {{queue}}.sale_events where id = '{event}' and opened_at < opens_at");
    assert_eq!(site.number(&early).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scan_opens_a_sale_that_key_and_timer_have_missed() {
    let site = Site::start_with(&SCAN).await;
    let event = site.event(json!({})).await;
    lose_the_key(&site, &event).await;
    site.opening_is_over(&event).await;
    let () = site.redis(&["ZADD", ":event:schedule", "1", &event]).await;
    site.until_open(&event).await;
    eventually("the event leaves the schedule", async || {
        let score: Option<f64> = site.redis(&["ZSCORE", ":event:schedule", &event]).await;
        score.is_none().then_some(())
    })
    .await;
    assert_eq!(site.openings(&event).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_recovery_opens_a_sale_that_redis_has_forgotten_and_writes_the_others_again() {
    let site = Site::start_with(&RECOVERY).await;
    let (event, other) = (site.event(json!({})).await, site.event(json!({})).await);
    site.flush().await;
    site.opening_is_over(&event).await;
    site.until_open(&event).await;
    assert_eq!(site.openings(&event).await, 1);
    eventually("the schedule has the other event again", async || {
        let score: Option<f64> = site.redis(&["ZSCORE", ":event:schedule", &other]).await;
        let left: i64 = site.redis(&["PTTL", &format!(":event:{{{other}}}:due")]).await;
        (score.is_some() && left > 0).then_some(())
    })
    .await;
    assert_eq!(site.openings(&other).await, 0);
}

/// Lets the key expire now. Who asks for it has Redis notice. The listener may have set it again before anybody looks.
async fn expire(site: &Site, event: &str) {
    const OURS: &str = "set by the test";
    let key = format!(":event:{{{event}}}:due");
    let () = site.redis(&["SET", &key, OURS, "PX", "1"]).await;
    eventually("the key has expired", async || {
        let value: Option<String> = site.redis(&["GET", &key]).await;
        (value.as_deref() != Some(OURS)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_expires_opens_its_sale() {
    let site = Site::start_with(&[]).await;
    let event = site.event(json!({})).await;
    site.opening_is_over(&event).await;
    // Nobody hears what was told before the listener had subscribed.
    eventually("the sale is open", async || {
        expire(&site, &event).await;
        (site.openings(&event).await > 0).then_some(())
    })
    .await;
    assert_eq!(site.openings(&event).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_expires_early_opens_nothing_and_is_set_again() {
    let site = Site::start_with(&[]).await;
    let event = site.event(json!({})).await;
    eventually("the key is set again", async || {
        expire(&site, &event).await;
        let mut left = 0;
        for _ in 0..40 {
            left = site.redis(&["PTTL", &format!(":event:{{{event}}}:due")]).await;
            if left > 0 {
                break;
            }
            tokio::task::yield_now().await;
        }
        (left > 3_000_000).then_some(())
    })
    .await;
    assert_eq!(site.read(&event).await["status"], "PENDING");
    assert_eq!(site.openings(&event).await, 0);
}

/// Every trigger of two replicas at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_triggers_of_all_replicas_open_a_sale_once() {
    let all = [TIMER, SCAN, RECOVERY].concat();
    let site = Site::start_with(&all).await;
    let replica = site.replica_with(&all).await;
    let event = site.event(json!({})).await;
    let mut paused = site.pause("queue", "open.before_commit");
    site.opening_is_over(&event).await;
    paused.reached().await;
    let () = site.redis(&["ZADD", ":event:schedule", "1", &event]).await;
    let blocked = format!(
        "select count(*) from pg_stat_activity where application_name = '{}' and wait_event_type = 'Lock'",
        site.schema("queue")
    );
    eventually("the other triggers wait", async || (site.number(&blocked).await >= 2).then_some(())).await;
    assert_eq!(site.openings(&event).await, 0, "nothing is told before the commit");
    let by_hand = replica.command(&event, "open");
    let go_on = async {
        tokio::task::yield_now().await;
        paused.resume();
    };
    let (opened, ()) = tokio::join!(by_hand, go_on);
    assert_eq!(opened.expect(200).json()["status"], "OPEN");
    site.until_open(&event).await;
    assert_eq!(site.openings(&event).await, 1);
    let told: Value = site.rows(&format!(
        "select payload::jsonb as payload from {{queue}}.outbox_events where topic = 'EVENT_OPEN' and key = '{event}'"
    ))
    .await
    .remove(0)["payload"]
        .clone();
    assert_eq!(told["rules"]["passKey"].as_str().unwrap().len(), 43);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_has_the_lock_opens_and_a_replica_that_dies_with_it_keeps_nobody_out() {
    let site = Site::start_with(&[]).await;
    let event = site.event(json!({})).await;
    site.opening_is_over(&event).await;
    let mut paused = site.pause("queue", "open.locked");
    let expired = async {
        loop {
            expire(&site, &event).await;
            if paused_reached(&mut paused).await {
                return;
            }
        }
    };
    expired.await;
    let locked: Option<String> = site.redis(&["GET", &format!(":event:{{{event}}}:lock")]).await;
    assert!(locked.is_some());
    let replica = site.replica_with(&TIMER).await;
    replica.until_open(&event).await;
    paused.resume();
    eventually("the lock is given back", async || {
        let locked: Option<String> = site.redis(&["GET", &format!(":event:{{{event}}}:lock")]).await;
        locked.is_none().then_some(())
    })
    .await;
    assert_eq!(site.openings(&event).await, 1);
    replica.stop().await;
}

/// Whether the listener has come to the pause; it may not have subscribed yet.
async fn paused_reached(paused: &mut common::crash::Pause) -> bool {
    tokio::time::timeout(std::time::Duration::from_millis(100), paused.reached()).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_closes_at_its_time_and_is_told_once() {
    let site = Site::start_with(&TIMER).await;
    let event = site.event(json!({ "closesAt": crate::site::in_seconds(7200) })).await;
    site.command(&event, "open").await.expect(200);
    site.execute(&format!(
        "update {{queue}}.sale_events set opens_at = now() - interval '1 hour', closes_at = now() where id = '{event}'"
    ))
    .await;
    let closed = format!("select count(*) from {{queue}}.sale_events where id = '{event}' and status = 'CLOSED'");
    site.until_number(&closed, 1).await;
    assert_eq!(site.told(&event, "EVENT_CLOSED").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_is_open_by_its_clock_before_any_trigger_says_so() {
    let site = Site::start_with(&[]).await;
    let event = site.event(json!({})).await;
    // The timer may look once more, since an event was scheduled. It opens nothing before the sale is seen open.
    let paused = site.pause("queue", "open.before_commit");
    site.opening_is_over(&event).await;
    eventually("everybody sees it open", async || (site.read(&event).await["status"] == "OPEN").then_some(())).await;
    assert_eq!(site.openings(&event).await, 0);
    paused.resume();
}
