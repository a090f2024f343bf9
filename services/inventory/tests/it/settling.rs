//! A hold ends once, whoever says so and however often.

use contract::events::{OrderCancelled, OrderExpired};
use contract::inventory::HoldState;
use futures_util::future::join_all;
use uuid::Uuid;

use crate::site::{Site, code, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_release_before_its_hold_leaves_a_tombstone() {
    let site = Site::start("tombstone").await;
    let product = site.product(1).await;
    let hold = Uuid::now_v7();
    assert_eq!(site.release(&hold.to_string()).await.unwrap().state(), HoldState::Released);
    assert_eq!(code(&site.hold(hold, Uuid::now_v7(), &[(&product, 1)]).await), "HOLD_ALREADY_RELEASED");
    assert_eq!(site.stock(&product).await, (1, 0));
    // The refused hold has not kept the unit from others.
    until("the unit is on sale", async || site.hold_one(&product).await.is_ok()).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_racing_their_own_releases_leave_nothing_behind() {
    let site = Site::start("race").await;
    let product = site.product(50).await;
    let races = join_all((0..50).map(|_| async {
        let hold = Uuid::now_v7();
        let lines = [(product.as_str(), 1)];
        let (held, released) =
            tokio::join!(site.hold(hold, Uuid::now_v7(), &lines), async { site.release(&hold.to_string()).await });
        (code(&held), code(&released))
    }));
    for (held, released) in races.await {
        assert!(["OK", "HOLD_ALREADY_RELEASED"].contains(&held.as_str()), "{held}");
        assert_eq!(released, "OK");
    }
    assert_eq!(site.stock(&product).await, (50, 0));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_ending_moves_stock_once() {
    let site = Site::start("endings").await;
    let product = site.product(10).await;
    let (sold, freed) = (site.hold_one(&product).await.unwrap(), site.hold_one(&product).await.unwrap());
    let confirmed = join_all((0..10).map(|_| site.confirm(&sold.hold_id))).await;
    assert!(confirmed.iter().all(|hold| hold.as_ref().unwrap().state() == HoldState::Confirmed));
    let released = join_all((0..10).map(|_| site.release(&freed.hold_id))).await;
    assert!(released.iter().all(|hold| hold.as_ref().unwrap().state() == HoldState::Released));
    assert_eq!(site.stock(&product).await, (9, 0));

    assert_eq!(code(&site.release(&sold.hold_id).await), "HOLD_ALREADY_CONFIRMED");
    assert_eq!(code(&site.confirm(&freed.hold_id).await), "HOLD_ALREADY_RELEASED");
    assert_eq!(code(&site.give_back(&freed.hold_id).await), "HOLD_NOT_CONFIRMED");
    assert_eq!(code(&site.confirm(&Uuid::now_v7().to_string()).await), "HOLD_NOT_FOUND");

    let returned = join_all((0..10).map(|_| site.give_back(&sold.hold_id))).await;
    assert!(returned.iter().all(|hold| hold.as_ref().unwrap().state() == HoldState::Returned));
    assert_eq!(site.stock(&product).await, (10, 0));

    let audits = site.get(&format!("/admin/products/{product}/stock-audits?limit=2")).await.json();
    let kinds: Vec<_> = audits["items"].as_array().unwrap().iter().map(|item| item["kind"].clone()).collect();
    assert_eq!(kinds, ["RETURN", "CONFIRM"]);
    let cursor = audits["nextCursor"].as_str().unwrap();
    let rest = site.get(&format!("/admin/products/{product}/stock-audits?cursor={cursor}")).await.json();
    assert_eq!((&rest["items"][0]["kind"], &rest["nextCursor"]), (&"INITIAL".into(), &serde_json::Value::Null));

    let query = format!("/admin/holds?productId={product}&state=RETURNED");
    assert_eq!(site.get(&query).await.json()["items"][0]["holdId"], sold.hold_id);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restock_is_an_adjustment_or_a_return_that_ends_a_drought() {
    let site = Site::start("rounds").await;
    let product = site.product(1).await;
    let hold = site.hold_one(&product).await.unwrap();
    site.release(&hold.hold_id).await.unwrap();
    let depleted = site.events("STOCK_DEPLETED", &product).await;
    assert_eq!((depleted, site.events("STOCK_REPLENISHED", &product).await), (1, 0));

    let mut sold = None;
    until("the unit is on sale again", async || {
        sold = site.hold_one(&product).await.ok();
        sold.is_some()
    })
    .await;
    let sold = sold.unwrap();
    site.confirm(&sold.hold_id).await.unwrap();
    site.give_back(&sold.hold_id).await.unwrap();
    assert_eq!(site.events("STOCK_REPLENISHED", &product).await, 1);
    assert_eq!(site.adjust(&product, "more", 4).await.status, 200);
    assert_eq!(site.events("STOCK_REPLENISHED", &product).await, 1, "there was a unit already");
    assert_eq!(site.adjust(&product, "none", -5).await.status, 200);
    assert_eq!(site.events("STOCK_DEPLETED", &product).await, 3);
    assert_eq!(site.adjust(&product, "again", 5).await.status, 200);
    assert_eq!(site.events("STOCK_REPLENISHED", &product).await, 2);
    let rounds = format!("select restock_round from stocks where product_id = '{product}'");
    assert_eq!(site.number(&rounds).await, 2);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_ended_gives_its_hold_back() {
    let site = Site::start("orders").await;
    let product = site.product(2).await;
    let (cancelled, expired) = (site.hold_one(&product).await.unwrap(), site.hold_one(&product).await.unwrap());
    let event = OrderCancelled {
        order_id: cancelled.hold_id.clone(),
        user_id: cancelled.user_id.clone(),
        version: 2,
        hold_id: cancelled.hold_id.clone(),
        reason: "changed my mind".to_owned(),
        cancelled_at: None,
    };
    site.deliver(&event).await;
    site.deliver(&event).await;
    site.deliver(&OrderExpired {
        order_id: expired.hold_id.clone(),
        user_id: expired.user_id.clone(),
        version: 2,
        hold_id: expired.hold_id.clone(),
        expired_at: None,
    })
    .await;
    until("both holds are back", async || site.stock(&product).await == (2, 0)).await;
    assert_eq!(site.read_hold(&cancelled.hold_id).await.unwrap().state(), HoldState::Released);
    until("the gate knows", async || site.hold_one(&product).await.is_ok()).await;
    site.stop().await;
}
