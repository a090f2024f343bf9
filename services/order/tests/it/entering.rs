//! Sales and their waiting room in the buying path: each line of the founding document's table, through `POST /orders`.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use common::signed::{SigningKey, Statement, public_text};
use contract::events::{EventClosed, EventOpen, EventScheduled, SaleRules};
use contract::queue::queue_service_server::QueueServiceServer;
use contract::queue::verify_pass_response::Outcome;
use reqwest::Method;
use serde_json::json;
use testkit::fake_queue::{FakeQueue, QUICK, guarded, open_sale};
use testkit::{Answer, Client, fresh_key, line};

use crate::site::{OrderSite, sneaker};

/// An order service beside a queue that lives.
async fn start() -> (OrderSite, FakeQueue) {
    let queue = FakeQueue::default();
    queue.says(Outcome::Ok);
    let server = QueueServiceServer::new(queue.clone());
    (OrderSite::start_beside(&QUICK, move |host| host.grpc(server)).await, queue)
}

/// A sale of the product of every order here, which began a second ago.
fn sale(rules: SaleRules) -> EventOpen {
    open_sale(vec![sneaker().id], rules)
}

/// Tells the order service, and waits until it looks at it.
async fn open(site: &OrderSite, event: &EventOpen) {
    site.deliver("order", event).await;
    testkit::eventually("the sale is known", async || {
        let answer = order(site, &site.buyer().await, Some("probe")).await;
        (answer.status != 201 || !event.rules.as_ref().is_some_and(|rules| rules.queue_manage_required)).then_some(())
    })
    .await;
}

async fn order(site: &OrderSite, buyer: &Client, pass: Option<&str>) -> Answer {
    order_as(site, buyer, pass, &fresh_key()).await
}

