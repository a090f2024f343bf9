//! What becomes of a reservation: an order, a sale, a late payment, a refund.

use contract::events::{OrderCancelled, OrderPlaced, OrderRefunded};
use contract::inventory::{Hold, HoldState};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;
use testkit::Client;
use uuid::Uuid;

use crate::concert::{Concert, expire, id_of};
use crate::site::{Site, code};

async fn held(site: &Site, order: Uuid, buyer: &Client, reservation: &str) -> Hold {
    site.hold_reserved(order, &buyer.user_id, reservation).await.unwrap().hold.unwrap()
}

fn labels(hold: &Hold) -> Vec<String> {
    hold.lines.iter().flat_map(|line| &line.seats).map(|seat| seat.label.clone()).collect()
}

fn placed(hold: &Hold) -> OrderPlaced {
    let (order_id, hold_id) = (hold.hold_id.clone(), hold.hold_id.clone());
    OrderPlaced { order_id, hold_id, user_id: hold.user_id.clone(), version: 3, ..OrderPlaced::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seat_that_is_being_paid_is_not_taken_over() {
    let site = Site::start().await;
    let concert = Concert::new(&site, [1, 1], None).await;
    let [ann, ben] = [site.buyer().await, site.buyer().await];
    let reservation = id_of(&concert.reserve(&ann, &["A-1"]).await.expect(200));
    let order = held(&site, Uuid::now_v7(), &ann, &reservation).await;
    site.pin(&order.hold_id, Uuid::now_v7()).await.unwrap();
    expire(&site, &order.hold_id).await;
    concert.reserve(&ben, &["A-1"]).await.refused(409, "SEAT_ALREADY_RESERVED");
    concert.shows(&site, "A-1", "HELD").await;
    site.deliver("inventory", &placed(&order)).await;
    concert.shows(&site, "A-1", "SOLD").await;
    concert.reserve(&ben, &["A-1"]).await.refused(409, "SEAT_ALREADY_RESERVED");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_takes_a_reservation_over_once_and_buys_no_time_by_it() {
    let site = Site::start().await;
    let concert = Concert::new(&site, [2, 1], None).await;
    let [ann, ben] = [site.buyer().await, site.buyer().await];
    let reserved = concert.reserve(&ann, &["B-1", "A-2"]).await.expect(200);
    let (reservation, order) = (id_of(&reserved), Uuid::now_v7());
    assert_eq!(code(&site.hold_reserved(order, &ben.user_id, &reservation).await), "RESERVATION_NOT_FOUND");

    let at_once = join_all((0..10).map(|_| site.hold_reserved(order, &ann.user_id, &reservation))).await;
    let at_once: Vec<_> = at_once.into_iter().map(Result::unwrap).collect();
    assert_eq!(at_once.iter().filter(|answer| answer.created).count(), 1);
    let hold = at_once[0].hold.clone().unwrap();
    assert!(at_once.iter().all(|answer| answer.hold.as_ref() == Some(&hold)));
    let mut seats = labels(&hold);
    seats.sort();
    assert_eq!((seats, hold.state()), (vec!["A-2".to_owned(), "B-1".to_owned()], HoldState::Held));
    let ends = format!(
        "select count(*) from {{inventory}}.holds where expires_at =
        (select expires_at from {{inventory}}.holds where hold_id = '{reservation}')"
    );
    assert_eq!(site.number(&ends).await, 2, "the order ends when the reservation would have");

    let read = ann.get(&format!("/reservations/{reservation}")).await.expect(200).json();
    assert_eq!((&read["status"], &read["orderId"]), (&json!("ORDERED"), &json!(order.to_string())));
    assert_eq!(code(&site.hold_reserved(Uuid::now_v7(), &ann.user_id, &reservation).await), "RESERVATION_ORDERED");
    assert_eq!(code(&site.hold_reserved(order, &ann.user_id, &order.to_string()).await), "IDEMPOTENCY_KEY_REUSED");
    let given_back = ann.send(ann.request(Method::DELETE, &format!("/reservations/{reservation}"))).await;
    assert_eq!(given_back.refused(409, "RESERVATION_ORDERED")["details"][0]["orderId"], order.to_string());
    ann.get(&format!("/reservations/{order}")).await.refused(404, "RESERVATION_NOT_FOUND");
    assert_eq!((site.stock(&concert.categories[0]).await, site.stock(&concert.categories[1]).await), ((2, 1), (1, 1)));
    let problem = concert.reserve(&ann, &["A-2", "B-1"]).await.refused(409, "SEAT_ALREADY_RESERVED");
    assert_eq!(problem["detail"], format!("You have a seat of these already, by order {order}."));
    assert_eq!(problem["details"][1]["orderId"], order.to_string());
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seat_comes_back_when_its_reservation_or_its_order_ends() {
    let site = Site::start().await;
    let concert = Concert::new(&site, [1, 1], None).await;
    let [ann, ben] = [site.buyer().await, site.buyer().await];
    let cancel = async |buyer: &Client, id: &str| {
        buyer.send(buyer.request(Method::DELETE, &format!("/reservations/{id}"))).await
    };
    let first = id_of(&concert.reserve(&ann, &["A-1"]).await.expect(200));
    cancel(&ben, &first).await.refused(404, "RESERVATION_NOT_FOUND");
    cancel(&ann, &first).await.expect(204);
    cancel(&ann, &first).await.expect(204);
    let second = id_of(&concert.reserve(&ben, &["A-1"]).await.expect(200));
    let ordered = held(&site, Uuid::now_v7(), &ben, &second).await;
    let cancelled = OrderCancelled {
        order_id: ordered.hold_id.clone(),
        hold_id: ordered.hold_id.clone(),
        version: 2,
        ..OrderCancelled::default()
    };
    site.deliver("inventory", &cancelled).await;
    let third = id_of(&concert.reserve(&ann, &["A-1"]).await.expect(200));
    assert_ne!(third, first);
    let sold = held(&site, Uuid::now_v7(), &ann, &third).await;
    site.deliver("inventory", &placed(&sold)).await;
    concert.reserve(&ben, &["A-1"]).await.refused(409, "SEAT_ALREADY_RESERVED");
    let refunded = OrderRefunded {
        order_id: sold.hold_id.clone(),
        hold_id: sold.hold_id.clone(),
        version: 5,
        ..OrderRefunded::default()
    };
    site.deliver("inventory", &refunded).await;
    concert.shows(&site, "A-1", "AVAILABLE").await;
    concert.reserve(&ben, &["A-1"]).await.expect(200);
    assert_eq!(site.stock(&concert.categories[0]).await, (1, 1));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_payment_gets_its_own_seat_back_or_nothing() {
    let site = Site::start().await;
    let concert = Concert::new(&site, [2, 1], None).await;
    let [ann, ben] = [site.buyer().await, site.buyer().await];
    let mut lapsed = Vec::new();
    for label in ["A-1", "A-2"] {
        let reservation = id_of(&concert.reserve(&ann, &[label]).await.expect(200));
        lapsed.push(held(&site, Uuid::now_v7(), &ann, &reservation).await);
        expire(&site, &lapsed.last().unwrap().hold_id).await;
    }
    // Somebody else has the first seat since; that one more is free is no help.
    concert.reserve(&ben, &["A-1"]).await.expect(200);
    assert_eq!(code(&site.retake(&lapsed[0].hold_id, Uuid::now_v7()).await), "OUT_OF_STOCK");
    site.release(&lapsed[1].hold_id).await.unwrap();
    let retaken = site.retake(&lapsed[1].hold_id, Uuid::now_v7()).await.unwrap();
    assert_eq!((retaken.state(), labels(&retaken)), (HoldState::Pinned, vec!["A-2".to_owned()]));
    concert.reserve(&ben, &["A-2"]).await.refused(409, "SEAT_ALREADY_RESERVED");
    assert_eq!(site.stock(&concert.categories[0]).await, (2, 2));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_payment_takes_a_seat_over_whose_time_is_up() {
    let site = Site::start().await;
    let concert = Concert::new(&site, [1, 1], None).await;
    let [ann, ben] = [site.buyer().await, site.buyer().await];
    let reservation = id_of(&concert.reserve(&ann, &["A-1"]).await.expect(200));
    let lapsed = held(&site, Uuid::now_v7(), &ann, &reservation).await;
    expire(&site, &lapsed.hold_id).await;
    let other = id_of(&concert.reserve(&ben, &["A-1"]).await.expect(200));
    expire(&site, &other).await;
    assert_eq!(site.retake(&lapsed.hold_id, Uuid::now_v7()).await.unwrap().state(), HoldState::Pinned);
    assert_eq!(site.stock(&concert.categories[0]).await, (1, 1));
    assert_eq!(site.get_hold(&other).await.unwrap().state(), HoldState::Expired);
    site.stop().await;
}
