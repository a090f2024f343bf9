//! What becomes of payments when their order ends or is placed, and what the order's units have to do with it.

use client::fresh_key;
use contract::events::{OrderCancelled, OrderExpired, OrderPlaced};
use serde_json::json;

use crate::shop::{AMOUNT, Shop, approving, charge_points, prepare_by, won};

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_ends_takes_its_unpaid_payments_along_and_none_that_may_have_money() {
    let shop = Shop::start().await;
    let buyer = shop.site.buyer().await;
    for status in ["CANCELLED", "EXPIRED"] {
        let approved = shop.authorised(&buyer, AMOUNT).await;
        let unpaid = shop.authorised_for(&buyer, &approved.order, AMOUNT).await;
        let mut captured = shop.site.pause("payment", "payment.after_answer");
        let answer = approving(&buyer, &approved);
        captured.reached().await;
        let order_id = approved.order.clone();
        match status {
            "CANCELLED" => shop.site.deliver("payment", &OrderCancelled { order_id, ..Default::default() }).await,
            _ => shop.site.deliver("payment", &OrderExpired { order_id, ..Default::default() }).await,
        }
        assert_eq!(shop.status(&unpaid.payment).await, status, "a payment that nothing was taken for ends");
        assert_eq!(shop.status(&approved.payment).await, "APPROVING", "one that may have money is not ended");
        captured.resume();
        answer.await.unwrap().expect(200);
    }
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placed_order_turns_its_points_into_sales_once() {
    let shop = Shop::start().await;
    let (buyer, order) = (shop.site.buyer().await, uuid::Uuid::now_v7().to_string());
    charge_points(&buyer, AMOUNT).await;
    let prepared = prepare_by(&buyer, "POINTS", &fresh_key(), &order, AMOUNT).await.expect(201).json();
    let payment_id = client::text(&prepared["paymentId"]);
    buyer.post(&format!("/payments/{payment_id}/approve"), &json!({ "amount": won(AMOUNT) })).await.expect(200);
    let of = |account: &str| {
        format!("select coalesce(sum(amount), 0)::bigint from {{payment}}.point_entries where account = '{account}'")
    };
    assert_eq!(shop.site.number(&of("ESCROW")).await, AMOUNT, "points are held until the order is placed");
    let event = OrderPlaced { order_id: order, payment_id, ..OrderPlaced::default() };
    // As two events, so that no inbox drops the second.
    for _ in 0..2 {
        shop.site.deliver("payment", &event).await;
        let (held, sold) = (shop.site.number(&of("ESCROW")).await, shop.site.number(&of("SALES")).await);
        assert_eq!((held, sold), (0, AMOUNT), "the points of a placed order are sold for, once");
    }
    shop.stop().await;
}

/// Another payment has paid the order while the provider declined this one.
#[tokio::test(flavor = "multi_thread")]
async fn a_declined_attempt_does_not_release_the_units_of_a_paid_order() {
    let shop = Shop::start().await;
    let buyer = shop.site.buyer().await;
    // The provider declines amounts that end with 0002; see the sandbox's provider.
    let declined = shop.authorised(&buyer, 10_002).await;
    let mut before_provider = shop.site.pause("payment", "payment.after_pin");
    let answer = approving(&buyer, &declined);
    before_provider.reached().await;
    shop.upstreams.set_paid(&declined.order, &uuid::Uuid::now_v7().to_string(), declined.amount);
    before_provider.resume();
    answer.await.unwrap().refused(402, "PAYMENT_DECLINED");
    let calls = shop.upstreams.calls(&declined.order);
    assert_eq!(calls[3..], ["EndApproval"], "the units of a paid order are sold");
    shop.stop().await;
}

/// The units can be had again, and the order cannot: its buyer has cancelled it.
#[tokio::test(flavor = "multi_thread")]
async fn units_that_were_taken_again_for_an_order_that_cannot_be_paid_are_released() {
    let shop = Shop::start().await;
    let buyer = shop.site.buyer().await;
    let authorised = shop.authorised(&buyer, AMOUNT).await;
    let mut captured = shop.site.pause("payment", "payment.after_answer");
    let answer = approving(&buyer, &authorised);
    captured.reached().await;
    shop.upstreams.set(&authorised.order, "CANCELLED");
    captured.resume();
    answer.await.unwrap().expect(200);
    let calls = shop.upstreams.calls(&authorised.order);
    let late = ["MarkPaid", "PinHold", "MarkPaid", "EndApproval", "UnpinHold"];
    assert_eq!(calls[3..], late, "units that nobody gets are released");
    let promised = shop.site.number("select sum(amount)::bigint from {payment}.refunds").await;
    assert_eq!(promised, AMOUNT, "and the money goes back");
    shop.stop().await;
}
