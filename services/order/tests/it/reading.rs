//! What a buyer sees of an order.

use chrono::{TimeDelta, Utc};
use serde_json::Value;
use testkit::{fresh_key, text};
use uuid::Uuid;

use crate::site::{AMOUNT, OrderSite, Placed, outcome, payment_refunded};

#[tokio::test(flavor = "multi_thread")]
async fn an_order_of_each_status_is_read_and_listed_and_a_paid_one_names_its_payment() {
    let site = OrderSite::start().await;
    let buyer = site.buyer().await;
    let mut orders: Vec<Placed> = Vec::new();
    for _ in 0..7 {
        orders.push(site.order_of(&buyer).await);
    }
    let [_, prepared, paid, pending, refunded, cancelled, expired] = &orders[..] else { panic!("seven were placed") };
    site.begin_payment(prepared, Uuid::now_v7()).await.unwrap();
    let payments: Vec<Uuid> = (0..3).map(|_| Uuid::now_v7()).collect();
    for (order, payment) in [paid, pending, refunded].into_iter().zip(&payments) {
        site.reserve(order, *payment).await;
        site.mark_paid(order, *payment, false).await.unwrap();
    }
    site.cancel(pending).await.expect(202);
    site.cancel(cancelled).await.expect(200);
    site.make_overdue(&[expired]).await;
    site.deliver("order", &payment_refunded(refunded, payments[2], AMOUNT, AMOUNT)).await;

    let statuses = ["CREATED", "PENDING_PAYMENT", "PAID", "REFUND_PENDING", "REFUNDED", "CANCELLED", "EXPIRED"];
    for (number, (order, status)) in orders.iter().zip(statuses).enumerate() {
        let read = site.read(order).await;
        assert_eq!(read["status"], status);
        assert_eq!(site.listed(&buyer, status).await, [order.id.as_str()], "{status}");
        let named = (2..5).contains(&number).then(|| payments[number - 2].to_string());
        assert_eq!(read.get("paymentId").and_then(Value::as_str), named.as_deref(), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_equal_to_the_first_answer_whatever_happened_to_the_order() {
    let site = OrderSite::start().await;
    let (buyer, key, payment) = (site.buyer().await, fresh_key(), Uuid::now_v7());
    let first = site.place(&buyer, &key).await;
    assert_eq!((outcome(&first), first.is_replay()), ((201, "CREATED".to_owned()), false));
    let order = Placed { id: text(&first.json()["orderId"]), buyer: buyer.clone() };
    let replay = async |when: &str| {
        let answer = site.place(&buyer, &key).await;
        assert_eq!((answer.status.as_u16(), &answer.body, answer.is_replay()), (201, &first.body, true), "{when}");
        assert_eq!(answer.header("Location"), first.header("Location"), "{when}");
    };
    replay("placed").await;
    site.begin_payment(&order, payment).await.unwrap();
    let attempt = site.reserve(&order, payment).await;
    replay("reserved").await;
    site.end_approval(&order, attempt, Some(Utc::now() + TimeDelta::minutes(60))).await.unwrap();
    assert_ne!(site.read(&order).await["holdExpiresAt"], first.json()["holdExpiresAt"]);
    replay("with more time").await;
    site.reserve(&order, payment).await;
    site.mark_paid(&order, payment, false).await.unwrap();
    replay("paid").await;
    site.cancel(&order).await.expect(202);
    replay("cancelled").await;
    site.deliver("order", &payment_refunded(&order, payment, AMOUNT, AMOUNT)).await;
    assert_eq!(site.get(&order).await.status, "REFUNDED");
    replay("refunded").await;
}
