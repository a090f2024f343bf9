//! Webhooks: signed, sent to addresses that administrators have entered, and to no other.

use std::process::Stdio;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};
use testkit::{Answer, Site, eventually, text};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::fake_account::FakeAccount;
use crate::fake_receiver::{FakeReceiver, Received, Reply};
use crate::hub::{USER, all_ended, delivery, is, list, newest, start, state, user};
use crate::senders::{send, with};

/// A hub that may call programs on this machine.
async fn start_open(settings: &[(&str, &str)]) -> (Site, FakeAccount) {
    let open = [
        ("notification_hub.webhook.allow_http", "true"),
        ("notification_hub.webhook.allow_private_addresses", "true"),
        ("notification_hub.webhook.retry_delays_seconds", "0,0,0"),
    ];
    start(&[&open[..], settings].concat()).await
}

async fn enter(site: &Site, name: &str, url: &str) -> Answer {
    let admin = site.admin();
    let request = admin.request(Method::PUT, &format!("/admin/webhook-endpoints/{name}"));
    admin.send(request.json(&json!({ "url": url }))).await
}

async fn secrets(site: &Site, name: &str) -> Value {
    site.admin().get(&format!("/admin/webhook-endpoints/{name}/secret")).await.expect(200).json()
}

async fn rotate(site: &Site, name: &str) -> Value {
    let admin = site.admin();
    let request = admin.request(Method::POST, &format!("/admin/webhook-endpoints/{name}/rotate-secret"));
    admin.send(request).await.expect(200).json()
}

/// A notification to the endpoint `shop`.
fn to_shop() -> Value {
    let mut notification = with("channels", json!([{ "channel": "WEBHOOK", "target": "shop" }]));
    notification["recipient"] = json!({ "userId": USER });
    notification
}

/// Whether `secret` has made one of the signatures of `received`, as a receiver checks it.
fn is_signed(received: &Received, secret: &Value) -> bool {
    let key = STANDARD.decode(secret.as_str().unwrap().strip_prefix("whsec_").unwrap()).unwrap();
    let signed = [format!("{}.{}.", received.id, received.timestamp).as_bytes(), &received.body].concat();
    let expected = STANDARD.encode(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), &signed));
    received.signature.split(' ').any(|signature| signature == format!("v1,{expected}"))
}

