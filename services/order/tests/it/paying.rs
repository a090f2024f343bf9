//! A payment pays an order by a call, and a refund ends it by an event. The order announces each once.

use uuid::Uuid;

use crate::site::{AMOUNT, OrderSite, Placed, code, outcome, payment_refunded};

#[tokio::test(flavor = "multi_thread")]
async fn a_paid_order_is_announced_once_however_often_payment_says_so() {
    let site = OrderSite::start().await;
    let (order, payment) = site.paid_order().await;
    for late in [false, true] {
        let again = site.mark_paid(&order, payment, late).await.unwrap();
        assert_eq!((again.status.as_str(), again.version), ("PAID", 3));
    }
    assert_eq!(site.get(&order).await.version, 3);
    assert_eq!(site.events(&order).await, ["ORDER_CREATED 1", "ORDER_PLACED 3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paid_order_is_announced_with_what_was_bought() {
    let site = OrderSite::start().await;
    let (order, payment) = site.paid_order().await;
    let events = site.events_with_payloads(&order).await;
    let (event, placed) = events.last().unwrap();
    assert_eq!(event, "ORDER_PLACED 3");
    assert_eq!(placed["orderId"], order.id);
    assert_eq!(placed["userId"], order.buyer.user_id);
    assert_eq!(placed["paymentId"], payment.to_string());
    assert_eq!(placed["holdId"], order.id);
    assert_eq!((&placed["amount"], &placed["currency"]), (&AMOUNT.to_string().into(), &"KRW".into()));
    assert_eq!(placed["items"][0]["quantity"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_payment_does_not_pay_a_paid_order() {
    let site = OrderSite::start().await;
    let (order, payment) = site.paid_order().await;
    for late in [false, true] {
        assert_eq!(code(&site.mark_paid(&order, Uuid::now_v7(), late).await), "ORDER_NOT_PAYABLE");
    }
    let stored = site.get(&order).await;
    assert_eq!((stored.version, stored.paid_payment_id), (3, payment.to_string()));
    assert_eq!(site.events(&order).await, ["ORDER_CREATED 1", "ORDER_PLACED 3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_no_order_can_take_changes_nothing() {
    let site = OrderSite::start().await;
    let cancelled = site.order().await;
    site.cancel(&cancelled).await.expect(200);
    let missing = Placed { id: Uuid::now_v7().to_string(), buyer: site.buyer().await };
    for order in [&cancelled, &missing] {
        site.deliver("order", &payment_refunded(order, Uuid::now_v7(), AMOUNT, AMOUNT)).await;
    }
    assert_eq!(site.number("select count(*) from {order}.parked").await, 0, "none of these events is parked");
    assert_eq!(site.events(&cancelled).await, ["ORDER_CREATED 1", "ORDER_CANCELLED 2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_payment_pays_an_expired_order_if_payment_has_taken_its_units_again() {
    let site = OrderSite::start().await;
    let (order, payment) = (site.order().await, Uuid::now_v7());
    site.make_overdue(&[&order]).await;
    assert_eq!(code(&site.mark_paid(&order, payment, false).await), "ORDER_NOT_PAYABLE");
    let paid = site.mark_paid(&order, payment, true).await.unwrap();
    assert_eq!((paid.status.as_str(), paid.version), ("PAID", 2));
    assert_eq!(site.mark_paid(&order, payment, false).await.unwrap().version, 2, "it is paid by this payment");
    assert_eq!(code(&site.mark_paid(&order, Uuid::now_v7(), true).await), "ORDER_NOT_PAYABLE");
    assert_eq!(site.events(&order).await, ["ORDER_CREATED 1", "ORDER_PLACED 2"]);
    assert_eq!(site.read(&order).await["paymentId"], payment.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paid_order_that_is_cancelled_is_refunded() {
    let site = OrderSite::start().await;
    let (order, payment) = site.paid_order().await;
    let first = site.cancel(&order).await;
    assert_eq!(outcome(&first), (202, "REFUND_PENDING".to_owned()));
    assert_eq!(site.cancel(&order).await.expect(202).body, first.body);
    let events = site.events_with_payloads(&order).await;
    let (event, requested) = events.last().unwrap();
    assert_eq!(event, "ORDER_REFUND_REQUESTED 4");
    assert_eq!((&requested["paymentId"], &requested["reason"]), (&payment.to_string().into(), &"too small".into()));

    site.deliver("order", &payment_refunded(&order, payment, 500, 500)).await;
    assert_eq!(site.get(&order).await.status, "REFUND_PENDING", "a partial refund does not end the order");
    site.deliver("order", &payment_refunded(&order, Uuid::now_v7(), AMOUNT, AMOUNT)).await;
    assert_eq!(site.get(&order).await.status, "REFUND_PENDING", "another payment does not end the order");
    for _ in 0..2 {
        site.deliver("order", &payment_refunded(&order, payment, 1500, AMOUNT)).await;
    }
    assert_eq!(site.mark_paid(&order, payment, false).await.unwrap().status, "REFUNDED");
    let events = site.events_with_payloads(&order).await;
    let names: Vec<&str> = events.iter().map(|(event, _)| event.as_str()).collect();
    assert_eq!(names[2..], ["ORDER_REFUND_REQUESTED 4", "ORDER_REFUNDED 5"], "each is announced once");
    let (_, refunded) = events.last().unwrap();
    assert_eq!((&refunded["paymentId"], &refunded["holdId"]), (&payment.to_string().into(), &order.id.clone().into()));
    assert_eq!(refunded["amount"], AMOUNT.to_string());
    assert_eq!(outcome(&site.cancel(&order).await), (200, "REFUNDED".to_owned()));
    assert_eq!(site.events(&order).await.len(), 4);
    assert!(site.inventory.released().is_empty(), "the units of a paid order are sold until ORDER_REFUNDED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_arrives_before_its_payment_is_announced_after_it() {
    let site = OrderSite::start().await;
    let (order, payment) = (site.order().await, Uuid::now_v7());
    site.reserve(&order, payment).await;
    site.deliver("order", &payment_refunded(&order, payment, AMOUNT, AMOUNT)).await;
    assert_eq!(site.mark_paid(&order, payment, false).await.unwrap().status, "REFUNDED");
    assert_eq!(site.events(&order).await, ["ORDER_CREATED 1", "ORDER_PLACED 3", "ORDER_REFUNDED 4"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_was_refunded_first_never_pays_the_order() {
    let site = OrderSite::start().await;
    let (order, payment) = (site.order().await, Uuid::now_v7());
    site.deliver("order", &payment_refunded(&order, payment, AMOUNT, AMOUNT)).await;
    for late in [false, true] {
        assert_eq!(code(&site.mark_paid(&order, payment, late).await), "ORDER_NOT_PAYABLE");
    }
    assert_eq!(code(&site.begin_approval(&order, payment, Uuid::now_v7()).await), "ORDER_NOT_PAYABLE");
    assert_eq!(site.events(&order).await, ["ORDER_CREATED 1"]);
    assert_eq!(site.mark_paid(&order, Uuid::now_v7(), true).await.unwrap().status, "PAID", "another payment may");
}
