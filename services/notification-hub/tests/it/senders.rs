//! Programs and their keys, and requests for notifications as tests write them.

use reqwest::Method;
use serde_json::{Value, json};
use testkit::{Answer, Client, Site, fresh_key, text};

/// A new key of `client`, and the program that shows it.
pub async fn program(site: &Site, client: &str, scopes: &[&str]) -> (String, Client) {
    let made = make_key(site, &fresh_key(), client, scopes).await.expect(201).json();
    (text(&made["keyId"]), site.anyone().with_token(&text(&made["key"])))
}

/// An administrator's request for a key.
pub async fn make_key(site: &Site, idempotency_key: &str, client: &str, scopes: &[&str]) -> Answer {
    let admin = site.admin();
    let request = admin.request(Method::POST, "/admin/api-keys").header("Idempotency-Key", idempotency_key);
    admin.send(request.json(&json!({ "client": client, "scopes": scopes }))).await
}

pub async fn revoke(site: &Site, key_id: &str) -> Answer {
    let admin = site.admin();
    admin.send(admin.request(Method::DELETE, &format!("/admin/api-keys/{key_id}"))).await
}

/// Sends `notification` under `key`.
pub async fn send(sender: &Client, key: &str, notification: &Value) -> Answer {
    let request = sender.request(Method::POST, "/notifications").header("Idempotency-Key", key);
    sender.send(request.json(notification)).await
}

/// A message for operators.
pub fn incident() -> Value {
    json!({
        "type": "SYSTEM_INCIDENT",
        "channels": [{ "channel": "SLACK" }],
        "subject": "The payment provider is slow",
        "body": "p99 is 9 s since 09:10.",
        "data": { "incidentId": "INC-1" },
    })
}

/// `incident` with another value of one member.
pub fn with(name: &str, value: Value) -> Value {
    let mut notification = incident();
    notification[name] = value;
    notification
}
