//! Who is told what of a payment, over which channel, and who sees it.

use contract::events::{OrderLine, OrderPlaced, PaymentFailed, PaymentRefunded, PaymentUnknown};
use contract::ids::RefundId;
use serde_json::{Value, json};

use crate::fake_slack::FakeSlack;
use crate::hub::{
    STRANGER, USER, all_ended, delivery, ended, list, newest, payment_failed, publish_order, start, user,
};

fn channels(notification: &Value) -> Vec<&str> {
    let deliveries = notification["deliveries"].as_array().unwrap();
    let mut channels: Vec<_> = deliveries.iter().map(|one| one["channel"].as_str().unwrap()).collect();
    channels.sort_unstable();
    channels
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_payment_is_told_to_the_customer_by_email_and_to_operators_over_slack() {
    let slack = FakeSlack::start(&[]);
    let (site, _) = start(&slack.settings()).await;
    let failed = payment_failed("one");
    site.publish(&failed).await;
    let seen = all_ended(&site.admin(), 1).await.remove(0);

    assert_eq!((&seen["type"], &seen["userId"]), (&json!("PAYMENT_FAILED"), &json!(USER)));
    assert_eq!((channels(&seen), &seen["status"]), (vec!["EMAIL", "SLACK"], &json!("COMPLETED")));
    let taken = slack.taken();
    let [message] = &taken[..] else { panic!("exactly one message: {taken:?}") };
    for part in [&failed.order_id, &failed.payment_id, &failed.attempt_id, &failed.pg_code, "KRW 129,000"] {
        assert!(message["blocks"].to_string().contains(part), "{part} is missing in {message}");
    }
    assert!(message["text"].as_str().unwrap().contains("결제 실패"));

    let own = ended(&user(&site)).await;
    assert_eq!(own["notificationId"], seen["notificationId"]);
    assert_eq!(channels(&own), ["EMAIL"], "what operators get is not shown to the customer");
    for secret in ["NotEnoughAccountBalance", "naverpay"] {
        assert!(!own.to_string().contains(secret), "{secret} is for operators only: {own}");
    }
    assert_eq!(list(&user(&site), "?channel=SLACK").await, [] as [Value; 0]);
    assert_eq!(list(&site.admin(), "?channel=SLACK").await.len(), 1);
    site.stop().await;
    slack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_operators_hear_of_an_unknown_payment_and_only_when_a_person_has_to_look() {
    let slack = FakeSlack::start(&[]);
    let (site, _) = start(&slack.settings()).await;
    let PaymentFailed { payment_id, order_id, user_id, attempt_id, amount, currency, provider, .. } =
        payment_failed("one");
    let unknown = PaymentUnknown {
        payment_id,
        order_id,
        user_id,
        version: 2,
        attempt_id,
        amount,
        currency,
        provider,
        needs_review: false,
        since: None,
    };
    site.publish(&unknown).await;
    site.publish(&PaymentUnknown { version: 3, needs_review: true, ..unknown.clone() }).await;
    let seen = all_ended(&site.admin(), 1).await.remove(0);

    assert_eq!((channels(&seen), &seen["userId"]), (vec!["SLACK"], &Value::Null));
    let taken = slack.taken();
    assert_eq!(taken.len(), 1, "nobody has to know of the first: {taken:?}");
    assert!(taken[0]["blocks"].to_string().contains(&unknown.payment_id));

    assert_eq!(list(&user(&site), "").await, [] as [Value; 0]);
    let path = format!("/notifications/{}", seen["notificationId"].as_str().unwrap());
    user(&site).get(&path).await.refused(404, "NOTIFICATION_NOT_FOUND");
    site.stop().await;
    slack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paid_order_and_a_refund_are_told_to_the_buyer_only() {
    let slack = FakeSlack::start(&[]);
    let (site, _) = start(&slack.settings()).await;
    let PaymentFailed { payment_id, order_id, .. } = payment_failed("one");
    let line = OrderLine {
        product_id: "p".to_owned(),
        name: "Sneaker".to_owned(),
        quantity: 2,
        unit_price: 64_500,
        discount: 0,
        seats: Vec::new(),
    };
    site.publish(&OrderPlaced {
        order_id: order_id.clone(),
        user_id: USER.to_string(),
        version: 3,
        payment_id: payment_id.clone(),
        hold_id: order_id.clone(),
        items: vec![line],
        amount: 129_000,
        currency: "KRW".to_owned(),
        ..OrderPlaced::default()
    })
    .await;
    let receipt = ended(&user(&site)).await;
    assert_eq!((&receipt["type"], channels(&receipt)), (&json!("ORDER_PLACED"), vec!["EMAIL"]));
    let body = delivery(&receipt, "EMAIL")["body"].as_str().unwrap();
    assert!(body.contains(&order_id) && body.contains(&payment_id) && body.contains("KRW 129,000"), "{body}");

    site.publish(&PaymentRefunded {
        payment_id,
        order_id,
        user_id: USER.to_string(),
        version: 6,
        refund_id: RefundId::derive(&[b"one"]).to_string(),
        amount: 129_000,
        refunded_total: 129_000,
        captured: 129_000,
        currency: "KRW".to_owned(),
        reason: "ORDER_CANCELLED".to_owned(),
        refunded_at: None,
    })
    .await;
    let is_refund = |found: &Value| found["type"] == "PAYMENT_REFUNDED";
    newest(&user(&site), "the refund is told", is_refund).await;
    let refund = ended(&user(&site)).await;
    assert_eq!((channels(&refund), &refund["status"]), (vec!["EMAIL"], &json!("COMPLETED")));
    assert_eq!(refund["data"]["amount"]["amount"], 129_000);
    assert_eq!(all_ended(&site.admin(), 2).await.len(), 2);
    assert_eq!(slack.posts().len(), 0);
    site.stop().await;
    slack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_webhook_alerts_go_to_the_log() {
    let (site, _) = start(&[]).await;
    publish_order(&site, "one", STRANGER).await;
    site.publish(&payment_failed("one")).await;
    let all = all_ended(&site.admin(), 2).await;
    assert!(all.iter().all(|found| found["status"] == "COMPLETED"), "{all:?}");
    assert_eq!(all.iter().map(|found| channels(found).len()).sum::<usize>(), 3);
    site.stop().await;
}
