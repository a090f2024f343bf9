//! Takes that nobody has stored are all found, whatever becomes of others.

use contract::ids::{AccountId, CouponId, CouponIssueId};
use serde_json::json;
use testkit::eventually;
use uuid::Uuid;

use crate::site::{SWEEPING, Site};

/// Takes `count` units for as many users, whose requests die.
async fn take_and_die(site: &Site, coupon: &str, count: usize) {
    let (id, epoch): (CouponId, i64) = (coupon.parse().unwrap(), site.gate_epoch(coupon).await);
    let mut take = redis::cmd("EVAL");
    take.arg(coupon::TAKE_SCRIPT).arg(4);
    for name in ["meta", "stock", "issued", "journal"] {
        take.arg(site.key(coupon, name));
    }
    take.arg(epoch).arg(chrono::Utc::now().timestamp_millis());
    for _ in 0..count {
        let user = AccountId::generate();
        take.arg(user.to_string()).arg(CouponIssueId::derive(&[id.as_bytes(), user.as_bytes()]).to_string());
    }
    let answers: Vec<Vec<String>> = site.ask(&take).await;
    assert!(answers.len() == count && answers.iter().all(|answer| answer[0] == "TAKEN"), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_sweep_stores_all_takes_that_were_left() {
    const LEFT: usize = 600;
    let site = Site::start().await;
    let coupon = site.coupon(1000).await;
    site.reconcile(&coupon).await;
    take_and_die(&site, &coupon, LEFT).await;
    // It sweeps when it starts, and not again.
    let other = site.replica_with(&[("coupon.takes.idle_ms", "0")]).await;
    site.gate_agrees(&coupon).await;
    assert_eq!(site.stored(&coupon).await, (LEFT as i64, LEFT as i64, LEFT as i64));
    other.stop().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coupon_whose_failures_cannot_be_recorded_keeps_no_other_from_being_swept() {
    let site = Site::start().await;
    for coupon in [site.coupon(2).await, site.coupon(2).await] {
        site.reconcile(&coupon).await;
    }
    // In the order of the sweep.
    let loaded: Vec<String> = site.ask(redis::cmd("SMEMBERS").arg(format!("{}coupons:loaded", site.namespace()))).await;
    let [broken, next] = <[String; 2]>::try_from(loaded).unwrap();
    let refuse = format!(
        "alter table {{coupon}}.coupon_issue_failures add constraint broken check (coupon_id <> '{broken}'::uuid)"
    );
    site.execute(&refuse).await;
    let failure = json!({ "issue": Uuid::now_v7(), "user": Uuid::now_v7(), "epoch": 1, "entry": "1-0" });
    let _: i64 = site.ask(redis::cmd("RPUSH").arg(site.key(&broken, "failed")).arg(failure.to_string())).await;
    take_and_die(&site, &next, 1).await;

    let sweeping = site.replica_with(&SWEEPING).await;
    site.gate_agrees(&next).await;
    assert_eq!(site.stored(&next).await, (1, 1, 1));
    // It is tried again as long as it takes.
    site.execute("alter table {coupon}.coupon_issue_failures drop constraint broken").await;
    eventually("the failure is told", async || (site.events("COUPON_ISSUE_FAILED").await == 1).then_some(())).await;
    sweeping.stop().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_reservations_are_found_by_their_time_though_statistics_are_older_than_the_sale() {
    let site = Site::start().await;
    let redemptions = async |count, state, expires_at| {
        site.execute(&format!(
            "with issued as (
                 insert into {{coupon}}.coupon_issue (id, coupon_id, user_id, take_id, issued_at)
                 select gen_random_uuid(), '{coupon}', gen_random_uuid(), '', now() from generate_series(1, {count})
                 returning id
             )
             insert into {{coupon}}.coupon_redemptions (order_id, coupon_issue_id, state, expires_at)
             select gen_random_uuid(), id, '{state}', {expires_at}
               from (select id, row_number() over (order by id) as number from issued) as numbered",
            coupon = Uuid::nil()
        ))
        .await;
    };
    // In the order of their issues, which are cheap to read then.
    redemptions(20_000, "CONFIRMED", "now() - (number * 7919 % 20000) * interval '1 minute'").await;
    redemptions(1_000, "RESERVED", "now() + interval '10 minutes'").await;
    site.execute("analyze {coupon}.coupon_issue, {coupon}.coupon_redemptions").await;
    redemptions(5_000, "RESERVED", "now() + interval '10 minutes'").await;

    let statement = include_str!("../../src/expire_redemptions.sql");
    for mode in ["force_custom_plan", "force_generic_plan"] {
        let plan = site.explain("coupon", mode, statement, &["500".to_owned()]).await.to_string();
        assert!(plan.contains("coupon_redemptions_reserved"), "{plan}");
        assert!(!plan.contains("coupon_redemptions_live"), "it reads every living redemption: {plan}");
    }
    site.stop().await;
}
