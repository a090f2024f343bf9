//! Two requests that exclude each other, in each of their two orders: one waits with its change written and not
//! committed while the other comes, and then both go on.

use uuid::Uuid;

use crate::site::{OrderSite, SWEEP, code, outcome, soon};

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_being_reserved_is_not_cancelled() {
    let site = OrderSite::start().await;
    let order = site.order().await;
    let reserve = site.begin_approval(&order, Uuid::now_v7(), Uuid::now_v7());
    let (reserved, cancelled) = site.overlapping("change_order.before_commit", reserve, site.cancel(&order)).await;
    assert_eq!(code(&reserved), "OK");
    assert_eq!(outcome(&cancelled), (409, "PAYMENT_IN_PROGRESS".to_owned()));
    let stored = site.get(&order).await;
    assert_eq!((stored.status.as_str(), stored.version), ("CREATED", 2));
    assert_eq!(site.events(&order).await, ["ORDER_CREATED 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_being_cancelled_is_not_reserved() {
    let site = OrderSite::start().await;
    let order = site.order().await;
    let reserve = site.begin_approval(&order, Uuid::now_v7(), Uuid::now_v7());
    let (cancelled, reserved) = site.overlapping("change_order.before_commit", site.cancel(&order), reserve).await;
    assert_eq!(outcome(&cancelled), (200, "CANCELLED".to_owned()));
    assert_eq!(code(&reserved), "ORDER_NOT_PAYABLE");
    assert_eq!(site.events(&order).await, ["ORDER_CREATED 1", "ORDER_CANCELLED 2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_attempts_at_once_one_reserves_the_order() {
    let site = OrderSite::start().await;
    let order = site.order().await;
    let attempts = [Uuid::now_v7(), Uuid::now_v7()];
    let [first, second] = attempts.map(|attempt| site.begin_approval(&order, Uuid::now_v7(), attempt));
    let (first, second) = site.overlapping("change_order.before_commit", first, second).await;
    assert_eq!((code(&first), code(&second)), ("OK".to_owned(), "PAYMENT_IN_PROGRESS".to_owned()));
    let reserved = format!(
        "select count(*) from {{order}}.orders where id = '{}' and version = 2 and approving_attempt_id = '{}'",
        order.id, attempts[0]
    );
    assert_eq!(site.number(&reserved).await, 1, "the order is reserved for the first attempt");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_being_paid_is_refunded_when_it_is_cancelled() {
    let site = OrderSite::start().await;
    let (order, payment) = (site.order().await, Uuid::now_v7());
    site.reserve(&order, payment).await;
    let pay = site.mark_paid(&order, payment, false);
    let (paid, cancelled) = site.overlapping("change_order.before_commit", pay, site.cancel(&order)).await;
    assert_eq!(paid.unwrap().status, "PAID");
    assert_eq!(outcome(&cancelled), (202, "REFUND_PENDING".to_owned()));
    let events = ["ORDER_CREATED 1", "ORDER_PLACED 3", "ORDER_REFUND_REQUESTED 4"];
    assert_eq!(site.events(&order).await, events);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_being_cancelled_is_not_paid() {
    let site = OrderSite::start().await;
    let order = site.order().await;
    let pay = site.mark_paid(&order, Uuid::now_v7(), true);
    let (cancelled, paid) = site.overlapping("change_order.before_commit", site.cancel(&order), pay).await;
    assert_eq!(outcome(&cancelled), (200, "CANCELLED".to_owned()));
    assert_eq!(code(&paid), "ORDER_NOT_PAYABLE");
    assert_eq!(site.events(&order).await, ["ORDER_CREATED 1", "ORDER_CANCELLED 2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_payments_at_once_one_pays_the_order() {
    let site = OrderSite::start().await;
    let (order, payments) = (site.order().await, [Uuid::now_v7(), Uuid::now_v7()]);
    let [first, second] = payments.map(|payment| site.mark_paid(&order, payment, true));
    let (first, second) = site.overlapping("change_order.before_commit", first, second).await;
    assert_eq!((code(&first), code(&second)), ("OK".to_owned(), "ORDER_NOT_PAYABLE".to_owned()));
    assert_eq!(site.get(&order).await.paid_payment_id, payments[0].to_string());
    assert_eq!(site.events(&order).await, ["ORDER_CREATED 1", "ORDER_PLACED 2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_calls_of_one_payment_at_once_both_find_the_order_paid() {
    let site = OrderSite::start().await;
    let (order, payment) = (site.order().await, Uuid::now_v7());
    site.reserve(&order, payment).await;
    let [first, second] = [false, true].map(|late| site.mark_paid(&order, payment, late));
    let (first, second) = site.overlapping("change_order.before_commit", first, second).await;
    for paid in [first, second] {
        let paid = paid.unwrap();
        assert_eq!((paid.status.as_str(), paid.version), ("PAID", 3));
    }
    assert_eq!(site.events(&order).await, ["ORDER_CREATED 1", "ORDER_PLACED 3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_expiring_is_not_reserved() {
    let site = OrderSite::start_with(&SWEEP).await;
    let order = site.order().await;
    let reserve = site.begin_approval(&order, Uuid::now_v7(), Uuid::now_v7());
    let (_, reserved) = site.overlapping("expire_orders.before_commit", site.make_overdue(&[&order]), reserve).await;
    assert_eq!(code(&reserved), "HOLD_EXPIRED");
    assert_eq!(site.events(&order).await, ["ORDER_CREATED 1", "ORDER_EXPIRED 2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_payment_pays_an_order_that_is_expiring() {
    let site = OrderSite::start_with(&SWEEP).await;
    let (order, payment) = (site.order().await, Uuid::now_v7());
    let pay = site.mark_paid(&order, payment, true);
    let (_, paid) = site.overlapping("expire_orders.before_commit", site.make_overdue(&[&order]), pay).await;
    assert_eq!(paid.unwrap().status, "PAID");
    assert_eq!(site.events(&order).await, ["ORDER_CREATED 1", "ORDER_EXPIRED 2", "ORDER_PLACED 3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_being_paid_does_not_expire_and_does_not_stop_the_sweep() {
    let site = OrderSite::start().await;
    let (order, payment) = (site.order().await, Uuid::now_v7());
    site.make_overdue(&[&order]).await;
    let mut paused = site.pause("order", "change_order.before_commit");
    let sweep = async {
        soon("the payment writes its change", paused.reached()).await;
        let sweeping = site.replica(&[("order.expire_sweep_ms", "10")]).await;
        sweeping.until_swept("the sweep does not wait for an order that is being changed").await;
        paused.resume();
        sweeping
    };
    let (paid, sweeping) = tokio::join!(site.mark_paid(&order, payment, true), sweep);
    assert_eq!(paid.unwrap().status, "PAID");
    sweeping.until_swept("the sweep goes on").await;
    assert_eq!(site.events(&order).await, ["ORDER_CREATED 1", "ORDER_PLACED 2"]);
}
