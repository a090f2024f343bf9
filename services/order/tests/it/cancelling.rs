//! Cancelling an order that is not paid. What becomes of a paid one is in `paying.rs`.

use common::auth::Role;
use uuid::Uuid;

use crate::site::{OrderSite, Placed, outcome, soon};

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_an_unpaid_order_releases_its_hold_and_is_announced_once() {
    let site = OrderSite::start().await;
    let order = site.order().await;
    site.begin_payment(&order, Uuid::now_v7()).await.unwrap();
    let stranger = Placed { buyer: site.user(Uuid::now_v7(), Role::User), ..order.clone() };
    site.cancel(&stranger).await.refused(404, "ORDER_NOT_FOUND");

    let first = site.cancel(&order).await;
    assert_eq!(outcome(&first), (200, "CANCELLED".to_owned()));
    let events = site.events_with_payloads(&order).await;
    let (event, payload) = events.last().unwrap();
    assert_eq!(event, "ORDER_CANCELLED 3", "this event releases the hold, whatever happens to the call");
    assert_eq!((&payload["holdId"], &payload["reason"]), (&order.id.clone().into(), &"too small".into()));
    soon("cancelling releases the hold without waiting for the event", site.inventory.until_released(&order.id)).await;

    assert_eq!(site.cancel(&order).await.expect(200).body, first.body);
    assert_eq!(site.events(&order).await.len(), 2, "cancelling again announces nothing");
}
