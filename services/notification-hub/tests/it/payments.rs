//! Who hears what of a payment, over which channel, and who sees it.

use common::auth::Role;
use contract::events::{OrderLine, OrderPlaced, PaymentFailed, PaymentRefunded, PaymentUnknown};
use contract::ids::{OrderId, PaymentAttemptId, PaymentId, RefundId};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::pretended_slack::PretendedSlack;
use crate::site::{OPERATOR, STRANGER, Site, USER, is, order};

/// A failed payment of `USER`, the same for the same `name`.
pub fn payment_failed(name: &str) -> PaymentFailed {
    PaymentFailed {
        payment_id: PaymentId::derive(&[name.as_bytes()]).to_string(),
        order_id: OrderId::derive(&[name.as_bytes()]).to_string(),
        user_id: USER.to_owned(),
        version: 2,
        attempt_id: PaymentAttemptId::derive(&[name.as_bytes()]).to_string(),
        amount: 129_000,
        currency: "KRW".to_owned(),
        provider: "naverpay".to_owned(),
        code: "PAYMENT_DECLINED".to_owned(),
        pg_code: "NotEnoughAccountBalance".to_owned(),
        failed_at: None,
    }
}

fn channels(notification: &Value) -> Vec<&str> {
    let deliveries = notification["deliveries"].as_array().unwrap();
    let mut channels: Vec<_> = deliveries.iter().map(|one| one["channel"].as_str().unwrap()).collect();
    channels.sort_unstable();
    channels
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_payment_is_one_notification_by_email_to_the_customer_and_over_slack_to_operators() {
    let slack = PretendedSlack::start(&[]);
    let site = Site::start_with("failed", &slack.settings()).await;
    let failed = payment_failed("one");
    for _ in 0..3 {
        site.hears(&failed).await;
    }
    let seen = site.operators(is("COMPLETED")).await;
    site.hears(&failed).await;
    // Once the event behind it in the log is through, so is the repeated one.
    site.hears(&PaymentFailed { user_id: STRANGER.to_owned(), ..payment_failed("two") }).await;
    site.all(2, is("COMPLETED")).await;

    assert_eq!((&seen["type"], &seen["userId"]), (&"PAYMENT_FAILED".into(), &USER.into()));
    assert_eq!(channels(&seen), ["EMAIL", "SLACK"]);
    let taken = slack.taken();
    let of_this: Vec<_> = taken.iter().filter(|message| message.to_string().contains(&failed.payment_id)).collect();
    let [message] = of_this[..] else { panic!("exactly one message: {taken:?}") };
    for part in [&failed.order_id, &failed.attempt_id, &failed.pg_code, "KRW 129,000"] {
        assert!(message["blocks"].to_string().contains(part), "{part} is missing in {message}");
    }
    assert!(message["text"].as_str().unwrap().contains("결제 실패"));

    // The customer sees the e-mail, and nothing of the provider.
    let own = site.notification(is("COMPLETED")).await;
    assert_eq!(channels(&own), ["EMAIL"]);
    assert_eq!(own["notificationId"], seen["notificationId"]);
    assert!(!own.to_string().contains("NotEnoughAccountBalance") && !own.to_string().contains("naverpay"), "{own}");
    let (_, page) = site.get("/notifications?channel=SLACK").await;
    assert_eq!(page["items"], Value::Array(Vec::new()));
    let (_, page) = site.call(Method::GET, "/notifications?channel=SLACK", OPERATOR, Role::Admin).await;
    assert_eq!(page["items"].as_array().unwrap().len(), 2);
    site.stop().await;
    slack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_operators_hear_of_an_unknown_payment_and_only_when_a_person_has_to_look() {
    let slack = PretendedSlack::start(&[]);
    let site = Site::start_with("unknown", &slack.settings()).await;
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
    site.hears(&unknown).await;
    site.hears(&PaymentUnknown { version: 3, needs_review: true, ..unknown.clone() }).await;
    let seen = site.operators(is("COMPLETED")).await;

    assert_eq!((channels(&seen), &seen["userId"]), (vec!["SLACK"], &Value::Null));
    assert_eq!(site.all(1, is("COMPLETED")).await.len(), 1, "the ordinary one is nobody's business");
    let taken = slack.taken();
    assert_eq!(taken.len(), 1);
    assert!(taken[0]["blocks"].to_string().contains(&unknown.payment_id));

    let (_, page) = site.get("/notifications").await;
    assert_eq!(page["items"], Value::Array(Vec::new()));
    let path = format!("/notifications/{}", seen["notificationId"].as_str().unwrap());
    assert_eq!(site.get(&path).await.0, StatusCode::NOT_FOUND);
    site.stop().await;
    slack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paid_order_and_a_refund_are_told_to_the_buyer_alone() {
    let slack = PretendedSlack::start(&[]);
    let site = Site::start_with("paid", &slack.settings()).await;
    let PaymentFailed { payment_id, order_id, .. } = payment_failed("one");
    let placed = OrderPlaced {
        order_id: order_id.clone(),
        user_id: USER.to_owned(),
        version: 3,
        payment_id: payment_id.clone(),
        hold_id: order_id.clone(),
        items: vec![OrderLine {
            product_id: "p".to_owned(),
            name: "Sneaker".to_owned(),
            quantity: 2,
            unit_price: 64_500,
        }],
        amount: 129_000,
        currency: "KRW".to_owned(),
        placed_at: None,
    };
    for _ in 0..2 {
        site.hears(&placed).await;
    }
    let receipt = site.notification(is("COMPLETED")).await;
    assert_eq!((&receipt["type"], channels(&receipt)), (&"ORDER_PLACED".into(), vec!["EMAIL"]));
    let body = receipt["deliveries"][0]["body"].as_str().unwrap();
    assert!(body.contains(&order_id) && body.contains(&payment_id) && body.contains("KRW 129,000"), "{body}");

    let refunded = PaymentRefunded {
        payment_id,
        order_id,
        user_id: USER.to_owned(),
        version: 6,
        refund_id: RefundId::derive(&[b"one"]).to_string(),
        amount: 129_000,
        refunded_total: 129_000,
        captured: 129_000,
        currency: "KRW".to_owned(),
        reason: "ORDER_CANCELLED".to_owned(),
        refunded_at: None,
    };
    for _ in 0..2 {
        site.hears(&refunded).await;
    }
    let refund = site.notification(|found| found["type"] == "PAYMENT_REFUNDED" && is("COMPLETED")(found)).await;
    assert_eq!(channels(&refund), ["EMAIL"]);
    assert_eq!(refund["data"]["amount"]["amount"], 129_000);
    assert_eq!(site.all(2, is("COMPLETED")).await.len(), 2);
    assert!(slack.heard().is_empty());
    site.stop().await;
    slack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_webhook_operators_read_the_log() {
    let site = Site::start("no_webhook").await;
    let (event_id, order) = order("one", STRANGER);
    site.order_created(event_id, &order).await;
    site.hears(&payment_failed("one")).await;
    let all = site.all(2, is("COMPLETED")).await;
    assert_eq!(all.iter().map(|one| channels(one).len()).sum::<usize>(), 3);
    site.stop().await;
}
