//! Templates: written, tried and chosen by administrators, and what is sent by them.

use contract::events::NotificationRequested;
use reqwest::Method;
use serde_json::{Value, json};
use testkit::{Answer, Client, Site, fresh_key, text};

use crate::fake_slack::FakeSlack;
use crate::hub::{USER, all_ended, delivery, ended, is, payment_failed, publish_order, start, state, user};
use crate::senders::{program, send};

const DELAYED: &str = "/admin/templates/ORDER_DELAYED/EMAIL/en/versions";

/// An administrator's new version of a text.
async fn write(admin: &Client, path: &str, key: &str, body: &Value) -> Answer {
    admin.send(admin.request(Method::POST, path).header("Idempotency-Key", key).json(body)).await
}

fn delayed(body: &str) -> Value {
    json!({ "subject": "Order {{ orderId }} is late", "body": body, "sample": { "orderId": "o-1", "day": "Monday" } })
}

fn told(channel: &str, data: Value) -> Value {
    json!({
        "type": "ORDER_DELAYED", "template": "ORDER_DELAYED", "data": data,
        "recipient": { "userId": USER }, "channels": [{ "channel": channel }],
    })
}

/// Subject and body of what was stored last.
async fn last(site: &Site) -> (String, String) {
    let rows = "select subject, body from {notification_hub}.deliveries order by created_at desc limit 1";
    let row = site.rows(rows).await.remove(0);
    (text(&row["subject"]), text(&row["body"]))
}

