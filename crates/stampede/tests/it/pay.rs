//! Paying: once, for the right amount, by the right person; and getting the money back.

use crate::ledger::Ledger;
use crate::payer::Payer;
use crate::payer::Provider;
use crate::site::system;
use futures_util::future::join_all;
use serde_json::json;
use testkit::{eventually, fresh_key};

use crate::ledger::Units;
use crate::payer::won;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paid_order_is_a_sale_and_its_buyer_gets_a_receipt() {
    let site = system().start().await;
    let (product, buyer) = (site.product(3).await, site.buyer().await);
    let agreed = buyer.agrees(&site, &product).await;
    buyer.sees_order(&agreed.order, "PENDING_PAYMENT").await;
    let paid = buyer.approve(&agreed).await.expect(200).json();
    assert_eq!((&paid["status"], &paid["orderStatus"]), (&json!("PAID"), &json!("PAID")), "{paid}");
    let order = buyer.sees_order(&agreed.order, "PAID").await;
    assert_eq!(order["paymentId"], agreed.payment);
    let again = buyer.approve(&agreed).await.expect(200).json();
    assert_eq!(again["status"], "PAID");
    site.assert_consistent().await;
    assert_eq!(site.units(&product).await, Units { on_hand: 2, held: 0 });
    assert_eq!(site.kept_by_provider(&agreed.payment).await, agreed.amount);
    let attempts = buyer.get(&format!("/payments/{}/attempts", agreed.payment)).await.expect(200).json();
    assert_eq!(attempts["items"].as_array().map(Vec::len), Some(1), "{attempts}");
    assert_eq!(attempts["items"][0]["status"], "SUCCESS");
    let payments = buyer.get(&format!("/orders/{}/payments", agreed.order)).await.expect(200).json();
    assert_eq!(payments["items"][0]["paymentId"], agreed.payment);
    assert_eq!(
        site.number("select count(*) from {notification_hub}.notifications where type = 'ORDER_PLACED'").await,
        1
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clicking_twice_pays_once() {
    let site = system().start().await;
    let (product, buyer) = (site.product(10).await, site.buyer().await);
    for _ in 0..5 {
        let (order, amount) = buyer.orders(&product).await;
        // Two windows, and two clicks in each.
        let windows = [buyer.agrees_to(&site, &order, amount).await, buyer.agrees_to(&site, &order, amount).await];
        let clicks = join_all(windows.iter().chain(&windows).map(|agreed| buyer.approve(agreed))).await;
        assert!(clicks.iter().any(|answer| answer.status == 200), "{clicks:?}");
        for answer in clicks.iter().filter(|answer| answer.status != 200) {
            let code = answer.problem()["code"].as_str().expect("a code").to_owned();
            let known = ["PAYMENT_IN_PROGRESS", "ORDER_NOT_PAYABLE", "PAYMENT_NOT_APPROVABLE"];
            assert!(known.contains(&code.as_str()), "{answer}");
        }
        let mut kept = 0;
        for agreed in &windows {
            kept += site.kept_by_provider(&agreed.payment).await;
        }
        assert_eq!(kept, amount);
    }
    site.assert_consistent().await;
    assert_eq!(site.units(&product).await, Units { on_hand: 5, held: 0 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_key_prepares_one_payment() {
    let site = system().start().await;
    let (product, buyer, key) = (site.product(2).await, site.buyer().await, fresh_key());
    let (order, amount) = buyer.orders(&product).await;
    let answers = join_all((0..8).map(|_| buyer.prepare(&key, &order, amount))).await;
    let bodies: std::collections::BTreeSet<_> = answers.into_iter().map(|answer| answer.expect(201).body).collect();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    assert_eq!(site.number("select count(*) from {payment}.payments").await, 1);
    let (other, _) = buyer.orders(&product).await;
    buyer.prepare(&key, &other, amount).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tampering_and_strangers_are_refused_and_change_nothing() {
    let site = system().start().await;
    let (product, buyer, stranger) = (site.product(5).await, site.buyer().await, site.buyer().await);
    let (order, amount) = buyer.orders(&product).await;
    let agreed = buyer.agrees_to(&site, &order, amount).await;
    let (payment, pg) = (agreed.payment.as_str(), agreed.pg_payment.as_str());
    site.settled().await;
    let before = site.everything().await;

    for wrong in [1, amount - 1, amount + 1, i64::MAX] {
        buyer.prepare(&fresh_key(), &order, wrong).await.refused(422, "AMOUNT_MISMATCH");
        let body = json!({ "pgPaymentId": pg, "amount": won(wrong) });
        buyer.approve_with(payment, body).await.refused(422, "AMOUNT_MISMATCH");
    }
    for wrong in [json!(0), json!(-1), json!(1.5), json!("129000")] {
        let amount = json!({ "amount": wrong, "currency": "KRW" });
        let body = json!({ "pgPaymentId": pg, "amount": amount });
        let answer = buyer.approve_with(payment, body).await;
        assert!([400, 422].contains(&answer.status.as_u16()), "{answer}");
    }
    let dollars = json!({ "amount": amount, "currency": "USD" });
    for body in [
        json!({ "pgPaymentId": pg, "amount": dollars }),
        json!({ "pgPaymentId": "", "amount": won(amount) }),
        json!({ "pgPaymentId": "x".repeat(65), "amount": won(amount) }),
        json!({ "pgPaymentId": "a\u{0}b", "amount": won(amount) }),
        json!({ "amount": won(amount) }),
        json!({ "pgPaymentId": pg }),
        json!({ "pgPaymentId": pg, "amount": won(amount), "status": "PAID" }),
    ] {
        buyer.approve_with(payment, body).await.refused(400, "VALIDATION_ERROR");
    }
    stranger.prepare(&fresh_key(), &order, amount).await.refused(404, "ORDER_NOT_FOUND");
    stranger.approve(&agreed).await.refused(404, "PAYMENT_NOT_FOUND");
    stranger.get(&format!("/payments/{payment}")).await.refused(404, "PAYMENT_NOT_FOUND");
    stranger.get(&format!("/payments/{payment}/attempts")).await.refused(404, "PAYMENT_NOT_FOUND");
    let cancel = json!({ "reason": "mine" });
    stranger.cancels_payment(&fresh_key(), payment, &cancel).await.refused(404, "PAYMENT_NOT_FOUND");
    assert_eq!(stranger.get(&format!("/orders/{order}/payments")).await.expect(200).json()["items"], json!([]));
    site.anyone().approve(&agreed).await.refused(401, "UNAUTHORIZED");
    buyer.post(&format!("/admin/payments/{payment}/sync"), &json!({})).await.refused(403, "FORBIDDEN");
    buyer.post("/admin/reconciliation/runs", &json!({})).await.refused(403, "FORBIDDEN");
    let prepare = json!({ "orderId": order, "method": "NAVERPAY", "amount": won(amount) });
    buyer.post("/payments/prepare", &prepare).await.refused(400, "IDEMPOTENCY_KEY_REQUIRED");
    buyer.prepare_by("CASH", &fresh_key(), &order, amount).await.refused(400, "VALIDATION_ERROR");
    assert_eq!(site.everything().await, before);
    assert_eq!(site.kept_by_provider(payment).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_declined_payment_charges_nothing_and_the_next_card_pays() {
    let site = system().start().await;
    let (product, buyer) = (site.product_at(2, 10_002).await, site.buyer().await);
    let agreed = buyer.agrees(&site, &product).await;
    let declined = buyer.approve(&agreed).await.refused(402, "PAYMENT_DECLINED");
    assert_eq!(declined["details"][0]["pgCode"], "NotEnoughAccountBalance");
    assert_eq!(buyer.payment(&agreed.payment).await["status"], "PENDING");
    buyer.sees_order(&agreed.order, "PENDING_PAYMENT").await;
    site.assert_consistent().await;
    assert_eq!(site.units(&product).await, Units { on_hand: 2, held: 1 }, "there is time for another try");
    // Points are the other card.
    buyer.charges(agreed.amount).await;
    let by_points = buyer.prepare_by("POINTS", &fresh_key(), &agreed.order, agreed.amount).await.expect(201).json();
    let body = json!({ "amount": won(agreed.amount) });
    let paid = buyer.approve_with(by_points["paymentId"].as_str().expect("an id"), body).await.expect(200).json();
    assert_eq!(paid["status"], "PAID");
    site.assert_consistent().await;
    assert_eq!(site.units(&product).await, Units { on_hand: 1, held: 0 });
    assert_eq!(buyer.get("/points/me").await.expect(200).json()["balance"]["amount"], 0);
    let failed = "select count(*) from {notification_hub}.deliveries join {notification_hub}.notifications on notifications.id = notification_id
                   where notifications.type = 'PAYMENT_FAILED' and deliveries.status = 'SUCCESS' and channel = ";
    assert_eq!(site.number(&format!("{failed}'EMAIL'")).await, 1);
    assert_eq!(site.number(&format!("{failed}'SLACK'")).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn points_that_do_not_suffice_pay_nothing() {
    let site = system().start().await;
    let (product, buyer) = (site.product_at(1, 5_000).await, site.buyer().await);
    buyer.charges(4_999).await;
    let (order, amount) = buyer.orders(&product).await;
    let prepared = buyer.prepare_by("POINTS", &fresh_key(), &order, amount).await.expect(201).json();
    let payment = prepared["paymentId"].as_str().expect("an id");
    buyer.approve_with(payment, json!({ "amount": won(amount) })).await.refused(422, "INSUFFICIENT_POINTS");
    assert_eq!(buyer.get("/points/me").await.expect(200).json()["balance"]["amount"], 4_999);
    buyer.charges(1).await;
    buyer.approve_with(payment, json!({ "amount": won(amount) })).await.expect(200);
    // Cancelled, the points come back, and so does the unit.
    let cancelled = buyer.post(&format!("/orders/{order}/cancel"), &json!({})).await.expect(202).json();
    assert_eq!(cancelled["status"], "REFUND_PENDING");
    buyer.sees_order(&order, "REFUNDED").await;
    site.assert_consistent().await;
    assert_eq!(buyer.get("/points/me").await.expect(200).json()["balance"]["amount"], 5_000);
    assert_eq!(site.units(&product).await, Units { on_hand: 1, held: 0 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_paid_order_gives_money_and_units_back_once() {
    let site = system().start().await;
    let (product, buyer) = (site.product(1).await, site.buyer().await);
    let agreed = buyer.agrees(&site, &product).await;
    buyer.approve(&agreed).await.expect(200);
    let cancel = format!("/orders/{}/cancel", agreed.order);
    let nothing = json!({});
    let cancels = join_all((0..4).map(|_| buyer.post(&cancel, &nothing))).await;
    assert!(cancels.iter().all(|answer| [200, 202].contains(&answer.status.as_u16())), "{cancels:?}");
    buyer.sees_order(&agreed.order, "REFUNDED").await;
    assert_eq!(buyer.post(&cancel, &nothing).await.expect(200).json()["status"], "REFUNDED");
    let payment = buyer.sees_payment(&agreed.payment, "REFUNDED").await;
    assert_eq!(payment["refunded"]["amount"], agreed.amount);
    site.assert_consistent().await;
    assert_eq!(site.kept_by_provider(&agreed.payment).await, 0);
    assert_eq!(site.units(&product).await, Units { on_hand: 1, held: 0 });
    // The unit can be sold again.
    let other = site.buyer().await.agrees(&site, &product).await;
    assert_ne!(other.order, agreed.order);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_go_back_by_an_administrator_and_never_more_than_was_taken() {
    let site = system().start().await;
    let (product, buyer, admin) = (site.product_at(1, 10_000).await, site.buyer().await, site.admin());
    let agreed = buyer.agrees(&site, &product).await;
    let part = |amount: i64| json!({ "amount": won(amount), "reason": "scratched" });
    buyer.approve(&agreed).await.expect(200);
    buyer.cancels_payment(&fresh_key(), &agreed.payment, &part(1)).await.refused(403, "FORBIDDEN");
    let key = fresh_key();
    let first = admin.cancels_payment(&key, &agreed.payment, &part(4_000)).await.expect(200);
    assert_eq!(first.json()["status"], "PARTIALLY_REFUNDED", "{first}");
    let again = admin.cancels_payment(&key, &agreed.payment, &part(4_000)).await.expect(200);
    assert_eq!((again.is_replay(), &again.json()["refunded"]["amount"]), (true, &json!(4_000)));
    admin.cancels_payment(&key, &agreed.payment, &part(5_000)).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    let refused = admin.cancels_payment(&fresh_key(), &agreed.payment, &part(6_001)).await;
    assert_eq!(refused.refused(409, "REFUND_EXCEEDS_CAPTURED")["details"][0]["available"], 6_000);
    // Many at once take what is left and no more.
    let keys: Vec<String> = (0..8).map(|_| fresh_key()).collect();
    let body = part(2_000);
    let many = join_all(keys.iter().map(|key| admin.cancels_payment(key, &agreed.payment, &body))).await;
    // 202: the provider was still busy with another part.
    assert_eq!(many.iter().filter(|answer| [200, 202].contains(&answer.status.as_u16())).count(), 3, "{many:?}");
    buyer.sees_payment(&agreed.payment, "REFUNDED").await;
    buyer.sees_order(&agreed.order, "REFUNDED").await;
    site.assert_consistent().await;
    assert_eq!(site.kept_by_provider(&agreed.payment).await, 0);
    assert_eq!(site.units(&product).await, Units { on_hand: 1, held: 0 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unpaid_payment_is_cancelled_and_ends_with_its_order() {
    let site = system().start().await;
    let (product, buyer) = (site.product(3).await, site.buyer().await);
    let agreed = buyer.agrees(&site, &product).await;
    let reason = json!({ "reason": "changed my mind" });
    let cancelled = buyer.cancels_payment(&fresh_key(), &agreed.payment, &reason).await.expect(200).json();
    assert_eq!(cancelled["status"], "CANCELLED");
    buyer.approve(&agreed).await.refused(409, "PAYMENT_NOT_APPROVABLE");
    let second = buyer.agrees_to(&site, &agreed.order, agreed.amount).await;
    buyer.post(&format!("/orders/{}/cancel", agreed.order), &json!({})).await.expect(200);
    buyer.sees_payment(&second.payment, "CANCELLED").await;
    let third = buyer.agrees(&site, &product).await;
    buyer.post(&format!("/orders/{}/cancel", third.order), &json!({})).await.expect(200);
    let answer = buyer.approve(&third).await;
    let code = answer.problem()["code"].as_str().expect("a code").to_owned();
    assert!(["ORDER_NOT_PAYABLE", "PAYMENT_NOT_APPROVABLE"].contains(&code.as_str()), "{answer}");
    site.assert_consistent().await;
    for payment in [agreed.payment, second.payment, third.payment] {
        assert_eq!(site.kept_by_provider(&payment).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_authorised_for_another_payment_neither_pays_nor_is_undone() {
    let site = system().start().await;
    let (product, honest, thief) = (site.product_at(5, 7_000).await, site.buyer().await, site.buyer().await);
    // Paid with already, by somebody else.
    let paid = honest.agrees(&site, &product).await;
    honest.approve(&paid).await.expect(200);
    let stolen = thief.agrees(&site, &product).await;
    let crossed = json!({ "pgPaymentId": paid.pg_payment, "amount": won(stolen.amount) });
    thief.approve_with(&stolen.payment, crossed).await.refused(402, "PAYMENT_DECLINED");
    // Agreed to by somebody else, who has not come back yet: the provider takes it for the one it is of.
    let agreed = honest.agrees(&site, &product).await;
    let crossed = json!({ "pgPaymentId": agreed.pg_payment, "amount": won(stolen.amount) });
    eventually("the first attempt is over", async || {
        (thief.approve_with(&stolen.payment, crossed.clone()).await.status == 202).then_some(())
    })
    .await;
    thief.sees_payment(&stolen.payment, "PENDING").await;
    honest.approve(&agreed).await.expect(200);
    site.assert_consistent().await;
    assert_eq!(site.kept_by_provider(&stolen.payment).await, 0);
    for one in [paid, agreed] {
        honest.sees_order(&one.order, "PAID").await;
        assert_eq!(site.kept_by_provider(&one.payment).await, one.amount);
    }
}

/// Whoever never pays does not keep the units from others for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_and_payments_of_an_order_have_an_end() {
    let few = [("payment.attempts_per_order_max", "3"), ("payment.payments_per_order_max", "2")];
    let site = system().settings(&few).start().await;
    let (product, buyer) = (site.product_at(1, 10_002).await, site.buyer().await);
    let agreed = buyer.agrees(&site, &product).await;
    let other = buyer.agrees_to(&site, &agreed.order, agreed.amount).await;
    for one in [&agreed, &other, &agreed] {
        buyer.approve(one).await.refused(402, "PAYMENT_DECLINED");
    }
    for one in [&agreed, &other] {
        buyer.approve(one).await.refused(409, "PAYMENT_NOT_APPROVABLE");
    }
    buyer.prepare(&fresh_key(), &agreed.order, agreed.amount).await.refused(409, "ORDER_NOT_PAYABLE");
    site.assert_consistent().await;
    assert_eq!(site.number("select count(*) from {payment}.payment_attempt").await, 3);
    assert_eq!(site.units(&product).await, Units { on_hand: 1, held: 1 });
}
