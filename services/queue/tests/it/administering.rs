//! Administrators pause, resume, drain and configure a room, and let people in.

use serde_json::json;
use testkit::fresh_key;

use crate::room::rules;
use crate::site::Site;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_room_admits_only_whom_an_administrator_lets_in() {
    let site = Site::start_with(&[]).await;
    let event = site.room(json!({ "maxActive": 2 })).await;
    for _ in 0..2 {
        assert_eq!(site.manage(&event, "pause").await.expect(200).json()["mode"], "PAUSED");
    }
    let guests = site.guests(&event, 4).await;
    assert_eq!(site.standings(&event, &guests).await, ["WAITING"; 4]);
    let key = fresh_key();
    for replayed in [false, true] {
        assert_eq!(site.admit(&event, 1, &key).await.expect(200).is_replay(), replayed);
    }
    site.admit(&event, 2, &key).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(site.standings(&event, &guests).await, ["ADMITTED", "WAITING", "WAITING", "WAITING"]);
    site.admit(&event, 100, &fresh_key()).await.expect(200);
    assert_eq!(
        site.standings(&event, &guests).await,
        ["ADMITTED", "ADMITTED", "WAITING", "WAITING"],
        "never beyond the slots"
    );
    site.manage(&event, "resume").await.expect(200);
    site.complete(&event, &guests[0]).await;
    site.tick(&event).await;
    assert_eq!(site.standing(&event, &guests[2]).await, "ADMITTED");
    site.admit(&event, 0, &fresh_key()).await.refused(400, "VALIDATION_ERROR");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_room_serves_those_who_wait_and_takes_nobody_else() {
    let site = Site::start_with(&[]).await;
    let event = site.room(json!({ "maxActive": 1 })).await;
    let guests = site.guests(&event, 2).await;
    site.manage(&event, "drain").await.expect(200);
    site.ask_in(&site.buyer().await, &event).await.refused(409, "QUEUE_DRAINING");
    site.ask_in(&guests[1].client, &event).await.expect(200);
    site.complete(&event, &guests[0]).await;
    site.admit(&event, 1, &fresh_key()).await.expect(200);
    assert_eq!(site.standing(&event, &guests[1]).await, "ADMITTED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_rules_hold_at_once_and_the_buying_path_hears_of_them() {
    let site = Site::start_with(&[]).await;
    let event = site.room(json!({ "maxActive": 1, "waitingMax": 1 })).await;
    let guests = site.guests(&event, 2).await;
    let full = site.ask_in(&site.buyer().await, &event).await;
    full.refused(429, "QUEUE_FULL");
    assert!(full.header("retry-after").is_some());
    let wanted = rules(json!({ "maxActive": 2, "closedOnOutage": true }));
    let changed = site.configure(&event, &wanted).await.expect(200).json();
    assert_eq!(changed["queue"], wanted);
    let told = site.told(&event, "EVENT_SCHEDULED").await;
    site.configure(&event, &wanted).await.expect(200);
    assert_eq!(site.told(&event, "EVENT_SCHEDULED").await, told, "a repeat changes nothing");
    site.tick(&event).await;
    assert_eq!(site.standing(&event, &guests[1]).await, "ADMITTED");
    site.configure(&event, &rules(json!({ "ratePerMinute": 0 }))).await.refused(400, "VALIDATION_ERROR");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_are_admitted_no_faster_than_the_rate() {
    let site = Site::start_with(&[]).await;
    let event = site.room(json!({ "ratePerMinute": 1 })).await;
    let guests = site.guests(&event, 3).await;
    assert_eq!(site.standings(&event, &guests).await, ["ADMITTED", "WAITING", "WAITING"], "one a minute");
    site.set_meta(&event, "bts", "1").await;
    site.admit(&event, 1, &fresh_key()).await.expect(200);
    assert_eq!(site.standings(&event, &guests).await, ["ADMITTED"; 3], "the next minute's, and the administrator's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_sale_has_no_line() {
    let site = Site::start_with(&[]).await;
    let event = site.room(json!({ "maxActive": 1 })).await;
    let guests = site.guests(&event, 2).await;
    site.command(&event, "close").await.expect(200);
    site.ask_in(&site.buyer().await, &event).await.refused(409, "EVENT_CLOSED");
    assert_eq!(site.standing(&event, &guests[1]).await, "EVENT_CLOSED");
    site.manage(&event, "pause").await.refused(409, "EVENT_CLOSED");
    site.admit(&event, 1, &fresh_key()).await.refused(409, "EVENT_CLOSED");
    assert_eq!(site.status(&event).await["state"], "closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anybody_may_know_how_a_room_stands() {
    let site = Site::start_with(&[]).await;
    let event = site.room(json!({ "maxActive": 1 })).await;
    site.guests(&event, 3).await;
    // As a room is that was built a moment ago, and does not have its rules yet.
    site.set_meta(&event, "state", "paused").await;
    site.tick(&event).await;
    let answer = site.anyone().get(&format!("/queues/{event}/status")).await.expect(200);
    assert_eq!(answer.header("cache-control"), Some("public, max-age=1"));
    let status = answer.json();
    assert_eq!((status["issuedSeq"].as_i64(), status["servingSeq"].as_i64()), (Some(3), Some(1)));
    assert_eq!(
        (status["waiting"].as_i64(), status["active"].as_i64(), status["state"].as_str()),
        (Some(2), Some(1), Some("open"))
    );
}
