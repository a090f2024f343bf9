//! What a buyer sees of it.

use std::time::Duration;

use chrono::Utc;
use contract::events::PaymentRefunded;
use serde_json::Value;
use uuid::Uuid;

use crate::site::{AMOUNT, Placed, Site, until};

#[tokio::test(flavor = "multi_thread")]
async fn every_status_is_read_and_found_and_a_paid_order_names_its_payment() {
    let site = Site::start("statuses").await;
    let user = Uuid::now_v7();
    let mut orders: Vec<Placed> = Vec::new();
    for _ in 0..6 {
        orders.push(site.order_of(user).await);
    }
    let payment = Uuid::now_v7();
    let [_, prepared, paid, pending, refunded, cancelled] = &orders[..] else { panic!("six were placed") };
    site.begin_payment(prepared, payment).await.unwrap();
    let payments: Vec<Uuid> = (0..3).map(|_| Uuid::now_v7()).collect();
    for (order, payment) in [paid, pending, refunded].into_iter().zip(&payments) {
        site.begin(order, *payment, Uuid::now_v7()).await.unwrap();
        site.mark_paid(order, *payment, false).await.unwrap();
    }
    assert_eq!(site.cancel(pending).await.status, 202);
    assert_eq!(site.cancel(cancelled).await.status, 200);
    site.deliver(&PaymentRefunded {
        payment_id: payments[2].to_string(),
        order_id: refunded.id.clone(),
        version: 4,
        refunded_total: AMOUNT,
        captured: AMOUNT,
        ..PaymentRefunded::default()
    })
    .await;
    site.heard(1).await;
    *site.inventory.ttl.lock().unwrap() = Duration::ZERO;
    orders.push(site.order_of(user).await);

    let statuses = ["CREATED", "PENDING_PAYMENT", "PAID", "REFUND_PENDING", "REFUNDED", "CANCELLED", "EXPIRED"];
    for (number, (order, status)) in orders.iter().zip(statuses).enumerate() {
        let read = site.read(order).await;
        assert_eq!(read["status"], status);
        assert_eq!(site.listed(user, status).await, [order.id.as_str()], "{status}");
        let named = (2..5).contains(&number).then(|| payments[number - 2].to_string());
        assert_eq!(read.get("paymentId").and_then(Value::as_str), named.as_deref(), "{status}");
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_the_first_answer_to_the_byte_whatever_became_of_the_order() {
    let site = Site::start("replay").await;
    *site.inventory.ttl.lock().unwrap() = Duration::from_secs(30);
    let (user, payment, attempt) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    let first = site.place(user, "sneakers").await;
    assert_eq!(first.outcome(), (201, "CREATED".to_owned()));
    assert_eq!(first.headers.get("Idempotent-Replayed"), None);
    let order = Placed { id: first.json()["orderId"].as_str().unwrap().to_owned(), user };
    let replay = async |when: &str| {
        let answer = site.place(user, "sneakers").await;
        assert_eq!((answer.status.as_u16(), answer.text), (201, first.text.clone()), "{when}");
        assert_eq!(answer.headers.get("Idempotent-Replayed").unwrap(), "true");
        assert_eq!(answer.headers.get("Location"), first.headers.get("Location"));
    };
    replay("placed").await;
    site.begin_payment(&order, payment).await.unwrap();
    site.begin(&order, payment, attempt).await.unwrap();
    replay("reserved").await;
    site.end(&order, attempt, Some(Utc::now() + Duration::from_secs(60))).await.unwrap();
    assert_ne!(site.read(&order).await["holdExpiresAt"], first.json()["holdExpiresAt"]);
    replay("freed, with more time").await;
    site.begin(&order, payment, Uuid::now_v7()).await.unwrap();
    site.mark_paid(&order, payment, false).await.unwrap();
    replay("paid").await;
    assert_eq!(site.cancel(&order).await.status, 202);
    replay("cancelled").await;
    site.deliver(&PaymentRefunded {
        payment_id: payment.to_string(),
        order_id: order.id.clone(),
        version: 4,
        refunded_total: AMOUNT,
        captured: AMOUNT,
        ..PaymentRefunded::default()
    })
    .await;
    until("it is refunded", async || site.get(&order).await.status == "REFUNDED").await;
    replay("refunded").await;
    site.stop().await;
}
