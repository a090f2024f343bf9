//! The coupon of an order is pinned while the provider is asked, and freed with the hold.

use contract::codes::{COUPON_IN_USE, REDEMPTION_ENDED};
use testkit::Client;
use uuid::Uuid;

use crate::shop::{AMOUNT, Authorised, Shop, approve, approving};

/// A payment for an order that uses a coupon.
async fn authorised(shop: &Shop, buyer: &Client, amount: i64) -> Authorised {
    let order = Uuid::now_v7().to_string();
    shop.upstreams.set_coupon(&order);
    shop.authorised_for(buyer, &order, amount).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coupon_is_pinned_before_the_provider_is_asked_and_freed_after_the_hold_when_it_declines() {
    let shop = Shop::start().await;
    let buyer = shop.site.buyer().await;
    let paid = authorised(&shop, &buyer, AMOUNT).await;
    let mut before_provider = shop.site.pause("payment", "payment.after_pin");
    let answer = approving(&buyer, &paid);
    before_provider.reached().await;
    let mut calls = shop.upstreams.calls(&paid.order);
    calls[1..].sort();
    assert_eq!(calls, ["BeginPayment", "BeginApproval", "PinHold", "PinRedemption"]);
    before_provider.resume();
    answer.await.unwrap().expect(200);
    assert_eq!(shop.upstreams.calls(&paid.order)[4..], ["MarkPaid"], "nothing is freed");

    // The provider declines amounts that end with 0002; see the sandbox's provider.
    let declined = authorised(&shop, &buyer, 10_002).await;
    let mut freed = shop.site.pause("payment", "payment.after_coupon_freed");
    let answer = approving(&buyer, &declined);
    freed.reached().await;
    assert_eq!(shop.upstreams.calls(&declined.order)[4..], ["EndApproval", "UnpinHold", "UnpinRedemption"]);
    approve(&buyer, &declined).await.refused(409, "PAYMENT_IN_PROGRESS");
    freed.resume();
    answer.await.unwrap().refused(402, "PAYMENT_DECLINED");
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_coupon_is_reserved_no_more_charges_nobody() {
    let shop = Shop::start().await;
    let buyer = shop.site.buyer().await;
    let expired = authorised(&shop, &buyer, AMOUNT).await;
    shop.upstreams.refuse("PinRedemption", REDEMPTION_ENDED);
    approve(&buyer, &expired).await.refused(410, "REDEMPTION_ENDED");
    assert_eq!(shop.at_provider(&expired.payment).await, (0, 0));
    assert_eq!(shop.upstreams.calls(&expired.order)[4..], ["EndApproval", "UnpinHold", "UnpinRedemption"]);
    assert_eq!(shop.status(&expired.payment).await, "EXPIRED");
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn money_that_comes_late_takes_the_coupon_again_or_goes_back() {
    let shop = Shop::start().await;
    let buyer = shop.site.buyer().await;
    for is_free in [true, false] {
        let late = authorised(&shop, &buyer, AMOUNT).await;
        let mut captured = shop.site.pause("payment", "payment.after_answer");
        let answer = approving(&buyer, &late);
        captured.reached().await;
        shop.upstreams.set(&late.order, "EXPIRED");
        if !is_free {
            shop.upstreams.refuse("PinRedemption", COUPON_IN_USE);
        }
        captured.resume();
        answer.await.unwrap().expect(200);
        let calls = shop.upstreams.calls(&late.order);
        let again = ["MarkPaid", "PinHold", "PinRedemption", "MarkPaid"];
        assert_eq!(calls[4..8], again, "units and coupon are taken again");
        let freed: &[&str] = if is_free { &[] } else { &["EndApproval", "UnpinHold", "UnpinRedemption"] };
        assert_eq!(&calls[8..], freed);
        assert_eq!(shop.upstreams.status(&late.order), if is_free { "PAID" } else { "EXPIRED" });
        let refunds = format!("select count(*) from {{payment}}.refunds where payment_id = '{}'", late.payment);
        assert_eq!(shop.site.number(&refunds).await, i64::from(!is_free), "money for nothing goes back");
    }
    shop.stop().await;
}
