//! An issued coupon is in one order at most, and an order knows what it costs less.

use chrono::{Duration, Utc};
use contract::coupon::RedemptionState;
use futures_util::future::join_all;
use serde_json::json;
use testkit::PATIENT;
use uuid::Uuid;

use crate::site::{Site, code, line};

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_says_what_the_order_costs_less() {
    let site = Site::start().await;
    let [own, other] = [line(3, 3_333), line(1, 50_000)];
    let coupon = json!({ "discount": { "kind": "PERCENT", "value": 7 }, "minimumAmount": 9_000,
                         "maximumDiscount": 10_000, "productIds": [own.product_id] });
    let (coupon, user) = (site.coupon_with(coupon).await, site.somebody());
    let (issue, order) = (site.issued(&user, &coupon).await, Uuid::now_v7());
    let until = Utc::now() + Duration::minutes(10);
    let reserve = async |order, lines| site.reserve_lines(order, &issue, &user, lines, until).await;

    let small = reserve(Uuid::now_v7(), vec![line(1, 9_999)]).await;
    assert_eq!(code(&small), "COUPON_NOT_APPLICABLE");
    let reserved = reserve(order, vec![own.clone(), other.clone()]).await.unwrap();
    assert_eq!((reserved.state(), reserved.discount), (RedemptionState::Reserved, 699));
    let lines: Vec<_> = reserved.lines.iter().map(|line| (line.product_id.clone(), line.discount)).collect();
    assert_eq!(lines, [(own.product_id.clone(), 699), (other.product_id, 0)]);
    assert_eq!((&reserved.issue_id, &reserved.coupon_id, &reserved.user_id), (&issue, &coupon, &user.user_id));
    assert_eq!(site.status(&user, &coupon).await, "RESERVED");
    assert_eq!(reserve(order, vec![line(1, 1)]).await.unwrap(), reserved, "a repeat has the first answer");
    assert_eq!(site.redemption(order).await.unwrap(), reserved);

    let stranger = site.somebody();
    for order in [order, Uuid::now_v7()] {
        assert_eq!(code(&site.reserve(order, &issue, &stranger).await), "COUPON_ISSUE_NOT_FOUND");
    }
    assert_eq!(code(&site.reserve(Uuid::now_v7(), &Uuid::now_v7().to_string(), &user).await), "COUPON_ISSUE_NOT_FOUND");
    assert_eq!(code(&reserve(Uuid::now_v7(), vec![line(0, 1)]).await), "VALIDATION_ERROR");
    assert_eq!(code(&reserve(Uuid::now_v7(), vec![line(1, i64::MAX), line(1, 1)]).await), "VALIDATION_ERROR");
    assert_eq!(code(&site.redemption(Uuid::now_v7()).await), "REDEMPTION_NOT_FOUND");
    let claims = "select count(*) from {coupon}.coupon_redemptions where coupon_issue_id is not null";
    assert_eq!(site.number(claims).await, 1, "a refusal claims no coupon");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_orders_at_once_one_gets_the_coupon() {
    let site = Site::start().await;
    let (coupon, user) = (site.coupon(1).await, site.somebody());
    let issue = site.issued(&user, &coupon).await;
    let other = site.replica_with(&[]).await;
    let reserving = (0..50).map(|n| {
        let site = if n % 2 == 0 { &site } else { &other };
        site.reserve(Uuid::now_v7(), &issue, &user)
    });
    let mut codes: Vec<String> = join_all(reserving).await.iter().map(code).collect();
    codes.sort();
    assert_eq!(codes.iter().filter(|code| *code == "OK").count(), 1, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| *code == "COUPON_IN_USE").count(), 49, "{codes:?}");
    other.stop().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_comes_second_waits_for_the_first_and_is_refused() {
    let site = Site::start_with(&PATIENT).await;
    let (coupon, user) = (site.coupon(1).await, site.somebody());
    let issue = site.issued(&user, &coupon).await;
    let mut pause = site.pause("coupon", "redemption.after_lock");
    let (first, second, ()) = tokio::join!(
        site.reserve(Uuid::now_v7(), &issue, &user),
        async {
            site.until_number("select count(*) from pg_locks where mode = 'RowShareLock' and relation = '{coupon}.coupon_issue'::regclass", 1)
                .await;
            site.reserve(Uuid::now_v7(), &issue, &user).await
        },
        async {
            pause.reached().await;
            site.until_blocked("coupon", 1).await;
            pause.resume();
        }
    );
    assert_eq!((code(&first).as_str(), code(&second).as_str()), ("OK", "COUPON_IN_USE"));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_to_pay_keeps_the_coupon_and_its_end_gives_it_back_to_the_order() {
    let site = Site::start().await;
    let (coupon, user) = (site.coupon(1).await, site.somebody());
    let issue = site.issued(&user, &coupon).await;
    let [order, first, second] = [Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7()];
    assert_eq!(code(&site.pin(order, first, false).await), "REDEMPTION_NOT_FOUND");
    site.reserve(order, &issue, &user).await.unwrap();
    let pinned = site.pin(order, first, false).await.unwrap();
    assert_eq!((pinned.state(), &pinned.attempt_id), (RedemptionState::Pinned, &first.to_string()));
    assert_eq!(site.pin(order, first, false).await.unwrap(), pinned);
    assert_eq!(code(&site.pin(order, second, false).await), "PAYMENT_IN_PROGRESS");
    // Its time is up, and it is neither swept nor taken over.
    site.expire(order).await;
    assert_eq!(code(&site.reserve(Uuid::now_v7(), &issue, &user).await), "COUPON_IN_USE");
    assert_eq!(site.status(&user, &coupon).await, "RESERVED");

    let unpinned = site.unpin(order, first).await.unwrap();
    assert_eq!((unpinned.state(), unpinned.attempt_id.as_str()), (RedemptionState::Reserved, ""));
    let left = unpinned.expires_at.unwrap().seconds - Utc::now().timestamp();
    assert!((30..=60).contains(&left), "a minute to try again, not {left} s");
    assert_eq!(code(&site.pin(order, first, false).await), "PAYMENT_IN_PROGRESS", "it has ended");
    site.pin(order, second, false).await.unwrap();
    assert_eq!(site.release(order).await.unwrap().state(), RedemptionState::Released);
    assert_eq!(site.release(order).await.unwrap().state(), RedemptionState::Released);
    assert_eq!(code(&site.reserve(order, &issue, &user).await), "REDEMPTION_ENDED");
    assert_eq!(code(&site.reserve(Uuid::now_v7(), &issue, &user).await), "OK");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_whose_time_is_up_is_taken_over_without_a_sweep() {
    let site = Site::start().await;
    let (coupon, user) = (site.coupon(1).await, site.somebody());
    let issue = site.issued(&user, &coupon).await;
    let [first, second, third] = [Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7()];
    site.reserve(first, &issue, &user).await.unwrap();
    site.expire(first).await;
    assert_eq!(site.redemption(first).await.unwrap().state(), RedemptionState::Expired);
    assert_eq!(site.status(&user, &coupon).await, "ISSUED");
    assert_eq!(code(&site.pin(first, Uuid::now_v7(), false).await), "REDEMPTION_ENDED");
    site.reserve(second, &issue, &user).await.unwrap();
    let states = "select count(*) from {coupon}.coupon_redemptions where state = 'EXPIRED'";
    assert_eq!(site.number(states).await, 1);

    // The money for the first was captured, too late: the second has the coupon, until it ends.
    let late = Uuid::now_v7();
    assert_eq!(code(&site.pin(first, late, true).await), "COUPON_IN_USE");
    site.release(second).await.unwrap();
    let retaken = site.pin(first, late, true).await.unwrap();
    assert_eq!((retaken.state(), retaken.discount), (RedemptionState::Pinned, 1_000));
    let refused = Uuid::now_v7();
    assert_eq!(code(&site.reserve(refused, &issue, &user).await), "COUPON_IN_USE");
    // The order ended before the payment: that end does not count.
    assert_eq!(site.release(first).await.unwrap().state(), RedemptionState::Pinned);
    // No payment came of it.
    assert_eq!(site.unpin(first, late).await.unwrap().state(), RedemptionState::Released);
    assert_eq!(
        code(&site.reserve(refused, &issue, &user).await),
        "REDEMPTION_ENDED",
        "a refusal is final for its order"
    );
    site.reserve(third, &issue, &user).await.unwrap();
    site.expire(third).await;
    let sweeping = site.replica_with(&[("coupon.sweep_period_ms", "20")]).await;
    site.until_number(states, 1).await;
    sweeping.stop().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_payment_takes_the_coupon_from_an_order_whose_time_is_up_whatever_their_ids() {
    let site = Site::start().await;
    for (paid, due) in [(1, 2), (4, 3)].map(|(paid, due)| (Uuid::from_u128(paid), Uuid::from_u128(due))) {
        let (coupon, user) = (site.coupon(1).await, site.somebody());
        let issue = site.issued(&user, &coupon).await;
        site.reserve(paid, &issue, &user).await.unwrap();
        site.expire(paid).await;
        site.reserve(due, &issue, &user).await.unwrap();
        site.expire(due).await;
        // Nobody has swept: the row of the second one says RESERVED.
        let retaken = site.pin(paid, Uuid::now_v7(), true).await;
        assert_eq!(code(&retaken), "OK", "{paid} takes the coupon from {due}");
        assert_eq!(retaken.unwrap().state(), RedemptionState::Pinned);
        assert_eq!(site.redemption(due).await.unwrap().state(), RedemptionState::Expired);
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_was_released_first_reserves_nothing() {
    let site = Site::start().await;
    let (coupon, user) = (site.coupon(1).await, site.somebody());
    let (issue, order) = (site.issued(&user, &coupon).await, Uuid::now_v7());
    let tombstone = site.release(order).await.unwrap();
    assert_eq!((tombstone.state(), tombstone.issue_id.as_str()), (RedemptionState::Released, ""));
    assert_eq!(code(&site.reserve(order, &issue, &user).await), "REDEMPTION_ENDED");
    assert_eq!(code(&site.pin(order, Uuid::now_v7(), true).await), "REDEMPTION_ENDED");
    site.move_window(&coupon, -10, 0).await;
    assert_eq!(code(&site.reserve(Uuid::now_v7(), &issue, &user).await), "COUPON_EXPIRED");
    site.stop().await;
}
