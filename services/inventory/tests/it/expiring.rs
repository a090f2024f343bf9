//! A hold ends to the instant, and its units are the next one's; a hold that is pinned does not end.

use contract::inventory::{Hold, HoldState};
use diesel_async::SimpleAsyncConnection;
use futures_util::future::join_all;
use uuid::Uuid;

use crate::site::{SWEEPING, Site, code};

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_whose_time_is_up_is_expired_although_nobody_has_swept_it() {
    let site = Site::start().await;
    let product = site.product(1).await;
    let (hold, user) = (Uuid::now_v7(), Uuid::now_v7());
    let held = site.hold(hold, user, &[(&product, 1)]).await.unwrap().hold.unwrap();
    assert_eq!(code(&site.hold_one(&product).await), "OUT_OF_STOCK");
    site.expire(&[&held]).await;
    assert_eq!(site.state(&held).await, HoldState::Expired);
    assert_eq!(code(&site.confirm(&held.hold_id).await), "HOLD_EXPIRED");
    let pinned = code(&site.pin(&held.hold_id, Uuid::now_v7()).await);
    assert_eq!(pinned, "HOLD_EXPIRED", "an expired hold is not pinned");
    assert_eq!(code(&site.hold(hold, user, &[(&product, 1)]).await), "HOLD_EXPIRED");
    let shown = site.admin().get(&format!("/products/{}", product.id)).await.json();
    assert_eq!(shown["stock"], serde_json::json!({ "available": 1, "held": 0, "status": "LOW" }));
    let listed = site.admin().get(&format!("/admin/holds?productId={}&state=EXPIRED", product.id)).await.json();
    assert_eq!(listed["items"][0]["holdId"], held.hold_id);
    let listed = site.admin().get(&format!("/admin/holds?productId={}&state=HELD", product.id)).await.json();
    assert_eq!(listed["items"], serde_json::json!([]));
    assert_eq!(site.stock(&product).await, (1, 1), "nobody has touched it");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_needs_the_units_of_an_expired_hold_takes_it_over_with_all_its_lines() {
    let site = Site::start().await;
    let (single, other) = (site.product(1).await, site.product(1).await);
    let lapsed = site.hold_lines(&[(&single, 1), (&other, 1)]).await.unwrap();
    site.expire(&[&lapsed]).await;
    site.hold_one(&single).await.unwrap();
    assert_eq!(site.stock(&single).await, (1, 1));
    assert_eq!(site.stock(&other).await, (1, 0), "the other line came back with it");
    assert_eq!(site.state(&lapsed).await, HoldState::Expired);
    assert_eq!(site.events("STOCK_REPLENISHED", &single).await, 0, "an expired hold is not a restock");
    for product in [&single, &other] {
        site.gate_agrees(product).await;
    }
    // Nobody gets it a second time.
    site.lose_gate(&single).await;
    assert_eq!(code(&site.hold_one(&single).await), "OUT_OF_STOCK");
    assert_eq!(code(&site.confirm(&lapsed.hold_id).await), "HOLD_EXPIRED");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_hold_is_taken_over_once() {
    let site = Site::start().await;
    let rival = site.replica_with(&[]).await;
    let product = site.product(1).await;
    let lapsed = site.hold_one(&product).await.unwrap();
    site.expire(&[&lapsed]).await;
    let mut uncommitted = site.pause("inventory", "hold.before_commit");
    let (first, second) = tokio::join!(site.hold_one(&product), async {
        uncommitted.reached().await;
        // Only PostgreSQL decides now.
        site.lose_gate(&product).await;
        let (second, ()) = tokio::join!(rival.hold_one(&product), async {
            site.until_waiting(1).await;
            uncommitted.resume();
        });
        second
    });
    assert_eq!((code(&first).as_str(), code(&second).as_str()), ("OK", "OUT_OF_STOCK"));
    assert_eq!(site.stock(&product).await, (1, 1));
    rival.stop().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_over_at_once_is_left_to_the_sweeper() {
    let site = Site::start().await;
    let (wanted, other) = (site.product(1).await, site.product(1).await);
    let lapsed = site.hold_lines(&[(&wanted, 1), (&other, 1)]).await.unwrap();
    site.expire(&[&lapsed]).await;
    // To wait for it here could be a deadlock.
    let mut busy = site.lock_stock(&other).await;
    assert_eq!(code(&site.hold_one(&wanted).await), "OUT_OF_STOCK");
    assert_eq!((site.stock(&wanted).await, site.stock(&other).await), ((1, 1), (1, 1)));
    busy.batch_execute("commit").await.unwrap();
    let sweeping = site.replica_with(&SWEEPING).await;
    site.until_number(&is(&lapsed, "EXPIRED"), 1).await;
    assert_eq!((site.stock(&wanted).await, site.stock(&other).await), ((1, 0), (1, 0)));
    sweeping.stop().await;
    site.stop().await;
}

/// A query: 1 when the row says so.
fn is(hold: &Hold, state: &str) -> String {
    let query = "select count(*) from {inventory}.holds";
    format!("{query} where hold_id = '{}' and state = '{state}'", hold.hold_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweeper_puts_every_unit_of_expired_holds_back_once() {
    let site = Site::start().await;
    let (product, other) = (site.product(12).await, site.product(5).await);
    let lines = [(&product, 2), (&other, 1)];
    let held = join_all((0..5).map(|_| site.hold_lines(&lines))).await;
    let held: Vec<Hold> = held.into_iter().map(Result::unwrap).collect();
    let living = site.hold_one(&product).await.unwrap();
    site.expire(&held.iter().collect::<Vec<_>>()).await;
    let sweepers = [site.replica_with(&SWEEPING).await, site.replica_with(&SWEEPING).await];
    site.until_number("select count(*) from {inventory}.holds where state = 'EXPIRED'", 5).await;
    assert_eq!((site.stock(&product).await, site.stock(&other).await), ((12, 1), (5, 0)));
    assert_eq!(site.state(&living).await, HoldState::Held);
    assert_eq!(site.events("STOCK_REPLENISHED", &other).await, 0, "an expired hold is not a restock");
    for sweeper in sweepers {
        sweeper.stop().await;
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweeper_leaves_a_pinned_hold_alone() {
    let site = Site::start().await;
    let product = site.product(2).await;
    let (paying, lapsed) = (site.hold_one(&product).await.unwrap(), site.hold_one(&product).await.unwrap());
    site.pin(&paying.hold_id, Uuid::now_v7()).await.unwrap();
    // The pinned one is the older: whoever finds the other has found it as well.
    site.expire(&[&paying]).await;
    site.expire(&[&lapsed]).await;
    let sweeping = site.replica_with(&SWEEPING).await;
    site.until_number(&is(&lapsed, "EXPIRED"), 1).await;
    assert_eq!(site.state(&paying).await, HoldState::Pinned, "a pinned hold does not expire");
    assert_eq!(site.stock(&product).await, (2, 1), "its unit stays held");
    sweeping.stop().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_takes_a_pinned_hold_over() {
    let site = Site::start().await;
    let product = site.product(1).await;
    let paying = site.hold_one(&product).await.unwrap();
    site.pin(&paying.hold_id, Uuid::now_v7()).await.unwrap();
    site.expire(&[&paying]).await;
    // With its gate and without it.
    assert_eq!(code(&site.hold_one(&product).await), "OUT_OF_STOCK");
    site.lose_gate(&product).await;
    assert_eq!(code(&site.hold_one(&product).await), "OUT_OF_STOCK");
    assert_eq!(site.state(&paying).await, HoldState::Pinned);
    site.gate_agrees(&product).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_is_pinned_after_the_sweeper_has_seen_it_is_not_swept() {
    let site = Site::start().await;
    let product = site.product(2).await;
    let (paid, lapsed) = (site.hold_one(&product).await.unwrap(), site.hold_one(&product).await.unwrap());
    site.expire(&[&paid, &lapsed]).await;
    // The sweeper looks, then it locks the stock: here it waits.
    let mut row = site.lock_stock(&product).await;
    let sweeping = site.replica_with(&SWEEPING).await;
    site.until_waiting(1).await;
    site.retake(&paid.hold_id, Uuid::now_v7()).await.unwrap();
    row.batch_execute("commit").await.unwrap();
    site.until_number(&is(&lapsed, "EXPIRED"), 1).await;
    assert_eq!(site.state(&paid).await, HoldState::Pinned, "a pinned hold does not expire");
    assert_eq!(site.stock(&product).await, (2, 1));
    sweeping.stop().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_payment_that_meets_the_sweeper_takes_the_units_again() {
    let site = Site::start().await;
    let product = site.product(1).await;
    let paid = site.hold_one(&product).await.unwrap();
    site.expire(&[&paid]).await;
    let mut swept = site.pause("inventory", "sweeper.mid");
    let sweeping = site.replica_with(&SWEEPING).await;
    swept.reached().await;
    let (retaken, ()) = tokio::join!(site.retake(&paid.hold_id, Uuid::now_v7()), async {
        site.until_waiting(1).await;
        swept.resume();
    });
    assert_eq!(retaken.unwrap().state(), HoldState::Pinned);
    assert_eq!(site.stock(&product).await, (1, 1));
    sweeping.stop().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_is_being_taken_over_is_pinned_no_more() {
    let site = Site::start().await;
    let product = site.product(1).await;
    let lapsed = site.hold_one(&product).await.unwrap();
    site.expire(&[&lapsed]).await;
    let mut uncommitted = site.pause("inventory", "hold.before_commit");
    let (rival, paid) = tokio::join!(site.hold_one(&product), async {
        uncommitted.reached().await;
        // It still reads as a hold that only its payment wants.
        let (paid, ()) = tokio::join!(site.retake(&lapsed.hold_id, Uuid::now_v7()), async {
            site.until_waiting(1).await;
            uncommitted.resume();
        });
        paid
    });
    assert_eq!(code(&paid), "OUT_OF_STOCK", "what a rival has taken over is not pinned");
    assert_eq!(site.state(&rival.unwrap()).await, HoldState::Held);
    assert_eq!(site.state(&lapsed).await, HoldState::Expired);
    assert_eq!(site.stock(&product).await, (1, 1));
    assert_eq!(code(&site.pin(&lapsed.hold_id, Uuid::now_v7()).await), "HOLD_EXPIRED");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_is_being_pinned_is_taken_over_no_more() {
    let site = Site::start().await;
    let product = site.product(1).await;
    let lapsed = site.hold_one(&product).await.unwrap();
    site.expire(&[&lapsed]).await;
    let mut uncommitted = site.pause("inventory", "pin.before_commit");
    let (paid, rival) = tokio::join!(site.retake(&lapsed.hold_id, Uuid::now_v7()), async {
        uncommitted.reached().await;
        let rival = site.hold_one(&product).await;
        uncommitted.resume();
        rival
    });
    assert_eq!(code(&rival), "OUT_OF_STOCK", "what is pinned is nobody else's");
    assert_eq!(paid.unwrap().state(), HoldState::Pinned);
    assert_eq!(site.stock(&product).await, (1, 1));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_holds_are_found_by_their_time_though_statistics_are_older_than_the_sale() {
    let site = Site::start().await;
    let user = Uuid::now_v7();
    let holds = async |count, state, expires_at| {
        site.execute(&format!(
            "insert into {{inventory}}.holds (hold_id, user_id, state, expires_at)
             select gen_random_uuid(), '{user}', '{state}', {expires_at} from generate_series(1, {count}) as number"
        ))
        .await;
    };
    // One buyer's: PostgreSQL takes his holds for rows that lie side by side, which are cheap to read.
    holds(20_000, "RELEASED", "now() - (number * 7919 % 20000) * interval '1 minute'").await;
    holds(1_000, "HELD", "now() + interval '10 minutes'").await;
    site.execute("analyze {inventory}.holds").await;
    holds(5_000, "HELD", "now() + interval '10 minutes'").await;

    let (now, none) = ("now()".to_owned(), "'{}'".to_owned());
    let searches = [
        (include_str!("../../src/expire_holds_find.sql"), vec!["500".to_owned()]),
        (include_str!("../../src/take_over.sql"), vec![now, none.clone(), none.clone(), "500".to_owned()]),
        (include_str!("../../src/stock_rows_units.sql"), vec![none]),
    ];
    for (statement, parameters) in searches {
        for mode in ["force_custom_plan", "force_generic_plan"] {
            let plan = site.explain("inventory", mode, statement, &parameters).await.to_string();
            assert!(!plan.contains("holds_of_user"), "it reads every living hold: {plan}");
            let is_sweep = statement == include_str!("../../src/expire_holds_find.sql");
            assert!(!is_sweep || plan.contains("holds_live"), "it searches no index: {plan}");
        }
    }
    site.stop().await;
}
