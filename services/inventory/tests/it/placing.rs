//! The news of orders makes sales of holds, in whatever order the topics are read.

use contract::events::{OrderExpired, OrderPlaced, OrderRefunded};
use contract::inventory::{Hold, HoldState};
use uuid::Uuid;

use crate::site::{Site, until};

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
    OrderExpired { order_id, hold_id, user_id: hold.user_id.clone(), version: 2, expired_at: None }
}

async fn state(site: &Site, hold: &Hold) -> HoldState {
    site.read_hold(&hold.hold_id).await.unwrap().state()
}

async fn audits(site: &Site, hold: &Hold, kind: &str) -> i64 {
    let query = "select count(*) from product_stock_audit";
    site.number(&format!("{query} where hold_id = '{}' and kind = '{kind}'", hold.hold_id)).await
}

/// One more hold, pinned by its payment.
async fn pinned(site: &Site, product: &str) -> (Hold, Uuid) {
    let (hold, attempt) = (site.hold_one(product).await.unwrap(), Uuid::now_v7());
    (site.pin(&hold.hold_id, attempt).await.unwrap(), attempt)
}

/// Waits until what was delivered before has been read: topics keep their order.
async fn let_sales_be_read(site: &Site) {
    let (last, _) = pinned(site, &site.product(1).await).await;
    site.deliver(&placed(&last)).await;
    until("the last sale is read", async || state(site, &last).await == HoldState::Confirmed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_placed_twice_is_one_sale() {
    let site = Site::start("placed").await;
    let product = site.product(3).await;
    let (hold, attempt) = pinned(&site, &product).await;
    site.deliver(&placed(&hold)).await;
    site.deliver(&placed(&hold)).await;
    let_sales_be_read(&site).await;
    assert_eq!(state(&site, &hold).await, HoldState::Confirmed);
    assert_eq!(site.stock(&product).await, (2, 0));
    assert_eq!(audits(&site, &hold, "CONFIRM").await, 1);
    // What is sold is no payment's any more.
    assert_eq!(site.unpin(&hold.hold_id, attempt).await.unwrap().state(), HoldState::Confirmed);

    site.deliver(&refunded(&hold)).await;
    site.deliver(&refunded(&hold)).await;
    until("it is on sale again", async || site.stock(&product).await == (3, 0)).await;
    assert_eq!((state(&site, &hold).await, audits(&site, &hold, "RETURN").await), (HoldState::Returned, 1));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_read_before_its_sale_leaves_the_stock_as_it_was() {
    let site = Site::start("refundfirst").await;
    let product = site.product(1).await;
    let (hold, _) = pinned(&site, &product).await;
    site.deliver(&refunded(&hold)).await;
    until("it is returned", async || state(&site, &hold).await == HoldState::Returned).await;
    assert_eq!(site.stock(&product).await, (1, 0));
    site.deliver(&placed(&hold)).await;
    let_sales_be_read(&site).await;
    assert_eq!((state(&site, &hold).await, site.stock(&product).await), (HoldState::Returned, (1, 0)));
    assert_eq!((audits(&site, &hold, "CONFIRM").await, audits(&site, &hold, "RETURN").await), (1, 1));
    assert_eq!(site.events("STOCK_REPLENISHED", &product).await, 1);
    until("the gate knows", async || site.hold_one(&product).await.is_ok()).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_an_order_does_not_undo_the_payment_that_came_after_it() {
    let site = Site::start_with("undone", &[("inventory.hold_ttl_seconds", "1")]).await;
    let product = site.product(3).await;
    let (before, after) = (site.hold_one(&product).await.unwrap(), site.hold_one(&product).await.unwrap());
    until("both are swept", async || site.stock(&product).await == (3, 0)).await;
    for hold in [&before, &after] {
        site.retake(&hold.hold_id, Uuid::now_v7()).await.unwrap();
    }
    // One order's end is read before its sale, the other's after it.
    site.deliver(&placed(&after)).await;
    until("one is sold", async || state(&site, &after).await == HoldState::Confirmed).await;
    let other = site.hold_one(&product).await.unwrap();
    for hold in [&before, &after, &other] {
        site.deliver(&expired(hold)).await;
    }
    until("all ends are read", async || state(&site, &other).await == HoldState::Released).await;
    assert_eq!(state(&site, &before).await, HoldState::Pinned);
    assert_eq!(state(&site, &after).await, HoldState::Confirmed);
    assert_eq!(site.stock(&product).await, (2, 1));
    site.deliver(&placed(&before)).await;
    until("both are sold", async || site.stock(&product).await == (1, 0)).await;
    let parked = site.number("select count(*) from parked").await;
    assert_eq!(parked, 0);
    site.stop().await;
}
