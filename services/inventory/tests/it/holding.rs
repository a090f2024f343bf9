//! Nobody is sold what does not exist, nobody is held twice.

use std::collections::HashMap;
use std::time::Duration;

use contract::inventory::HoldState;
use futures_util::future::join_all;
use uuid::Uuid;

use crate::site::{Site, code, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_units_go_to_exactly_a_hundred_of_many_callers() {
    let site = Site::start("hundred").await;
    let product = site.product(100).await;
    let outcomes = join_all((0..64).map(|_| async {
        let mut outcomes = Vec::new();
        for _ in 0..10 {
            outcomes.push(code(&site.hold_one(&product).await));
        }
        outcomes
    }));
    let mut counts: HashMap<String, usize> = HashMap::new();
    outcomes.await.into_iter().flatten().for_each(|code| *counts.entry(code).or_default() += 1);
    assert_eq!(counts, HashMap::from([("OK".to_owned(), 100), ("OUT_OF_STOCK".to_owned(), 540)]));
    assert_eq!(site.stock(&product).await, (100, 100));
    assert_eq!(site.events("STOCK_DEPLETED", &product).await, 1);
    assert_eq!(site.events("STOCK_REPLENISHED", &product).await, 0);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_requests_of_one_id_are_one_hold() {
    let site = Site::start("fifty").await;
    let product = site.product(3).await;
    let (hold, user) = (Uuid::now_v7(), Uuid::now_v7());
    let lines = [(product.as_str(), 2)];
    let answers = join_all((0..50).map(|_| site.hold(hold, user, &lines))).await;
    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.iter().filter(|answer| answer.created).count(), 1);
    assert!(answers.iter().all(|answer| answer.hold == answers[0].hold));
    assert_eq!(site.stock(&product).await, (3, 2));

    // Sold out for others, but a repeat is still answered, even with other lines; a stranger is not shown the hold.
    site.hold_one(&product).await.unwrap();
    assert_eq!(code(&site.hold_one(&product).await), "OUT_OF_STOCK");
    let again = site.hold(hold, user, &[(&product, 2)]).await.unwrap();
    assert_eq!((again.created, again.hold), (false, answers[0].hold.clone()));
    assert_eq!(code(&site.hold(hold, Uuid::now_v7(), &[(&product, 2)]).await), "HOLD_NOT_FOUND");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_is_all_of_its_lines_or_none() {
    let site = Site::start("lines").await;
    let (plenty, few) = (site.product(10).await, site.product(1).await);
    let refused = site.hold(Uuid::now_v7(), Uuid::now_v7(), &[(&plenty, 1), (&few, 2)]).await;
    assert_eq!(code(&refused), "OUT_OF_STOCK");
    let common::Error::Refused(refused) = refused.unwrap_err() else { panic!("a fault") };
    assert_eq!(refused.details, [serde_json::json!({ "productId": few, "requested": 2, "available": 1 })]);
    assert_eq!((site.stock(&plenty).await, site.stock(&few).await), ((10, 0), (1, 0)));

    let unknown = Uuid::now_v7().to_string();
    assert_eq!(code(&site.hold(Uuid::now_v7(), Uuid::now_v7(), &[(&unknown, 1)]).await), "PRODUCT_NOT_FOUND");
    for (lines, why) in [
        (vec![], "no lines"),
        (vec![(plenty.as_str(), 0)], "quantity 0"),
        (vec![(plenty.as_str(), -1)], "quantity -1"),
        (vec![(plenty.as_str(), i32::MAX)], "too many units"),
        (vec![(plenty.as_str(), 1), (plenty.as_str(), 1)], "a product twice"),
        (vec![("not-an-id", 1)], "not an id"),
    ] {
        assert_eq!(code(&site.hold(Uuid::now_v7(), Uuid::now_v7(), &lines).await), "VALIDATION_ERROR", "{why}");
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_of_many_products_in_any_order_never_deadlock() {
    let site = Site::start("deadlock").await;
    let products = join_all((0..5).map(|_| site.product(60))).await;
    let database = "select deadlocks from pg_stat_database where datname = current_database()";
    let before = site.number(database).await;
    let work = join_all((0..16).map(|worker: usize| {
        let (site, products) = (&site, &products);
        async move {
            for round in 0..8 {
                let first = &products[(worker + round) % 5];
                let second = &products[(worker * 2 + round * 3 + 1) % 5];
                let mut lines = vec![(first.as_str(), 1)];
                if first != second {
                    lines.push((second.as_str(), 1));
                }
                let held = site.hold(Uuid::now_v7(), Uuid::now_v7(), &lines).await;
                let Ok(held) = held else {
                    assert_eq!(code(&held), "OUT_OF_STOCK");
                    continue;
                };
                let hold = held.hold.unwrap().hold_id;
                match (worker + round) % 3 {
                    0 => drop(site.release(&hold).await.unwrap()),
                    1 => drop(site.confirm(&hold).await.unwrap()),
                    _ => {}
                }
            }
        }
    }));
    work.await;
    assert_eq!(site.number(database).await, before);
    for product in &products {
        site.stock(product).await;
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_per_buyer_holds_among_simultaneous_requests() {
    let site = Site::start("limit").await;
    let product = site.limited_product(100, Some(3)).await;
    let buyer = Uuid::now_v7();
    let lines = [(product.as_str(), 1)];
    let outcomes = join_all((0..20).map(|_| site.hold(Uuid::now_v7(), buyer, &lines))).await;
    let held: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).collect();
    assert_eq!(held.len(), 3);
    assert!(outcomes.iter().all(|outcome| ["OK", "PURCHASE_LIMIT_EXCEEDED"].contains(&code(outcome).as_str())));
    assert_eq!(site.stock(&product).await, (100, 3));

    // What is bought counts, what is given back does not.
    let ids: Vec<_> = held.iter().map(|held| held.hold.as_ref().unwrap().hold_id.as_str()).collect();
    site.confirm(ids[0]).await.unwrap();
    assert_eq!(code(&site.hold(Uuid::now_v7(), buyer, &lines).await), "PURCHASE_LIMIT_EXCEEDED");
    site.release(ids[1]).await.unwrap();
    assert_eq!(code(&site.hold(Uuid::now_v7(), buyer, &lines).await), "OK");
    assert_eq!(code(&site.hold_one(&product).await), "OK");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_ends_to_the_instant_and_its_units_go_to_the_next() {
    // No sweeper: whoever needs the units takes them over.
    let settings = [("inventory.hold_ttl_seconds", "3"), ("inventory.sweep_period_ms", "600000")];
    let site = Site::start_with("expiry", &settings).await;
    let (single, other) = (site.product(1).await, site.product(1).await);
    let user = Uuid::now_v7();
    let hold = Uuid::now_v7();
    site.hold(hold, user, &[(&single, 1), (&other, 1)]).await.unwrap();
    assert_eq!(code(&site.hold_one(&single).await), "OUT_OF_STOCK");

    let due = format!(
        "select (extract(epoch from expires_at - clock_timestamp()) * 1000) from holds where hold_id = '{hold}'"
    );
    let left = site.number(&due).await;
    tokio::time::sleep(Duration::from_millis(u64::try_from(left).unwrap() + 20)).await;
    assert_eq!(site.read_hold(&hold.to_string()).await.unwrap().state(), HoldState::Expired);
    assert_eq!(code(&site.confirm(&hold.to_string()).await), "HOLD_EXPIRED");
    assert_eq!(code(&site.hold(hold, user, &[(&single, 1)]).await), "HOLD_EXPIRED");
    let shown = site.get(&format!("/products/{single}")).await.json();
    assert_eq!(shown["stock"], serde_json::json!({ "available": 1, "held": 0, "status": "LOW" }));

    // The gate hears of a hold after it has begun, and counts its time from then on.
    until("the next one gets it", async || code(&site.hold_one(&single).await) == "OK").await;
    assert_eq!(site.stock(&single).await, (1, 1));
    assert_eq!(site.stock(&other).await, (1, 0), "the other line came back with it");
    assert_eq!(site.events("STOCK_REPLENISHED", &single).await, 0, "a lapsed hold is not a restock");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweeper_tidies_what_nobody_needs() {
    let site = Site::start_with("sweeper", &[("inventory.hold_ttl_seconds", "1")]).await;
    let product = site.product(5).await;
    let holds = join_all((0..5).map(|_| site.hold_one(&product))).await;
    until("all are swept", async || site.stock(&product).await == (5, 0)).await;
    for hold in holds {
        assert_eq!(site.read_hold(&hold.unwrap().hold_id).await.unwrap().state(), HoldState::Expired);
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_one_stock() {
    let settings = [("inventory.hold_ttl_seconds", "3")];
    let first = Site::start_with("replicas", &settings).await;
    let second = Site::start_beside(&first, &settings).await;
    let (product, other) = (first.product(60).await, first.product(60).await);
    let sites = [&first, &second];

    // The same ids on both, with lines in both orders.
    let ids: Vec<Uuid> = (0..40).map(|_| Uuid::now_v7()).collect();
    let user = Uuid::now_v7();
    let (one_way, other_way) =
        ([(product.as_str(), 1), (other.as_str(), 1)], [(other.as_str(), 1), (product.as_str(), 1)]);
    let calls = ids.iter().flat_map(|id| [(sites[0], *id, &one_way), (sites[1], *id, &other_way)]);
    let held = join_all(calls.map(|(site, id, lines)| site.hold(id, user, lines))).await;
    assert_eq!(held.iter().filter(|held| held.as_ref().unwrap().created).count(), 40);
    assert_eq!(code(&first.hold(Uuid::now_v7(), user, &[(&product, 21)]).await), "OUT_OF_STOCK");

    // They lapse while both sweep and both sell on.
    let mut bought = 0;
    until("20 and all that lapsed are held again", async || {
        let more = join_all((0..8).map(|n| sites[n % 2].hold_one(&product))).await;
        bought += more.iter().filter(|hold| hold.is_ok()).count();
        first.stock(&product).await;
        bought >= 120
    })
    .await;
    until("all is swept", async || first.stock(&product).await == (60, 0)).await;
    assert_eq!(first.stock(&other).await, (60, 0));
    second.stop().await;
    first.stop().await;
}
