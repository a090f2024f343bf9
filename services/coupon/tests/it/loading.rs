//! A gate is loaded once for all who wait for it, and to its end.

use serde_json::json;
use testkit::eventually;

use crate::site::{SWEEPING, Site};

/// A load that another process has begun.
async fn lock_by_another(site: &Site, coupon: &str) {
    let _: String = site.ask(redis::cmd("SET").arg(site.key(coupon, "loading")).arg("another")).await;
}

async fn unlock(site: &Site, coupon: &str) {
    let _: i64 = site.ask(redis::cmd("DEL").arg(site.key(coupon, "loading"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_takes_longer_than_its_requests_wait_is_not_begun_again_and_comes_to_its_end() {
    let site = Site::start_with(&[("coupon.gate.wait_ms", "1")]).await;
    let coupon = site.coupon(3).await;
    let mut pause = site.pause("coupon", "coupon.after_epoch");
    site.issue(&site.somebody(), &coupon).await.refused(503, "SERVICE_UNAVAILABLE");
    pause.reached().await;
    site.issue(&site.somebody(), &coupon).await.refused(503, "SERVICE_UNAVAILABLE");
    assert!(pause.is_waiting(), "it goes on although its request was answered");
    pause.resume();
    // Nobody asks any more.
    eventually("the gate is loaded", async || (site.gate(&coupon).await == Some((3, 0, 0))).then_some(())).await;
    assert_eq!(site.gate_epoch(&coupon).await, 1, "the second request has waited for the same load");
    site.issued(&site.somebody(), &coupon).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_keeps_its_lock_as_long_as_it_reads_and_gives_back_no_other() {
    let site = Site::start_with(&[("coupon.gate.load_ms", "600000")]).await;
    let coupon = site.coupon(3).await;
    site.issued(&site.somebody(), &coupon).await;
    site.gate_agrees(&coupon).await;
    site.lose_gate(&coupon).await;
    let lock = site.key(&coupon, "loading");
    let mut begun = site.pause("coupon", "coupon.after_epoch");
    let mut counted = site.pause("coupon", "coupon.before_publication");
    let user = site.somebody();
    let (answer, ()) = tokio::join!(site.issue(&user, &coupon), async {
        begun.reached().await;
        // PostgreSQL was slow, and the lock has expired.
        unlock(&site, &coupon).await;
        begun.resume();
        counted.reached().await;
        let left: i64 = site.ask(redis::cmd("PTTL").arg(&lock)).await;
        assert!(left > 60_000, "a page of users was read, and the lock ends in {left} ms");
        lock_by_another(&site, &coupon).await;
        counted.resume();
    });
    answer.expect(201);
    let holder: Option<String> = site.ask(redis::cmd("GET").arg(&lock)).await;
    assert_eq!(holder.as_deref(), Some("another"));
    site.gate_agrees(&coupon).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_has_lost_its_lock_leaves_the_gate_to_the_other_one() {
    let site = Site::start().await;
    let coupon = site.coupon(3).await;
    site.issued(&site.somebody(), &coupon).await;
    site.gate_agrees(&coupon).await;
    site.lose_gate(&coupon).await;
    let mut begun = site.pause("coupon", "coupon.after_epoch");
    let mut busy = site.pause("coupon", "coupon.gate_is_busy");
    let user = site.somebody();
    let (answer, ()) = tokio::join!(site.issue(&user, &coupon), async {
        begun.reached().await;
        lock_by_another(&site, &coupon).await;
        begun.resume();
        busy.reached().await;
        assert_eq!(site.gate(&coupon).await, None, "it has published nothing");
        // The other one has died.
        unlock(&site, &coupon).await;
        busy.resume();
    });
    answer.expect(201);
    assert_eq!(site.gate_epoch(&coupon).await, 3);
    site.gate_agrees(&coupon).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_process_died_counts_for_all_others() {
    let site = Site::start().await;
    let coupon = site.coupon(1).await;
    site.issued(&site.somebody(), &coupon).await;
    let other = site.replica_with(&SWEEPING).await;
    other.issue(&site.somebody(), &coupon).await.refused(409, "COUPON_SOLD_OUT");
    let mut dead = site.pause("coupon", "coupon.after_change");
    let (changed, ()) = tokio::join!(site.change(&coupon, "*", json!({ "total": 2 })), async {
        dead.reached().await;
        let user = site.somebody();
        eventually("the other one knows of the change", async || {
            (other.issue(&user, &coupon).await.status == 201).then_some(())
        })
        .await;
        dead.resume();
    });
    changed.expect(200);
    site.gate_agrees(&coupon).await;
    other.stop().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_not_answered_while_another_process_loads_the_gate_as_it_was() {
    let site = Site::start().await;
    let (coupon, other) = (site.coupon(1).await, site.replica_with(&[]).await);
    site.issued(&site.somebody(), &coupon).await;
    other.issue(&site.somebody(), &coupon).await.refused(409, "COUPON_SOLD_OUT");
    lock_by_another(&site, &coupon).await;
    let mut busy = site.pause("coupon", "coupon.gate_is_busy");
    let (changed, ()) = tokio::join!(site.change(&coupon, "*", json!({ "total": 2 })), async {
        busy.reached().await;
        unlock(&site, &coupon).await;
        busy.resume();
    });
    changed.expect(200);
    other.issued(&site.somebody(), &coupon).await;
    other.stop().await;
    site.stop().await;
}
