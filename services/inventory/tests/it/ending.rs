//! A hold ends once, whoever says so and however often.

use contract::inventory::HoldState;
use diesel_async::SimpleAsyncConnection;
use futures_util::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::site::{Site, code};

#[tokio::test(flavor = "multi_thread")]
async fn a_release_before_its_hold_leaves_a_tombstone() {
    let site = Site::start().await;
    let product = site.product(1).await;
    let hold = Uuid::now_v7();
    assert_eq!(site.release(&hold.to_string()).await.unwrap().state(), HoldState::Released);
    assert_eq!(code(&site.hold(hold, Uuid::now_v7(), &[(&product, 1)]).await), "HOLD_ALREADY_RELEASED");
    assert_eq!(site.stock(&product).await, (1, 0));
    // The refused hold has not kept the unit from others.
    site.gate_agrees(&product).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_waits_for_its_hold_releases_it() {
    let site = Site::start().await;
    let product = site.product(1).await;
    let hold = Uuid::now_v7();
    let lines = [(&product, 1)];
    let mut uncommitted = site.pause("inventory", "hold.before_commit");
    let (held, released) = tokio::join!(site.hold(hold, Uuid::now_v7(), &lines), async {
        uncommitted.reached().await;
        let id = hold.to_string();
        // It sees no hold, and its tombstone waits for the row of the same id.
        let (released, ()) = tokio::join!(site.release(&id), async {
            site.until_waiting(1).await;
            uncommitted.resume();
        });
        released
    });
    assert_eq!(code(&held), "OK");
    assert_eq!(released.unwrap().state(), HoldState::Released);
    assert_eq!(site.stock(&product).await, (1, 0), "what is released is on sale");
    site.gate_agrees(&product).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_waits_for_its_tombstone_is_refused() {
    let site = Site::start().await;
    let product = site.product(1).await;
    let hold = Uuid::now_v7();
    let lines = [(&product, 1)];
    let mut release = site.session().await;
    let tombstone = "insert into holds (hold_id, state, expires_at) values";
    release.batch_execute(&format!("begin; {tombstone} ('{hold}', 'RELEASED', now())")).await.unwrap();
    let (held, ()) = tokio::join!(site.hold(hold, Uuid::now_v7(), &lines), async {
        site.until_waiting(1).await;
        release.batch_execute("commit").await.unwrap();
    });
    assert_eq!(code(&held), "HOLD_ALREADY_RELEASED", "the tombstone was first");
    assert_eq!(site.stock(&product).await, (1, 0));
    site.gate_agrees(&product).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_ending_moves_stock_once() {
    let site = Site::start().await;
    let product = site.product(10).await;
    let (sold, freed) = (site.hold_one(&product).await.unwrap(), site.hold_one(&product).await.unwrap());
    let confirmed = join_all((0..10).map(|_| site.confirm(&sold.hold_id))).await;
    assert!(confirmed.iter().all(|hold| code(hold) == "OK"), "a repeated confirmation is a success: {confirmed:?}");
    assert!(confirmed.iter().all(|hold| hold.as_ref().unwrap().state() == HoldState::Confirmed));
    let released = join_all((0..10).map(|_| site.release(&freed.hold_id))).await;
    assert!(released.iter().all(|hold| hold.as_ref().unwrap().state() == HoldState::Released));
    assert_eq!(site.stock(&product).await, (9, 0), "one unit is sold once, one is released once");

    assert_eq!(code(&site.release(&sold.hold_id).await), "HOLD_ALREADY_CONFIRMED");
    assert_eq!(code(&site.confirm(&freed.hold_id).await), "HOLD_ALREADY_RELEASED");
    assert_eq!(code(&site.return_stock(&freed.hold_id).await), "HOLD_NOT_CONFIRMED");
    assert_eq!(code(&site.confirm(&Uuid::now_v7().to_string()).await), "HOLD_NOT_FOUND");

    let returned = join_all((0..10).map(|_| site.return_stock(&sold.hold_id))).await;
    assert!(returned.iter().all(|hold| hold.as_ref().unwrap().state() == HoldState::Returned));
    assert_eq!(site.stock(&product).await, (10, 0), "the sold unit is returned once");
    site.gate_agrees(&product).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_confirmations_at_once_are_one_sale() {
    let site = Site::start().await;
    let product = site.product(2).await;
    let hold = site.hold_one(&product).await.unwrap();
    // Both have looked at the hold, and wait for its stock. Each has a transaction of its own: one that waits takes nobody in.
    let mut row = site.lock_stock(&product).await;
    let second = async {
        site.until_waiting(1).await;
        site.confirm(&hold.hold_id).await
    };
    let (first, second, ()) = tokio::join!(site.confirm(&hold.hold_id), second, async {
        site.until_waiting(2).await;
        row.batch_execute("commit").await.unwrap();
    });
    assert_eq!((code(&first).as_str(), code(&second).as_str()), ("OK", "OK"));
    assert_eq!(site.stock(&product).await, (1, 0), "a sale counts once");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_movement_of_units_on_hand_is_listed() {
    let site = Site::start().await;
    let (product, admin) = (site.product(10).await, site.admin());
    let hold = site.hold_lines(&[(&product, 3)]).await.unwrap();
    site.confirm(&hold.hold_id).await.unwrap();
    site.return_stock(&hold.hold_id).await.unwrap();
    admin.adjust("lost", &product, -4).await.expect(200);
    let path = format!("/admin/products/{}/stock-audits", product.id);
    let first = admin.get(&format!("{path}?limit=3")).await.expect(200).json();
    let shown = |item: &Value| (item["kind"].clone(), item["delta"].clone(), item["onHandAfter"].clone());
    let items: Vec<_> = first["items"].as_array().unwrap().iter().map(shown).collect();
    let row = |kind: &str, delta: i64, after: i64| (json!(kind), json!(delta), json!(after));
    assert_eq!(items, [row("ADJUST", -4, 6), row("RETURN", 3, 10), row("CONFIRM", -3, 7)]);
    assert_eq!(first["items"][2]["holdId"], hold.hold_id);
    let cursor = first["nextCursor"].as_str().unwrap();
    let rest = admin.get(&format!("{path}?cursor={cursor}")).await.expect(200).json();
    assert_eq!((shown(&rest["items"][0]), &rest["nextCursor"]), (row("INITIAL", 10, 10), &Value::Null));
    admin.get(&format!("{path}?cursor=x")).await.refused(400, "VALIDATION_ERROR");
    let unknown = format!("/admin/products/{}/stock-audits", Uuid::now_v7());
    admin.get(&unknown).await.refused(404, "PRODUCT_NOT_FOUND");

    let query = format!("/admin/holds?productId={}&state=RETURNED", product.id);
    assert_eq!(admin.get(&query).await.expect(200).json()["items"][0]["holdId"], hold.hold_id);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_holds_are_listed_in_pages() {
    let site = Site::start().await;
    let (product, admin) = (site.product(5).await, site.admin());
    let held = join_all((0..5).map(|_| site.hold_one(&product))).await;
    let mut held: Vec<_> = held.into_iter().map(|hold| hold.unwrap().hold_id).collect();
    held.sort();
    let (mut listed, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = admin.get(&format!("/admin/holds?productId={}&limit=2{cursor}", product.id)).await.json();
        listed.extend(page["items"].as_array().unwrap().iter().map(|item| testkit::text(&item["holdId"])));
        let Some(next) = page["nextCursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(listed, held);
    admin.get("/admin/holds?limit=101").await.refused(400, "VALIDATION_ERROR");
    site.buyer().await.get("/admin/holds").await.refused(403, "FORBIDDEN");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restock_is_an_adjustment_or_a_return_that_ends_a_drought() {
    let site = Site::start().await;
    let (product, admin) = (site.product(1).await, site.admin());
    let hold = site.hold_one(&product).await.unwrap();
    site.release(&hold.hold_id).await.unwrap();
    let depleted = site.events("STOCK_DEPLETED", &product).await;
    assert_eq!((depleted, site.events("STOCK_REPLENISHED", &product).await), (1, 0));

    site.gate_agrees(&product).await;
    let sold = site.hold_one(&product).await.unwrap();
    site.confirm(&sold.hold_id).await.unwrap();
    site.return_stock(&sold.hold_id).await.unwrap();
    assert_eq!(site.events("STOCK_REPLENISHED", &product).await, 1);
    admin.adjust("more", &product, 4).await.expect(200);
    assert_eq!(site.events("STOCK_REPLENISHED", &product).await, 1, "there was a unit already");
    admin.adjust("none", &product, -5).await.expect(200);
    assert_eq!(site.events("STOCK_DEPLETED", &product).await, 3);
    admin.adjust("again", &product, 5).await.expect(200);
    assert_eq!(site.events("STOCK_REPLENISHED", &product).await, 2);
    let rounds = format!("select restock_round from {{inventory}}.stocks where product_id = '{}'", product.id);
    assert_eq!(site.number(&rounds).await, 2);
    site.stop().await;
}
