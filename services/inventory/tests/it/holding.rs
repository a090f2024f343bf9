//! Nobody is sold what does not exist, nobody is held twice.

use std::collections::HashMap;

use common::Error;
use diesel_async::SimpleAsyncConnection;
use futures_util::future::join_all;
use serde_json::json;
use testkit::Product;
use uuid::Uuid;

use crate::site::{SWEEPING, Site, code};

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_units_go_to_exactly_a_hundred_of_many_callers() {
    let site = Site::start().await;
    let product = site.product(100).await;
    let outcomes = join_all((0..64).map(|_| async {
        let mut outcomes = Vec::new();
        for _ in 0..5 {
            outcomes.push(code(&site.hold_one(&product).await));
        }
        outcomes
    }));
    let mut counts: HashMap<String, usize> = HashMap::new();
    outcomes.await.into_iter().flatten().for_each(|code| *counts.entry(code).or_default() += 1);
    assert_eq!(counts, HashMap::from([("OK".to_owned(), 100), ("OUT_OF_STOCK".to_owned(), 220)]));
    assert_eq!(site.stock(&product).await, (100, 100));
    assert_eq!(site.events("STOCK_DEPLETED", &product).await, 1);
    assert_eq!(site.events("STOCK_REPLENISHED", &product).await, 0);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_requests_of_one_id_are_one_hold() {
    let site = Site::start().await;
    let product = site.product(3).await;
    let (hold, user) = (Uuid::now_v7(), Uuid::now_v7());
    let lines = [(&product, 2)];
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
async fn two_replicas_make_one_hold_of_one_id() {
    let first = Site::start().await;
    let second = first.replica_with(&[]).await;
    let (product, other) = (first.product(60).await, first.product(60).await);
    let ids: Vec<Uuid> = (0..40).map(|_| Uuid::now_v7()).collect();
    let user = Uuid::now_v7();
    let (one_way, other_way) = ([(&product, 1), (&other, 1)], [(&other, 1), (&product, 1)]);
    let calls = ids.iter().flat_map(|id| [(&first, *id, &one_way), (&second, *id, &other_way)]);
    let held = join_all(calls.map(|(site, id, lines)| site.hold(id, user, lines))).await;
    assert_eq!(held.iter().filter(|held| held.as_ref().unwrap().created).count(), 40);
    assert_eq!((first.stock(&product).await, first.stock(&other).await), ((60, 40), (60, 40)));
    assert_eq!(code(&first.hold_lines(&[(&product, 21)]).await), "OUT_OF_STOCK");
    second.stop().await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_id_that_wants_other_products_elsewhere_is_one_hold() {
    let first = Site::start().await;
    let second = first.replica_with(&[]).await;
    let (product, other) = (first.product(2).await, first.product(2).await);
    let (hold, user) = (Uuid::now_v7(), Uuid::now_v7());
    // They share no row of stock, so the later one learns of the first only when it inserts the same id.
    let mut uncommitted = first.pause("inventory", "hold.before_commit");
    let (lines, other_lines) = ([(&product, 1)], [(&other, 1)]);
    let (held, repeated) = tokio::join!(first.hold(hold, user, &lines), async {
        uncommitted.reached().await;
        let (repeated, ()) = tokio::join!(second.hold(hold, user, &other_lines), async {
            second.until_waiting(1).await;
            uncommitted.resume();
        });
        repeated
    });
    let (held, repeated) = (held.unwrap(), repeated.unwrap());
    assert_eq!((held.created, repeated.created), (true, false));
    assert_eq!(held.hold, repeated.hold);
    assert_eq!((first.stock(&product).await, first.stock(&other).await), ((2, 1), (2, 0)));
    second.stop().await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_is_all_of_its_lines_or_none() {
    let site = Site::start().await;
    let (plenty, few) = (site.product(10).await, site.product(1).await);
    let refused = site.hold_lines(&[(&plenty, 1), (&few, 2)]).await;
    assert_eq!(code(&refused), "OUT_OF_STOCK");
    let Err(Error::Refused(refused)) = refused else { panic!("a fault") };
    assert_eq!(refused.details, [json!({ "productId": few.id, "requested": 2, "available": 1 })]);
    assert_eq!((site.stock(&plenty).await, site.stock(&few).await), ((10, 0), (1, 0)));
    site.gate_agrees(&plenty).await;

    // A gate that is lost lets it through, and PostgreSQL says the same.
    site.lose_gate(&few).await;
    let Err(Error::Refused(refused)) = site.hold_lines(&[(&plenty, 1), (&few, 2)]).await else { panic!("a fault") };
    assert_eq!(refused.details, [json!({ "productId": few.id, "requested": 2, "available": 1 })]);
    assert_eq!((site.stock(&plenty).await, site.stock(&few).await), ((10, 0), (1, 0)));

    let (unknown, no_id) = (Product { id: Uuid::now_v7().to_string() }, Product { id: "not-an-id".to_owned() });
    assert_eq!(code(&site.hold_one(&unknown).await), "PRODUCT_NOT_FOUND");
    for (lines, why) in [
        (vec![], "no lines"),
        (vec![(&plenty, 0)], "quantity 0"),
        (vec![(&plenty, -1)], "quantity -1"),
        (vec![(&plenty, i32::MAX)], "too many units"),
        (vec![(&plenty, 1), (&plenty, 1)], "a product twice"),
        (vec![(&no_id, 1)], "not an id"),
    ] {
        assert_eq!(code(&site.hold_lines(&lines).await), "VALIDATION_ERROR", "{why}");
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_hold_in_one_batch_is_not_counted_twice() {
    let site = Site::start().await;
    let product = site.product(10).await;
    let (hold, user) = (Uuid::now_v7(), Uuid::now_v7());
    let lines = [(&product, 1)];
    // Both lanes wait for the stock, one after the other, so what comes now waits for them in the queue.
    let mut session = site.lock_stock(&product).await;
    let second = async {
        site.until_waiting(1).await;
        site.hold_one(&product).await
    };
    let (first, second, answers) = tokio::join!(site.hold_one(&product), second, async {
        site.until_waiting(2).await;
        let (answers, ()) = tokio::join!(join_all((0..5).map(|_| site.hold(hold, user, &lines))), async {
            session.batch_execute("commit").await.unwrap();
        });
        answers
    });
    assert_eq!((code(&first).as_str(), code(&second).as_str()), ("OK", "OK"));
    assert_eq!(answers.iter().filter(|answer| answer.as_ref().unwrap().created).count(), 1);
    assert_eq!(site.stock(&product).await, (10, 3));
    site.stop().await;
}

/// Whether nobody has locked the stock of `product`.
async fn is_free(site: &Site, product: &Product) -> bool {
    let query = "select product_id from {inventory}.stocks where product_id =";
    site.rows(&format!("select * from ({query} '{}' for update skip locked) as free", product.id)).await.len() == 1
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flow_locks_stock_in_product_order_so_that_none_deadlocks() {
    let site = Site::start().await;
    let mut products = [site.product(10).await, site.product(10).await];
    products.sort_by(|one, other| one.id.cmp(&other.id));
    let [first, second] = &products;
    // Whoever has no first row has no second.
    let waits_without_the_second = async |mut first_row: diesel_async::AsyncPgConnection| {
        site.until_waiting(1).await;
        assert!(is_free(&site, second).await, "the rows of stock are locked in product order");
        first_row.batch_execute("commit").await.unwrap();
    };

    let row = site.lock_stock(first).await;
    let lines = [(second, 1), (first, 1)];
    let (held, ()) = tokio::join!(site.hold_lines(&lines), waits_without_the_second(row));
    let held = held.unwrap();

    let row = site.lock_stock(first).await;
    let (confirmed, ()) = tokio::join!(site.confirm(&held.hold_id), waits_without_the_second(row));
    confirmed.unwrap();

    let expired = site.hold_lines(&lines).await.unwrap();
    site.expire(&[&expired]).await;
    let row = site.lock_stock(first).await;
    let (sweeping, ()) = tokio::join!(site.replica_with(&SWEEPING), waits_without_the_second(row));
    site.until_number("select count(*) from {inventory}.holds where state = 'EXPIRED'", 1).await;
    assert_eq!((site.stock(first).await, site.stock(second).await), ((9, 0), (9, 0)));
    sweeping.stop().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_per_buyer_holds_among_simultaneous_requests() {
    let site = Site::start().await;
    let product = site.limited_product(100, 3).await;
    let buyer = Uuid::now_v7();
    let lines = [(&product, 1)];
    let outcomes = join_all((0..20).map(|_| site.hold(Uuid::now_v7(), buyer, &lines))).await;
    let held: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).collect();
    assert_eq!(held.len(), 3, "nobody holds more units than the limit");
    assert!(outcomes.iter().all(|outcome| ["OK", "PURCHASE_LIMIT_EXCEEDED"].contains(&code(outcome).as_str())));
    assert_eq!(site.stock(&product).await, (100, 3));

    // What is bought counts, what is released does not.
    let ids: Vec<_> = held.iter().map(|held| held.hold.as_ref().unwrap().hold_id.as_str()).collect();
    site.confirm(ids[0]).await.unwrap();
    assert_eq!(code(&site.hold(Uuid::now_v7(), buyer, &lines).await), "PURCHASE_LIMIT_EXCEEDED");
    site.release(ids[1]).await.unwrap();
    assert_eq!(code(&site.hold(Uuid::now_v7(), buyer, &lines).await), "OK");
    assert_eq!(code(&site.hold_one(&product).await), "OK");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_per_buyer_counts_a_hold_that_commits_while_another_waits() {
    let site = Site::start().await;
    let product = site.limited_product(100, 3).await;
    let buyer = Uuid::now_v7();
    let lines = [(&product, 2)];
    let mut uncommitted = site.pause("inventory", "hold.before_commit");
    let (first, second) = tokio::join!(site.hold(Uuid::now_v7(), buyer, &lines), async {
        uncommitted.reached().await;
        let (second, ()) = tokio::join!(site.hold(Uuid::now_v7(), buyer, &lines), async {
            site.until_waiting(1).await;
            uncommitted.resume();
        });
        second
    });
    let codes = (code(&first), code(&second));
    assert_eq!(codes, ("OK".to_owned(), "PURCHASE_LIMIT_EXCEEDED".to_owned()), "the limit counts both holds");
    assert_eq!(site.stock(&product).await, (100, 2));
    // The refused units are not kept from others.
    site.gate_agrees(&product).await;
    site.stop().await;
}
