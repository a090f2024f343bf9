//! A coupon opens and closes by PostgreSQL's clock, to the millisecond.

use chrono::{DateTime, Duration, SubsecRound, Utc};
use serde_json::json;

use crate::postgres_clock::StoppedClock;
use crate::site::Site;

/// Beside `site`, with PostgreSQL's clock stopped at `at`.
async fn stopped(site: &Site, at: DateTime<Utc>, slack_ms: &str) -> (StoppedClock, Site) {
    let clock = StoppedClock::of(site, at).await;
    let settings = [("postgres.url", clock.url(site)), ("coupon.gate.clock_slack_ms", slack_ms.to_owned())];
    let replica = site.replica_with(&settings.each_ref().map(|(key, value)| (*key, value.as_str()))).await;
    (clock, replica)
}

async fn coupon(site: &Site, total: i64, opens: DateTime<Utc>, closes: DateTime<Utc>) -> String {
    let window = json!({ "total": total, "startsAt": opens.to_rfc3339(), "expiresAt": closes.to_rfc3339() });
    site.coupon_with(window).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_millisecond_before_the_opening_nobody_gets_a_coupon_and_at_the_opening_the_first_does() {
    let site = Site::start().await;
    let opens = Utc::now().trunc_subsecs(3) + Duration::hours(1);
    let (clock, replica) = stopped(&site, opens - Duration::milliseconds(1), "5").await;
    let (coupon, user) = (coupon(&site, 1, opens, opens + Duration::hours(1)).await, site.somebody());
    let early = replica.issue(&user, &coupon).await;
    early.refused(409, "COUPON_NOT_OPEN");
    assert_eq!(early.header("Retry-After"), Some("1"));
    clock.set(&site, opens).await;
    replica.issued(&user, &coupon).await;
    assert_eq!(site.stored(&coupon).await, (1, 1, 1));
    replica.issue(&site.somebody(), &coupon).await.refused(409, "COUPON_SOLD_OUT");
    replica.stop().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_millisecond_before_the_end_a_coupon_is_issued_and_at_the_end_it_is_not() {
    let site = Site::start().await;
    let closes = Utc::now().trunc_subsecs(3) + Duration::hours(1);
    // The gate believes that the clock goes on: with so much slack it leaves the end to PostgreSQL.
    let (clock, replica) = stopped(&site, closes - Duration::milliseconds(1), "600000").await;
    let coupon = coupon(&site, 2, closes - Duration::hours(2), closes).await;
    replica.issued(&site.somebody(), &coupon).await;
    clock.set(&site, closes).await;
    replica.issue(&site.somebody(), &coupon).await.refused(410, "COUPON_EXPIRED");
    assert_eq!(site.stored(&coupon).await, (1, 1, 1));
    replica.stop().await;
    site.stop().await;
}

/// Redis's clock is an hour ahead of PostgreSQL's. By it the coupon has been open for half an hour.
#[tokio::test(flavor = "multi_thread")]
async fn before_the_opening_by_postgresqls_clock_nothing_is_taken_whatever_redis_believes() {
    let site = Site::start().await;
    let now = Utc::now();
    let (_clock, replica) = stopped(&site, now - Duration::hours(1), "5").await;
    let coupon = coupon(&site, 1, now - Duration::minutes(30), now + Duration::hours(1)).await;
    let mut taken = site.pause("coupon", "coupon.after_lua");
    let user = site.somebody();
    tokio::select! {
        () = taken.reached() => panic!("a unit was taken before the opening: others are told that all are gone"),
        answer = replica.issue(&user, &coupon) => drop(answer.refused(409, "COUPON_NOT_OPEN")),
    }
    assert_eq!(site.gate(&coupon).await, Some((1, 0, 0)));
    replica.stop().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_at_the_opening_waits_for_it_and_is_not_told_that_all_are_gone() {
    // Whether a coupon that opens within the hour is open, this process does not know for certain.
    let site = Site::start_with(&[("coupon.gate.clock_slack_ms", "3600000")]).await;
    let hours = |hours| Utc::now() + Duration::hours(hours);
    let coupon = coupon(&site, 1, hours(-2), hours(2)).await;
    site.issued(&site.somebody(), &coupon).await;
    let soon = Utc::now() + Duration::minutes(30);
    site.change(&coupon, "*", json!({ "startsAt": soon.to_rfc3339() })).await.expect(200);

    let user = site.somebody();
    let mut pause = site.pause("coupon", "coupon.before_opening");
    let (answer, ()) = tokio::join!(site.issue(&user, &coupon), async {
        pause.reached().await;
        assert_eq!(site.gate(&coupon).await, Some((0, 1, 0)), "nobody has taken anything");
        let opened = json!({ "startsAt": hours(-2).to_rfc3339(), "total": 2 });
        site.change(&coupon, "*", opened).await.expect(200);
        pause.resume();
    });
    answer.expect(201);
    site.gate_agrees(&coupon).await;
    site.stop().await;
}
