//! Before the provider is asked: one attempt has the order, and whoever asks for what cannot be is told why.

use std::time::Duration;

use chrono::Utc;
use common::Error;
use contract::order::{BeginApprovalRequest, BeginPaymentRequest, EndApprovalRequest, MarkPaidRequest};
use futures_util::future::join_all;
use uuid::Uuid;

use crate::site::{AMOUNT, KRW, Placed, Site, code, expiry, until};

/// The codes of BeginPayment, BeginApproval and MarkPaid, asked for a payment that nobody has heard of.
async fn codes(site: &Site, order: &Placed) -> [String; 3] {
    let (payment, attempt) = (Uuid::now_v7(), Uuid::now_v7());
    [
        code(&site.begin_payment(order, payment).await),
        code(&site.begin(order, payment, attempt).await),
        code(&site.mark_paid(order, payment, false).await),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_cannot_be_paid_says_why() {
    let site = Site::start("refusals").await;
    let nobodys = Placed { id: Uuid::now_v7().to_string(), user: Uuid::now_v7() };
    assert_eq!(codes(&site, &nobodys).await, ["ORDER_NOT_FOUND"; 3]);
    let ended = EndApprovalRequest {
        order_id: nobodys.id,
        attempt_id: Uuid::now_v7().to_string(),
        ..EndApprovalRequest::default()
    };
    let ended = site.rpc.clone().end_approval(ended).await.unwrap().into_inner();
    assert_eq!(ended.order, None, "what is not there is not reserved");

    let order = site.order().await;
    let strangers = Placed { user: Uuid::now_v7(), ..order.clone() };
    assert_eq!(code(&site.begin_payment(&strangers, Uuid::now_v7()).await), "ORDER_NOT_FOUND");
    site.begin(&order, Uuid::now_v7(), Uuid::now_v7()).await.unwrap();
    assert_eq!(codes(&site, &order).await, ["OK", "PAYMENT_IN_PROGRESS", "ORDER_NOT_PAYABLE"]);

    let (paid, payment) = (site.order().await, Uuid::now_v7());
    assert_eq!(code(&site.mark_paid(&paid, payment, false).await), "ORDER_NOT_PAYABLE", "its units may lapse");
    site.begin(&paid, payment, Uuid::now_v7()).await.unwrap();
    site.mark_paid(&paid, payment, false).await.unwrap();
    assert_eq!(codes(&site, &paid).await, ["ORDER_NOT_PAYABLE"; 3]);
    assert_eq!(site.cancel(&paid).await.status, 202);
    assert_eq!(codes(&site, &paid).await, ["ORDER_NOT_PAYABLE"; 3]);

    let cancelled = site.order().await;
    assert_eq!(site.cancel(&cancelled).await.status, 200);
    assert_eq!(codes(&site, &cancelled).await, ["ORDER_NOT_PAYABLE"; 3]);
    let late = site.mark_paid(&cancelled, Uuid::now_v7(), true).await;
    assert_eq!(code(&late), "ORDER_NOT_PAYABLE", "its buyer does not want it");

    *site.inventory.ttl.lock().unwrap() = Duration::ZERO;
    let expired = site.order().await;
    assert_eq!(codes(&site, &expired).await, ["HOLD_EXPIRED", "HOLD_EXPIRED", "ORDER_NOT_PAYABLE"]);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_money_and_wrong_ids_are_refused() {
    let site = Site::start("wrong").await;
    let order = site.order().await;
    let (payment, attempt) = (Uuid::now_v7().to_string(), Uuid::now_v7().to_string());
    let begin_payment = BeginPaymentRequest {
        order_id: order.id.clone(),
        payment_id: payment.clone(),
        user_id: order.user.to_string(),
        amount: AMOUNT,
        currency: KRW.to_owned(),
    };
    let begin = BeginApprovalRequest {
        order_id: order.id.clone(),
        payment_id: payment.clone(),
        attempt_id: attempt.clone(),
        amount: AMOUNT,
        currency: KRW.to_owned(),
    };
    let end = EndApprovalRequest { order_id: order.id.clone(), attempt_id: attempt, hold_expires_at: None };
    let mark = MarkPaidRequest {
        order_id: order.id.clone(),
        payment_id: payment,
        amount: AMOUNT,
        currency: KRW.to_owned(),
        late: false,
    };
    let nonsense = || "nonsense".to_owned();
    for request in [
        BeginPaymentRequest { order_id: nonsense(), ..begin_payment.clone() },
        BeginPaymentRequest { payment_id: nonsense(), ..begin_payment.clone() },
        BeginPaymentRequest { user_id: nonsense(), ..begin_payment.clone() },
    ] {
        assert_eq!(code(&site.rpc.clone().begin_payment(request).await.map_err(Error::from)), "VALIDATION_ERROR");
    }
    for request in [
        BeginApprovalRequest { order_id: nonsense(), ..begin.clone() },
        BeginApprovalRequest { payment_id: nonsense(), ..begin.clone() },
        BeginApprovalRequest { attempt_id: nonsense(), ..begin.clone() },
    ] {
        assert_eq!(code(&site.rpc.clone().begin_approval(request).await.map_err(Error::from)), "VALIDATION_ERROR");
    }
    for request in [
        EndApprovalRequest { order_id: nonsense(), ..end.clone() },
        EndApprovalRequest { attempt_id: nonsense(), ..end.clone() },
    ] {
        assert_eq!(code(&site.rpc.clone().end_approval(request).await.map_err(Error::from)), "VALIDATION_ERROR");
    }
    for request in [
        MarkPaidRequest { order_id: nonsense(), ..mark.clone() },
        MarkPaidRequest { payment_id: nonsense(), ..mark.clone() },
    ] {
        assert_eq!(code(&site.rpc.clone().mark_paid(request).await.map_err(Error::from)), "VALIDATION_ERROR");
    }
    for (amount, currency) in [(AMOUNT - 1, KRW), (AMOUNT + 1, KRW), (-AMOUNT, KRW), (AMOUNT, "USD")] {
        let currency = currency.to_owned();
        let request = BeginPaymentRequest { amount, currency: currency.clone(), ..begin_payment.clone() };
        assert_eq!(code(&site.rpc.clone().begin_payment(request).await.map_err(Error::from)), "AMOUNT_MISMATCH");
        let request = BeginApprovalRequest { amount, currency: currency.clone(), ..begin.clone() };
        assert_eq!(code(&site.rpc.clone().begin_approval(request).await.map_err(Error::from)), "AMOUNT_MISMATCH");
        let request = MarkPaidRequest { amount, currency, late: true, ..mark.clone() };
        assert_eq!(code(&site.rpc.clone().mark_paid(request).await.map_err(Error::from)), "ORDER_NOT_PAYABLE");
    }
    let untouched = site.get(&order).await;
    assert_eq!((untouched.status.as_str(), untouched.version), ("CREATED", 1));
    assert_eq!(site.said(&order).await, ["ORDER_CREATED 1"]);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_payments_may_be_prepared_and_one_at_a_time_approved() {
    let site = Site::start("prepared").await;
    let order = site.order().await;
    let (card, points) = (Uuid::now_v7(), Uuid::now_v7());
    for payment in [card, card, points] {
        let begun = site.begin_payment(&order, payment).await.unwrap();
        assert_eq!((begun.status.as_str(), begun.version), ("PENDING_PAYMENT", 2));
    }
    let (first, second) = (Uuid::now_v7(), Uuid::now_v7());
    for _ in 0..2 {
        assert_eq!(site.begin(&order, card, first).await.unwrap().version, 3, "a repeat changes nothing");
    }
    assert_eq!(code(&site.begin(&order, card, second).await), "PAYMENT_IN_PROGRESS");
    assert_eq!(code(&site.begin(&order, points, first).await), "PAYMENT_IN_PROGRESS");
    for _ in 0..2 {
        assert_eq!(site.end(&order, first, None).await.unwrap().version, 4);
    }
    assert_eq!(site.begin(&order, card, second).await.unwrap().version, 5);
    assert_eq!(site.said(&order).await, ["ORDER_CREATED 1"], "none of it is news");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beginning_that_its_end_overtook_reserves_nothing() {
    let site = Site::start("overtaken").await;
    let order = site.order().await;
    let (payment, first, second) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    site.begin_payment(&order, payment).await.unwrap();
    assert_eq!(site.end(&order, first, None).await.unwrap().version, 3);
    assert_eq!(site.end(&order, first, None).await.unwrap().version, 3);
    assert_eq!(code(&site.begin(&order, payment, first).await), "PAYMENT_IN_PROGRESS");

    site.begin(&order, payment, second).await.unwrap();
    let other = site.end(&order, Uuid::now_v7(), Some(Utc::now() + Duration::from_secs(6000))).await.unwrap();
    assert_eq!(expiry(&other), expiry(&site.get(&order).await), "the end of another attempt frees nothing");
    assert_eq!(site.cancel(&order).await.outcome(), (409, "PAYMENT_IN_PROGRESS".to_owned()));
    site.end(&order, second, None).await.unwrap();
    assert_eq!(code(&site.begin(&order, payment, second).await), "PAYMENT_IN_PROGRESS", "an attempt is made once");
    assert_eq!(site.cancel(&order).await.outcome(), (200, "CANCELLED".to_owned()));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_reserved_has_all_the_time_it_needs() {
    let site = Site::start("reserved").await;
    *site.inventory.ttl.lock().unwrap() = Duration::from_secs(2);
    let order = site.order().await;
    let other = site.order_of(order.user).await;
    let (payment, attempt) = (Uuid::now_v7(), Uuid::now_v7());
    site.begin_payment(&order, payment).await.unwrap();
    site.begin(&order, payment, attempt).await.unwrap();
    until("the other order has expired", async || site.said(&other).await.len() == 2).await;
    // The sweep takes what is due first, and would have taken this one before.
    assert_eq!(site.said(&other).await, ["ORDER_CREATED 1", "ORDER_EXPIRED 2"]);
    assert_eq!(site.said(&order).await, ["ORDER_CREATED 1"]);
    assert_eq!(site.read(&order).await["status"], "PENDING_PAYMENT");
    assert_eq!(site.listed(order.user, "PENDING_PAYMENT").await, [order.id.as_str()]);
    assert_eq!(site.listed(order.user, "EXPIRED").await, [other.id.as_str()]);
    assert_eq!(site.cancel(&order).await.outcome(), (409, "PAYMENT_IN_PROGRESS".to_owned()));

    // It comes to nothing, but there is time for another attempt.
    let until_then = Utc::now() + Duration::from_secs(60);
    let freed = site.end(&order, attempt, Some(until_then)).await.unwrap();
    assert_eq!(freed.status, "PENDING_PAYMENT");
    assert!((expiry(&freed) - until_then).num_milliseconds() == 0, "{freed:?}");
    let again = Uuid::now_v7();
    site.begin(&order, payment, again).await.unwrap();
    let kept = site.end(&order, again, Some(Utc::now())).await.unwrap();
    assert_eq!(expiry(&kept), expiry(&freed), "time is added, never taken away");

    // And without time for another, it is over when the attempt is.
    let third = site.order_of(order.user).await;
    let last = Uuid::now_v7();
    site.begin(&third, payment, last).await.unwrap();
    let due = expiry(&site.get(&third).await);
    until("its time is up", async || Utc::now() > due).await;
    assert_eq!(site.read(&third).await["status"], "CREATED");
    assert_eq!(site.end(&third, last, None).await.unwrap().status, "EXPIRED");
    until("it is told", async || site.said(&third).await == ["ORDER_CREATED 1", "ORDER_EXPIRED 4"]).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_attempts_at_once_one_has_the_order() {
    let site = Site::start("attempts").await;
    let beside = Site::start_beside(&site).await;
    for _ in 0..25 {
        let order = site.order().await;
        let asked = join_all((0..8).map(async |number| {
            let attempt = Uuid::now_v7();
            let door = if number % 2 == 0 { &site } else { &beside };
            (attempt, code(&door.begin(&order, Uuid::now_v7(), attempt).await))
        }));
        let outcomes = asked.await;
        let winners: Vec<Uuid> =
            outcomes.iter().filter(|(_, code)| code == "OK").map(|(attempt, _)| *attempt).collect();
        assert_eq!(winners.len(), 1, "{outcomes:?}");
        assert!(outcomes.iter().all(|(_, code)| code == "OK" || code == "PAYMENT_IN_PROGRESS"), "{outcomes:?}");
        let stored = format!(
            "select count(*) from orders where id = '{}' and version = 2 and approving_attempt_id = '{}'",
            order.id, winners[0]
        );
        assert_eq!(site.number(&stored).await, 1);
    }
    beside.stop().await;
    site.stop().await;
}
