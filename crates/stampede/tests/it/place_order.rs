//! `POST /orders`: one intent, one order, however often and however concurrently it is asked for.

use crate::ledger::Ledger;
use crate::site::system;
use std::collections::HashSet;
use testkit::{Answer, Site, fresh_key, line, text};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;

use crate::ledger::Units;

const THREADS: usize = 2;

async fn orders(site: &Site) -> i64 {
    site.number("select count(*) from {order}.orders").await
}

async fn holds(site: &Site) -> i64 {
    site.number("select count(*) from {inventory}.holds").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_retries_with_one_key_place_one_order() {
    const TWINS: usize = 50;
    let site = system().start().await;
    let (product, buyer, key) = (site.product(10).await, site.buyer().await, fresh_key());

    let answers: Vec<Answer> = join_all((0..TWINS).map(|_| buyer.order(&key, &product, 2))).await;

    let bodies: HashSet<&str> = answers.iter().map(|answer| answer.body.as_str()).collect();
    assert_eq!(bodies.len(), 1, "every answer is equal to the byte: {bodies:?}");
    let locations: HashSet<_> = answers.iter().map(|answer| answer.header("Location").map(str::to_owned)).collect();
    let id = text(&answers[0].clone().expect(201).json()["orderId"]);
    assert_eq!(locations, HashSet::from([Some(format!("/api/v1/orders/{id}"))]));
    for answer in &answers {
        answer.clone().expect(201);
    }
    assert_eq!(answers.iter().filter(|answer| answer.is_replay()).count(), TWINS - 1);
    assert_eq!((orders(&site).await, holds(&site).await), (1, 1));
    assert_eq!(site.units(&product).await, Units { on_hand: 10, held: 2 });
    site.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_replays_its_order_long_after_everything_was_sold() {
    let site = system().start().await;
    let (product, key) = (site.product(1).await, fresh_key());
    let [first, second]: [_; 2] = site.buyers(2).await.try_into().expect("two buyers");
    let placed = first.order(&key, &product, 1).await.expect(201);
    assert!(!placed.is_replay());
    second.order(&fresh_key(), &product, 1).await.refused(409, "OUT_OF_STOCK");

    let replayed = first.order(&key, &product, 1).await.expect(201);
    assert_eq!((replayed.is_replay(), &replayed.body), (true, &placed.body));

    // And when it has been cancelled: the answer is to the request, not about the order's state today.
    let id = text(&placed.json()["orderId"]);
    first.post(&format!("/orders/{id}/cancel"), &json!({})).await.expect(200);
    let replayed = first.order(&key, &product, 1).await.expect(201);
    assert_eq!((replayed.is_replay(), &replayed.body), (true, &placed.body));
    assert_eq!(orders(&site).await, 1);
    site.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_stores_nothing_and_its_key_may_try_again() {
    let site = system().start().await;
    let (product, buyer, key) = (site.product(0).await, site.buyer().await, fresh_key());
    let problem = buyer.order(&key, &product, 2).await.refused(409, "OUT_OF_STOCK");
    assert_eq!(problem["details"], json!([{ "productId": product.id, "requested": 2, "available": 0 }]));
    assert_eq!((orders(&site).await, holds(&site).await), (0, 0));

    site.admin().adjust(&fresh_key(), &product, 2).await.expect(200);
    let placed = testkit::eventually("the new units can be bought with the same key", async || {
        let answer = buyer.order(&key, &product, 2).await;
        (answer.status != 409).then_some(answer)
    })
    .await;
    assert!(!placed.expect(201).is_replay());
    site.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_request_under_a_used_key_is_refused() {
    let site = system().start().await;
    let (product, other, key) = (site.product(10).await, site.product(10).await, fresh_key());
    let [buyer, neighbour]: [_; 2] = site.buyers(2).await.try_into().expect("two buyers");
    buyer.order(&key, &product, 1).await.expect(201);
    let before = site.number("select count(*) from {order}.orders").await;

    buyer.order(&key, &product, 2).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    buyer.order(&key, &other, 1).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    let both = json!({ "items": [line(&product, 1), line(&other, 1)] });
    buyer.place(&key, &both).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    let with_address = json!({
        "items": [line(&product, 1)],
        "shippingInfo": { "recipient": "Kim", "phone": "010-0000-0000", "postalCode": "04524", "address": "Seoul" }
    });
    buyer.place(&key, &with_address).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(before, orders(&site).await);
    assert_eq!(site.units(&product).await.held, 1);
    assert_eq!(site.units(&other).await.held, 0);

    // The same request, written differently, is the same request.
    let spelt = format!(r#"{{ "items" : [ {{"quantity":1, "productId":"{}"}} ] }}"#, product.id.to_uppercase());
    let request = buyer.request(Method::POST, "/orders").header("Idempotency-Key", format!("\"{key}\""));
    let respelt = buyer.send(request.header("Content-Type", "application/json").body(spelt)).await.expect(201);
    assert!(respelt.is_replay());

    // A key is its owner's: somebody else's use of the same text is another order.
    let own = neighbour.order(&key, &product, 2).await.expect(201);
    assert!(!own.is_replay());
    assert_eq!(orders(&site).await, 2);
    site.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_different_requests_under_one_key_place_one_of_them() {
    let site = system().start().await;
    let (product, buyer, key) = (site.product(100).await, site.buyer().await, fresh_key());
    let answers = join_all((0..20).map(|n| buyer.order(&key, &product, 1 + n % 2))).await;
    let placed: HashSet<&str> = answers.iter().filter(|a| a.status == 201).map(|a| a.body.as_str()).collect();
    assert_eq!(placed.len(), 1, "{placed:?}");
    for refused in answers.iter().filter(|answer| answer.status != 201) {
        refused.refused(422, "IDEMPOTENCY_KEY_REUSED");
    }
    assert_eq!((orders(&site).await, holds(&site).await), (1, 1));
    site.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prices_and_names_come_from_the_shop_and_stay_as_they_were_ordered() {
    let site = system().start().await;
    let dear =
        site.product_with(json!({ "initialStock": 5, "price": { "amount": 1_000_000, "currency": "KRW" } })).await;
    let cheap = site.product_with(json!({ "initialStock": 5, "price": { "amount": 7, "currency": "KRW" } })).await;
    let buyer = site.buyer().await;
    let key = fresh_key();
    let wanted = json!({
        "items": [line(&dear, 3), line(&cheap, 2)],
        "shippingInfo": {
            "recipient": "김하나", "phone": "010-1234-5678", "postalCode": "04524",
            "address": "서울특별시 중구 세종대로 110", "memo": "문 앞"
        }
    });
    let placed = buyer.place(&key, &wanted).await.expect(201);
    let order = placed.json();
    assert_eq!(order["status"], "CREATED");
    assert_eq!(order["totals"]["amount"], json!({ "amount": 3_000_014, "currency": "KRW" }));
    let lines: Vec<_> =
        order["items"].as_array().expect("items").iter().map(|item| item["productId"].clone()).collect();
    assert_eq!(lines, [json!(dear.id), json!(cheap.id)], "in the order of the request");
    assert_eq!(order["items"][0]["unitPrice"], json!({ "amount": 1_000_000, "currency": "KRW" }));
    assert_eq!(order["shippingInfo"], wanted["shippingInfo"]);

    // A price of today does not change an order of yesterday, nor the answer that its key gets.
    let admin = site.admin();
    let change = admin.request(Method::PATCH, &format!("/admin/products/{}", cheap.id)).header("If-Match", "*");
    admin.send(change.json(&json!({ "price": { "amount": 8, "currency": "KRW" } }))).await.expect(200);
    assert_eq!(buyer.place(&key, &wanted).await.expect(201).body, placed.body);
    let read = buyer.get(&format!("/orders/{}", text(&order["orderId"]))).await.expect(200).json();
    assert_eq!(read["totals"], order["totals"]);
    let later = buyer.order(&fresh_key(), &cheap, 1).await.expect(201).json();
    assert_eq!(later["totals"]["amount"]["amount"], 8);
    site.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_of_many_lines_is_held_whole_or_not_at_all() {
    let site = system().start().await;
    let full = site.product(10).await;
    let empty = site.product(1).await;
    let buyers = site.buyers(THREADS * 4).await;
    let both = json!({ "items": [line(&full, 1), line(&empty, 1)] });
    let crossed = json!({ "items": [line(&empty, 1), line(&full, 1)] });
    let answers = join_all(buyers.iter().enumerate().map(async |(n, buyer)| {
        let order = if n % 2 == 0 { &both } else { &crossed };
        buyer.place(&fresh_key(), order).await
    }))
    .await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
    for refused in answers.iter().filter(|answer| answer.status != 201) {
        let problem = refused.refused(409, "OUT_OF_STOCK");
        assert_eq!(problem["details"][0]["productId"], json!(empty.id), "it names what is short: {problem}");
    }
    assert_eq!(site.units(&full).await, Units { on_hand: 10, held: 1 });
    assert_eq!(site.units(&empty).await, Units { on_hand: 1, held: 1 });
    site.assert_consistent().await;
    // What the refused ones had taken of the first line is back on sale, in the gate too.
    buyers[0].order(&fresh_key(), &full, 9).await.expect(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buyer_sees_own_orders_only_newest_first_and_page_by_page() {
    let site = system().start().await;
    let product = site.product(100).await;
    let [buyer, stranger]: [_; 2] = site.buyers(2).await.try_into().expect("two buyers");
    let mut placed = Vec::new();
    for _ in 0..5 {
        placed.push(text(&buyer.order(&fresh_key(), &product, 1).await.expect(201).json()["orderId"]));
    }
    stranger.order(&fresh_key(), &product, 1).await.expect(201);
    buyer.post(&format!("/orders/{}/cancel", placed[0]), &json!({})).await.expect(200);

    let mut seen = Vec::new();
    let mut path = "/orders?limit=2".to_owned();
    loop {
        let page = buyer.get(&path).await.expect(200).json();
        let items = page["items"].as_array().expect("items");
        assert!(items.len() <= 2);
        seen.extend(items.iter().map(|order| text(&order["orderId"])));
        match page["nextCursor"].as_str() {
            Some(cursor) => path = format!("/orders?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    placed.reverse();
    assert_eq!(seen, placed);
    let cancelled = buyer.get("/orders?status=CANCELLED").await.expect(200).json();
    assert_eq!(cancelled["items"].as_array().map(Vec::len), Some(1));
    for id in &placed {
        buyer.get(&format!("/orders/{id}")).await.expect(200);
        stranger.get(&format!("/orders/{id}")).await.refused(404, "ORDER_NOT_FOUND");
        stranger.post(&format!("/orders/{id}/cancel"), &json!({})).await.refused(404, "ORDER_NOT_FOUND");
        site.anyone().get(&format!("/orders/{id}")).await.refused(401, "UNAUTHORIZED");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_account_cannot_place_orders_without_end() {
    let site = system().settings(&[("order.placements_per_minute", "5")]).start().await;
    let product = site.product(100).await;
    let [buyer, neighbour]: [_; 2] = site.buyers(2).await.try_into().expect("two buyers");
    let answers = join_all((0..20).map(async |_| buyer.order(&fresh_key(), &product, 1).await)).await;
    let placed = answers.iter().filter(|answer| answer.status == 201).count();
    assert!((5..=7).contains(&placed), "{placed} of 20 were placed");
    for refused in answers.iter().filter(|answer| answer.status != 201) {
        refused.refused(429, "RATE_LIMITED");
        let wait_seconds: u64 = refused.header("Retry-After").expect("when to come back").parse().expect("seconds");
        assert!((1..=60).contains(&wait_seconds));
    }
    neighbour.order(&fresh_key(), &product, 1).await.expect(201);
    assert_eq!(orders(&site).await, placed as i64 + 1);
}