async fn order_as(site: &OrderSite, buyer: &Client, pass: Option<&str>, key: &str) -> Answer {
    let buyer = site.user_of(buyer);
    let request = buyer.request(Method::POST, "/orders").header("Idempotency-Key", key);
    let request = request.json(&json!({ "items": [line(&sneaker(), 2)] }));
    buyer
        .send(match pass {
            Some(pass) => request.header("X-Queue-Token", pass),
            None => request,
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_queue_lives_only_a_valid_pass_lets_anybody_order() {
    let (site, queue) = start().await;
    queue.says(Outcome::Invalid);
    open(&site, &sale(guarded())).await;
    let buyer = site.buyer().await;
    for outcome in [Outcome::Invalid, Outcome::Expired, Outcome::Ended] {
        queue.says(outcome);
        order(&site, &buyer, Some("pass")).await.refused(403, "QUEUE_TOKEN_INVALID");
    }
    let refused = order(&site, &buyer, None).await.refused(403, "QUEUE_TOKEN_REQUIRED");
    assert!(refused["details"][0]["tickets"].as_str().unwrap().ends_with("/tickets"));
    queue.says(Outcome::Ok);
    let key = fresh_key();
    let placed = order_as(&site, &buyer, Some("pass"), &key).await.expect(201);
    assert!(placed.header("x-queue-bypass").is_none());
    // The pass has ended since, and the order is there all the same.
    queue.says(Outcome::Ended);
    let again = order_as(&site, &buyer, Some("pass"), &key).await.expect(201);
    assert!(again.is_replay());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_queue_is_dead_a_pass_waits_and_those_without_come_in_slowly() {
    let (site, queue) = start().await;
    queue.says(Outcome::Invalid);
    open(&site, &sale(guarded())).await;
    let buyer = site.buyer().await;
    queue.is_down();
    let waits = order(&site, &buyer, Some("pass")).await;
    waits.refused(503, "QUEUE_UNAVAILABLE");
    assert!(waits.header("retry-after").is_some());
    order(&site, &buyer, None).await.refused(503, "QUEUE_UNAVAILABLE");
    // That was the second failure; the third makes it dead.
    let bypassed = order(&site, &buyer, None).await.expect(201);
    assert_eq!(bypassed.header("x-queue-bypass"), Some("true"));
    assert_eq!(site.number("select count(*) from {order}.queue_bypasses").await, 1, "it is written down");
    order(&site, &buyer, None).await.refused(503, "QUEUE_UNAVAILABLE");
    queue.says(Outcome::Ok);
    order(&site, &buyer, None).await.refused(403, "QUEUE_TOKEN_REQUIRED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_event_lets_nobody_in_without_a_pass_and_an_offline_one_believes_signatures() {
    let (site, queue) = start().await;
    let pair = Ed25519KeyPair::generate().unwrap();
    let event = sale(SaleRules {
        verify_offline: true,
        closed_on_outage: true,
        pass_key: public_text(pair.public_key().as_ref()),
        ..guarded()
    });
    queue.says(Outcome::Invalid);
    open(&site, &event).await;
    queue.is_down();
    let buyer = site.buyer().await;
    for _ in 0..4 {
        order(&site, &buyer, None).await.refused(503, "QUEUE_UNAVAILABLE");
    }
    order(&site, &buyer, Some("forged")).await.refused(403, "QUEUE_TOKEN_INVALID");
    let now = u64::try_from(chrono::Utc::now().timestamp()).unwrap();
    let pass = Statement {
        aud: format!("event:{}", event.event_id),
        sub: buyer.user_id.parse().unwrap(),
        jti: "1:7".to_owned(),
        iat: now,
        exp: now + 600,
    };
    let key = SigningKey::from_pkcs8(pair.to_pkcs8().unwrap().as_ref()).unwrap();
    let good = key.sign("entry+jwt", &pass).unwrap();
    order(&site, &site.buyer().await, Some(&good)).await.refused(403, "QUEUE_TOKEN_INVALID");
    order(&site, &buyer, Some(&good)).await.expect(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_is_sold_while_it_is_open_and_without_a_queue_to_everybody() {
    let (site, queue) = start().await;
    queue.is_down();
    let event = sale(SaleRules::default());
    let ahead = EventScheduled {
        event_id: event.event_id.clone(),
        version: 1,
        name: event.name.clone(),
        opens_at: Some((chrono::Utc::now() + chrono::TimeDelta::hours(1)).into()),
        closes_at: None,
        product_ids: event.product_ids.clone(),
        rules: event.rules.clone(),
        ..EventScheduled::default()
    };
    let buyer = site.buyer().await;
    site.deliver("order", &ahead).await;
    testkit::eventually("nobody buys before the sale", async || {
        (order(&site, &buyer, None).await.code() == "EVENT_NOT_OPEN").then_some(())
    })
    .await;
    site.deliver("order", &event).await;
    // Read again after it was opened: the newer version stays.
    site.deliver("order", &ahead).await;
    testkit::eventually("everybody buys while it is open", async || {
        (order(&site, &buyer, None).await.status == 201).then_some(())
    })
    .await;
    // An administrator sets an end, which passes, and takes it back.
    let schedule =
        |version, closes_at| EventScheduled { version, closes_at, opens_at: event.opens_at, ..ahead.clone() };
    site.deliver("order", &schedule(3, Some((chrono::Utc::now() - chrono::TimeDelta::minutes(1)).into()))).await;
    testkit::eventually("nobody buys after the end", async || {
        (order(&site, &buyer, None).await.code() == "EVENT_CLOSED").then_some(())
    })
    .await;
    site.deliver("order", &schedule(4, None)).await;
    testkit::eventually("everybody buys while it has no end", async || {
        (order(&site, &buyer, None).await.status == 201).then_some(())
    })
    .await;
    let closed = EventClosed {
        event_id: event.event_id.clone(),
        version: 5,
        closed_at: Some(chrono::Utc::now().into()),
        product_ids: event.product_ids.clone(),
    };
    site.deliver("order", &closed).await;
    testkit::eventually("nobody buys after it", async || {
        (order(&site, &buyer, None).await.code() == "EVENT_CLOSED").then_some(())
    })
    .await;
}
