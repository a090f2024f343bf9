//! `POST /notifications`, and the same over gRPC: stored once, whoever asks how often.

use contract::notification_hub::notification_service_client::NotificationServiceClient;
use contract::notification_hub::{ChannelRequest, SendRequest};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use testkit::{fresh_key, text};

use crate::fake_slack::FakeSlack;
use crate::hub::{USER, all_ended, delivery, ended, is, list, start, state, user};
use crate::senders::{incident, program, send, with};

const NOTIFICATIONS: &str = "select count(*) from {notification_hub}.notifications";

#[tokio::test(flavor = "multi_thread")]
async fn one_key_is_one_notification_however_often_it_is_sent() {
    let slack = FakeSlack::start(&[]);
    let (site, _) = start(&slack.settings()).await;
    let (_, sender) = program(&site, "monitoring", &["notifications:write"]).await;
    let notification = incident();
    let answers = join_all((0..20).map(|_| send(&sender, "k", &notification))).await;
    let first = answers[0].body.clone();
    for answer in &answers {
        assert_eq!((answer.status.as_u16(), &answer.body), (201, &first), "{answer}");
    }
    assert_eq!(answers.iter().filter(|answer| !answer.is_replay()).count(), 1);
    let sent: Value = serde_json::from_str(&first).unwrap();
    let expected =
        json!([{ "deliveryId": sent["deliveries"][0]["deliveryId"], "channel": "SLACK", "status": "PENDING" }]);
    assert_eq!(sent["deliveries"], expected);
    let location = format!("/api/v1/notifications/{}", text(&sent["notificationId"]));
    assert_eq!(answers[0].header("Location"), Some(location.as_str()));

    let found = all_ended(&site.admin(), 1).await.remove(0);
    assert_eq!(state(delivery(&found, "SLACK")), is("SUCCESS", 1, None));
    assert_eq!(slack.posts().len(), 1);
    // Whatever has become of it: the answer to the request is the first one.
    let later = send(&sender, "k", &notification).await.expect(201);
    assert!(later.is_replay() && later.body == first, "{later}");
    send(&sender, "k", &with("body", json!("Other"))).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(site.number(NOTIFICATIONS).await, 1);
    site.stop().await;
    slack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_is_one_notification_whatever_its_keys_and_each_caller_has_its_own() {
    let (site, _) = start(&[]).await;
    let (_, sender) = program(&site, "monitoring", &["notifications:write"]).await;
    let (_, other) = program(&site, "payroll", &["notifications:write"]).await;
    let of_event = with("eventId", json!("INC-1"));
    let first = send(&sender, &fresh_key(), &of_event).await.expect(201);
    let again = send(&sender, &fresh_key(), &of_event).await.expect(200);
    assert!(again.is_replay() && again.body == first.body, "{again}");
    let without_key = sender.post("/notifications", &of_event).await.expect(200);
    assert_eq!(without_key.body, first.body);
    let mut changed = of_event.clone();
    changed["subject"] = json!("Other");
    sender.post("/notifications", &changed).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    let of_other = other.post("/notifications", &of_event).await.expect(201);
    assert_ne!(of_other.json()["notificationId"], first.json()["notificationId"]);
    let of_admin = site.admin().post("/notifications", &of_event).await.expect(201);
    assert_ne!(of_admin.json()["notificationId"], first.json()["notificationId"]);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_stored_with_all_its_deliveries_or_not_at_all() {
    let (site, account) = start(&[]).await;
    account.hang();
    let (_, sender) = program(&site, "shop", &["notifications:write"]).await;
    let mut pause = site.pause("notification-hub", "notification.before_commit");
    let notification = json!({
        "type": "WELCOME",
        "recipient": { "userId": USER },
        "channels": [{ "channel": "SLACK" }, { "channel": "EMAIL" }],
        "subject": "Hello",
        "body": "Welcome.",
        "priority": "HIGH",
    });
    let sending = tokio::spawn(async move { send(&sender, "k", &notification).await });
    pause.reached().await;
    let rows = "select (select count(*) from {notification_hub}.notifications) +
                       (select count(*) from {notification_hub}.deliveries)";
    assert_eq!(site.number(rows).await, 0, "nothing is seen before all of it is stored");
    pause.resume();
    let sent = sending.await.unwrap().expect(201).json();
    assert_eq!(site.number(rows).await, 3);
    let channels: Vec<_> = sent["deliveries"].as_array().unwrap().iter().map(|one| text(&one["channel"])).collect();
    assert_eq!(channels, ["EMAIL", "SLACK"]);
    assert_eq!(site.number("select distinct priority from {notification_hub}.deliveries").await, 50);
    account.answer();
    let own = ended(&user(&site)).await;
    assert_eq!((&own["type"], &own["status"]), (&json!("WELCOME"), &json!("COMPLETED")));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_email_goes_to_the_address_of_the_request_and_account_is_not_asked() {
    let (site, account) = start(&[]).await;
    let notification = json!({
        "type": "INVITATION",
        "recipient": { "email": "new@example.com" },
        "channels": [{ "channel": "EMAIL" }],
        "subject": "Hello",
        "body": "Come in.",
    });
    send(&site.admin(), "k", &notification).await.expect(201);
    let found = all_ended(&site.admin(), 1).await.remove(0);
    assert_eq!(state(delivery(&found, "EMAIL")), is("SUCCESS", 1, None));
    assert_eq!((account.asked(USER), &found["userId"]), (0, &Value::Null));
    assert_eq!(list(&user(&site), "").await, [] as [Value; 0]);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_before_its_time() {
    let (site, _) = start(&[]).await;
    let at = "2999-01-01T00:00:00Z";
    send(&site.admin(), "far", &with("notBefore", json!(at))).await.refused(400, "VALIDATION_ERROR");
    let tomorrow = (chrono::Utc::now() + chrono::TimeDelta::days(1)).to_rfc3339();
    send(&site.admin(), "later", &with("notBefore", json!(tomorrow))).await.expect(201);
    send(&site.admin(), "now", &incident()).await.expect(201);
    // The one that waits has the longer way behind it.
    let sent = "select count(*) from {notification_hub}.deliveries where status = 'SUCCESS'";
    site.until_number(sent, 1).await;
    let waits = "select count(*) from {notification_hub}.deliveries
                  where status = 'PENDING' and next_attempt_at > now() + interval '23 hours'";
    assert_eq!(site.number(waits).await, 1);
    site.execute("update {notification_hub}.deliveries set next_attempt_at = now() where status = 'PENDING'").await;
    site.until_number(sent, 2).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hubs_own_port_serves_it_without_the_public_path() {
    let (site, _) = start(&[]).await;
    let (_, sender) = program(&site, "monitoring", &["notifications:write"]).await;
    let at = |path: &str| sender.request_root(Method::POST, path).header("Idempotency-Key", "k").json(&incident());
    let first = sender.send(at("/notifications")).await.expect(201);
    assert_eq!(sender.send(at("/api/v1/notifications")).await.expect(201).body, first.body);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_is_refused_and_stores_nothing() {
    let (site, _) = start(&[]).await;
    let admin = site.admin();
    admin.post("/notifications", &incident()).await.refused(400, "IDEMPOTENCY_KEY_REQUIRED");
    send(&admin, "a b", &with("eventId", json!("e"))).await.refused(400, "VALIDATION_ERROR");
    for (name, value) in [
        ("type", json!("incident")),
        ("channels", json!([])),
        ("channels", json!([{ "channel": "EMAIL" }])),
        ("channels", json!([{ "channel": "SLACK", "target": "https://hooks.example/x" }])),
        ("subject", json!("two\nlines")),
        ("body", json!("a\0b")),
        ("data", json!({ "a": "b\0" })),
        ("data", json!([])),
        ("recipient", json!({ "userId": "me" })),
        ("priority", json!("NOW")),
        ("template", json!("x")),
    ] {
        let refused = send(&admin, "k", &with(name, value)).await.refused(400, "VALIDATION_ERROR");
        assert!(!refused["details"][0]["field"].as_str().unwrap().is_empty(), "{refused}");
    }
    let unknown = send(&admin, "k", &with("channels", json!([{ "channel": "PIGEON" }]))).await;
    assert_eq!(unknown.refused(422, "UNKNOWN_CHANNEL")["details"], json!([{ "channel": "PIGEON" }]));
    assert_eq!(site.number(NOTIFICATIONS).await, 0);
    // A refusal stores nothing: the key is free.
    send(&admin, "k", &incident()).await.expect(201);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_too_fast_is_told_when_to_come_back_and_others_are_not() {
    let (site, _) = start(&[("notification_hub.sends_per_second", "1")]).await;
    let (_, sender) = program(&site, "monitoring", &["notifications:write"]).await;
    let answers = join_all((0..30).map(|n| {
        let (sender, notification) = (sender.clone(), incident());
        async move { send(&sender, &n.to_string(), &notification).await }
    }))
    .await;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(!refused.is_empty(), "thirty at once are more than one a second");
    for answer in refused {
        answer.refused(429, "RATE_LIMITED");
        assert!(answer.header("Retry-After").is_some());
    }
    send(&site.admin(), "k", &incident()).await.expect(201);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_send_over_grpc_and_share_their_keys_with_their_client() {
    let (site, _) = start(&[]).await;
    let mut hub = NotificationServiceClient::new(site.upstream_of("order", "notification-hub"));
    let request = SendRequest {
        sender: "order".to_owned(),
        idempotency_key: "k".to_owned(),
        r#type: "SYSTEM_INCIDENT".to_owned(),
        channels: vec![ChannelRequest { channel: "SLACK".to_owned(), target: String::new() }],
        subject: "Down".to_owned(),
        body: "All of it.".to_owned(),
        data: r#"{"a":1}"#.to_owned(),
        priority: "HIGH".to_owned(),
        ..SendRequest::default()
    };
    let first = hub.send(request.clone()).await.unwrap().into_inner();
    let again = hub.send(request.clone()).await.unwrap().into_inner();
    assert_eq!((first.created, again.created), (true, false));
    assert_eq!((&first.notification_id, &first.deliveries), (&again.notification_id, &again.deliveries));
    let (_, program) = program(&site, "order", &["notifications:write"]).await;
    let other = send(&program, "k", &incident()).await;
    other.refused(422, "IDEMPOTENCY_KEY_REUSED");

    for (bad, code) in [
        (SendRequest { sender: "Order".to_owned(), ..request.clone() }, "VALIDATION_ERROR"),
        (SendRequest { data: "[]".to_owned(), ..request.clone() }, "VALIDATION_ERROR"),
        (SendRequest { priority: "NOW".to_owned(), ..request.clone() }, "VALIDATION_ERROR"),
        (SendRequest { idempotency_key: String::new(), ..request.clone() }, "IDEMPOTENCY_KEY_REQUIRED"),
        (SendRequest { body: "Other".to_owned(), ..request.clone() }, "IDEMPOTENCY_KEY_REUSED"),
    ] {
        let status = hub.send(bad).await.unwrap_err();
        assert_eq!(common::Error::from(status).reason(), Some(code));
    }
    // Another service may call the hub, and may not pretend to be order.
    let mut other = NotificationServiceClient::new(site.upstream("notification-hub"));
    let status = other.send(SendRequest { idempotency_key: "l".to_owned(), ..request }).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status}");
    assert_eq!(site.number(NOTIFICATIONS).await, 1);
    let found = all_ended(&site.admin(), 1).await.remove(0);
    assert_eq!((&found["notificationId"], &found["data"]), (&json!(first.notification_id), &json!({ "a": 1 })));
    site.stop().await;
}
