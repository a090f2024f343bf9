//! The fake Slack as the notification hub meets it.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::redirect::Policy;
use sandbox::SlackAnswer;
use serde_json::{Value, json};

use crate::support::Merchant;

const HOOK: &str = "slack/services/T000/B000/token";

async fn post(merchant: &Merchant, body: Value) -> (StatusCode, String) {
    let answer = merchant.http.post(merchant.url(HOOK)).json(&body).send().await.unwrap();
    (answer.status(), answer.text().await.unwrap())
}

#[tokio::test]
async fn messages_are_kept_in_order_and_malformed_ones_are_refused() {
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
#[ignore = "soak: waits for a second to pass"]
async fn a_webhook_may_post_again_after_a_second() {
    let merchant = Merchant::new().await;
    assert_eq!(merchant.put("slack/faults", json!({ "onePerSecond": true })).await, StatusCode::OK);
    assert_eq!(post(&merchant, json!({ "text": "one" })).await.0, StatusCode::OK);
    assert_eq!(post(&merchant, json!({ "text": "two" })).await.0, StatusCode::TOO_MANY_REQUESTS);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(post(&merchant, json!({ "text": "two" })).await.0, StatusCode::OK);
    assert_eq!(merchant.get("slack/messages").await["total"], 2);
}

#[tokio::test]
async fn a_rate_of_one_befalls_every_message() {
    let merchant = Merchant::new().await;
    for (fault, status) in [("rateLimited", 429), ("error500", 500), ("archived", 410)] {
        assert_eq!(merchant.put("slack/faults", json!({ fault: 1.0 })).await, StatusCode::OK);
        assert_eq!(post(&merchant, json!({ "text": "hello" })).await.0.as_u16(), status, "{fault}");
    }
    merchant.put("slack/faults", json!({ "hang": 1.0 })).await;
    let hanging = tokio::spawn(merchant.http.post(merchant.url(HOOK)).json(&json!({ "text": "hello" })).send());
    merchant.fakes().until_silent(1).await;
    merchant.fakes().end_silences();
    assert!(hanging.await.unwrap().is_err());
    assert_eq!(merchant.get("slack/messages").await["total"], 0);
    merchant.put("slack/faults", json!({ "lostAfter": 1.0 })).await;
    assert!(merchant.http.post(merchant.url(HOOK)).json(&json!({ "text": "hello" })).send().await.is_err());
    assert_eq!(merchant.get("slack/messages").await["total"], 1);
    assert_eq!(merchant.put("slack/faults", json!({ "hang": 0.6, "error500": 0.6 })).await, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_next_messages_are_answered_as_a_test_says() {
    let merchant = Merchant::new().await;
    let slack = merchant.fakes().slack();
    let answers = [
        SlackAnswer::RateLimited { retry_after_seconds: 7 },
        SlackAnswer::Status(404),
        SlackAnswer::Redirect,
        SlackAnswer::Ok,
    ];
    slack.answer_next(&answers);
    let http = reqwest::Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
    let webhook = merchant.fakes().slack_webhook();
    let post = async |text: &str| http.post(&webhook).json(&json!({ "text": text })).send().await.unwrap();
    let limited = post("one").await;
    assert_eq!(
        (limited.status(), &limited.headers()["retry-after"]),
        (StatusCode::TOO_MANY_REQUESTS, &"7".parse().unwrap())
    );
    assert_eq!(post("two").await.status(), StatusCode::NOT_FOUND);
    let redirect = post("three").await;
    assert_eq!(
        (redirect.status(), redirect.headers()["location"].to_str().unwrap()),
        (StatusCode::FOUND, webhook.as_str())
    );
    assert_eq!(post("four").await.status(), StatusCode::OK);
    assert_eq!(post("five").await.status(), StatusCode::OK);
    assert_eq!(slack.taken(), [json!({ "text": "four" }), json!({ "text": "five" })]);
    let attempts = slack.attempts();
    assert_eq!(
        attempts.iter().map(|attempt| attempt.answer).collect::<Vec<_>>(),
        [&answers[..], &[SlackAnswer::Ok]].concat()
    );
    assert!(attempts.iter().all(|attempt| webhook.ends_with(&attempt.webhook)));
}
