//! Money goes back once, never more than was taken, and not by everybody.

use client::fresh_key;
use contract::codes::OUT_OF_STOCK;
use contract::events::OrderRefundRequested;
use serde_json::json;

use crate::shop::{AMOUNT, Shop, approving, cancel};

/// The provider has refunded, and nobody has recorded it, when the loop sends the refund again.
#[tokio::test(flavor = "multi_thread")]
async fn a_refund_is_sent_under_one_key_however_often_it_is_tried() {
    let shop = Shop::start().await;
    let (buyer, admin) = (shop.site.buyer().await, shop.site.admin());
    let paid = shop.paid(&buyer, AMOUNT).await;
    let mut refunded = shop.site.pause("payment", "payment.after_refund");
    let payment = paid.payment.clone();
    let slow = tokio::spawn(async move { cancel(&admin, &fresh_key(), &payment, Some(400)).await });
    refunded.reached().await;
    assert_eq!(shop.at_provider(&paid.payment).await, (AMOUNT, 400));
    shop.site.execute("update {payment}.refunds set ask_at = now()").await;
    shop.site.until_number("select count(*) from {payment}.refunds where status = 'SUCCEEDED' and asked = 1", 1).await;
    assert_eq!(shop.at_provider(&paid.payment).await, (AMOUNT, 400), "the provider refunds once under one key");
    refunded.resume();
    let answer = slow.await.unwrap().expect(200).json();
    assert_eq!((&answer["status"], &answer["refunded"]["amount"]), (&json!("PARTIALLY_REFUNDED"), &json!(400)));
    assert_eq!(shop.count(&paid.payment, "refunded = 400").await, 1, "a refund is recorded once");
    shop.stop().await;
}

