//! An administrator schedules a sale event, moves it, opens it and closes it.

use serde_json::json;
use testkit::fresh_key;
use uuid::Uuid;

use crate::site::{Site, coming, in_seconds, nobody, time};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_event_is_scheduled_once_for_each_key_and_told() {
    let site = Site::start_with(&[]).await;
    let (key, wanted) = (fresh_key(), coming());
    let first = site.schedule(&key, &wanted).await.expect(201);
    let event = first.json();
    assert_eq!(event["status"], "PENDING");
    assert_eq!(event["queue"]["maxActive"], 500, "the settings' rules");
    assert_eq!(event["drawCommitment"].as_str().unwrap().len(), 64);
    let again = site.schedule(&key, &wanted).await.expect(201);
    assert!(again.is_replay() && !first.is_replay());
    assert_eq!(again.json()["eventId"], event["eventId"]);
    site.schedule(
        &key,
        &json!({ "name": "x", "opensAt": in_seconds(60), "productIds": [Uuid::now_v7()], "queueManageRequired": true }),
    )
    .await
    .refused(422, "IDEMPOTENCY_KEY_REUSED");
    let id = event["eventId"].as_str().unwrap();
    assert_eq!(site.told(id, "EVENT_SCHEDULED").await, 1);
    assert_eq!(site.read(id).await["name"], "한정판 스니커즈");
    let pending: Option<String> = site.redis(&["GET", &format!(":event:{{{id}}}:state")]).await;
    assert_eq!(pending.as_deref(), Some("PENDING"));
    let score: Option<f64> = site.redis(&["ZSCORE", ":event:schedule", id]).await;
    assert_eq!(score.unwrap() as i64, time(&event["opensAt"]).timestamp_millis());
    let left: i64 = site.redis(&["PTTL", &format!(":event:{{{id}}}:due")]).await;
    assert!((3_500_000..=3_600_000).contains(&left), "{left}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_event_that_makes_no_sense_is_refused_and_stores_nothing() {
    let site = Site::start_with(&[]).await;
    let before = site.everything().await;
    let refused = [
        ("opensAt", json!(in_seconds(400 * 86_400))),
        ("closesAt", json!(in_seconds(60))),
        ("prequeueAt", json!(in_seconds(7200))),
        ("productIds", json!([])),
        ("queue.maxActive", json!(0)),
    ];
    for (field, value) in refused {
        let mut event = coming();
        match field {
            "queue.maxActive" => {
                event["queue"] = json!({
                    "maxActive": value, "ratePerMinute": 60, "sessionSeconds": 600, "claimSeconds": 60,
                    "waitingMax": 10, "verifyOffline": false, "closedOnOutage": false,
                });
            }
            member => event[member] = value,
        }
        let problem = site.schedule(&fresh_key(), &event).await.refused(400, "VALIDATION_ERROR");
        assert_eq!(problem["details"][0]["field"], field);
    }
    let buyer = nobody(&site).await;
    let request = buyer.request(reqwest::Method::POST, "/admin/events").header("Idempotency-Key", "k");
    buyer.send(request.json(&coming())).await.refused(403, "FORBIDDEN");
    assert_eq!(site.everything().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_event_moves_until_it_has_begun() {
    let site = Site::start_with(&[]).await;
    let event = site.event(json!({})).await;
    let later = in_seconds(7200);
    let moved = site.move_event(&event, "\"1\"", &json!({ "opensAt": later })).await.expect(200);
    assert_eq!(moved.json()["opensAt"], later);
    assert_eq!(moved.header("etag"), Some("\"2\""));
    site.move_event(&event, "\"1\"", &json!({ "opensAt": later })).await.refused(412, "VERSION_CONFLICT");
    assert_eq!(site.told(&event, "EVENT_SCHEDULED").await, 2);
    let left: i64 = site.redis(&["PTTL", &format!(":event:{{{event}}}:due")]).await;
    assert!(left > 3_600_000, "{left}");

    site.command(&event, "open").await.expect(200);
    site.move_event(&event, "*", &json!({ "opensAt": later })).await.refused(409, "EVENT_ALREADY_OPEN");
    site.move_event(&event, "*", &json!({ "closesAt": later })).await.expect(200);
    site.command(&event, "close").await.expect(200);
    site.move_event(&event, "*", &json!({ "closesAt": null })).await.refused(409, "EVENT_CLOSED");
    site.command(&Uuid::now_v7().to_string(), "open").await.refused(404, "EVENT_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_that_opens_before_people_may_come_early_can_still_be_given_an_end() {
    let site = Site::start_with(&[]).await;
    let event = site.event(json!({ "queueManageRequired": true, "prequeueAt": in_seconds(1800) })).await;
    assert!(site.command(&event, "open").await.expect(200).json()["prequeueAt"].is_null());
    site.move_event(&event, "*", &json!({ "closesAt": in_seconds(7200) })).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_administrator_opens_and_closes_once() {
    let site = Site::start_with(&[]).await;
    let event = site.event(json!({})).await;
    for _ in 0..2 {
        let open = site.command(&event, "open").await.expect(200).json();
        assert_eq!(open["status"], "OPEN");
        assert!(time(&open["opensAt"]) <= time(&open["openedAt"]), "the opening was moved to now");
    }
    assert_eq!(site.openings(&event).await, 1);
    for _ in 0..2 {
        assert_eq!(site.command(&event, "close").await.expect(200).json()["status"], "CLOSED");
    }
    assert_eq!(site.told(&event, "EVENT_CLOSED").await, 1);
    site.command(&event, "open").await.refused(409, "EVENT_CLOSED");
    let called_off = site.event(json!({})).await;
    site.command(&called_off, "close").await.expect(200);
    site.command(&called_off, "open").await.refused(409, "EVENT_CLOSED");
    assert_eq!((site.openings(&called_off).await, site.told(&called_off, "EVENT_CLOSED").await), (0, 1));
}
