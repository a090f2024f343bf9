//! Slack's side of a notification.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::ground::Merchant;

const HOOK: &str = "slack/services/T000/B000/token";

async fn post(merchant: &Merchant, body: Value) -> (StatusCode, String) {
    let answer = merchant.http.post(merchant.url(HOOK)).json(&body).send().await.unwrap();
    (answer.status(), answer.text().await.unwrap())
}

#[tokio::test]
async fn messages_are_kept_in_order_and_nonsense_is_refused() {
    let merchant = Merchant::new().await;
    let blocks = json!([{ "type": "section", "text": { "type": "mrkdwn", "text": "*one*" } }]);
    assert_eq!(post(&merchant, json!({ "text": "one", "blocks": blocks })).await, (StatusCode::OK, "ok".to_owned()));
    assert_eq!(post(&merchant, json!({ "text": "두 번째" })).await.0, StatusCode::OK);
    let refused = (StatusCode::BAD_REQUEST, "invalid_payload".to_owned());
    assert_eq!(post(&merchant, json!({ "blocks": blocks })).await, refused);
    let page = merchant.get("slack/messages").await;
    assert_eq!(page["total"], 2);
    assert_eq!((&page["messages"][0]["text"], &page["messages"][0]["blocks"]), (&json!("one"), &blocks));
    assert_eq!(
        (&page["messages"][1]["text"], &page["messages"][1]["webhook"]),
        (&json!("두 번째"), &json!("T000/B000/token"))
    );
}

#[tokio::test]
async fn more_than_one_a_second_is_too_many_when_the_rule_is_on() {
    let merchant = Merchant::new().await;
    assert_eq!(merchant.put("slack/faults", json!({ "onePerSecond": true })).await, StatusCode::OK);
    assert_eq!(post(&merchant, json!({ "text": "one" })).await.0, StatusCode::OK);
    let two = merchant.http.post(merchant.url(HOOK)).json(&json!({ "text": "two" })).send().await.unwrap();
    assert_eq!((two.status(), &two.headers()["retry-after"]), (StatusCode::TOO_MANY_REQUESTS, &"1".parse().unwrap()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(post(&merchant, json!({ "text": "two" })).await.0, StatusCode::OK);
    assert_eq!(merchant.get("slack/messages").await["total"], 2);
}

#[tokio::test]
async fn slack_misbehaves_as_it_is_told_to() {
    let merchant = Merchant::new().await;
    let hello = || merchant.http.post(merchant.url(HOOK)).json(&json!({ "text": "hello" })).send();
    for (fault, status) in [("rateLimited", 429), ("error500", 500), ("archived", 410)] {
        assert_eq!(merchant.put("slack/faults", json!({ fault: 1.0 })).await, StatusCode::OK);
        assert_eq!(hello().await.unwrap().status().as_u16(), status, "{fault}");
    }
    merchant.put("slack/faults", json!({ "hang": 1.0, "hangMs": 100 })).await;
    assert!(hello().await.is_err());
    assert_eq!(merchant.get("slack/messages").await["total"], 0);
    merchant.put("slack/faults", json!({ "lostAfter": 1.0 })).await;
    assert!(hello().await.is_err());
    assert_eq!(merchant.get("slack/messages").await["total"], 1);
    assert_eq!(merchant.put("slack/faults", json!({ "hang": 0.6, "error500": 0.6 })).await, StatusCode::BAD_REQUEST);
}