/// What the reference library of Standard Webhooks, in Python, says of each: `ok`, or why it does not take it.
async fn judged_by_the_reference(received: &[Received], secret: &Value) -> Vec<String> {
    let line = |one: &Received| {
        let headers = json!({
            "webhook-id": one.id, "webhook-timestamp": one.timestamp, "webhook-signature": one.signature,
        });
        let body = std::str::from_utf8(&one.body).unwrap();
        format!("{}\n", json!({ "secret": secret, "headers": headers, "body": body }))
    };
    let lines: String = received.iter().map(line).collect();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/standard_webhooks.py");
    let mut process = Command::new("/usr/bin/python3")
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Debian's Python starts; ./stampede installs it");
    process.stdin.take().unwrap().write_all(lines.as_bytes()).await.unwrap();
    let output = process.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{script} judges");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_signed_and_the_same_in_every_attempt() {
    let receiver = FakeReceiver::start(&[Reply::Status(500), Reply::Status(404)]);
    let (site, _) = start_open(&[]).await;
    let url = format!("http://{}/hooks?a=b", receiver.address);
    enter(&site, "shop", &url).await.expect(201);
    let sent = send(&site.admin(), "k", &to_shop()).await.expect(201).json();
    let found = all_ended(&site.admin(), 1).await.remove(0);
    assert_eq!(state(delivery(&found, "WEBHOOK")), is("SUCCESS", 3, Some("REJECTED")));

    let received = receiver.received();
    assert_eq!(received.len(), 3);
    let secret = secrets(&site, "shop").await["secret"].clone();
    for one in &received {
        assert_eq!((&one.id, one.path.as_str()), (&text(&sent["deliveries"][0]["deliveryId"]), "/hooks"));
        assert_eq!(one.body, received[0].body);
        assert!(is_signed(one, &secret), "{one:?}");
    }
    let mut judged = received.clone();
    judged.push(Received { body: b"{}".to_vec(), ..received[0].clone() });
    let judged = judged_by_the_reference(&judged, &secret).await;
    assert_eq!(judged, ["ok", "ok", "ok", "No matching signature found"], "the last one has another body");
    let body: Value = serde_json::from_slice(&received[0].body).unwrap();
    assert_eq!((&body["type"], &body["timestamp"]), (&json!("SYSTEM_INCIDENT"), &found["createdAt"]));
    assert_eq!(body["data"]["notificationId"], found["notificationId"]);
    assert_eq!(body["data"]["data"], json!({ "incidentId": "INC-1" }));
    assert!(!list(&site.admin(), "").await[0].to_string().contains("internal secret"), "answers are not shown");
    // Where it went is not for the user that it was about.
    let own = list(&user(&site), "").await.remove(0);
    assert_eq!(own["deliveries"], json!([]));
    site.stop().await;
    receiver.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_secret_is_replaced_both_sign() {
    let receiver = FakeReceiver::start(&[]);
    let (site, _) = start_open(&[]).await;
    enter(&site, "shop", &format!("http://{}/", receiver.address)).await.expect(201);
    let old = secrets(&site, "shop").await["secret"].clone();
    let rotated = rotate(&site, "shop").await;
    let new = rotated["secret"].clone();
    assert_eq!((new != old, &rotated["oldSecret"]), (true, &old));
    assert_eq!(rotate(&site, "shop").await, rotated, "a repeat within the overlap changes nothing");
    // Another address keeps the secrets.
    enter(&site, "shop", &format!("http://{}/new", receiver.address)).await.expect(200);
    send(&site.admin(), "one", &to_shop()).await.expect(201);
    let received = receiver.has(1).await.remove(0);
    assert_eq!(received.path, "/new");
    assert!(is_signed(&received, &new) && is_signed(&received, &old));

    let end = "update {notification_hub}.webhook_endpoints set old_secret_until = now() - interval '1 second'";
    site.execute(end).await;
    send(&site.admin(), "two", &to_shop()).await.expect(201);
    let received = receiver.has(2).await.remove(1);
    assert!(is_signed(&received, &new) && !is_signed(&received, &old));
    assert_eq!(secrets(&site, "shop").await["oldSecret"], Value::Null);
    site.stop().await;
    receiver.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_where_the_settings_do_not_allow_it() {
    let receiver = FakeReceiver::start(&[]);
    let (site, account) = start(&[("notification_hub.webhook.allow_http", "true")]).await;
    let port = receiver.address.rsplit_once(':').unwrap().1.to_owned();
    for url in [
        format!("http://{}/", receiver.address),
        format!("http://0x7f.1:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        format!("http://user@{}/", receiver.address),
        "https://169.254.169.254/latest/meta-data/".to_owned(),
        "gopher://example.com/".to_owned(),
        "file:///etc/passwd".to_owned(),
        "shop".to_owned(),
    ] {
        let refused = enter(&site, "shop", &url).await.refused(400, "VALIDATION_ERROR");
        assert_eq!(refused["details"][0]["field"], "url", "{url}");
    }
    // A name can only be judged by what it leads to, which may change: so it is judged when it is called.
    enter(&site, "shop", &format!("http://localhost:{port}/")).await.expect(201);
    send(&site.admin(), "k", &to_shop()).await.expect(201);
    let found = all_ended(&site.admin(), 1).await.remove(0);
    assert_eq!(state(delivery(&found, "WEBHOOK")), is("FAILED", 1, Some("ADDRESS_REFUSED")));
    assert_eq!(receiver.received().len(), 0);
    drop(account);
    site.stop().await;
    receiver.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed_and_gone_is_for_ever() {
    let receiver = FakeReceiver::start(&[Reply::Moved, Reply::Status(410)]);
    let (site, _) = start_open(&[]).await;
    enter(&site, "shop", &format!("http://{}/", receiver.address)).await.expect(201);
    send(&site.admin(), "k", &to_shop()).await.expect(201);
    let found =
        eventually("it is given up", async || list(&site.admin(), "?status=FAILED").await.into_iter().next()).await;
    assert_eq!(state(delivery(&found, "WEBHOOK")), is("FAILED", 2, Some("WEBHOOK_REFUSED")));
    assert!(receiver.received().iter().all(|one| one.path == "/"), "{:?}", receiver.received());
    // Nothing more is sent there, and the operators know.
    let alert = newest(&site.admin(), "operators are told", |found| found["type"] == "WEBHOOK_ENDPOINT_DISABLED").await;
    assert_eq!(alert["data"], json!({ "endpoint": "shop" }));
    let listed = async || site.admin().get("/admin/webhook-endpoints").await.expect(200).json()["items"][0].clone();
    assert!(listed().await["disabledAt"].is_string());
    send(&site.admin(), "disabled", &to_shop()).await.expect(201);
    let found = newest(&site.admin(), "it is given up", |found| found["status"] == "FAILED").await;
    assert_eq!(state(delivery(&found, "WEBHOOK")), is("FAILED", 1, Some("ENDPOINT_DISABLED")));
    assert_eq!(receiver.received().len(), 2);
    // Until its address is entered again.
    enter(&site, "shop", &format!("http://{}/", receiver.address)).await.expect(200);
    assert_eq!(listed().await["disabledAt"], Value::Null);
    send(&site.admin(), "enabled", &to_shop()).await.expect(201);
    receiver.has(3).await;
    site.stop().await;
    receiver.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_the_receiver_asks_for_costs_no_attempt() {
    let receiver = FakeReceiver::start(&[Reply::TooFast(60)]);
    let (site, _) = start_open(&[]).await;
    enter(&site, "shop", &format!("http://{}/", receiver.address)).await.expect(201);
    send(&site.admin(), "k", &to_shop()).await.expect(201);
    let throttled = |found: &Value| delivery(found, "WEBHOOK")["lastError"] == "THROTTLED";
    let found = newest(&site.admin(), "the webhook is throttled", throttled).await;
    assert_eq!(state(delivery(&found, "WEBHOOK")), is("PENDING", 0, Some("THROTTLED")));
    let kept = "select count(*) from {notification_hub}.deliveries
                 where next_attempt_at >= created_at + interval '60 seconds'";
    assert_eq!(site.number(kept).await, 1);
    site.execute("update {notification_hub}.deliveries set next_attempt_at = now()").await;
    let found = all_ended(&site.admin(), 1).await.remove(0);
    assert_eq!(state(delivery(&found, "WEBHOOK")), is("SUCCESS", 1, Some("THROTTLED")));
    site.stop().await;
    receiver.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_needs_an_endpoint_that_is_there() {
    let receiver = FakeReceiver::start(&[]);
    let (site, _) = start_open(&[]).await;
    let admin = site.admin();
    send(&admin, "k", &to_shop()).await.refused(404, "WEBHOOK_ENDPOINT_NOT_FOUND");
    let without = with("channels", json!([{ "channel": "WEBHOOK" }]));
    send(&admin, "k", &without).await.refused(400, "VALIDATION_ERROR");
    enter(&site, "shop", &format!("http://{}/", receiver.address)).await.expect(201);
    let first = send(&admin, "k", &to_shop()).await.expect(201);
    receiver.has(1).await;

    let removing = || admin.request(Method::DELETE, "/admin/webhook-endpoints/shop");
    admin.send(removing()).await.expect(204);
    admin.send(removing()).await.refused(404, "WEBHOOK_ENDPOINT_NOT_FOUND");
    // The answer to a request that was taken stays what it was.
    assert_eq!(send(&admin, "k", &to_shop()).await.expect(201).body, first.body);
    site.execute("update {notification_hub}.deliveries set status = 'PENDING', next_attempt_at = now()").await;
    let dead = |found: &Value| delivery(found, "WEBHOOK")["lastError"] == "ENDPOINT_UNKNOWN";
    newest(&admin, "what cannot be sent any more is a dead letter", dead).await;
    assert_eq!(receiver.received().len(), 1);
    site.stop().await;
    receiver.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_listed_by_name_without_their_secrets_and_for_administrators_only() {
    let (site, _) = start_open(&[]).await;
    for name in ["c", "a", "b"] {
        enter(&site, name, "https://hooks.example.com/").await.expect(201);
    }
    enter(&site, "No Name", "https://hooks.example.com/").await.refused(400, "VALIDATION_ERROR");
    let admin = site.admin();
    let first = admin.get("/admin/webhook-endpoints?limit=2").await.expect(200);
    assert!(!first.body.contains("whsec_"), "{first}");
    let first = first.json();
    let rest = format!("/admin/webhook-endpoints?cursor={}", text(&first["nextCursor"]));
    let rest = admin.get(&rest).await.expect(200).json();
    let names = |page: &Value| {
        let items = page["items"].as_array().unwrap();
        items.iter().map(|item| text(&item["name"])).collect::<Vec<_>>()
    };
    assert_eq!((names(&first).join(""), names(&rest).join("")), ("ab".to_owned(), "c".to_owned()));
    for path in ["/admin/webhook-endpoints", "/admin/webhook-endpoints/a/secret"] {
        user(&site).get(path).await.refused(403, "FORBIDDEN");
    }
    admin.get("/admin/webhook-endpoints/x/secret").await.refused(404, "WEBHOOK_ENDPOINT_NOT_FOUND");
    site.stop().await;
}
