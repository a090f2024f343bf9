//! Processes die, Redis forgets, PostgreSQL is away: nobody is told what is not so, and nothing is lost.

use serde_json::json;
use testkit::proxy::Proxy;
use testkit::{PATIENT, eventually, text};

use crate::site::{SWEEPING, Site};

#[tokio::test(flavor = "multi_thread")]
async fn a_take_whose_process_died_is_stored_by_another_one() {
    let site = Site::start().await;
    let (coupon, user) = (site.coupon(5).await, site.somebody());
    let mut pause = site.pause("coupon", "coupon.after_lua");
    let (first, ()) = tokio::join!(site.issue(&user, &coupon), async {
        pause.reached().await;
        assert_eq!(site.gate(&coupon).await, Some((4, 1, 1)));
        let other = site.replica_with(&SWEEPING).await;
        site.gate_agrees(&coupon).await;
        assert_eq!(site.stored(&coupon).await, (1, 1, 1));
        other.stop().await;
        pause.resume();
    });
    // It was alive all the time, and learns that its take is stored.
    first.expect(201);
    assert_eq!(site.stored(&coupon).await, (1, 1, 1));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_never_heard_of_a_commit_hears_of_it_by_the_sweep() {
    let site = Site::start().await;
    let (coupon, user) = (site.coupon(5).await, site.somebody());
    let mut pause = site.pause("coupon", "coupon.before_settle");
    site.issued(&user, &coupon).await;
    pause.reached().await;
    assert_eq!(site.gate(&coupon).await, Some((4, 1, 1)));
    site.refuse_repeat(&user, &coupon).await;
    let other = site.replica_with(&SWEEPING).await;
    site.gate_agrees(&coupon).await;
    pause.resume();
    assert_eq!(site.stored(&coupon).await, (1, 1, 1));
    other.stop().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_was_not_answered_yet_is_known_to_the_repeat() {
    let site = Site::start().await;
    let (coupon, user) = (site.coupon(5).await, site.somebody());
    let mut pause = site.pause("coupon", "coupon.after_commit");
    let (first, issue) = tokio::join!(site.issue(&user, &coupon), async {
        pause.reached().await;
        let issue = site.refuse_repeat(&user, &coupon).await;
        pause.resume();
        issue
    });
    assert_eq!(text(&first.expect(201).json()["issueId"]), issue);
    site.gate_agrees(&coupon).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_take_of_a_gate_that_was_lost_is_taken_again_from_the_new_one() {
    let site = Site::start().await;
    let (coupon, [slow, quick]) = (site.coupon(2).await, [site.somebody(), site.somebody()]);
    let mut pause = site.pause("coupon", "coupon.after_lua");
    let (first, ()) = tokio::join!(site.issue(&slow, &coupon), async {
        pause.reached().await;
        site.lose_gate(&coupon).await;
        site.issued(&quick, &coupon).await;
        assert_eq!(site.gate_epoch(&coupon).await, 2);
        pause.resume();
    });
    let issue = text(&first.expect(201).json()["issueId"]);
    let take = site.rows(&format!("select take_id from {{coupon}}.coupon_issue where id = '{issue}'")).await.remove(0);
    assert!(text(&take["take_id"]).starts_with("2:"), "it has passed the new gate: {take}");
    assert_eq!(site.stored(&coupon).await, (2, 2, 2));
    site.gate_agrees(&coupon).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_take_of_a_gate_that_was_lost_gets_nothing_when_others_got_it_all() {
    let site = Site::start().await;
    let (coupon, slow) = (site.coupon(1).await, site.somebody());
    let mut pause = site.pause("coupon", "coupon.after_lua");
    let (first, ()) = tokio::join!(site.issue(&slow, &coupon), async {
        pause.reached().await;
        site.lose_gate(&coupon).await;
        site.issued(&site.somebody(), &coupon).await;
        pause.resume();
    });
    first.refused(409, "COUPON_SOLD_OUT");
    assert_eq!(site.stored(&coupon).await, (1, 1, 1));
    site.gate_agrees(&coupon).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_is_loaded_after_the_commits_that_are_under_way() {
    let site = Site::start_with(&PATIENT).await;
    let (coupon, [first, second]) = (site.coupon(1).await, [site.somebody(), site.somebody()]);
    let mut pause = site.pause("coupon", "coupon.before_commit");
    let (stored, refused, ()) = tokio::join!(
        site.issue(&first, &coupon),
        async {
            site.until_number("select epoch from {coupon}.coupons", 1).await;
            eventually("the first has its take", async || (site.gate(&coupon).await == Some((0, 1, 1))).then_some(()))
                .await;
            site.lose_gate(&coupon).await;
            site.issue(&second, &coupon).await
        },
        async {
            pause.reached().await;
            // The second one raises the epoch, and waits for the first one's transaction.
            site.until_blocked("coupon", 1).await;
            pause.resume();
        }
    );
    stored.expect(201);
    refused.refused(409, "COUPON_SOLD_OUT");
    assert_eq!(site.stored(&coupon).await, (1, 1, 1));
    site.gate_agrees(&coupon).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_was_counted_before_another_is_not_published_after_it() {
    let site = Site::start().await;
    let (coupon, [slow, quick]) = (site.coupon(2).await, [site.somebody(), site.somebody()]);
    let other = site.replica_with(&[]).await;
    let mut pause = site.pause("coupon", "coupon.after_epoch");
    let (first, ()) = tokio::join!(site.issue(&slow, &coupon), async {
        pause.reached().await;
        // It is given up.
        let _: i64 = site.ask(redis::cmd("DEL").arg(site.key(&coupon, "loading"))).await;
        other.issued(&quick, &coupon).await;
        assert_eq!(site.gate_epoch(&coupon).await, 2);
        pause.resume();
    });
    first.expect(201);
    assert_eq!(site.gate_epoch(&coupon).await, 2, "the older count is thrown away");
    site.gate_agrees(&coupon).await;
    assert_eq!(site.stored(&coupon).await, (2, 2, 2));
    other.stop().await;
    site.stop().await;
}

/// A site that reaches PostgreSQL through `proxy`, in front of another that does not.
async fn behind(proxy: &Proxy, site: &Site) -> Site {
    let postgres = proxy.url(&site.servers.postgres_url());
    let settings = [
        ("postgres.url", postgres.as_str()),
        ("postgres.acquire_timeout_ms", "500"),
        ("coupon.writer.retry_first_ms", "1"),
        ("coupon.writer.retry_max_ms", "1"),
        // Failures are looked for often, and takes only when their own requests have given up.
        ("coupon.takes.sweep_period_ms", "20"),
        ("coupon.takes.idle_ms", "600000"),
    ];
    site.replica_with(&settings).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_stored_is_given_back_and_told_and_may_be_tried_again() {
    let site = Site::start().await;
    let proxy = Proxy::to(&site.servers.postgres_url()).await;
    let away = behind(&proxy, &site).await;
    let (coupon, user) = (site.coupon(1).await, site.somebody());
    site.reconcile(&coupon).await;

    proxy.cut();
    let failed = away.issue(&user, &coupon).await;
    failed.refused(503, "SERVICE_UNAVAILABLE");
    assert!(failed.header("Retry-After").is_some());
    assert_eq!(site.gate(&coupon).await, Some((1, 0, 0)), "the take is undone");
    let undone: i64 = site.ask(redis::cmd("HGET").arg(site.key(&coupon, "meta")).arg("undone")).await;
    assert_eq!(undone, 1, "the gate has other users now than when it last had none");
    proxy.restore();
    site.until_number("select count(*) from {coupon}.outbox_events where topic = 'COUPON_ISSUE_FAILED'", 1).await;
    assert_eq!(site.stored(&coupon).await, (0, 0, 0));
    eventually("PostgreSQL is there again", async || (away.issue(&user, &coupon).await.status != 503).then_some(()))
        .await;
    assert_eq!(site.stored(&coupon).await, (1, 1, 1));
    site.gate_agrees(&coupon).await;

    // Who comes too late, or again, is refused without PostgreSQL.
    proxy.cut();
    away.issue(&site.somebody(), &coupon).await.refused(409, "COUPON_SOLD_OUT");
    away.refuse_repeat(&user, &coupon).await;
    proxy.restore();
    away.stop().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_take_that_is_stored_after_it_was_given_up_is_no_failure() {
    let site = Site::start().await;
    let proxy = Proxy::to(&site.servers.postgres_url()).await;
    let away = behind(&proxy, &site).await;
    let (coupon, user) = (site.coupon(2).await, site.somebody());
    site.reconcile(&coupon).await;
    proxy.cut();
    let mut pause = site.pause("coupon", "coupon.before_undo");
    let (given_up, ()) = tokio::join!(away.issue(&user, &coupon), async {
        pause.reached().await;
        // As if the commit had succeeded, and only its answer was lost.
        site.refuse_repeat(&user, &coupon).await;
        proxy.restore();
        pause.resume();
    });
    given_up.refused(503, "SERVICE_UNAVAILABLE");
    let failed = site.key(&coupon, "failed");
    eventually("the failure is looked at", async || {
        (site.ask::<i64>(redis::cmd("LLEN").arg(&failed)).await == 0).then_some(())
    })
    .await;
    assert_eq!(site.events("COUPON_ISSUE_FAILED").await, 0);
    assert_eq!(site.stored(&coupon).await, (1, 1, 1));
    site.gate_agrees(&coupon).await;
    site.refuse_repeat(&user, &coupon).await;
    away.stop().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reconciling_finds_a_gate_that_gives_too_little_and_mends_it() {
    let site = Site::start().await;
    let coupon = site.coupon(3).await;
    site.issued(&site.somebody(), &coupon).await;
    site.gate_agrees(&coupon).await;
    let _: () = site.ask(redis::cmd("SET").arg(site.key(&coupon, "stock")).arg(0)).await;
    site.issue(&site.somebody(), &coupon).await.refused(409, "COUPON_SOLD_OUT");
    let found = site.reconcile(&coupon).await;
    assert_eq!((&found["issued"], &found["rows"], &found["gate"]["left"]), (&json!(1), &json!(1), &json!(0)));
    assert_eq!((&found["agrees"], &found["loaded"]), (&json!(false), &json!(true)));
    site.issued(&site.somebody(), &coupon).await;
    site.gate_agrees(&coupon).await;
    assert_eq!(site.reconcile(&coupon).await["agrees"], true);
    site.stop().await;
}
