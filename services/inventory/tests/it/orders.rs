//! What becomes of an order becomes of its hold, in whatever order the topics are read.

use contract::events::{OrderCancelled, OrderExpired, OrderPlaced, OrderRefunded};
use contract::inventory::{Hold, HoldState};
use testkit::Product;
use uuid::Uuid;

use crate::site::Site;

fn placed(hold: &Hold) -> OrderPlaced {
    let (order_id, hold_id) = (hold.hold_id.clone(), hold.hold_id.clone());
    OrderPlaced { order_id, hold_id, user_id: hold.user_id.clone(), version: 3, ..OrderPlaced::default() }
}

fn refunded(hold: &Hold) -> OrderRefunded {
    let (order_id, hold_id) = (hold.hold_id.clone(), hold.hold_id.clone());
    OrderRefunded { order_id, hold_id, user_id: hold.user_id.clone(), version: 5, ..OrderRefunded::default() }
}

fn expired(hold: &Hold) -> OrderExpired {
    let (order_id, hold_id) = (hold.hold_id.clone(), hold.hold_id.clone());
    OrderExpired { order_id, hold_id, user_id: hold.user_id.clone(), version: 2, ..OrderExpired::default() }
}

fn cancelled(hold: &Hold) -> OrderCancelled {
    let (order_id, hold_id, reason) = (hold.hold_id.clone(), hold.hold_id.clone(), "changed my mind".to_owned());
    OrderCancelled { order_id, hold_id, user_id: hold.user_id.clone(), version: 2, reason, ..OrderCancelled::default() }
}

async fn audits(site: &Site, hold: &Hold, kind: &str) -> i64 {
    let query = "select count(*) from {inventory}.product_stock_audit";
    site.number(&format!("{query} where hold_id = '{}' and kind = '{kind}'", hold.hold_id)).await
}

async fn parked(site: &Site) -> i64 {
    site.number("select count(*) from {inventory}.parked").await
}

/// One more hold, pinned by its payment.
async fn pinned(site: &Site, product: &Product) -> (Hold, Uuid) {
    let (hold, attempt) = (site.hold_one(product).await.unwrap(), Uuid::now_v7());
    (site.pin(&hold.hold_id, attempt).await.unwrap(), attempt)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_placed_twice_is_one_sale() {
    let site = Site::start().await;
    let product = site.product(3).await;
    let (hold, attempt) = pinned(&site, &product).await;
    site.deliver("inventory", &placed(&hold)).await;
    site.deliver("inventory", &placed(&hold)).await;
    assert_eq!(parked(&site).await, 0, "a repeated sale is no contradiction");
    assert_eq!(site.state(&hold).await, HoldState::Confirmed);
    assert_eq!(site.stock(&product).await, (2, 0), "a sale counts once");
    assert_eq!(audits(&site, &hold, "CONFIRM").await, 1);
    // What is sold is no payment's any more.
    assert_eq!(site.unpin(&hold.hold_id, attempt).await.unwrap().state(), HoldState::Confirmed);

    site.deliver("inventory", &refunded(&hold)).await;
    site.deliver("inventory", &refunded(&hold)).await;
    assert_eq!(site.stock(&product).await, (3, 0), "a return counts once");
    assert_eq!((site.state(&hold).await, audits(&site, &hold, "RETURN").await), (HoldState::Returned, 1));
    assert_eq!(parked(&site).await, 0);
    site.gate_agrees(&product).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_read_before_its_sale_leaves_the_stock_as_it_was() {
    let site = Site::start().await;
    let product = site.product(1).await;
    let (hold, _) = pinned(&site, &product).await;
    site.deliver("inventory", &refunded(&hold)).await;
    assert_eq!((site.state(&hold).await, site.stock(&product).await), (HoldState::Returned, (1, 0)));
    site.deliver("inventory", &placed(&hold)).await;
    assert_eq!((site.state(&hold).await, site.stock(&product).await), (HoldState::Returned, (1, 0)));
    assert_eq!((audits(&site, &hold, "CONFIRM").await, audits(&site, &hold, "RETURN").await), (1, 1));
    assert_eq!(site.events("STOCK_REPLENISHED", &product).await, 1);
    assert_eq!(parked(&site).await, 0);
    site.gate_agrees(&product).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_an_order_does_not_undo_the_payment_that_came_after_it() {
    let site = Site::start().await;
    let product = site.product(3).await;
    let (before, after) = (site.hold_one(&product).await.unwrap(), site.hold_one(&product).await.unwrap());
    site.expire(&[&before, &after]).await;
    for hold in [&before, &after] {
        site.retake(&hold.hold_id, Uuid::now_v7()).await.unwrap();
    }
    // One order's end is read before its sale, the other's after it.
    site.deliver("inventory", &placed(&after)).await;
    for hold in [&before, &after] {
        site.deliver("inventory", &expired(hold)).await;
    }
    assert_eq!(site.state(&before).await, HoldState::Pinned, "its payment came after the order's end");
    assert_eq!(site.state(&after).await, HoldState::Confirmed, "its sale came after the order's end");
    assert_eq!(site.stock(&product).await, (2, 1));
    site.deliver("inventory", &placed(&before)).await;
    assert_eq!(site.stock(&product).await, (1, 0));
    assert_eq!(parked(&site).await, 0);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_ended_releases_its_hold() {
    let site = Site::start().await;
    let product = site.product(2).await;
    let (one, other) = (site.hold_one(&product).await.unwrap(), site.hold_one(&product).await.unwrap());
    site.deliver("inventory", &cancelled(&one)).await;
    site.deliver("inventory", &cancelled(&one)).await;
    site.deliver("inventory", &expired(&other)).await;
    assert_eq!(site.stock(&product).await, (2, 0));
    assert_eq!((site.state(&one).await, site.state(&other).await), (HoldState::Released, HoldState::Released));
    assert_eq!(parked(&site).await, 0);
    site.gate_agrees(&product).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_of_units_that_are_not_held_is_parked() {
    let site = Site::start().await;
    let product = site.product(2).await;
    let (gone, kept) = (site.hold_one(&product).await.unwrap(), site.hold_one(&product).await.unwrap());
    site.release(&gone.hold_id).await.unwrap();
    site.deliver("inventory", &placed(&gone)).await;
    assert_eq!(parked(&site).await, 1);
    site.deliver("inventory", &placed(&kept)).await;
    assert_eq!((site.state(&gone).await, site.state(&kept).await), (HoldState::Released, HoldState::Confirmed));
    assert_eq!(site.stock(&product).await, (1, 0));
    site.stop().await;
}
