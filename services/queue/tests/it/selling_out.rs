//! A sale sells out in two steps, and begins again with a restock.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use contract::events::{OrderLine, OrderPlaced, StockDepleted, StockReplenished};
use contract::inventory::stock_service_server::{StockService, StockServiceServer};
use contract::inventory::{
    BeginRestockRoundRequest, BeginRestockRoundResponse, GetStockRequest, GetStockResponse, StockLevel,
    WatchStockRequest, WatchStockResponse,
};
use contract::queue::verify_pass_response::Outcome;
use futures_util::Stream;
use reqwest::Method;
use serde_json::json;
use testkit::{eventually, text};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::passes::verify;
use crate::room::{guest, rules};
use crate::site::{Site, in_seconds};

/// An inventory with one kind of product.
#[derive(Clone, Default)]
struct Shelf {
    on_hand: Arc<AtomicI64>,
    available: Arc<AtomicI64>,
    /// It takes questions and answers none.
    hangs: Arc<AtomicBool>,
    asked: Arc<AtomicI64>,
}

impl Shelf {
    fn set(&self, on_hand: i64, available: i64) {
        self.on_hand.store(on_hand, Ordering::SeqCst);
        self.available.store(available, Ordering::SeqCst);
    }
}

#[tonic::async_trait]
impl StockService for Shelf {
    async fn get_stock(&self, request: Request<GetStockRequest>) -> Result<Response<GetStockResponse>, Status> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let stock = StockLevel {
            product_id: request.into_inner().product_id,
            version: 1,
            on_hand: self.on_hand.load(Ordering::SeqCst),
            available: self.available.load(Ordering::SeqCst),
            restock_round: 0,
        };
        Ok(Response::new(GetStockResponse { stock: Some(stock), name: "a thing".to_owned() }))
    }

    type WatchStockStream = Pin<Box<dyn Stream<Item = Result<WatchStockResponse, Status>> + Send>>;

    async fn watch_stock(&self, _: Request<WatchStockRequest>) -> Result<Response<Self::WatchStockStream>, Status> {
        Err(Status::unimplemented("nobody watches"))
    }

    async fn begin_restock_round(
        &self,
        _: Request<BeginRestockRoundRequest>,
    ) -> Result<Response<BeginRestockRoundResponse>, Status> {
        Err(Status::unimplemented("nobody restocks"))
    }
}

async fn start(settings: &[(&str, &str)]) -> (Site, Shelf) {
    let shelf = Shelf::default();
    let server = StockServiceServer::new(shelf.clone());
    (Site::start_beside(settings, move |host| host.grpc(server)).await, shelf)
}

async fn sale(site: &Site, product: Uuid, members: serde_json::Value) -> String {
    let event =
        site.event(json!({ "queueManageRequired": true, "productIds": [product], "queue": rules(members) })).await;
    site.command(&event, "open").await.expect(200);
    event
}

/// Five units are there, and the queue has heard of it.
async fn restock(site: &Site, shelf: &Shelf, product: Uuid) {
    shelf.set(5, 5);
    let restock = StockReplenished {
        product_id: product.to_string(),
        stock_version: 9,
        on_hand: 5,
        available: 5,
        restock_round: 1,
    };
    site.deliver("queue", &restock).await;
}

