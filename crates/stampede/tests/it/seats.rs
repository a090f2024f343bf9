//! Seats from the line to the receipt: reserved with a pass, ordered, paid, given back.

use reqwest::Method;
use serde_json::json;
use testkit::{Client, Product, Site, eventually, fresh_key, text};

use crate::ledger::{Ledger, Units};
use crate::payer::Payer;
use crate::site::system;

/// A concert of three seats at 90,000 won: its id, its price category and its seats.
async fn concert(site: &Site) -> (String, Product, Vec<String>) {
    let admin = site.admin();
    let new = json!({ "title": "Recital", "startsAt": "2036-01-01T10:00:00Z" });
    let id = text(&admin.post("/admin/concerts", &new).await.expect(201).json()["concertId"]);
    let seats = json!({
        "sku": fresh_key(), "name": "R", "price": { "amount": 90_000, "currency": "KRW" }, "labels": ["A-1", "A-2", "A-3"],
    });
    let added = admin.post(&format!("/admin/concerts/{id}/seats:bulk"), &seats).await.expect(201).json();
    let map = site.anyone().get(&format!("/concerts/{id}/seats")).await.expect(200).json();
    let seats = map["seats"].as_array().expect("a list").iter().map(|seat| text(&seat["seatId"])).collect();
    (id, Product { id: text(&added["productId"]) }, seats)
}

async fn sees_seat(buyer: &Client, concert: &str, seat: usize, status: &str) {
    eventually(&format!("seat {seat} is {status}"), async || {
        let map = buyer.get(&format!("/concerts/{concert}/seats")).await.json();
        (map["seats"][seat]["status"] == status).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seats_are_reserved_with_a_pass_ordered_paid_and_given_back() {
    let site = system().start().await;
    let (concert, product, seats) = concert(&site).await;
    let sale = json!({
        "name": "Recital", "opensAt": "2026-01-01T00:00:00Z", "productIds": [product.id], "queueManageRequired": true,
    });
    let schedule = site.admin().request(Method::POST, "/admin/events").header("Idempotency-Key", fresh_key());
    let event = text(&site.admin().send(schedule.json(&sale)).await.expect(201).json()["eventId"]);
    let buyer = site.buyer().await;
    let wanted = json!({ "concertId": concert, "seatIds": [seats[0], seats[2]] });
    eventually("inventory has heard of the sale", async || {
        let shown = buyer.get(&format!("/concerts/{concert}")).await.json();
        (shown["queueManageRequired"] == true).then_some(())
    })
    .await;
    buyer.post("/reservations", &wanted).await.refused(403, "QUEUE_TOKEN_REQUIRED");
    let pass = eventually("it is the buyer's turn", async || {
        let ticket = buyer.send(buyer.request(Method::POST, &format!("/queues/{event}/tickets"))).await.json();
        ticket["passToken"].as_str().map(str::to_owned)
    })
    .await;
    let reserve = buyer.request(Method::POST, "/reservations").header("X-Queue-Token", &pass).json(&wanted);
    let reserved = buyer.send(reserve).await.expect(200).json();

    // The pass was asked for already.
    let (key, body) = (fresh_key(), json!({ "reservationId": reserved["reservationId"] }));
    let placed = buyer.place(&key, &body).await.expect(201).json();
    assert_eq!(placed["items"][0]["seats"], json!(["A-1", "A-3"]));
    assert_eq!(placed["totals"]["amount"]["amount"], 180_000);
    assert_eq!(placed["holdExpiresAt"], reserved["expiresAt"], "to order buys no time");
    let again = buyer.place(&key, &body).await.expect(201);
    assert!(again.is_replay());
    assert_eq!(again.json(), placed);
    buyer.place(&fresh_key(), &body).await.refused(409, "RESERVATION_ORDERED");
    let units = json!({ "items": [{ "productId": product.id, "quantity": 2 }] });
    buyer.place(&key, &units).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    buyer
        .place(&fresh_key(), &json!({ "items": units["items"], "reservationId": reserved["reservationId"] }))
        .await
        .refused(400, "VALIDATION_ERROR");
    buyer.place(&fresh_key(), &json!({})).await.refused(400, "VALIDATION_ERROR");

    let order = text(&placed["orderId"]);
    let agreed = buyer.agrees_to(&site, &order, 180_000).await;
    buyer.approve(&agreed).await.expect(200);
    buyer.sees_order(&order, "PAID").await;
    sees_seat(&buyer, &concert, 0, "SOLD").await;
    sees_seat(&buyer, &concert, 1, "AVAILABLE").await;
    site.assert_consistent().await;
    assert_eq!(site.units(&product).await, Units { on_hand: 1, held: 0 });
    // Whoever has paid is done with the sale.
    eventually("the pass has ended", async || {
        let more = json!({ "concertId": concert, "seatIds": [seats[1]] });
        let reserve = buyer.request(Method::POST, "/reservations").header("X-Queue-Token", &pass).json(&more);
        let answer = buyer.send(reserve).await;
        if answer.status == 200 {
            let path = format!("/reservations/{}", text(&answer.json()["reservationId"]));
            buyer.send(buyer.request(Method::DELETE, &path)).await.expect(204);
        }
        (answer.status == 403).then_some(())
    })
    .await;

    buyer.post(&format!("/orders/{order}/cancel"), &json!({ "reason": "ill" })).await.expect(202);
    buyer.sees_order(&order, "REFUNDED").await;
    sees_seat(&buyer, &concert, 2, "AVAILABLE").await;
    site.assert_consistent().await;
    assert_eq!(site.units(&product).await, Units { on_hand: 3, held: 0 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coupon_takes_off_what_seats_cost() {
    let site = system().start().await;
    let (concert, _, seats) = concert(&site).await;
    let buyer = site.buyer().await;
    let coupon = json!({
        "name": "10 %", "discount": { "kind": "PERCENT", "value": 10 }, "currency": "KRW", "total": 1,
        "startsAt": "2026-01-01T00:00:00Z", "expiresAt": "2036-01-01T00:00:00Z", "restoredOnRefund": true,
    });
    let create = site.admin().request(Method::POST, "/admin/coupons").header("Idempotency-Key", fresh_key());
    let coupon = text(&site.admin().send(create.json(&coupon)).await.expect(201).json()["couponId"]);
    let issue = buyer.send(buyer.request(Method::POST, &format!("/coupons/{coupon}/issue"))).await.expect(201).json();
    let wanted = json!({ "concertId": concert, "seatIds": [seats[1]] });
    let reserved = buyer.post("/reservations", &wanted).await.expect(200).json();
    let body = json!({ "reservationId": reserved["reservationId"], "couponIssueId": issue["issueId"] });
    let placed = buyer.place(&fresh_key(), &body).await.expect(201).json();
    assert_eq!(placed["totals"]["amount"]["amount"], 81_000);
    buyer.post(&format!("/orders/{}/cancel", text(&placed["orderId"])), &json!({})).await.expect(200);
    // The seat is free again, for whoever comes.
    let other = site.buyer().await;
    eventually("the seat is back", async || (other.post("/reservations", &wanted).await.status == 200).then_some(()))
        .await;
    site.assert_consistent().await;
}
