//! A seat is one buyer's at a time.

use contract::events::SaleRules;
use contract::queue::queue_service_server::QueueServiceServer;
use contract::queue::verify_pass_response::Outcome;
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use testkit::fake_queue::{FakeQueue, QUICK, guarded, open_sale};
use testkit::{Answer, eventually, text};
use uuid::Uuid;

use crate::concert::{Concert, category, expire, id_of};
use crate::site::{Site, code};

#[tokio::test(flavor = "multi_thread")]
async fn of_many_buyers_one_gets_the_seat() {
    let site = Site::start().await;
    let concert = Concert::new(&site, [2, 1], None).await;
    let buyers = site.buyers(30).await;
    let answers = join_all(buyers.iter().map(|buyer| concert.reserve(buyer, &["A-1"]))).await;
    let won: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 200).collect();
    assert_eq!(won.len(), 1);
    for lost in answers.iter().filter(|answer| answer.status != 200) {
        let problem = lost.refused(409, "SEAT_ALREADY_RESERVED");
        assert_eq!(problem["details"], json!([{ "seatId": concert.seat("A-1"), "label": "A-1" }]));
    }
    let reserved = won[0].json();
    assert_eq!((&reserved["status"], &reserved["seats"][0]["label"]), (&json!("HELD"), &json!("A-1")));
    assert_eq!(reserved["amount"], json!({ "amount": 150_000, "currency": "KRW" }));
    assert_eq!(site.stock(&concert.categories[0]).await, (2, 1));
    concert.shows(&site, "A-1", "HELD").await;
    concert.shows(&site, "A-2", "AVAILABLE").await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seats_are_reserved_all_or_none() {
    let site = Site::start().await;
    let concert = Concert::new(&site, [2, 1], None).await;
    let [ann, ben] = [site.buyer().await, site.buyer().await];
    concert.reserve(&ann, &["A-1"]).await.expect(200);
    let problem = concert.reserve(&ben, &["A-2", "A-1", "B-1"]).await.refused(409, "SEAT_ALREADY_RESERVED");
    assert_eq!(problem["details"].as_array().unwrap().len(), 1);
    assert_eq!((site.stock(&concert.categories[0]).await, site.stock(&concert.categories[1]).await), ((2, 1), (1, 0)));
    let both = concert.reserve(&ben, &["A-2", "B-1"]).await.expect(200).json();
    assert_eq!(both["amount"]["amount"], 240_000);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_the_same_seats_again_has_the_same_reservation() {
    let site = Site::start().await;
    let concert = Concert::new(&site, [2, 1], None).await;
    let buyer = site.buyer().await;
    let at_once = join_all((0..10).map(|_| concert.reserve(&buyer, &["A-1", "A-2"]))).await;
    let first = at_once[0].json();
    for answer in &at_once {
        assert_eq!((answer.status.as_u16(), answer.json()), (200, first.clone()));
    }
    // All seats of this price are gone, but not for the buyer who has them.
    let again = concert.reserve(&buyer, &["A-2", "A-1"]).await.expect(200);
    assert_eq!(again.json()["reservationId"], first["reservationId"]);
    // Other seats than those of the reservation: it is told which one has them.
    let problem = concert.reserve(&buyer, &["A-1"]).await.refused(409, "SEAT_ALREADY_RESERVED");
    let own = json!([{ "seatId": concert.seat("A-1"), "label": "A-1", "reservationId": first["reservationId"] }]);
    assert_eq!(problem["details"], own);
    assert!(text(&problem["detail"]).starts_with("You have a seat of these already, by reservation "), "{problem}");
    assert_eq!(site.stock(&concert.categories[0]).await, (2, 2));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_seat_is_the_next_buyers_at_once() {
    let site = Site::start().await;
    let concert = Concert::new(&site, [1, 1], None).await;
    let [ann, ben] = [site.buyer().await, site.buyer().await];
    let first = concert.reserve(&ann, &["A-1", "B-1"]).await.expect(200);
    concert.reserve(&ben, &["A-1"]).await.refused(409, "SEAT_ALREADY_RESERVED");
    expire(&site, &id_of(&first)).await;
    // Nobody has swept.
    let read = ann.get(&format!("/reservations/{}", id_of(&first))).await.expect(200).json();
    assert_eq!(read["status"], "EXPIRED");
    concert.shows(&site, "B-1", "AVAILABLE").await;
    concert.reserve(&ben, &["A-1"]).await.expect(200);
    assert_eq!((site.stock(&concert.categories[0]).await, site.stock(&concert.categories[1]).await), ((1, 1), (1, 0)));
    assert_eq!(code(&site.hold_reserved(Uuid::now_v7(), &ann.user_id, &id_of(&first)).await), "RESERVATION_ENDED");
    // The whole reservation has ended, not the seat that somebody else wanted.
    concert.reserve(&ann, &["B-1"]).await.expect(200);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_seat_is_had_although_others_change_the_stock_of_its_neighbour() {
    let site = Site::start().await;
    let concert = Concert::new(&site, [1, 1], None).await;
    let [ann, ben] = [site.buyer().await, site.buyer().await];
    let first = concert.reserve(&ann, &["A-1", "B-1"]).await.expect(200);
    expire(&site, &id_of(&first)).await;
    let other = site.lock_stock(&concert.categories[1]).await;
    let (reserved, ()) = tokio::join!(concert.reserve(&ben, &["A-1"]), async {
        site.until_waiting(1).await;
        drop(other);
    });
    reserved.expect(200);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_spans_the_prices_of_a_concert() {
    let site = Site::start().await;
    let concert = Concert::new(&site, [3, 3], Some(2)).await;
    let buyer = site.buyer().await;
    let seats = ["A-1", "A-2", "A-3", "B-1", "B-2", "B-3"];
    let replica = site.replica_with(&[]).await;
    let others = replica.user(buyer.user_id.parse().unwrap(), common::auth::Role::User);
    let answers = join_all(seats.iter().enumerate().map(|(n, seat)| {
        let client = if n % 2 == 0 { &buyer } else { &others };
        let labels = [*seat];
        let concert = &concert;
        async move { concert.reserve(client, &labels).await }
    }));
    let answers: Vec<Answer> = answers.await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 2);
    for refused in answers.iter().filter(|answer| answer.status != 200) {
        let problem = refused.refused(409, "PURCHASE_LIMIT_EXCEEDED");
        assert_eq!(problem["details"][0]["max"], 2);
    }
    replica.stop().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_give_one_seat_once() {
    let site = Site::start().await;
    let replica = site.replica_with(&[]).await;
    let concert = Concert::new(&site, [1, 1], None).await;
    let [ann, ben] = [site.buyer().await, replica.buyer().await];
    let mut pause = site.pause("inventory", "hold.before_commit");
    let (first, second) = tokio::join!(concert.reserve(&ann, &["A-1"]), async {
        pause.reached().await;
        let second = tokio::spawn({
            let (ben, wanted) = (ben.clone(), concert.wanted(&["A-1"]));
            async move { ben.post("/reservations", &wanted).await }
        });
        // The other waits for the stock of the seat.
        site.until_waiting(1).await;
        pause.resume();
        second.await.unwrap()
    });
    first.expect(200);
    second.refused(409, "SEAT_ALREADY_RESERVED");
    replica.stop().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seats_are_no_units() {
    let site = Site::start().await;
    let concert = Concert::new(&site, [2, 1], None).await;
    assert_eq!(code(&site.hold_one(&concert.categories[0]).await), "SEATS_REQUIRED");
    site.admin().adjust("k", &concert.categories[0], 1).await.refused(422, "SEATS_REQUIRED");
    let product = site.anyone().get(&format!("/products/{}", concert.categories[0].id)).await.expect(200).json();
    assert_eq!(product["concertId"], concert.id);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_concert_and_its_seats_are_shown() {
    let site = Site::start().await;
    let concert = Concert::new(&site, [2, 1], Some(4)).await;
    let shown = site.anyone().get(&format!("/concerts/{}", concert.id)).await.expect(200).json();
    assert_eq!((&shown["title"], &shown["maxPerUser"]), (&json!("Recital"), &json!(4)));
    assert_eq!(
        (&shown["startsAt"], &shown["queueManageRequired"]),
        (&json!("2030-01-01T10:00:00.000Z"), &json!(false))
    );
    assert_eq!(shown["categories"][0]["stock"]["available"], 2);
    let listed = site.anyone().get("/concerts?limit=1").await.expect(200).json();
    assert_eq!((&listed["items"][0], &listed["nextCursor"]), (&shown, &Value::Null));

    let path = format!("/concerts/{}/seats", concert.id);
    let first = site.anyone().get(&path).await.expect(200);
    let labels: Vec<String> = first.json()["seats"].as_array().unwrap().iter().map(|s| text(&s["label"])).collect();
    assert_eq!(labels, ["A-1", "A-2", "B-1"]);
    let etag = first.header("ETag").unwrap().to_owned();
    let ask = async || {
        let again = site.anyone().request(Method::GET, &path).header("If-None-Match", &etag);
        site.anyone().send(again).await.status.as_u16()
    };
    assert_eq!(ask().await, 304);
    concert.reserve(&site.buyer().await, &["B-1"]).await.expect(200);
    eventually("the seat map changes", async || (ask().await == 200).then_some(())).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_no_pass_reserves_nothing() {
    let queue = FakeQueue::default();
    queue.says(Outcome::Invalid);
    let server = QueueServiceServer::new(queue.clone());
    let site = Site::start_beside(&QUICK, move |host| host.grpc(server)).await;
    let concert = Concert::new(&site, [2, 1], None).await;
    let buyer = site.buyer().await;
    let sale = open_sale(concert.categories.iter().map(|product| product.id.clone()).collect(), guarded());
    site.deliver("inventory", &sale).await;
    let path = format!("/concerts/{}", concert.id);
    eventually("the concert needs a pass", async || {
        (site.anyone().get(&path).await.json()["queueManageRequired"] == true).then_some(())
    })
    .await;
    let with_pass = async |label: &str| {
        let request = buyer.request(Method::POST, "/reservations").header("X-Queue-Token", "pass");
        buyer.send(request.json(&concert.wanted(&[label]))).await
    };
    with_pass("A-1").await.refused(403, "QUEUE_TOKEN_INVALID");
    concert.reserve(&buyer, &["A-1"]).await.refused(403, "QUEUE_TOKEN_REQUIRED");
    assert_eq!(site.number("select count(*) from {inventory}.holds where concert_id is not null").await, 0);
    queue.says(Outcome::Ok);
    let reserved = with_pass("A-1").await.expect(200);
    assert!(reserved.header("x-queue-bypass").is_none());

    queue.is_down();
    with_pass("A-2").await.refused(503, "QUEUE_UNAVAILABLE");
    concert.reserve(&buyer, &["A-2"]).await.refused(503, "QUEUE_UNAVAILABLE");
    // The third failure makes it dead.
    let bypassed = concert.reserve(&buyer, &["A-2"]).await.expect(200);
    assert_eq!(bypassed.header("x-queue-bypass"), Some("true"));
    let noted =
        format!("select count(*) from {{inventory}}.queue_bypasses where reservation_id = '{}'", id_of(&bypassed));
    assert_eq!(site.number(&noted).await, 1, "it is written down");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seats_of_a_concert_with_a_waiting_room_wait_for_a_sale_that_has_one() {
    let queue = FakeQueue::default();
    queue.says(Outcome::Ok);
    let server = QueueServiceServer::new(queue.clone());
    let site = Site::start_beside(&QUICK, move |host| host.grpc(server)).await;
    let concert = Concert::with_waiting_room(&site, [2, 1]).await;
    let shown = site.anyone().get(&format!("/concerts/{}", concert.id)).await.expect(200).json();
    assert_eq!(shown["queueManageRequired"], true);
    let buyer = site.buyer().await;
    let with_pass = async || {
        let request = buyer.request(Method::POST, "/reservations").header("X-Queue-Token", "pass");
        buyer.send(request.json(&concert.wanted(&["A-1"]))).await
    };
    let products = || concert.categories.iter().map(|product| product.id.clone()).collect();
    concert.reserve(&buyer, &["A-1"]).await.refused(409, "EVENT_NOT_OPEN");
    with_pass().await.refused(409, "EVENT_NOT_OPEN");
    queue.is_down();
    concert.reserve(&buyer, &["A-1"]).await.refused(409, "EVENT_NOT_OPEN");
    queue.says(Outcome::Ok);

    site.deliver("inventory", &open_sale(products(), SaleRules::default())).await;
    site.until_number("select count(*) from {inventory}.sale_events", 1).await;
    with_pass().await.refused(409, "EVENT_NOT_OPEN");

    site.deliver("inventory", &open_sale(products(), guarded())).await;
    eventually("the seats are on sale", async || (with_pass().await.status == 200).then_some(())).await;
    concert.reserve(&buyer, &["A-2"]).await.refused(403, "QUEUE_TOKEN_REQUIRED");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_refused_and_changes_nothing() {
    let site = Site::start().await;
    let concert = Concert::new(&site, [2, 1], None).await;
    let other = Concert::new(&site, [1, 1], None).await;
    let (buyer, admin) = (site.buyer().await, site.admin());
    let seat = concert.seat("A-1");
    for (body, status, code) in [
        (json!({ "concertId": concert.id, "seatIds": [] }), 400, "VALIDATION_ERROR"),
        (json!({ "concertId": concert.id, "seatIds": [seat, seat] }), 400, "VALIDATION_ERROR"),
        (json!({ "concertId": concert.id, "seatIds": vec![Uuid::now_v7(); 11] }), 400, "VALIDATION_ERROR"),
        (json!({ "concertId": "one", "seatIds": [seat] }), 400, "VALIDATION_ERROR"),
        (json!({ "concertId": concert.id, "seatIds": [seat], "price": 1 }), 400, "VALIDATION_ERROR"),
        (json!({ "concertId": concert.id, "seatIds": [Uuid::now_v7()] }), 404, "SEAT_NOT_FOUND"),
        (json!({ "concertId": other.id, "seatIds": [seat] }), 404, "SEAT_NOT_FOUND"),
    ] {
        buyer.post("/reservations", &body).await.refused(status, code);
    }
    site.anyone().post("/reservations", &concert.wanted(&["A-1"])).await.refused(401, "UNAUTHORIZED");
    let unknown = Uuid::now_v7();
    site.anyone().get(&format!("/concerts/{unknown}")).await.refused(404, "CONCERT_NOT_FOUND");
    site.anyone().get(&format!("/concerts/{unknown}/seats")).await.refused(404, "CONCERT_NOT_FOUND");
    buyer.get(&format!("/reservations/{unknown}")).await.refused(404, "RESERVATION_NOT_FOUND");

    let bulk = format!("/admin/concerts/{}/seats:bulk", concert.id);
    let twice = json!({ "sku": "x", "name": "x", "price": { "amount": 1, "currency": "KRW" }, "labels": ["Z", "Z"] });
    for (path, body, status, code) in [
        (&bulk, twice, 400, "VALIDATION_ERROR"),
        (&bulk, category("Z", 0, 1), 400, "VALIDATION_ERROR"),
        (&bulk, category("Z", 1, 0), 400, "VALIDATION_ERROR"),
        (&bulk, category("A", 3, 1), 409, "SEAT_ALREADY_EXISTS"),
        (&format!("/admin/concerts/{unknown}/seats:bulk"), category("Z", 1, 1), 404, "CONCERT_NOT_FOUND"),
        (
            &"/admin/concerts".to_owned(),
            json!({ "title": "", "startsAt": "2030-01-01T10:00:00Z" }),
            400,
            "VALIDATION_ERROR",
        ),
        (&"/admin/concerts".to_owned(), json!({ "title": "x", "startsAt": "soon" }), 400, "VALIDATION_ERROR"),
    ] {
        admin.post(path, &body).await.refused(status, code);
    }
    buyer.post(&bulk, &category("Z", 1, 1)).await.refused(403, "FORBIDDEN");
    assert_eq!(site.number("select count(*) from {inventory}.seat").await, 5, "nothing was added");
    assert_eq!(site.number("select count(*) from {inventory}.products").await, 4);
    assert_eq!(site.number("select count(*) from {inventory}.reservation").await, 0);
    site.stop().await;
}
