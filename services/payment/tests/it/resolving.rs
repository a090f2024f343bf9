//! Finding out what became of an attempt: what the provider says decides, and silence decides nothing.

use serde_json::json;
use testkit::eventually;

use crate::shop::{AMOUNT, Authorised, Shop, approve, approving};

/// The order's time is up and the provider was asked long ago: from now on its answers count.
const LONG_AGO: &str = "status = 'UNKNOWN', expires_at = now() - interval '1 second',
    approving_since = now() - interval '2 minutes', requested_at = now() - interval '2 minutes', ask_at = now()";

/// A payment whose approver has died before it asked the provider.
async fn orphaned(shop: &Shop) -> Authorised {
    let buyer = shop.site.buyer().await;
    let authorised = shop.authorised(&buyer, AMOUNT).await;
    let mut begun = shop.site.pause("payment", "payment.after_pin");
    let dying = approving(&buyer, &authorised);
    begun.reached().await;
    // The pause is never ended, as a dead process never goes on.
    std::mem::forget(begun);
    dying.abort();
    authorised
}

#[tokio::test(flavor = "multi_thread")]
async fn two_answers_prove_that_nothing_was_captured_and_one_does_not() {
    let shop = Shop::start().await;
    let authorised = orphaned(&shop).await;
    shop.update(&authorised.payment, LONG_AGO).await;
    let answered = "select count(*) from {payment}.payments where absent_since is not null or status <> 'UNKNOWN'";
    shop.site.until_number(answered, 1).await;
    assert_eq!(shop.status(&authorised.payment).await, "UNKNOWN", "one answer proves nothing");
    assert!(!shop.upstreams.calls(&authorised.order).contains(&"UnpinHold"), "the units stay reserved");
    shop.update(&authorised.payment, "absent_since = absent_since - interval '1 minute', ask_at = now()").await;
    shop.until_status(&authorised.payment, "FAILED").await;
    shop.site.until_number("select count(*) from {payment}.pending_steps", 0).await;
    assert!(shop.upstreams.calls(&authorised.order).contains(&"UnpinHold"), "now they are free");
    assert_eq!(shop.at_provider(&authorised.payment).await, (0, 0));
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_nobody_recorded_is_found_and_pays_the_order() {
    let shop = Shop::start().await;
    let buyer = shop.site.buyer().await;
    let authorised = shop.authorised(&buyer, AMOUNT).await;
    let mut captured = shop.site.pause("payment", "payment.after_answer");
    let dying = approving(&buyer, &authorised);
    captured.reached().await;
    std::mem::forget(captured);
    dying.abort();
    shop.update(&authorised.payment, LONG_AGO).await;
    shop.until_status(&authorised.payment, "PAID").await;
    shop.site.until_number("select count(*) from {payment}.pending_steps", 0).await;
    assert_eq!(shop.upstreams.status(&authorised.order), "PAID");
    assert_eq!(shop.at_provider(&authorised.payment).await, (AMOUNT, 0));
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_order_can_be_paid_a_lost_request_is_repeated() {
    let shop = Shop::start().await;
    let authorised = orphaned(&shop).await;
    shop.update(&authorised.payment, "ask_at = now()").await;
    shop.until_status(&authorised.payment, "PAID").await;
    assert_eq!(shop.at_provider(&authorised.payment).await, (AMOUNT, 0));
    assert_eq!(shop.site.number("select count(*) from {payment}.payment_attempt").await, 1, "the same attempt");
    shop.stop().await;
}

/// The approver and the resolver ask for the same attempt: what one of them could not do, the other may be doing.
#[tokio::test(flavor = "multi_thread")]
async fn the_failure_of_one_request_says_nothing_about_the_other() {
    let shop = Shop::start_with(&[("payment.resolve_poll_ms", "600000")]).await;
    let buyer = shop.site.buyer().await;
    // The provider answers the first request for an amount that ends with 0004 with MaintenanceOngoing.
    let authorised = shop.authorised(&buyer, 10_004).await;
    let mut before_provider = shop.site.pause("payment", "payment.after_pin");
    let answer = approving(&buyer, &authorised);
    before_provider.reached().await;
    shop.update(&authorised.payment, "asked = 1").await;
    before_provider.resume();
    let told = answer.await.unwrap();
    assert_eq!((told.status.as_u16(), &told.json()["status"]), (202, &json!("UNKNOWN")), "it is not known yet");
    assert!(!shop.upstreams.calls(&authorised.order).contains(&"EndApproval"), "nothing is released");
    shop.stop().await;
}

/// Nobody else asks: then the same answer is the outcome.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_fails_charges_nobody_and_the_buyer_tries_again() {
    let shop = Shop::start().await;
    let buyer = shop.site.buyer().await;
    let authorised = shop.authorised(&buyer, 10_004).await;
    approve(&buyer, &authorised).await.refused(502, "PG_ERROR");
    assert_eq!(shop.status(&authorised.payment).await, "PENDING");
    approve(&buyer, &authorised).await.expect(200);
    assert_eq!(shop.at_provider(&authorised.payment).await, (10_004, 0));
    let keys = "select count(distinct idempotency_key) from {payment}.payment_attempt";
    assert_eq!(shop.site.number(keys).await, 1, "attempts at one authorisation share one key, so it is captured once");
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_can_have_the_provider_asked_now() {
    let shop = Shop::start_with(&[("payment.resolve_poll_ms", "600000")]).await;
    let authorised = orphaned(&shop).await;
    shop.update(&authorised.payment, "status = 'UNKNOWN', ask_at = now() + interval '1 hour'").await;
    let sync = format!("/admin/payments/{}/sync", authorised.payment);
    shop.site.buyer().await.post(&sync, &json!({})).await.refused(403, "FORBIDDEN");
    shop.site.admin().post(&sync, &json!({})).await.expect(202);
    shop.until_status(&authorised.payment, "PAID").await;
    shop.stop().await;
}

/// Another amount than was asked for is refunded at once, and the buyer may try again.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_amount_buys_nothing_and_is_refunded() {
    let shop = Shop::start().await;
    let buyer = shop.site.buyer().await;
    let mut authorised = shop.authorised(&buyer, AMOUNT).await;
    authorised.pg_payment = shop.authorise(&authorised.payment, 1).await;
    approve(&buyer, &authorised).await.expect(202);
    shop.update(&authorised.payment, "ask_at = now()").await;
    eventually("the wrong amount is refunded", async || {
        (shop.at_provider(&authorised.payment).await == (1, 1)).then_some(())
    })
    .await;
    assert_eq!(shop.count(&authorised.payment, "status = 'UNKNOWN' and undo_at is not null").await, 1);
    shop.update(&authorised.payment, "ask_at = now()").await;
    shop.until_status(&authorised.payment, "PENDING").await;
    assert_eq!(shop.at_provider(&authorised.payment).await, (1, 1));
    assert_eq!(shop.upstreams.status(&authorised.order), "PENDING_PAYMENT");
    shop.stop().await;
}