/// Both requests wait for the payment's row, so that the second one decides when the first one has committed.
#[tokio::test(flavor = "multi_thread")]
async fn two_refunds_at_once_never_exceed_what_was_captured() {
    let shop = Shop::start().await;
    let (buyer, admin) = (shop.site.buyer().await, shop.site.admin());
    let paid = shop.paid(&buyer, AMOUNT).await;
    let lock = format!("select from {{payment}}.payments where id = '{}' for update", paid.payment);
    let lock = shop.site.begin(&lock).await;
    let mut refunds = Vec::new();
    for amount in [600, 700] {
        let (admin, payment) = (admin.clone(), paid.payment.clone());
        refunds.push(tokio::spawn(async move { cancel(&admin, &fresh_key(), &payment, Some(amount)).await }));
        // A transaction that waits takes nobody in, so each refund has one of its own.
        shop.site.until_blocked("payment", refunds.len() as i64).await;
    }
    assert!(refunds.iter().all(|refund| !refund.is_finished()));
    lock.commit().await;
    let mut statuses = Vec::new();
    for refund in refunds {
        statuses.push(refund.await.unwrap().status.as_u16());
    }
    statuses.sort();
    assert_eq!(statuses, [200, 409], "one of the two fits into what is left");
    let promised = "select sum(amount)::bigint from {payment}.refunds where status <> 'FAILED'";
    assert!(shop.site.number(promised).await <= AMOUNT, "no more is refunded than was captured");
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_administrators_refund_a_part_and_a_key_is_one_refund() {
    let shop = Shop::start().await;
    let (buyer, admin) = (shop.site.buyer().await, shop.site.admin());
    let paid = shop.paid(&buyer, AMOUNT).await;
    cancel(&buyer, &fresh_key(), &paid.payment, Some(1)).await.refused(403, "FORBIDDEN");
    let key = fresh_key();
    let first = cancel(&admin, &key, &paid.payment, Some(400)).await.expect(200);
    assert_eq!(first.json()["status"], "PARTIALLY_REFUNDED", "{first}");
    let again = cancel(&admin, &key, &paid.payment, Some(400)).await.expect(200);
    assert_eq!((again.is_replay(), &again.json()["refunded"]["amount"]), (true, &json!(400)));
    cancel(&admin, &key, &paid.payment, Some(500)).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    let refused = cancel(&admin, &fresh_key(), &paid.payment, Some(601)).await;
    assert_eq!(refused.refused(409, "REFUND_EXCEEDS_CAPTURED")["details"][0]["available"], 600);
    let rest = cancel(&buyer, &fresh_key(), &paid.payment, None).await.expect(200).json();
    assert_eq!((&rest["status"], &rest["refund"]["amount"]["amount"]), (&json!("REFUNDED"), &json!(600)));
    assert_eq!(shop.at_provider(&paid.payment).await, (AMOUNT, AMOUNT));
    shop.stop().await;
}

/// An administrator has given a part back; what is left is the measure, not what was paid once.
#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_gets_back_what_is_left_by_its_amount() {
    let shop = Shop::start().await;
    let (buyer, admin) = (shop.site.buyer().await, shop.site.admin());
    let paid = shop.paid(&buyer, AMOUNT).await;
    cancel(&admin, &fresh_key(), &paid.payment, Some(400)).await.expect(200);
    let all = cancel(&buyer, &fresh_key(), &paid.payment, Some(AMOUNT)).await;
    assert_eq!(all.refused(409, "REFUND_EXCEEDS_CAPTURED")["details"][0]["available"], 600);
    let part = cancel(&buyer, &fresh_key(), &paid.payment, Some(599)).await;
    assert_eq!(part.refused(403, "FORBIDDEN")["details"][0]["available"], 600);
    let key = fresh_key();
    let rest = cancel(&buyer, &key, &paid.payment, Some(600)).await.expect(200).json();
    assert_eq!((&rest["status"], &rest["refund"]["amount"]["amount"]), (&json!("REFUNDED"), &json!(600)));
    assert!(cancel(&buyer, &key, &paid.payment, Some(600)).await.expect(200).is_replay());
    assert_eq!(shop.at_provider(&paid.payment).await, (AMOUNT, AMOUNT));
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_order_is_refunded_once_however_often_it_is_announced() {
    let shop = Shop::start().await;
    let paid = shop.paid(&shop.site.buyer().await, AMOUNT).await;
    let event = OrderRefundRequested {
        order_id: paid.order.clone(),
        payment_id: paid.payment.clone(),
        reason: "changed my mind".to_owned(),
        ..OrderRefundRequested::default()
    };
    // As two events, so that no inbox drops the second.
    for _ in 0..2 {
        shop.site.deliver("payment", &event).await;
    }
    assert_eq!(shop.site.number("select count(*) from {payment}.refunds").await, 1, "one order, one refund");
    shop.until_status(&paid.payment, "REFUNDED").await;
    assert_eq!(shop.at_provider(&paid.payment).await, (AMOUNT, AMOUNT));
    shop.stop().await;
}

/// The money arrives after the order has expired, and its units are sold to somebody else.
#[tokio::test(flavor = "multi_thread")]
async fn money_that_pays_no_order_is_refunded() {
    let shop = Shop::start().await;
    let buyer = shop.site.buyer().await;
    let authorised = shop.authorised(&buyer, AMOUNT).await;
    let mut captured = shop.site.pause("payment", "payment.after_answer");
    let answer = approving(&buyer, &authorised);
    captured.reached().await;
    shop.upstreams.set(&authorised.order, "EXPIRED");
    shop.upstreams.refuse("PinHold", OUT_OF_STOCK);
    captured.resume();
    let told = answer.await.unwrap().expect(200).json();
    assert!(told.get("orderStatus").is_none(), "nobody is told that the order is paid: {told}");
    shop.until_status(&authorised.payment, "REFUNDED").await;
    assert_eq!(shop.at_provider(&authorised.payment).await, (AMOUNT, AMOUNT));
    assert_eq!(shop.upstreams.status(&authorised.order), "EXPIRED");
    shop.stop().await;
}

/// The same, but the units can still be had.
#[tokio::test(flavor = "multi_thread")]
async fn late_money_pays_an_expired_order_whose_units_are_still_there() {
    let shop = Shop::start().await;
    let buyer = shop.site.buyer().await;
    let authorised = shop.authorised(&buyer, AMOUNT).await;
    let mut captured = shop.site.pause("payment", "payment.after_answer");
    let answer = approving(&buyer, &authorised);
    captured.reached().await;
    shop.upstreams.set(&authorised.order, "EXPIRED");
    captured.resume();
    assert_eq!(answer.await.unwrap().expect(200).json()["orderStatus"], "PAID");
    assert_eq!(shop.upstreams.status(&authorised.order), "PAID");
    assert_eq!(shop.site.number("select count(*) from {payment}.refunds").await, 0);
    shop.stop().await;
}

/// An order that has not heard of the money would ignore its refund, and be paid with it afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn no_money_goes_back_before_its_order_is_told_that_it_is_paid() {
    let shop = Shop::start().await;
    let buyer = shop.site.buyer().await;
    let authorised = shop.authorised(&buyer, AMOUNT).await;
    let mut recorded = shop.site.pause("payment", "payment.after_record");
    let answer = approving(&buyer, &authorised);
    recorded.reached().await;
    shop.upstreams.refuse("MarkPaid", contract::codes::CONCURRENT_MODIFICATION);
    cancel(&buyer, &fresh_key(), &authorised.payment, None).await.refused(409, "PAYMENT_IN_PROGRESS");
    assert_eq!(shop.at_provider(&authorised.payment).await, (AMOUNT, 0));
    recorded.resume();
    let told = answer.await.unwrap().expect(200).json();
    assert!(told.get("orderStatus").is_none(), "{told}");
    shop.stop().await;
}
