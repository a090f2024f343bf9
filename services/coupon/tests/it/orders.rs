//! What becomes of an order becomes of its coupon, in whatever order the topics are read.

use contract::coupon::RedemptionState;
use contract::events::{OrderCancelled, OrderExpired, OrderPlaced, OrderRefunded};
use serde_json::json;
use testkit::Client;
use uuid::Uuid;

use crate::site::{Site, code};

fn placed(order: Uuid, issue: &str) -> OrderPlaced {
    OrderPlaced { order_id: order.to_string(), version: 3, coupon_issue_id: issue.to_owned(), ..OrderPlaced::default() }
}

fn refunded(order: Uuid, issue: &str) -> OrderRefunded {
    let (order_id, coupon_issue_id) = (order.to_string(), issue.to_owned());
    OrderRefunded { order_id, version: 5, coupon_issue_id, ..OrderRefunded::default() }
}

fn expired(order: Uuid, issue: &str) -> OrderExpired {
    let (order_id, coupon_issue_id) = (order.to_string(), issue.to_owned());
    OrderExpired { order_id, version: 2, coupon_issue_id, ..OrderExpired::default() }
}

fn cancelled(order: Uuid, issue: &str) -> OrderCancelled {
    let (order_id, coupon_issue_id) = (order.to_string(), issue.to_owned());
    OrderCancelled { order_id, version: 2, coupon_issue_id, ..OrderCancelled::default() }
}

/// An order of `user` whose payment pins `issue`.
async fn pinned(site: &Site, issue: &str, user: &Client) -> Uuid {
    let order = Uuid::now_v7();
    site.reserve(order, issue, user).await.unwrap();
    site.pin(order, Uuid::now_v7(), false).await.unwrap();
    order
}

async fn state(site: &Site, order: Uuid) -> RedemptionState {
    site.redemption(order).await.unwrap().state()
}

async fn parked(site: &Site) -> i64 {
    site.number("select count(*) from {coupon}.parked").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paid_order_redeems_its_coupon_once_and_a_refund_restores_it() {
    let site = Site::start().await;
    let (coupon, user) = (site.coupon(1).await, site.somebody());
    let issue = site.issued(&user, &coupon).await;
    let order = pinned(&site, &issue, &user).await;
    site.deliver("coupon", &placed(order, &issue)).await;
    site.deliver("coupon", &placed(order, &issue)).await;
    // Older than the payment.
    site.deliver("coupon", &expired(order, &issue)).await;
    assert_eq!((state(&site, order).await, parked(&site).await), (RedemptionState::Confirmed, 0));
    assert_eq!((site.events("COUPON_REDEEMED").await, site.status(&user, &coupon).await.as_str()), (1, "REDEEMED"));
    assert_eq!(code(&site.release(order).await), "REDEMPTION_CONFIRMED");
    assert_eq!(code(&site.reserve(Uuid::now_v7(), &issue, &user).await), "COUPON_IN_USE");

    site.deliver("coupon", &refunded(order, &issue)).await;
    site.deliver("coupon", &refunded(order, &issue)).await;
    assert_eq!((state(&site, order).await, site.events("COUPON_RESTORED").await), (RedemptionState::Restored, 1));
    assert_eq!(site.status(&user, &coupon).await, "ISSUED");
    // It is used again, and the refund of that comes before its payment.
    let again = pinned(&site, &issue, &user).await;
    site.deliver("coupon", &refunded(again, &issue)).await;
    site.deliver("coupon", &placed(again, &issue)).await;
    assert_eq!((state(&site, again).await, parked(&site).await), (RedemptionState::Restored, 0));
    let versions =
        "select string_agg(format('%s %s', topic, aggregate_version), ', ' order by aggregate_version) as told
                      from {coupon}.outbox_events where topic in ('COUPON_REDEEMED', 'COUPON_RESTORED')";
    let told = "COUPON_REDEEMED 1, COUPON_RESTORED 2, COUPON_REDEEMED 3, COUPON_RESTORED 4";
    assert_eq!(site.rows(versions).await[0]["told"], told);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_leaves_a_coupon_redeemed_that_says_so() {
    let site = Site::start().await;
    let (coupon, user) = (site.coupon_with(json!({ "restoredOnRefund": false })).await, site.somebody());
    let issue = site.issued(&user, &coupon).await;
    let order = pinned(&site, &issue, &user).await;
    site.deliver("coupon", &refunded(order, &issue)).await;
    site.deliver("coupon", &placed(order, &issue)).await;
    assert_eq!((state(&site, order).await, parked(&site).await), (RedemptionState::Confirmed, 0));
    assert_eq!((site.events("COUPON_REDEEMED").await, site.events("COUPON_RESTORED").await), (1, 0));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_coupon_takes_no_promise_from_an_order_that_has_it() {
    let site = Site::start().await;
    for told in [true, false] {
        let (coupon, user) = (site.coupon_with(json!({ "restoredOnRefund": told })).await, site.somebody());
        let issue = site.issued(&user, &coupon).await;
        let order = pinned(&site, &issue, &user).await;
        site.deliver("coupon", &placed(order, &issue)).await;
        site.change(&coupon, "*", json!({ "restoredOnRefund": !told })).await.expect(200);
        site.deliver("coupon", &refunded(order, &issue)).await;
        let after = if told { RedemptionState::Restored } else { RedemptionState::Confirmed };
        assert_eq!(state(&site, order).await, after, "its order was told {told}");
    }
    assert_eq!(site.events("COUPON_RESTORED").await, 1);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_ends_gives_its_coupon_back() {
    let site = Site::start().await;
    let (coupon, user) = (site.coupon(1).await, site.somebody());
    let issue = site.issued(&user, &coupon).await;
    let [first, second, never] = std::array::from_fn(|_| Uuid::now_v7());
    site.reserve(first, &issue, &user).await.unwrap();
    site.deliver("coupon", &cancelled(first, &issue)).await;
    assert_eq!(state(&site, first).await, RedemptionState::Released);
    site.reserve(second, &issue, &user).await.unwrap();
    site.deliver("coupon", &expired(second, &issue)).await;
    assert_eq!(state(&site, second).await, RedemptionState::Released);
    // The end came before the reservation, which is refused then.
    site.deliver("coupon", &expired(never, &issue)).await;
    assert_eq!(code(&site.reserve(never, &issue, &user).await), "REDEMPTION_ENDED");
    assert_eq!(parked(&site).await, 0);
    // An order that is paid with a coupon it does not have is a contradiction, and somebody has to look.
    site.deliver("coupon", &placed(second, &issue)).await;
    assert_eq!(parked(&site).await, 1);
    site.stop().await;
}
