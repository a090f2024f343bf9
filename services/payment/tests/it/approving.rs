//! The money is taken once, for the right buyer, and not before somebody knows that it may have been taken.

use common::auth::Role;
use contract::codes::HOLD_EXPIRED;
use serde_json::json;
use uuid::Uuid;

use crate::shop::{AMOUNT, Shop, approve, approving, cancel, charge_points, won};

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_is_committed_and_reserved_before_the_provider_is_asked() {
    let shop = Shop::start().await;
    let buyer = shop.site.buyer().await;
    let authorised = shop.authorised(&buyer, AMOUNT).await;
    let mut before_provider = shop.site.pause("payment", "payment.after_pin");
    let answer = approving(&buyer, &authorised);
    before_provider.reached().await;
    let started = "select count(*) from {payment}.payment_attempt where status = 'STARTED'";
    assert_eq!(shop.site.number(started).await, 1, "the attempt is committed before the provider is asked");
    assert_eq!(shop.status(&authorised.payment).await, "APPROVING");
    let mut calls = shop.upstreams.calls(&authorised.order);
    // Order and hold are reserved at once.
    calls[1..].sort();
    assert_eq!(calls, ["BeginPayment", "BeginApproval", "PinHold"]);
    assert_eq!(shop.at_provider(&authorised.payment).await, (0, 0), "the provider is not asked yet");
    before_provider.resume();
    let paid = answer.await.unwrap().expect(200).json();
    assert_eq!((&paid["status"], &paid["orderStatus"]), (&json!("PAID"), &json!("PAID")), "{paid}");
    assert_eq!(shop.at_provider(&authorised.payment).await, (AMOUNT, 0));
    assert_eq!(shop.upstreams.status(&authorised.order), "PAID");
    assert_eq!(
        approve(&buyer, &authorised).await.expect(200).json()["status"],
        "PAID",
        "a repeat gets the same answer"
    );
    assert_eq!(shop.at_provider(&authorised.payment).await, (AMOUNT, 0), "and takes nothing again");
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_is_unknown_and_not_failed_while_the_provider_is_silent() {
    // The client is told at once to come back, and the resolver does not ask while this test lasts.
    let shop = Shop::start_with(&[("payment.approve_wait_ms", "1"), ("payment.resolve_poll_ms", "600000")]).await;
    let buyer = shop.site.buyer().await;
    let authorised = shop.authorised(&buyer, AMOUNT).await;
    let mut before_provider = shop.site.pause("payment", "payment.after_pin");
    let told = approve(&buyer, &authorised).await;
    before_provider.reached().await;
    assert_eq!((told.status.as_u16(), &told.json()["status"]), (202, &json!("UNKNOWN")), "silence is no outcome");
    assert_eq!(approve(&buyer, &authorised).await.expect(202).json()["status"], "UNKNOWN");
    let released = shop.upstreams.calls(&authorised.order);
    assert!(
        !released.contains(&"EndApproval") && !released.contains(&"UnpinHold"),
        "nothing is released: {released:?}"
    );
    before_provider.resume();
    shop.until_status(&authorised.payment, "PAID").await;
    assert_eq!(shop.at_provider(&authorised.payment).await, (AMOUNT, 0));
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_buyer_sees_approves_or_cancels_a_payment() {
    let shop = Shop::start().await;
    let (buyer, stranger) = (shop.site.buyer().await, shop.site.buyer().await);
    let authorised = shop.authorised(&buyer, AMOUNT).await;
    let payment = &authorised.payment;
    let before = shop.site.everything().await;
    approve(&stranger, &authorised).await.refused(404, "PAYMENT_NOT_FOUND");
    approve(&shop.site.admin(), &authorised).await.refused(404, "PAYMENT_NOT_FOUND");
    approve(&shop.site.anyone(), &authorised).await.refused(401, "UNAUTHORIZED");
    cancel(&stranger, &client::fresh_key(), payment, None).await.refused(404, "PAYMENT_NOT_FOUND");
    stranger.get(&format!("/payments/{payment}")).await.refused(404, "PAYMENT_NOT_FOUND");
    stranger.get(&format!("/payments/{payment}/attempts")).await.refused(404, "PAYMENT_NOT_FOUND");
    let listed = stranger.get(&format!("/orders/{}/payments", authorised.order)).await.expect(200).json();
    assert_eq!(listed["items"], json!([]));
    assert_eq!(shop.site.everything().await, before, "a stranger changes nothing");
    assert_eq!(shop.at_provider(payment).await, (0, 0), "a stranger takes no money");
    approve(&buyer, &authorised).await.expect(200);
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_amount_or_a_missing_authorisation_takes_nothing() {
    let shop = Shop::start().await;
    let buyer = shop.site.buyer().await;
    let authorised = shop.authorised(&buyer, AMOUNT).await;
    let path = format!("/payments/{}/approve", authorised.payment);
    for amount in [1, AMOUNT - 1, AMOUNT + 1, i64::MAX] {
        let body = json!({ "pgPaymentId": authorised.pg_payment, "amount": won(amount) });
        buyer.post(&path, &body).await.refused(422, "AMOUNT_MISMATCH");
    }
    buyer.post(&path, &json!({ "amount": won(AMOUNT) })).await.refused(400, "VALIDATION_ERROR");
    assert_eq!(shop.at_provider(&authorised.payment).await, (0, 0));
    assert_eq!(shop.site.number("select count(*) from {payment}.payment_attempt").await, 0);
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_payment_of_an_order_is_approved_at_a_time() {
    let shop = Shop::start().await;
    let (buyer, order) = (shop.site.buyer().await, Uuid::now_v7().to_string());
    let first = shop.authorised_for(&buyer, &order, AMOUNT).await;
    let second = shop.authorised_for(&buyer, &order, AMOUNT).await;
    let mut begun = shop.site.pause("payment", "payment.after_attempt");
    let answer = approving(&buyer, &first);
    begun.reached().await;
    for other in [&second, &first] {
        approve(&buyer, other).await.refused(409, "PAYMENT_IN_PROGRESS");
    }
    begun.resume();
    answer.await.unwrap().expect(200);
    approve(&buyer, &second).await.refused(409, "ORDER_NOT_PAYABLE");
    assert_eq!(shop.at_provider(&second.payment).await, (0, 0), "an order is paid once");
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_cannot_pin_the_stock_charges_nobody() {
    let shop = Shop::start().await;
    let buyer = shop.site.buyer().await;
    let authorised = shop.authorised(&buyer, AMOUNT).await;
    shop.upstreams.refuse("PinHold", HOLD_EXPIRED);
    approve(&buyer, &authorised).await.refused(410, "HOLD_EXPIRED");
    assert_eq!(shop.status(&authorised.payment).await, "EXPIRED");
    assert_eq!(shop.at_provider(&authorised.payment).await, (0, 0));
    let mut calls = shop.upstreams.calls(&authorised.order);
    calls[1..3].sort();
    assert_eq!(calls, ["BeginPayment", "BeginApproval", "PinHold", "EndApproval", "UnpinHold"]);
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declined_attempt_releases_the_order_and_the_next_one_pays() {
    let shop = Shop::start().await;
    let buyer = shop.site.buyer().await;
    // The provider declines amounts that end with 0002; see the sandbox's provider.
    let declined = shop.authorised(&buyer, 10_002).await;
    let problem = approve(&buyer, &declined).await.refused(402, "PAYMENT_DECLINED");
    assert_eq!(problem["details"][0]["pgCode"], "NotEnoughAccountBalance");
    assert_eq!(shop.status(&declined.payment).await, "PENDING");
    assert_eq!(shop.upstreams.calls(&declined.order)[3..], ["EndApproval", "UnpinHold"]);
    assert_eq!(shop.at_provider(&declined.payment).await, (0, 0));
    charge_points(&buyer, declined.amount).await;
    let key = client::fresh_key();
    let by_points = crate::shop::prepare_by(&buyer, "POINTS", &key, &declined.order, declined.amount);
    let payment = client::text(&by_points.await.expect(201).json()["paymentId"]);
    let body = json!({ "amount": won(declined.amount) });
    let paid = buyer.post(&format!("/payments/{payment}/approve"), &body).await.expect(200).json();
    assert_eq!(paid["status"], "PAID");
    assert_eq!(buyer.get("/points/me").await.expect(200).json()["balance"]["amount"], 0);
    shop.stop().await;
}

/// An attempt was given up, but had captured the money all the same when a later one captured it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_capture_under_another_authorisation_is_refunded() {
    let shop = Shop::start().await;
    let buyer = shop.site.buyer().await;
    let first = shop.authorised(&buyer, AMOUNT).await;
    let mut captured = shop.site.pause("payment", "payment.after_answer");
    let slow = approving(&buyer, &first);
    captured.reached().await;
    assert_eq!(shop.at_provider(&first.payment).await, (AMOUNT, 0));
    shop.update(&first.payment, "status = 'PENDING', version = version + 1, ask_at = null").await;
    let second = crate::shop::Authorised { pg_payment: shop.authorise(&first.payment, AMOUNT).await, ..first.clone() };
    approve(&buyer, &second).await.expect(200);
    assert_eq!(shop.at_provider(&first.payment).await, (2 * AMOUNT, 0));
    captured.resume();
    slow.await.unwrap().expect(200);
    let refunds =
        format!("select count(*) from {{payment}}.refunds where stray and pg_payment_id = '{}'", first.pg_payment);
    assert_eq!(shop.site.number(&refunds).await, 1, "the second capture is to be refunded");
    shop.site.until_number(&format!("{refunds} and status = 'SUCCEEDED'"), 1).await;
    assert_eq!(shop.at_provider(&first.payment).await, (2 * AMOUNT, AMOUNT));
    let own = "status = 'PAID' and captured = 1000 and refunded = 0";
    assert_eq!(shop.count(&first.payment, own).await, 1, "the payment itself stays paid");
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_of_an_order_have_a_limit() {
    let shop = Shop::start_with(&[("payment.attempts_per_order_max", "1")]).await;
    let buyer = shop.site.user(Uuid::now_v7(), Role::User);
    let declined = shop.authorised(&buyer, 10_002).await;
    approve(&buyer, &declined).await.refused(402, "PAYMENT_DECLINED");
    approve(&buyer, &declined).await.refused(409, "PAYMENT_NOT_APPROVABLE");
    assert_eq!(shop.site.number("select count(*) from {payment}.payment_attempt").await, 1);
    shop.stop().await;
}
