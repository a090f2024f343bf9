//! The money is there, or back: said by whoever and however often, it is told once.

use std::time::Duration;

use contract::events::{PaymentApproved, PaymentRefunded};
use futures_util::future::join_all;
use uuid::Uuid;

use crate::site::{AMOUNT, KRW, Placed, Site, code, until};

fn approved(order: &Placed, payment: Uuid) -> PaymentApproved {
    PaymentApproved {
        payment_id: payment.to_string(),
        order_id: order.id.clone(),
        user_id: order.user.to_string(),
        version: 3,
        amount: AMOUNT,
        currency: KRW.to_owned(),
        ..PaymentApproved::default()
    }
}

fn refunded(order: &Placed, payment: Uuid, amount: i64, refunded_total: i64) -> PaymentRefunded {
    PaymentRefunded {
        payment_id: payment.to_string(),
        order_id: order.id.clone(),
        user_id: order.user.to_string(),
        version: 4,
        amount,
        refunded_total,
        captured: AMOUNT,
        currency: KRW.to_owned(),
        ..PaymentRefunded::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_paid_by_call_and_by_event_is_placed_once() {
    let site = Site::start("paid").await;
    let beside = Site::start_beside(&site).await;
    let mut delivered = 0;
    for round in 0..20 {
        let (order, payment) = (site.order().await, Uuid::now_v7());
        site.begin_payment(&order, payment).await.unwrap();
        site.begin(&order, payment, Uuid::now_v7()).await.unwrap();
        let calls = join_all((0..6).map(|number| {
            let door = if number % 2 == 0 { &site } else { &beside };
            door.mark_paid(&order, payment, number % 3 == 0)
        }));
        let event = approved(&order, payment);
        let (paid, ..) = tokio::join!(calls, site.deliver(&event), site.deliver(&event));
        delivered += 2;
        for paid in paid {
            let paid = paid.unwrap();
            assert_eq!((paid.status.as_str(), paid.version), ("PAID", 4), "round {round}");
        }
        assert_eq!(site.said(&order).await, ["ORDER_CREATED 1", "ORDER_PLACED 4"]);
    }
    site.heard(delivered).await;
    assert_eq!(site.told().await["ORDER_PLACED"], 20);
    beside.stop().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_event_alone_pays_an_order() {
    let site = Site::start("event").await;
    let (order, payment) = (site.order().await, Uuid::now_v7());
    site.begin(&order, payment, Uuid::now_v7()).await.unwrap();
    site.deliver(&approved(&order, payment)).await;
    until("it is paid", async || site.get(&order).await.status == "PAID").await;

    let outbox = site.outbox(&order).await;
    let (what, placed) = outbox.last().unwrap();
    assert_eq!(what, "ORDER_PLACED 3");
    assert_eq!(placed["orderId"], order.id);
    assert_eq!(placed["userId"], order.user.to_string());
    assert_eq!(placed["paymentId"], payment.to_string());
    assert_eq!(placed["holdId"], order.id);
    assert_eq!((&placed["amount"], &placed["currency"]), (&AMOUNT.to_string().into(), &KRW.into()));
    assert_eq!(placed["items"][0]["quantity"], 2);

    // Another payment's money is not for this order, whoever says so.
    assert_eq!(code(&site.mark_paid(&order, Uuid::now_v7(), true).await), "ORDER_NOT_PAYABLE");
    site.deliver(&approved(&order, Uuid::now_v7())).await;
    site.heard(2).await;
    assert_eq!(site.said(&order).await.len(), 2);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn money_that_no_order_can_take_changes_nothing() {
    let site = Site::start("stray").await;
    let cancelled = site.order().await;
    assert_eq!(site.cancel(&cancelled).await.status, 200);
    let dear = site.order().await;
    let nobodys = Placed { id: Uuid::now_v7().to_string(), user: Uuid::now_v7() };
    for order in [&cancelled, &nobodys] {
        site.deliver(&approved(order, Uuid::now_v7())).await;
        site.deliver(&refunded(order, Uuid::now_v7(), AMOUNT, AMOUNT)).await;
    }
    site.deliver(&PaymentApproved { amount: AMOUNT - 1, ..approved(&dear, Uuid::now_v7()) }).await;
    site.heard(5).await;
    assert_eq!(site.said(&cancelled).await, ["ORDER_CREATED 1", "ORDER_CANCELLED 2"]);
    assert_eq!(site.said(&dear).await, ["ORDER_CREATED 1"]);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn money_that_came_too_late_pays_an_expired_order_if_its_units_were_taken_again() {
    let site = Site::start("late").await;
    *site.inventory.ttl.lock().unwrap() = Duration::from_millis(50);
    let (order, payment) = (site.order().await, Uuid::now_v7());
    until("it has expired", async || site.said(&order).await.len() == 2).await;
    assert_eq!(code(&site.mark_paid(&order, payment, false).await), "ORDER_NOT_PAYABLE");
    let paid = site.mark_paid(&order, payment, true).await.unwrap();
    assert_eq!((paid.status.as_str(), paid.version), ("PAID", 3));
    assert_eq!(site.mark_paid(&order, payment, false).await.unwrap().version, 3);
    assert_eq!(code(&site.mark_paid(&order, Uuid::now_v7(), true).await), "ORDER_NOT_PAYABLE");
    assert_eq!(site.said(&order).await, ["ORDER_CREATED 1", "ORDER_EXPIRED 2", "ORDER_PLACED 3"]);
    assert_eq!(site.read(&order).await["paymentId"], payment.to_string());
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paid_order_that_is_cancelled_gets_its_money_back() {
    let site = Site::start("refund").await;
    let (order, payment) = (site.order().await, Uuid::now_v7());
    site.begin(&order, payment, Uuid::now_v7()).await.unwrap();
    site.mark_paid(&order, payment, false).await.unwrap();
    let first = site.cancel(&order).await;
    assert_eq!(first.outcome(), (202, "REFUND_PENDING".to_owned()));
    let again = site.cancel(&order).await;
    assert_eq!((again.status.as_u16(), again.text), (202, first.text));
    assert!(site.inventory.released.lock().unwrap().is_empty(), "the units are sold until the money is back");
    let outbox = site.outbox(&order).await;
    let (what, requested) = outbox.last().unwrap();
    assert_eq!(what, "ORDER_REFUND_REQUESTED 4");
    assert_eq!(requested["paymentId"], payment.to_string());
    assert_eq!(requested["reason"], "too small");

    site.deliver(&refunded(&order, payment, 500, 500)).await;
    site.deliver(&refunded(&order, Uuid::now_v7(), AMOUNT, AMOUNT)).await;
    site.heard(2).await;
    assert_eq!(
        site.get(&order).await.status,
        "REFUND_PENDING",
        "a part of the money, and the money of another payment"
    );

    site.deliver(&refunded(&order, payment, 1500, AMOUNT)).await;
    site.deliver(&refunded(&order, payment, 1500, AMOUNT)).await;
    site.deliver(&approved(&order, payment)).await;
    site.heard(5).await;
    let said = site.said(&order).await;
    assert_eq!(said[2..], ["ORDER_REFUND_REQUESTED 4", "ORDER_REFUNDED 5"]);
    let (_, event) = site.outbox(&order).await.pop().unwrap();
    assert_eq!((&event["paymentId"], &event["holdId"]), (&payment.to_string().into(), &order.id.clone().into()));
    assert_eq!(event["amount"], AMOUNT.to_string());
    assert_eq!(site.cancel(&order).await.outcome(), (200, "REFUNDED".to_owned()));
    assert_eq!(site.said(&order).await.len(), 4);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_overtakes_its_payment_is_told_after_it() {
    let site = Site::start("early").await;
    let (order, payment) = (site.order().await, Uuid::now_v7());
    site.begin(&order, payment, Uuid::now_v7()).await.unwrap();
    site.deliver(&refunded(&order, payment, AMOUNT, AMOUNT)).await;
    site.heard(1).await;
    site.deliver(&approved(&order, payment)).await;
    site.heard(2).await;
    assert_eq!(site.mark_paid(&order, payment, false).await.unwrap().status, "REFUNDED");
    assert_eq!(site.said(&order).await, ["ORDER_CREATED 1", "ORDER_PLACED 3", "ORDER_REFUNDED 4"]);
    site.stop().await;
}