async fn until_sold_out(site: &Site, event: &str, sold_out: Option<&str>) {
    eventually(&format!("the sale is {sold_out:?}"), async || {
        (site.read(event).await["soldOut"].as_str() == sold_out).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_units_are_held_the_line_waits_and_it_ends_when_all_are_sold() {
    let (site, shelf) = start(&[("queue.sync_period_ms", "30")]).await;
    shelf.set(2, 2);
    let product = Uuid::now_v7();
    let event = sale(&site, product, json!({ "maxActive": 2 })).await;
    let guests = site.guests(&event, 5).await;
    // Both who are in have put the units into their orders.
    shelf.set(2, 0);
    until_sold_out(&site, &event, Some("TENTATIVE")).await;
    for guest in &guests[..2] {
        site.complete(&event, guest).await;
    }
    let waiting = site.poll(&event, &guests[2]).await.expect(200).json();
    assert_eq!((waiting["status"].as_str(), waiting["held"].as_i64()), (Some("WAITING"), Some(2)));
    let path = format!("/queues/{event}/tickets/{}", guests[2].ticket);
    let poll = |etag: Option<String>| {
        let request = guests[2].client.request(Method::GET, &path).header("X-Queue-Ticket", &guests[2].token);
        guests[2].client.send(etag.into_iter().fold(request, |request, etag| request.header("If-None-Match", etag)))
    };
    let tag = text(&json!(poll(None).await.header("etag").unwrap()));
    poll(Some(tag.clone())).await.expect(304);
    shelf.set(1, 0);
    eventually("the line hears that a held unit was sold", async || {
        let answer = poll(Some(tag.clone())).await;
        (answer.status == 200 && answer.json()["held"] == 1).then_some(())
    })
    .await;
    shelf.set(2, 0);
    let offered = waiting["restockSubscriptions"][0].as_str().unwrap();
    assert_eq!(offered, format!("/api/v1/products/{product}/restock-subscriptions"));
    assert_eq!(site.members(&event, "offer").await, Vec::<String>::new(), "nobody comes in for nothing");
    // A hold lapses: one unit, so two more may try.
    shelf.set(2, 1);
    until_sold_out(&site, &event, None).await;
    eventually("the next in line come in", async || {
        (site.standing(&event, &guests[2]).await == "ADMITTED").then_some(())
    })
    .await;
    let pass = site.pass(&event, &guests[2]).await;
    assert_eq!(site.standing(&event, &guests[4]).await, "WAITING");

    shelf.set(0, 0);
    until_sold_out(&site, &event, Some("FINAL")).await;
    eventually("the line has ended", async || (site.status(&event).await["state"] == "final").then_some(())).await;
    let ended = site.poll(&event, &guests[4]).await.expect(200).json();
    assert_eq!((ended["status"].as_str(), ended["soldOut"].as_str()), (Some("SOLD_OUT"), Some("FINAL")));
    let refused = site.ask_in(&site.buyer().await, &event).await.refused(410, "EVENT_SOLD_OUT");
    assert_eq!(refused["details"][0]["productId"], text(&json!(product)));
    site.try_pass(&guests[2].client, &event, &pass).await.expect(200);
    let kinds = site
        .rows(&format!(
            "select payload::jsonb ->> 'kind' as kind from {{queue}}.outbox_events
              where topic = 'EVENT_SOLD_OUT' and key = '{event}' order by aggregate_version"
        ))
        .await;
    assert_eq!(kinds.iter().map(|row| text(&row["kind"])).collect::<Vec<_>>(), ["TENTATIVE", "FINAL"]);

    // There is more: a new line, and the old one stays ended.
    let scheduled = site.told(&event, "EVENT_SCHEDULED").await;
    restock(&site, &shelf, product).await;
    eventually("the line is open again", async || (site.status(&event).await["state"] == "open").then_some(())).await;
    assert_eq!(site.standing(&event, &guests[4]).await, "SOLD_OUT");
    let again = site.enter(&guests[4].client, &event).await;
    assert!(again.seq.unwrap() > 5);
    assert_eq!(site.told(&event, "EVENT_SCHEDULED").await, scheduled + 1, "others hear that it begins again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_had_come_early_enters_the_new_line_after_a_restock() {
    let (site, shelf) = start(&[("queue.sync_period_ms", "30")]).await;
    shelf.set(0, 0);
    let product = Uuid::now_v7();
    let early = json!({
        "prequeueAt": in_seconds(-60), "queueManageRequired": true, "productIds": [product], "queue": rules(json!({})),
    });
    let event = site.event(early).await;
    let buyer = site.buyer().await;
    let first = guest(&buyer, &site.ask_in(&buyer, &event).await.expect(201).json());
    site.command(&event, "open").await.expect(200);
    until_sold_out(&site, &event, Some("FINAL")).await;
    eventually("the line has ended", async || (site.standing(&event, &first).await == "SOLD_OUT").then_some(())).await;
    assert_eq!(site.status(&event).await["state"], "final");
    site.ask_in(&buyer, &event).await.refused(410, "EVENT_SOLD_OUT");
    restock(&site, &shelf, product).await;
    eventually("the line is open again", async || (site.status(&event).await["state"] == "open").then_some(())).await;
    let again = guest(&buyer, &site.ask_in(&buyer, &event).await.expect(201).json());
    assert_eq!(again.seq, Some(2));
    assert_eq!(site.ask_in(&buyer, &event).await.expect(200).json()["seq"], 2, "one place in the new line");
    site.tick(&event).await;
    site.pass(&event, &again).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sees_that_the_line_is_open_again_enters_it_though_the_room_has_not_heard_of_it() {
    let (site, shelf) = start(&[("queue.sync_period_ms", "30")]).await;
    shelf.set(0, 0);
    let product = Uuid::now_v7();
    let event = sale(&site, product, json!({})).await;
    until_sold_out(&site, &event, Some("FINAL")).await;
    eventually("the line has ended", async || (site.status(&event).await["state"] == "final").then_some(())).await;
    // The room is told after inventory was asked.
    shelf.hangs.store(true, Ordering::SeqCst);
    restock(&site, &shelf, product).await;
    eventually("the line is open again", async || (site.status(&event).await["state"] == "open").then_some(())).await;
    site.ask_in(&site.buyer().await, &event).await.expect(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_from_before_a_restock_ends_no_line() {
    let (site, shelf) = start(&[]).await;
    shelf.set(1, 1);
    let product = Uuid::now_v7();
    let event = sale(&site, product, json!({})).await;
    eventually("the room knows its stock", async || (site.meta(&event, "stock").await == 2).then_some(())).await;
    shelf.set(0, 0);
    let mut noting = site.pause("queue", "queue.before_note");
    let depleted = StockDepleted { product_id: product.to_string(), stock_version: 4, ..StockDepleted::default() };
    site.deliver("queue", &depleted).await;
    noting.reached().await;
    restock(&site, &shelf, product).await;
    noting.resume();
    eventually("the room knows its stock", async || (site.meta(&event, "stock").await == 10).then_some(())).await;
    assert_eq!(site.told(&event, "EVENT_SOLD_OUT").await, 0);
    assert!(site.read(&event).await["soldOut"].is_null());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_are_let_in_than_the_stock_bears() {
    let (site, shelf) = start(&[("queue.sync_period_ms", "30")]).await;
    shelf.set(1, 1);
    let event = sale(&site, Uuid::now_v7(), json!({})).await;
    eventually("the room knows its stock", async || (site.meta(&event, "stock").await == 2).then_some(())).await;
    let guests = site.guests(&event, 4).await;
    let standings = site.standings(&event, &guests).await;
    assert_eq!(standings, ["ADMITTED", "ADMITTED", "WAITING", "WAITING"], "two passes for one unit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_holds_units_and_has_not_paid_keeps_nobody_from_those_that_are_left() {
    let (site, shelf) = start(&[("queue.sync_period_ms", "30")]).await;
    shelf.set(2, 2);
    let event = sale(&site, Uuid::now_v7(), json!({})).await;
    eventually("the room knows its stock", async || (site.meta(&event, "stock").await == 4).then_some(())).await;
    let guests = site.guests(&event, 6).await;
    let standings = site.standings(&event, &guests).await;
    assert_eq!(standings, ["ADMITTED", "ADMITTED", "ADMITTED", "ADMITTED", "WAITING", "WAITING"]);
    shelf.set(2, 1);
    eventually("the room knows what is left", async || (site.meta(&event, "stock").await == 2).then_some(())).await;
    // Two go. Of the others one orders a unit, and one only tries the pass.
    for gone in &guests[..2] {
        site.complete(&event, gone).await;
    }
    let (buyer, looker) = (&guests[2], &guests[3]);
    let passes = [site.pass(&event, buyer).await, site.pass(&event, looker).await];
    assert_eq!(verify(&site, &event, &buyer.client, &passes[0]).await, Outcome::Ok);
    site.try_pass(&looker.client, &event, &passes[1]).await.expect(200);
    assert_eq!(site.members(&event, "shown").await, [buyer.seq.unwrap().to_string()], "who only tries does not buy");

    site.move_to_the_past(&event, "shown").await;
    site.tick(&event).await;
    assert_eq!(
        site.standings(&event, &guests[4..]).await,
        ["ADMITTED", "WAITING"],
        "two for the one unit that is left"
    );
    site.move_to_the_past(&event, "active").await;
    site.tick(&event).await;
    assert_eq!(site.members(&event, "shown").await, Vec::<String>::new(), "the pass has ended by its own clock");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_that_is_shown_counts_until_the_stock_is_asked_for_again() {
    let (site, shelf) = start(&[("queue.sync_period_ms", "30")]).await;
    shelf.set(1, 1);
    let event = sale(&site, Uuid::now_v7(), json!({})).await;
    eventually("the room knows its stock", async || (site.meta(&event, "stock").await == 2).then_some(())).await;
    let guests = site.guests(&event, 3).await;
    assert_eq!(site.standings(&event, &guests).await, ["ADMITTED", "ADMITTED", "WAITING"]);
    let pass = site.pass(&event, &guests[0]).await;
    let before = shelf.asked.load(Ordering::SeqCst);
    shelf.hangs.store(true, Ordering::SeqCst);
    // The answer to a question that was asked before is in the room by the second question that hangs.
    eventually("it hangs", async || (shelf.asked.load(Ordering::SeqCst) > before + 1).then_some(())).await;
    let asked_at = site.meta(&event, "stock_at").await;
    assert_eq!(verify(&site, &event, &guests[0].client, &pass).await, Outcome::Ok);
    site.tick(&event).await;
    assert_eq!(site.standing(&event, &guests[2]).await, "WAITING", "the stock may be from before the hold");

    shelf.hangs.store(false, Ordering::SeqCst);
    let asked_again = async || (site.meta(&event, "stock_at").await > asked_at + 500).then_some(());
    eventually("the stock is asked for again", asked_again).await;
    site.move_to_the_past(&event, "shown").await;
    site.tick(&event).await;
    assert_eq!(site.standing(&event, &guests[2]).await, "ADMITTED");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn news_of_the_stock_makes_the_rooms_look_at_once() {
    let (site, shelf) = start(&[]).await;
    shelf.set(3, 3);
    let product = Uuid::now_v7();
    let event = sale(&site, product, json!({})).await;
    shelf.set(3, 0);
    let depleted =
        StockDepleted { product_id: product.to_string(), stock_version: 4, on_hand: 3, ..StockDepleted::default() };
    site.deliver("queue", &depleted).await;
    until_sold_out(&site, &event, Some("TENTATIVE")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_paid_is_done_even_if_nobody_says_so() {
    let (site, shelf) = start(&[]).await;
    shelf.set(9, 9);
    let product = Uuid::now_v7();
    let event = sale(&site, product, json!({ "maxActive": 1 })).await;
    let guests = site.guests(&event, 2).await;
    let mut ending = site.pause("queue", "queue.after_end");
    let placed = OrderPlaced {
        order_id: Uuid::now_v7().to_string(),
        user_id: guests[0].client.user_id.clone(),
        version: 3,
        items: vec![OrderLine { product_id: product.to_string(), quantity: 1, ..OrderLine::default() }],
        ..OrderPlaced::default()
    };
    site.deliver("queue", &placed).await;
    ending.reached().await;
    ending.resume();
    eventually("the pass has ended", async || (site.standing(&event, &guests[0]).await == "COMPLETED").then_some(()))
        .await;
    site.tick(&event).await;
    assert_eq!(site.standing(&event, &guests[1]).await, "ADMITTED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inventory_that_hangs_keeps_no_room_from_being_saved() {
    let (site, shelf) = start(&[("queue.sync_period_ms", "30")]).await;
    shelf.set(2, 2);
    let event = sale(&site, Uuid::now_v7(), json!({ "maxActive": 2 })).await;
    shelf.hangs.store(true, Ordering::SeqCst);
    let before = shelf.asked.load(Ordering::SeqCst);
    eventually("it hangs", async || (shelf.asked.load(Ordering::SeqCst) > before).then_some(())).await;
    let guest = site.guest(&event).await;
    let issued = format!("select issued from {{queue}}.rooms where event_id = '{event}'");
    site.until_number(&issued, guest.seq.unwrap()).await;
    site.stop().await;
}
