//! Units: never more sold than there are, back when an order ends, and every movement on record.

use crate::ledger::Ledger;
use crate::site::system;
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use testkit::{Answer, Client, Product, eventually, fresh_key, text};

use crate::ledger::Units;

async fn rush(buyers: &[Client], product: &Product) -> Vec<Answer> {
    join_all(buyers.iter().map(async |buyer| buyer.order(&fresh_key(), product, 1).await)).await
}

fn placed(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| answer.status == 201).count()
}

/// Buys when there is something to buy again.
async fn buy(buyer: &Client, product: &Product, quantity: i64) -> Answer {
    let key = fresh_key();
    eventually("the units are on sale again", async || {
        let answer = buyer.order(&key, product, quantity).await;
        (answer.status != 409).then_some(answer)
    })
    .await
    .expect(201)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_buyers_never_take_more_than_there_is() {
    let site = system().start().await;
    let (product, buyers) = (site.product(20).await, site.buyers(64).await);
    let answers = rush(&buyers, &product).await;
    assert_eq!(placed(&answers), 20);
    for refused in answers.iter().filter(|answer| answer.status != 201) {
        let problem = refused.refused(409, "OUT_OF_STOCK");
        assert_eq!(problem["details"][0]["productId"], json!(product.id));
        assert_eq!(problem["details"][0]["requested"], 1);
    }
    assert_eq!(site.units(&product).await, Units { on_hand: 20, held: 20 });
    site.shows(&product, 0).await;
    site.assert_consistent().await;
    let depleted = "select count(*) from {inventory}.outbox_events where topic = 'STOCK_DEPLETED'";
    assert_eq!(site.number(depleted).await, 1, "that it is sold out is told once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hot_products_bought_crosswise_are_each_sold_out_exactly() {
    let site = system().start().await;
    let (one, other, buyers) = (site.product(10).await, site.product(7).await, site.buyers(40).await);
    let answers = join_all(buyers.iter().enumerate().map(async |(n, buyer)| {
        let (first, then) = if n % 2 == 0 { (&one, &other) } else { (&other, &one) };
        [buyer.order(&fresh_key(), first, 1).await, buyer.order(&fresh_key(), then, 1).await]
    }))
    .await
    .concat();
    assert_eq!(placed(&answers), 17);
    assert_eq!(site.units(&one).await, Units { on_hand: 10, held: 10 });
    assert_eq!(site.units(&other).await, Units { on_hand: 7, held: 7 });
    site.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelling_gives_the_units_back_once() {
    let site = system().start().await;
    let product = site.product(3).await;
    let [buyer, other]: [_; 2] = site.buyers(2).await.try_into().expect("two buyers");
    let id = text(&buyer.order(&fresh_key(), &product, 3).await.expect(201).json()["orderId"]);
    let cancel = format!("/orders/{id}/cancel");
    let answers = join_all((0..10).map(async |_| buyer.post(&cancel, &json!({ "reason": "too dear" })).await)).await;
    for answer in answers {
        assert_eq!(answer.expect(200).json()["status"], "CANCELLED");
    }
    site.settled().await;
    assert_eq!(site.units(&product).await, Units { on_hand: 3, held: 0 });
    site.shows(&product, 3).await;
    buy(&other, &product, 3).await;
    // Cancelling once more must not take the other buyer's units.
    buyer.post(&cancel, &json!({})).await.expect(200);
    site.assert_consistent().await;
    assert_eq!(site.units(&product).await, Units { on_hand: 3, held: 3 });
    let told = format!("select count(*) from {{order}}.outbox_events where topic = 'ORDER_CANCELLED' and key = '{id}'");
    assert_eq!(site.number(&told).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_nobody_pays_expires_and_its_units_are_on_sale_again() {
    let site =
        system().settings(&[("inventory.sweep_period_ms", "100"), ("order.expire_sweep_ms", "100")]).start().await;
    let product = site.product(5).await;
    let [buyer, other]: [_; 2] = site.buyers(2).await.try_into().expect("two buyers");
    let (key, wanted) = (fresh_key(), 5);
    let placed = buyer.order(&key, &product, wanted).await.expect(201);
    let id = text(&placed.json()["orderId"]);
    let path = format!("/orders/{id}");
    site.time_is_up(&id).await;
    eventually("the order expires", async || {
        let status = buyer.get(&path).await.expect(200).json()["status"].clone();
        (status == "EXPIRED").then_some(())
    })
    .await;
    buyer.post(&format!("{path}/cancel"), &json!({})).await.refused(409, "ORDER_NOT_CANCELLABLE");
    let replayed = buyer.order(&key, &product, wanted).await.expect(201);
    assert_eq!((replayed.is_replay(), replayed.body), (true, placed.body));
    buy(&other, &product, 5).await;
    let told = "select count(*) from {order}.outbox_events where topic = 'ORDER_EXPIRED'";
    assert_eq!(site.number(told).await, 1);
    site.assert_consistent().await;
    assert_eq!(site.units(&product).await, Units { on_hand: 5, held: 5 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: three generations of holds that lapse by the clock"]
async fn expiring_holds_are_taken_over_without_overselling() {
    let site =
        system().settings(&[("inventory.hold_ttl_seconds", "3"), ("inventory.sweep_period_ms", "60000")]).start().await;
    let (product, buyers) = (site.product(3).await, site.buyers(12).await);
    let most = "select coalesce(max(held), 0) from {inventory}.stocks";
    let mut sold = 0;
    // Three generations of holds, and nobody sweeps: who comes later takes over what has lapsed.
    while sold < 9 {
        sold += placed(&rush(&buyers, &product).await);
        assert!(site.number(most).await <= 3);
    }
    let alive =
        "select coalesce(sum(quantity), 0)::bigint from {inventory}.holds join {inventory}.hold_lines using (hold_id)
                  where state = 'HELD' and expires_at > clock_timestamp()";
    assert!(site.number(alive).await <= 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_administrator_adjusts_the_stock_but_never_below_what_is_held() {
    let site = system().start().await;
    let (product, buyer, admin) = (site.product(10).await, site.buyer().await, site.admin());
    buyer.order(&fresh_key(), &product, 4).await.expect(201);

    let key = fresh_key();
    let adjusted = admin.adjust(&key, &product, -6).await.expect(200);
    let told = adjusted.json();
    assert_eq!([&told["onHand"], &told["held"], &told["available"]], [4, 4, 0], "{told}");
    let refused = admin.adjust(&fresh_key(), &product, -1).await.refused(409, "STOCK_BELOW_HELD");
    assert_eq!(refused["details"][0]["held"], 4);

    let replayed = admin.adjust(&key, &product, -6).await.expect(200);
    assert_eq!((replayed.is_replay(), &replayed.body), (true, &adjusted.body));
    admin.adjust(&key, &product, -5).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    let elsewhere = site.product(10).await;
    admin.adjust(&key, &elsewhere, -6).await.refused(422, "IDEMPOTENCY_KEY_REUSED");

    assert_eq!(site.units(&product).await, Units { on_hand: 4, held: 4 });
    buyer.adjust(&fresh_key(), &product, 1).await.refused(403, "FORBIDDEN");
    let nowhere = Product { id: uuid::Uuid::now_v7().to_string() };
    admin.adjust(&fresh_key(), &nowhere, 1).await.refused(404, "PRODUCT_NOT_FOUND");
    site.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adjustments_during_a_sale_all_count_once() {
    let site = system().start().await;
    let (product, admin, buyers) = (site.product(10).await, site.admin(), site.buyers(30).await);
    let keys: Vec<String> = (0..10).map(|_| fresh_key()).collect();
    // Each adjustment is asked for twice.
    let adjusting = join_all(keys.iter().chain(&keys).map(async |key| admin.adjust(key, &product, 1).await));
    let (adjusted, answers) = tokio::join!(adjusting, rush(&buyers, &product));
    let replays = adjusted.into_iter().filter(|answer| answer.clone().expect(200).is_replay()).count();
    assert_eq!(replays, 10);
    let mut sold = placed(&answers);
    assert_eq!(site.units(&product).await, Units { on_hand: 20, held: sold as i64 });
    while sold < 20 {
        buy(&buyers[0], &product, 1).await;
        sold += 1;
    }
    assert_eq!(site.units(&product).await, Units { on_hand: 20, held: 20 });
    site.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_account_never_gets_more_than_its_share() {
    let site = system().start().await;
    let product = site.product_with(json!({ "initialStock": 100, "maxPerUser": 3 })).await;
    let [greedy, modest]: [_; 2] = site.buyers(2).await.try_into().expect("two buyers");
    let answers = join_all((0..40).map(async |_| greedy.order(&fresh_key(), &product, 1).await)).await;
    assert_eq!(placed(&answers), 3);
    for refused in answers.iter().filter(|answer| answer.status != 201) {
        let problem = refused.refused(409, "PURCHASE_LIMIT_EXCEEDED");
        assert_eq!((&problem["details"][0]["max"], &problem["details"][0]["have"]), (&json!(3), &json!(3)));
    }
    modest.order(&fresh_key(), &product, 3).await.expect(201);
    modest.order(&fresh_key(), &product, 1).await.refused(409, "PURCHASE_LIMIT_EXCEEDED");
    // What is cancelled does not count any more.
    let one = answers.iter().find(|answer| answer.status == 201).expect("three were placed").json();
    greedy.post(&format!("/orders/{}/cancel", text(&one["orderId"])), &json!({})).await.expect(200);
    site.settled().await;
    greedy.order(&fresh_key(), &product, 1).await.expect(201);
    assert_eq!(site.units(&product).await, Units { on_hand: 100, held: 6 });
    site.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_movement_is_audited_and_every_hold_can_be_found() {
    let site = system().start().await;
    let (product, buyer, admin) = (site.product(10).await, site.buyer().await, site.admin());
    admin.adjust(&fresh_key(), &product, 5).await.expect(200);
    admin.adjust(&fresh_key(), &product, -2).await.expect(200);
    let id = text(&buyer.order(&fresh_key(), &product, 2).await.expect(201).json()["orderId"]);

    let path = format!("/admin/products/{}/stock-audits", product.id);
    let audits = admin.get(&path).await.expect(200).json();
    let deltas = |page: &Value| -> Vec<i64> {
        page["items"].as_array().expect("items").iter().filter_map(|audit| audit["delta"].as_i64()).collect()
    };
    assert_eq!(deltas(&audits), [-2, 5, 10], "the newest first");
    let first = admin.get(&format!("{path}?limit=2")).await.expect(200).json();
    let next = first["nextCursor"].to_string().trim_matches('"').to_owned();
    let rest = admin.get(&format!("{path}?limit=2&cursor={next}")).await.expect(200).json();
    assert_eq!([deltas(&first), deltas(&rest)].concat(), deltas(&audits));

    let holds = admin.get(&format!("/admin/holds?productId={}&state=HELD", product.id)).await.expect(200).json();
    assert_eq!(holds["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(holds["items"][0]["holdId"], json!(id), "a hold has the id of its order");
    assert_eq!(holds["items"][0]["userId"], json!(buyer.user_id));
    for denied in [&path, "/admin/holds"] {
        buyer.get(denied).await.refused(403, "FORBIDDEN");
        site.anyone().get(denied).await.refused(401, "UNAUTHORIZED");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restocked_product_is_announced_with_a_new_round() {
    let site = system().start().await;
    let (product, buyer, admin) = (site.product(1).await, site.buyer().await, site.admin());
    for round in 1..=2 {
        buy(&buyer, &product, 1).await;
        admin.adjust(&fresh_key(), &product, 1).await.expect(200);
        site.settled().await;
        let told = site
            .rows(
                "select topic, (payload::json ->> 'restockRound') as round from {inventory}.outbox_events order by id",
            )
            .await;
        let expected: Vec<_> = (1..=round).flat_map(|_| ["STOCK_DEPLETED", "STOCK_REPLENISHED"]).collect();
        let topics: Vec<_> = told.iter().map(|row| text(&row["topic"])).collect();
        assert_eq!(topics, expected);
        assert_eq!(told.last().expect("something was told")["round"], json!(round.to_string()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn products_are_listed_changed_and_found() {
    let site = system().start().await;
    let admin = site.admin();
    let sku = fresh_key();
    let product = site.product_with(json!({ "sku": sku, "name": "Blue whale", "initialStock": 1 })).await;
    site.product(3).await;
    let again = json!({ "sku": sku, "name": "x", "price": { "amount": 1, "currency": "KRW" }, "initialStock": 0 });
    admin.post("/admin/products", &again).await.refused(409, "SKU_ALREADY_EXISTS");

    let page = eventually("a page shows what is new", async || {
        let page = site.anyone().get("/products?page=0&size=1").await.expect(200).json();
        (page["totalElements"] == 2).then_some(page)
    })
    .await;
    assert_eq!(page["totalPages"], 2, "{page}");
    assert_eq!(page["content"].as_array().map(Vec::len), Some(1));
    let found = site.anyone().get("/products?q=whale").await.expect(200).json();
    assert_eq!(found["content"][0]["productId"], json!(product.id));

    let path = format!("/products/{}", product.id);
    let read = site.anyone().get(&path).await.expect(200);
    let etag = read.header("ETag").expect("a tag").to_owned();
    let change = |tag: &str, name: &str| {
        let request = admin.request(Method::PATCH, &format!("/admin{path}")).header("If-Match", tag);
        admin.send(request.json(&json!({ "name": name })))
    };
    change(&etag, "Red whale").await.expect(200);
    change(&etag, "Grey whale").await.refused(412, "VERSION_CONFLICT");
    eventually("the new name is shown", async || {
        let shown = site.anyone().get(&path).await.expect(200).json();
        (shown["name"] == "Red whale").then_some(())
    })
    .await;
    let unchanged = site.anyone().get(&path).await;
    let tag = unchanged.header("ETag").expect("a tag").to_owned();
    let conditional = site.anyone().request(Method::GET, &path).header("If-None-Match", tag);
    site.anyone().send(conditional).await.expect(304);
}