async fn activate(admin: &Client, path: &str, version: i32) -> Answer {
    admin.send(admin.request(Method::POST, &format!("{path}/{version}/activate"))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_written_sent_replaced_and_chosen_again() {
    let (site, _) = start(&[]).await;
    let admin = site.admin();
    send(&admin, "none", &told("EMAIL", json!({}))).await.refused(404, "TEMPLATE_NOT_FOUND");
    let first = write(&admin, DELAYED, "v1", &delayed("It comes on {{ day }}.")).await.expect(201);
    assert_eq!((&first.json()["version"], &first.json()["isActive"]), (&json!(1), &json!(true)));
    let again = write(&admin, DELAYED, "v1", &delayed("It comes on {{ day }}.")).await.expect(201);
    assert!(again.is_replay() && again.body == first.body, "{again}");
    write(&admin, DELAYED, "v1", &delayed("Other")).await.refused(422, "IDEMPOTENCY_KEY_REUSED");

    let data = json!({ "orderId": "o-7", "day": "Friday" });
    let sent = send(&admin, "one", &told("EMAIL", data.clone())).await.expect(201);
    assert_eq!(last(&site).await, ("Order o-7 is late".to_owned(), "It comes on Friday.".to_owned()));

    write(&admin, DELAYED, "v2", &delayed("Sorry: {{ day }}, or {{ orderId }}.")).await.expect(201);
    let second = send(&admin, "two", &told("EMAIL", json!({ "orderId": "o-7" }))).await;
    let why = second.refused(422, "TEMPLATE_INVALID");
    assert_eq!((&why["details"][0]["field"], &why["details"][0]["line"]), (&json!("body"), &json!(1)), "{why}");
    // A repeat is answered as the first time, though the text has changed.
    let repeat = send(&admin, "one", &told("EMAIL", data.clone())).await.expect(201);
    assert!(repeat.is_replay() && repeat.body == sent.body, "{repeat}");
    send(&admin, "one", &told("EMAIL", json!({}))).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(site.number("select count(*) from {notification_hub}.notifications").await, 1);

    activate(&admin, DELAYED, 1).await.expect(200);
    activate(&admin, DELAYED, 1).await.expect(200);
    activate(&admin, DELAYED, 9).await.refused(404, "TEMPLATE_NOT_FOUND");
    activate(&admin, DELAYED, 0).await.refused(404, "TEMPLATE_NOT_FOUND");
    send(&admin, "three", &told("EMAIL", data)).await.expect(201);
    assert_eq!(last(&site).await.1, "It comes on Friday.");
    let versions = admin.get(DELAYED).await.expect(200).json();
    let shown: Vec<_> = versions["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["version"].clone(), one["isActive"].clone()))
        .collect();
    assert_eq!(shown, [(json!(2), json!(false)), (json!(1), json!(true))]);
    assert_eq!(
        admin.get(&format!("{DELAYED}/2")).await.expect(200).json()["body"],
        "Sorry: {{ day }}, or {{ orderId }}."
    );
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_rendered_is_refused_with_its_line_and_changes_nothing() {
    let (site, _) = start(&[]).await;
    let admin = site.admin();
    let preview = async |body: &str, data: Value| {
        let asked = json!({ "channel": "EMAIL", "subject": "Hi {{ name }}", "body": body, "data": data });
        admin.post("/admin/templates/preview", &asked).await
    };
    let shown = preview("Hello\n{% if vip %}VIP {% endif %}{{ name }}", json!({ "name": "Ann", "vip": true })).await;
    assert_eq!(shown.expect(200).json(), json!({ "subject": "Hi Ann", "body": "Hello\nVIP Ann" }));
    for (body, data, line) in [
        ("a\n{{ name", json!({ "name": "x" }), 2),
        ("a\n\n{{ missing }}", json!({ "name": "x" }), 3),
        ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", json!({ "name": "x" }), 1),
    ] {
        let refused = preview(body, data).await.refused(422, "TEMPLATE_INVALID");
        assert_eq!((&refused["details"][0]["field"], &refused["details"][0]["line"]), (&json!("body"), &json!(line)));
    }
    for (path, body, status, code) in [
        (DELAYED, delayed("a\n{{ missing }}"), 422, "TEMPLATE_INVALID"),
        (DELAYED, json!({ "subject": "s", "body": "b" }), 400, "VALIDATION_ERROR"),
        (DELAYED, json!({ "subject": "", "body": "b", "sample": {} }), 400, "VALIDATION_ERROR"),
        (DELAYED, json!({ "subject": "s", "body": "b".repeat(20_001), "sample": {} }), 400, "VALIDATION_ERROR"),
        (DELAYED, json!({ "subject": "s", "body": "b", "sample": { "a": "\0" } }), 400, "VALIDATION_ERROR"),
        ("/admin/templates/ORDER_CREATED/EMAIL/ko/versions", delayed("{{ orderId }}"), 400, "VALIDATION_ERROR"),
        (
            "/admin/templates/ORDER_CREATED/EMAIL/ko/versions",
            json!({ "subject": "s", "body": "{{ holdExpiresAt }}" }),
            422,
            "TEMPLATE_INVALID",
        ),
        ("/admin/templates/late/EMAIL/ko/versions", delayed("x"), 400, "VALIDATION_ERROR"),
        ("/admin/templates/LATE/PIGEON/ko/versions", delayed("x"), 422, "UNKNOWN_CHANNEL"),
        ("/admin/templates/LATE/EMAIL/fr/versions", delayed("x"), 404, "TEMPLATE_NOT_FOUND"),
    ] {
        write(&admin, path, &fresh_key(), &body).await.refused(status, code);
    }
    let no_key = admin.post(DELAYED, &delayed("x")).await;
    no_key.refused(400, "IDEMPOTENCY_KEY_REQUIRED");
    user(&site).get("/admin/templates").await.refused(403, "FORBIDDEN");
    assert_eq!(site.number("select count(*) from {notification_hub}.notification_templates").await, 0);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn administrators_replace_the_texts_of_events_and_users_choose_their_language() {
    let (site, _) = start(&[]).await;
    let (admin, user) = (site.admin(), user(&site));
    publish_order(&site, "one", USER).await;
    ended(&user).await;
    assert!(last(&site).await.0.contains("주문이 접수되었습니다"), "Korean is the language of the settings");
    let language = user.request(Method::PUT, "/me/notification-preferences");
    let chosen = user.send(language.json(&json!({ "muted": [], "language": "en" }))).await.expect(200).json();
    assert_eq!(chosen["language"], "en");
    publish_order(&site, "two", USER).await;
    all_ended(&user, 2).await;
    assert!(last(&site).await.0.contains("Your order has been placed"));

    let path = "/admin/templates/ORDER_CREATED/EMAIL/en/versions";
    let own =
        json!({ "subject": "Thanks", "body": "{% for item in items %}{{ item.name }} {% endfor %}{{ total|money }}" });
    write(&admin, path, "own", &own).await.expect(201);
    publish_order(&site, "three", USER).await;
    all_ended(&user, 3).await;
    assert_eq!(last(&site).await, ("Thanks".to_owned(), "Sneaker KRW 258,000".to_owned()));
    let listed = admin.get("/admin/templates?limit=2").await.expect(200).json();
    let created = &listed["items"][0];
    assert_eq!(
        (&created["name"], &created["language"], &created["activeVersion"]),
        (&json!("ORDER_CREATED"), &json!("en"), &json!(1))
    );
    let next = admin
        .get(&format!("/admin/templates?limit=100&cursor={}", text(&listed["nextCursor"])))
        .await
        .expect(200)
        .json();
    assert_eq!(next["items"].as_array().unwrap().len(), 14, "eight texts in two languages");

    activate(&admin, path, 0).await.expect(200);
    publish_order(&site, "four", USER).await;
    all_ended(&user, 4).await;
    assert!(last(&site).await.0.contains("Your order has been placed"), "version 0 is the system's own");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_fails_for_an_event_is_left_out_and_nobody_goes_without_a_message() {
    let (site, _) = start(&[]).await;
    let body = json!({ "subject": "s", "body": "{{ items[0].name }} of {{ items[0].unitPrice|money }}" });
    let path = "/admin/templates/ORDER_CREATED/EMAIL/ko/versions";
    write(&site.admin(), path, "own", &body).await.expect(201);
    let (event_id, mut order) = crate::hub::order("empty", USER);
    order.items.clear();
    site.publish_as(event_id, &order).await;
    let found = ended(&user(&site)).await;
    assert_eq!(state(delivery(&found, "EMAIL")), is("SUCCESS", 1, None));
    assert!(last(&site).await.0.contains("주문이 접수되었습니다"));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slack_template_is_mark_up_in_which_variables_are_not() {
    let slack = FakeSlack::start(&[]);
    let (site, _) = start(&slack.settings()).await;
    let path = "/admin/templates/PAYMENT_FAILED/SLACK/ko/versions";
    let own = json!({ "subject": "{{ pgCode }}", "body": "*{{ pgCode }}* <https://shop.example/{{ orderId }}|open>" });
    write(&site.admin(), path, "own", &own).await.expect(201);
    let mut failed = payment_failed("one");
    failed.pg_code = "<!channel>".to_owned();
    site.publish(&failed).await;
    all_ended(&site.admin(), 1).await;
    let posted = slack.posts().remove(0).message.to_string();
    assert!(posted.contains("*&lt;!channel&gt;* <https://shop.example/") && !posted.contains("<!channel>"), "{posted}");
    site.stop().await;
    slack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_over_kafka_is_the_same_as_one_over_http() {
    let (site, _) = start(&[]).await;
    write(&site.admin(), DELAYED, "v1", &delayed("It comes on {{ day }}.")).await.expect(201);
    let asked = json!({
        "eventId": "late-1", "sender": "shipping", "type": "ORDER_DELAYED", "userId": USER,
        "channels": [{ "channel": "EMAIL" }], "template": "ORDER_DELAYED", "data": { "orderId": "o-1", "day": 7 },
    });
    let asked: NotificationRequested = serde_json::from_value(asked).unwrap();
    site.deliver("notification-hub", &asked).await;
    site.deliver("notification-hub", &asked).await;
    let found = ended(&user(&site)).await;
    assert_eq!((&found["type"], state(delivery(&found, "EMAIL"))), (&json!("ORDER_DELAYED"), is("SUCCESS", 1, None)));
    assert_eq!(last(&site).await.1, "It comes on 7.");
    // The same fact over HTTP, by a program of the same client.
    let (_, shipping) = program(&site, "shipping", &["notifications:write"]).await;
    let mut over_http = told("EMAIL", json!({ "orderId": "o-1", "day": 7 }));
    over_http["eventId"] = json!("late-1");
    assert!(shipping.post("/notifications", &over_http).await.expect(200).is_replay());
    assert_eq!(site.number("select count(*) from {notification_hub}.notifications").await, 1);

    let broken = NotificationRequested { event_id: "late-2".to_owned(), template: "NONE".to_owned(), ..asked };
    site.deliver("notification-hub", &broken).await;
    assert_eq!(site.number("select count(*) from {notification_hub}.parked").await, 1);
    site.stop().await;
}
