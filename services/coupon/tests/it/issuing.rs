//! First come, first served, once for each account.

use std::collections::HashSet;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use serde_json::json;
use testkit::text;

use crate::site::Site;

#[tokio::test(flavor = "multi_thread")]
async fn an_issue_is_stored_with_its_event_when_the_client_is_told() {
    let site = Site::start().await;
    let (coupon, user) = (site.coupon(5).await, site.somebody());
    user.get(&format!("/coupons/{coupon}/issues/me")).await.refused(404, "COUPON_ISSUE_NOT_FOUND");
    let answer = site.issue(&user, &coupon).await.expect(201).json();
    assert_eq!(answer["status"], "ISSUED");
    assert_eq!(site.stored(&coupon).await, (1, 1, 1));
    assert_eq!(site.refuse_repeat(&user, &coupon).await, text(&answer["issueId"]));
    site.gate_agrees(&coupon).await;
    assert_eq!(site.refuse_repeat(&user, &coupon).await, text(&answer["issueId"]), "the gate knows it");

    let mine = user.get("/me/coupons").await.expect(200).json();
    assert_eq!(mine["items"][0]["issueId"], answer["issueId"]);
    assert_eq!((mine["items"][0]["status"].clone(), mine["nextCursor"].is_null()), (json!("ISSUED"), true));
    assert_eq!(site.status(&user, &coupon).await, "ISSUED");
    let others = site.somebody().get("/me/coupons").await.expect(200).json();
    assert_eq!(others["items"], json!([]));
    site.move_window(&coupon, -10, 0).await;
    assert_eq!(site.status(&user, &coupon).await, "EXPIRED");

    let unknown = uuid::Uuid::now_v7();
    site.issue(&user, &unknown.to_string()).await.refused(404, "COUPON_NOT_FOUND");
    site.issue(&site.anyone(), &coupon).await.refused(401, "UNAUTHORIZED");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_ask_again_and_again_exactly_as_many_as_there_are_get_one() {
    const ACCOUNTS: usize = 300;
    const TOTAL: usize = 50;
    let site = Site::start().await;
    let coupon = site.coupon(TOTAL as i64).await;
    let users: Vec<_> = (0..ACCOUNTS).map(|_| site.somebody()).collect();
    let tries = (0..3 * ACCOUNTS).map(|number| site.issue(&users[number % ACCOUNTS], &coupon));
    let answers: Vec<_> = stream::iter(tries).buffer_unordered(100).collect().await;

    let told: Vec<String> =
        answers.iter().filter(|answer| answer.status == 201).map(|answer| text(&answer.json()["issueId"])).collect();
    assert_eq!(told.len(), TOTAL);
    assert_eq!(site.stored(&coupon).await, (TOTAL as i64, TOTAL as i64, TOTAL as i64));
    let stored = site.rows("select id::text from {coupon}.coupon_issue").await;
    let stored: HashSet<String> = stored.iter().map(|row| text(&row["id"])).collect();
    assert_eq!(told.into_iter().collect::<HashSet<_>>(), stored, "whoever was told has a row, and nobody else");
    for answer in answers.iter().filter(|answer| answer.status != 201) {
        assert!(["COUPON_SOLD_OUT", "COUPON_ALREADY_ISSUED"].contains(&answer.code().as_str()), "{answer}");
    }
    site.gate_agrees(&coupon).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_of_the_database_decides_whatever_the_gate_believes() {
    let site = Site::start().await;
    let coupon = site.coupon(5).await;
    site.issued(&site.somebody(), &coupon).await;
    site.gate_agrees(&coupon).await;

    site.move_window(&coupon, 3600, 7200).await;
    let early = site.issue(&site.somebody(), &coupon).await;
    early.refused(409, "COUPON_NOT_OPEN");
    let seconds: i64 = early.header("Retry-After").unwrap().parse().unwrap();
    assert!((3000..=3600).contains(&seconds), "{seconds}");
    site.move_window(&coupon, -10, 0).await;
    site.issue(&site.somebody(), &coupon).await.refused(410, "COUPON_EXPIRED");
    // What was taken is given back.
    assert_eq!(site.gate(&coupon).await, Some((4, 1, 0)));
    site.move_window(&coupon, -10, 3600).await;
    site.issued(&site.somebody(), &coupon).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_refuses_who_comes_too_early_or_too_late_by_itself() {
    let site = Site::start().await;
    let hour = |hours| (chrono::Utc::now() + chrono::Duration::hours(hours)).to_rfc3339();
    let early = site.coupon_with(json!({ "startsAt": hour(1), "expiresAt": hour(2) })).await;
    let refused = site.issue(&site.somebody(), &early).await;
    refused.refused(409, "COUPON_NOT_OPEN");
    assert!(refused.header("Retry-After").is_some());
    let late = site.coupon_with(json!({ "startsAt": hour(-2), "expiresAt": hour(-1) })).await;
    site.issue(&site.somebody(), &late).await.refused(410, "COUPON_EXPIRED");
    for coupon in [early, late] {
        assert_eq!(site.gate(&coupon).await, Some((10, 0, 0)), "nothing was taken");
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_is_told_that_it_is_issued_only_when_it_is_stored() {
    let site = Site::start().await;
    let (coupon, user) = (site.coupon(5).await, site.somebody());
    let mut pause = site.pause("coupon", "coupon.after_lua");
    let (first, issue) = tokio::join!(site.issue(&user, &coupon), async {
        pause.reached().await;
        assert_eq!(site.stored(&coupon).await, (0, 0, 0));
        // It has the take of the first stored itself.
        let issue = site.refuse_repeat(&user, &coupon).await;
        assert_eq!(site.stored(&coupon).await, (1, 1, 1));
        pause.resume();
        issue
    });
    assert_eq!(text(&first.expect(201).json()["issueId"]), issue, "it was the first one's take");
    assert_eq!(site.stored(&coupon).await, (1, 1, 1));
    site.gate_agrees(&coupon).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_postgresql_issues_alone_and_no_more_than_there_are() {
    let site = Site::start().await;
    let coupon = site.coupon(3).await;
    site.reconcile(&coupon).await;
    assert_eq!(site.gate(&coupon).await, Some((3, 0, 0)));
    // Nobody listens there.
    let without = site.replica_with(&[("redis.url", "redis://127.0.0.1:1/0")]).await;
    let users: Vec<_> = (0..5).map(|_| site.somebody()).collect();
    let answers = join_all(users.iter().map(|user| without.issue(user, &coupon))).await;
    let issued: Vec<usize> = (0..5).filter(|n| answers[*n].status == 201).collect();
    assert_eq!(issued.len(), 3);
    assert_eq!(answers.iter().filter(|answer| answer.code() == "COUPON_SOLD_OUT").count(), 2);
    without.refuse_repeat(&users[issued[0]], &coupon).await;
    // The gate has not heard of them, and promises three.
    site.refuse_repeat(&users[issued[1]], &coupon).await;
    site.issue(&site.somebody(), &coupon).await.refused(409, "COUPON_SOLD_OUT");
    // Whoever finds it out has it loaded.
    site.gate_agrees(&coupon).await;
    assert_eq!(site.stored(&coupon).await, (3, 3, 3));
    without.stop().await;
    site.stop().await;
}

/// Both replicas believe for ten minutes what the gate said.
const BELIEVED: [(&str, &str); 1] = [("coupon.gate.refusals_ms", "600000")];

#[tokio::test(flavor = "multi_thread")]
async fn a_sold_out_coupon_is_refused_without_the_gate_until_a_unit_may_be_back() {
    let site = Site::start_with(&BELIEVED).await;
    let replica = site.replica_with(&BELIEVED).await;
    let (coupon, holder, user) = (site.coupon(1).await, site.somebody(), site.somebody());
    site.issued(&holder, &coupon).await;
    let mut read = site.pause("coupon", "coupon.after_reading_users");
    replica.issue(&user, &coupon).await.refused(409, "COUPON_SOLD_OUT");
    read.reached().await;
    read.resume();

    // Another replica raises the total and loads the gate. This one is not told, and takes nothing.
    site.change(&coupon, "*", json!({ "total": 2 })).await.expect(200);
    assert_eq!(site.gate(&coupon).await, Some((1, 1, 0)));
    for user in [&user, &site.somebody()] {
        replica.issue(user, &coupon).await.refused(409, "COUPON_SOLD_OUT");
    }
    assert_eq!(site.gate(&coupon).await, Some((1, 1, 0)));
    replica.refuse_repeat(&holder, &coupon).await;

    // A unit that comes back by a replica's own hand is there at once.
    site.issued(&site.somebody(), &coupon).await;
    let mut read = site.pause("coupon", "coupon.after_reading_users");
    site.issue(&user, &coupon).await.refused(409, "COUPON_SOLD_OUT");
    read.reached().await;
    read.resume();
    site.change(&coupon, "*", json!({ "total": 3 })).await.expect(200);
    site.issued(&user, &coupon).await;
    site.refuse_repeat(&user, &coupon).await;
    assert_eq!(site.stored(&coupon).await, (3, 3, 3));
    replica.stop().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_who_come_while_the_users_are_read_are_not_refused() {
    let site = Site::start_with(&BELIEVED).await;
    let replica = site.replica_with(&BELIEVED).await;
    let (coupon, user, late) = (site.coupon(1).await, site.somebody(), site.somebody());
    site.issued(&site.somebody(), &coupon).await;
    let mut reading = site.pause("coupon", "coupon.reading_users");
    let mut read = site.pause("coupon", "coupon.after_reading_users");
    replica.issue(&user, &coupon).await.refused(409, "COUPON_SOLD_OUT");
    reading.reached().await;
    site.change(&coupon, "*", json!({ "total": 2 })).await.expect(200);
    site.issued(&late, &coupon).await;
    reading.resume();
    read.reached().await;
    replica.refuse_repeat(&late, &coupon).await;
    read.resume();
    replica.stop().await;
    site.stop().await;
}
