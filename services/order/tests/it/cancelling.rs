//! The buyer ends an order, unless somebody is just paying it.

use uuid::Uuid;

use crate::site::{Placed, Site, until};

#[tokio::test(flavor = "multi_thread")]
async fn an_unpaid_order_is_cancelled_once_and_its_hold_given_back() {
    let site = Site::start("cancel").await;
    let order = site.order().await;
    site.begin_payment(&order, Uuid::now_v7()).await.unwrap();
    let first = site.cancel(&order).await;
    assert_eq!(first.outcome(), (200, "CANCELLED".to_owned()));
    assert_eq!(site.cancel(&order).await.text, first.text);
    let strangers = Placed { user: Uuid::now_v7(), ..order.clone() };
    assert_eq!(site.cancel(&strangers).await.outcome(), (404, "ORDER_NOT_FOUND".to_owned()));
    let outbox = site.outbox(&order).await;
    let (what, cancelled) = outbox.last().unwrap();
    assert_eq!((what.as_str(), &cancelled["reason"]), ("ORDER_CANCELLED 3", &"too small".into()));
    until("the hold is given back", async || site.inventory.released.lock().unwrap().contains(&order.id)).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_has_expired_is_not_cancelled() {
    let site = Site::start("gone").await;
    *site.inventory.ttl.lock().unwrap() = std::time::Duration::ZERO;
    let order = site.order().await;
    assert_eq!(site.cancel(&order).await.outcome(), (409, "ORDER_NOT_CANCELLABLE".to_owned()));
    until("it is told", async || site.said(&order).await == ["ORDER_CREATED 1", "ORDER_EXPIRED 2"]).await;
    assert_eq!(site.cancel(&order).await.outcome(), (409, "ORDER_NOT_CANCELLABLE".to_owned()));
    site.stop().await;
}
