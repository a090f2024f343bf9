//! Before the provider is asked: an order is reserved for one attempt, and each refusal says why.

use chrono::{TimeDelta, Utc};
use common::Error;
use common::auth::Role;
use contract::money::KRW;
use contract::order::{BeginApprovalRequest, BeginPaymentRequest, EndApprovalRequest, MarkPaidRequest};
use uuid::Uuid;

use crate::site::{AMOUNT, OrderSite, Placed, code, hold_expires_at, outcome};

/// The codes of BeginPayment, BeginApproval and MarkPaid for a new payment.
async fn codes(site: &OrderSite, order: &Placed) -> [String; 3] {
    let (payment, attempt) = (Uuid::now_v7(), Uuid::now_v7());
    [
        code(&site.begin_payment(order, payment).await),
        code(&site.begin_approval(order, payment, attempt).await),
        code(&site.mark_paid(order, payment, false).await),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_cannot_be_paid_says_why() {
    let site = OrderSite::start().await;
    let missing = Placed { id: Uuid::now_v7().to_string(), buyer: site.buyer().await };
    assert_eq!(codes(&site, &missing).await, ["ORDER_NOT_FOUND"; 3]);
    let ended = EndApprovalRequest {
        order_id: missing.id,
        attempt_id: Uuid::now_v7().to_string(),
        ..EndApprovalRequest::default()
    };
    let ended = site.rpc.clone().end_approval(ended).await.unwrap().into_inner();
    assert_eq!(ended.order, None, "an order that does not exist is not reserved");

    let order = site.order().await;
    let stranger = Placed { buyer: site.user(Uuid::now_v7(), Role::User), ..order.clone() };
    assert_eq!(code(&site.begin_payment(&stranger, Uuid::now_v7()).await), "ORDER_NOT_FOUND");
    site.reserve(&order, Uuid::now_v7()).await;
    assert_eq!(codes(&site, &order).await, ["OK", "PAYMENT_IN_PROGRESS", "ORDER_NOT_PAYABLE"]);

    let (paid, payment) = (site.order().await, Uuid::now_v7());
    let unreserved = site.mark_paid(&paid, payment, false).await;
    assert_eq!(code(&unreserved), "ORDER_NOT_PAYABLE", "its hold may expire at any moment");
    site.reserve(&paid, payment).await;
    site.mark_paid(&paid, payment, false).await.unwrap();
    assert_eq!(codes(&site, &paid).await, ["ORDER_NOT_PAYABLE"; 3]);
    site.cancel(&paid).await.expect(202);
    assert_eq!(codes(&site, &paid).await, ["ORDER_NOT_PAYABLE"; 3]);

    let cancelled = site.order().await;
    site.cancel(&cancelled).await.expect(200);
    assert_eq!(codes(&site, &cancelled).await, ["ORDER_NOT_PAYABLE"; 3]);
    let late = site.mark_paid(&cancelled, Uuid::now_v7(), true).await;
    assert_eq!(code(&late), "ORDER_NOT_PAYABLE", "its buyer does not want it");

    let expired = site.order().await;
    site.make_overdue(&[&expired]).await;
    assert_eq!(codes(&site, &expired).await, ["HOLD_EXPIRED", "HOLD_EXPIRED", "ORDER_NOT_PAYABLE"]);
}

struct Requests {
    begin_payment: BeginPaymentRequest,
    begin_approval: BeginApprovalRequest,
    end_approval: EndApprovalRequest,
    mark_paid: MarkPaidRequest,
}

/// The right requests for an order.
fn requests(order: &Placed) -> Requests {
    let (order_id, currency) = (order.id.clone(), KRW.to_owned());
    let (payment_id, attempt_id) = (Uuid::now_v7().to_string(), Uuid::now_v7().to_string());
    Requests {
        begin_payment: BeginPaymentRequest {
            order_id: order_id.clone(),
            payment_id: payment_id.clone(),
            user_id: order.buyer.user_id.clone(),
            amount: AMOUNT,
            currency: currency.clone(),
        },
        begin_approval: BeginApprovalRequest {
            order_id: order_id.clone(),
            payment_id: payment_id.clone(),
            attempt_id: attempt_id.clone(),
            amount: AMOUNT,
            currency: currency.clone(),
        },
        end_approval: EndApprovalRequest { order_id: order_id.clone(), attempt_id, hold_expires_at: None },
        mark_paid: MarkPaidRequest { order_id, payment_id, amount: AMOUNT, currency, late: false },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_are_none_are_refused() {
    let site = OrderSite::start().await;
    let Requests { begin_payment, begin_approval, end_approval, mark_paid } = requests(&site.order().await);
    let nonsense = || "nonsense".to_owned();
    for request in [
        BeginPaymentRequest { order_id: nonsense(), ..begin_payment.clone() },
        BeginPaymentRequest { payment_id: nonsense(), ..begin_payment.clone() },
        BeginPaymentRequest { user_id: nonsense(), ..begin_payment.clone() },
    ] {
        assert_eq!(code(&site.rpc.clone().begin_payment(request).await.map_err(Error::from)), "VALIDATION_ERROR");
    }
    for request in [
        BeginApprovalRequest { order_id: nonsense(), ..begin_approval.clone() },
        BeginApprovalRequest { payment_id: nonsense(), ..begin_approval.clone() },
        BeginApprovalRequest { attempt_id: nonsense(), ..begin_approval.clone() },
    ] {
        assert_eq!(code(&site.rpc.clone().begin_approval(request).await.map_err(Error::from)), "VALIDATION_ERROR");
    }
    for request in [
        EndApprovalRequest { order_id: nonsense(), ..end_approval.clone() },
        EndApprovalRequest { attempt_id: nonsense(), ..end_approval.clone() },
    ] {
        assert_eq!(code(&site.rpc.clone().end_approval(request).await.map_err(Error::from)), "VALIDATION_ERROR");
    }
    for request in [
        MarkPaidRequest { order_id: nonsense(), ..mark_paid.clone() },
        MarkPaidRequest { payment_id: nonsense(), ..mark_paid.clone() },
    ] {
        assert_eq!(code(&site.rpc.clone().mark_paid(request).await.map_err(Error::from)), "VALIDATION_ERROR");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_of_another_amount_or_currency_is_refused() {
    let site = OrderSite::start().await;
    let order = site.order().await;
    let Requests { begin_payment, begin_approval, mark_paid, .. } = requests(&order);
    for (amount, currency) in [(AMOUNT - 1, KRW), (AMOUNT + 1, KRW), (-AMOUNT, KRW), (AMOUNT, "USD")] {
        let currency = currency.to_owned();
        let request = BeginPaymentRequest { amount, currency: currency.clone(), ..begin_payment.clone() };
        assert_eq!(code(&site.rpc.clone().begin_payment(request).await.map_err(Error::from)), "AMOUNT_MISMATCH");
        let request = BeginApprovalRequest { amount, currency: currency.clone(), ..begin_approval.clone() };
        assert_eq!(code(&site.rpc.clone().begin_approval(request).await.map_err(Error::from)), "AMOUNT_MISMATCH");
        let request = MarkPaidRequest { amount, currency: currency.clone(), late: true, ..mark_paid.clone() };
        assert_eq!(code(&site.rpc.clone().mark_paid(request).await.map_err(Error::from)), "ORDER_NOT_PAYABLE");
    }
    let untouched = site.get(&order).await;
    assert_eq!((untouched.status.as_str(), untouched.version), ("CREATED", 1));
    assert_eq!(site.events(&order).await, ["ORDER_CREATED 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_payments_may_be_prepared_and_one_at_a_time_approved() {
    let site = OrderSite::start().await;
    let order = site.order().await;
    let (card, points) = (Uuid::now_v7(), Uuid::now_v7());
    for payment in [card, card, points] {
        let begun = site.begin_payment(&order, payment).await.unwrap();
        assert_eq!((begun.status.as_str(), begun.version), ("PENDING_PAYMENT", 2));
    }
    let (first, second) = (Uuid::now_v7(), Uuid::now_v7());
    for _ in 0..2 {
        let begun = site.begin_approval(&order, card, first).await.unwrap();
        assert_eq!(begun.version, 3, "a repeat changes nothing");
    }
    assert_eq!(code(&site.begin_approval(&order, card, second).await), "PAYMENT_IN_PROGRESS");
    assert_eq!(code(&site.begin_approval(&order, points, first).await), "PAYMENT_IN_PROGRESS");
    for _ in 0..2 {
        assert_eq!(site.end_approval(&order, first, None).await.unwrap().version, 4);
    }
    assert_eq!(site.begin_approval(&order, card, second).await.unwrap().version, 5);
    assert_eq!(site.events(&order).await, ["ORDER_CREATED 1"], "none of these changes is announced");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_has_ended_cannot_reserve_the_order() {
    let site = OrderSite::start().await;
    let order = site.order().await;
    let (payment, first, second) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    site.begin_payment(&order, payment).await.unwrap();
    for _ in 0..2 {
        assert_eq!(site.end_approval(&order, first, None).await.unwrap().version, 3);
    }
    let ended_before = site.begin_approval(&order, payment, first).await;
    assert_eq!(code(&ended_before), "PAYMENT_IN_PROGRESS", "its end has overtaken its beginning");

    site.begin_approval(&order, payment, second).await.unwrap();
    let more_time = Utc::now() + TimeDelta::hours(1);
    let other = site.end_approval(&order, Uuid::now_v7(), Some(more_time)).await.unwrap();
    assert_eq!(hold_expires_at(&other), hold_expires_at(&site.get(&order).await));
    assert!(hold_expires_at(&other) < more_time, "the end of another attempt adds no time");
    let cancelled = site.cancel(&order).await;
    assert_eq!(outcome(&cancelled), (409, "PAYMENT_IN_PROGRESS".to_owned()), "nor does it free the order");
    site.end_approval(&order, second, None).await.unwrap();
    assert_eq!(code(&site.begin_approval(&order, payment, second).await), "PAYMENT_IN_PROGRESS");
    assert_eq!(outcome(&site.cancel(&order).await), (200, "CANCELLED".to_owned()));
}
