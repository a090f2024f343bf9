//! Orders that nobody paid in time. No test waits for the time: it moves it.

use chrono::{TimeDelta, Utc};
use uuid::Uuid;

use crate::site::{NO_SWEEP, OrderSite, SWEEP, code, hold_expires_at, outcome};

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_time_is_up_is_expired_for_everybody_before_the_sweep_has_stored_it() {
    let site = OrderSite::start_with(&NO_SWEEP).await;
    let order = site.order().await;
    site.make_overdue(&[&order]).await;
    assert_eq!(site.read(&order).await["status"], "EXPIRED");
    assert_eq!(site.get(&order).await.status, "EXPIRED");
    assert_eq!(site.listed(&order.buyer, "EXPIRED").await, [order.id.as_str()]);
    assert!(site.listed(&order.buyer, "CREATED").await.is_empty());
    assert_eq!(outcome(&site.cancel(&order).await), (409, "ORDER_NOT_CANCELLABLE".to_owned()));
    assert_eq!(code(&site.begin_approval(&order, Uuid::now_v7(), Uuid::now_v7()).await), "HOLD_EXPIRED");
    assert_eq!(site.events(&order).await, ["ORDER_CREATED 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweep_expires_an_order_whose_time_is_up_and_no_other() {
    let site = OrderSite::start_with(&SWEEP).await;
    let overdue = site.order().await;
    let [reserved, early] = [site.order_of(&overdue.buyer).await, site.order_of(&overdue.buyer).await];
    site.reserve(&reserved, Uuid::now_v7()).await;
    let soon = "update {order}.orders set hold_expires_at = now() + interval '20 seconds' where id";
    site.execute(&format!("{soon} = '{}'", early.id)).await;
    site.make_overdue(&[&reserved]).await;
    site.make_overdue(&[&overdue]).await;
    site.until_expired(&overdue, "a reserved order does not keep the sweep from expiring others").await;

    assert_eq!(site.events(&overdue).await, ["ORDER_CREATED 1", "ORDER_EXPIRED 2"]);
    assert_eq!(site.listed(&overdue.buyer, "EXPIRED").await, [overdue.id.as_str()]);
    assert_eq!(outcome(&site.cancel(&overdue).await), (409, "ORDER_NOT_CANCELLABLE".to_owned()));
    for (order, why) in [(&reserved, "it is reserved for a payment"), (&early, "its time is not up")] {
        assert_eq!(site.get(order).await.status, "CREATED", "{why}");
        assert_eq!(site.events(order).await, ["ORDER_CREATED 1"], "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reserved_order_stays_open_until_its_attempt_ends() {
    let site = OrderSite::start_with(&SWEEP).await;
    let (order, payment) = (site.order().await, Uuid::now_v7());
    site.begin_payment(&order, payment).await.unwrap();
    let attempt = site.reserve(&order, payment).await;
    site.make_overdue(&[&order]).await;
    site.until_swept("a reserved order does not keep the sweep from expiring others").await;
    assert_eq!(site.read(&order).await["status"], "PENDING_PAYMENT");
    assert_eq!(site.listed(&order.buyer, "PENDING_PAYMENT").await, [order.id.as_str()]);
    assert_eq!(outcome(&site.cancel(&order).await), (409, "PAYMENT_IN_PROGRESS".to_owned()));

    // The attempt fails, and there is time for another one.
    let more_time = Utc::now() + TimeDelta::minutes(1);
    let freed = site.end_approval(&order, attempt, Some(more_time)).await.unwrap();
    assert_eq!(freed.status, "PENDING_PAYMENT");
    assert_eq!(hold_expires_at(&freed).timestamp_micros(), more_time.timestamp_micros());
    let again = site.reserve(&order, payment).await;
    let kept = site.end_approval(&order, again, Some(Utc::now())).await.unwrap();
    assert_eq!(hold_expires_at(&kept), hold_expires_at(&freed), "time is added, never taken away");

    // The next attempt fails after the time is up, and there is no time for another one.
    let last = site.reserve(&order, payment).await;
    site.make_overdue(&[&order]).await;
    assert_eq!(site.end_approval(&order, last, None).await.unwrap().status, "EXPIRED");
    site.until_expired(&order, "an order expires when its last attempt ends after its time").await;
    assert_eq!(site.events(&order).await, ["ORDER_CREATED 1", "ORDER_EXPIRED 9"]);
}
