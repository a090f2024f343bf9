//! From an event to an e-mail: exactly once in the record, whatever dies in between.

use common::auth::Role;
use reqwest::{Method, StatusCode};

use crate::site::{STRANGER, Site, USER, is, order};

#[tokio::test(flavor = "multi_thread")]
async fn the_same_event_twice_is_one_notification_with_one_email() {
    let site = Site::start("twice").await;
    let (event_id, order) = order("one", USER);
    for _ in 0..3 {
        site.order_created(event_id, &order).await;
    }
    site.notification(is("COMPLETED")).await;
    site.order_created(event_id, &order).await;
    // Once the event behind it in the log is through, so is the repeated one.
    let (behind, order_behind) = crate::site::order("two", STRANGER);
    site.order_created(behind, &order_behind).await;
    let everybodys = async || site.call(Method::GET, "/notifications", STRANGER, Role::Admin).await.1;
    while everybodys().await["items"].as_array().unwrap().len() < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let found = site.notification(is("COMPLETED")).await;

    let (_, page) = site.get("/notifications").await;
    assert_eq!(page["items"].as_array().unwrap().len(), 1, "{page}");
    let deliveries = found["deliveries"].as_array().unwrap();
    assert_eq!(deliveries.len(), 1);
    assert_eq!((&deliveries[0]["status"], &deliveries[0]["attempts"]), (&"SUCCESS".into(), &1.into()));
    assert!(deliveries[0]["body"].as_str().unwrap().contains(&order.order_id));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_whose_worker_has_died_is_finished_after_its_lease() {
    let site = Site::start("died").await;
    site.account.go_away();
    let (event_id, order) = order("one", USER);
    site.order_created(event_id, &order).await;
    site.notification(|found| found["deliveries"][0]["lastError"] == "ADDRESS_UNAVAILABLE").await;
    // What a worker leaves behind that dies after its claim.
    site.sql(
        "update deliveries set status = 'PROCESSING', attempt = 1, lock_token = lock_token + 1,
         lease_until = now() + interval '2 seconds'",
    )
    .await;
    site.account.answer();
    let waiting = site.notification(is("IN_PROGRESS")).await;
    assert_eq!(waiting["deliveries"][0]["status"], "PROCESSING", "the lease is respected");

    let found = site.notification(is("COMPLETED")).await;
    assert_eq!(found["deliveries"][0]["attempts"], 2, "the lost try counts");
    assert_eq!(found["deliveries"][0]["lastError"], "LEASE_LOST");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_result_of_a_lost_claim_is_dropped() {
    let site = Site::start("late").await;
    let account = site.account.hold();
    let (event_id, order) = order("one", USER);
    site.order_created(event_id, &order).await;
    site.notification(|found| found["deliveries"][0]["status"] == "PROCESSING").await;
    // The worker stalls in the middle of sending; meanwhile its lease ends and another worker has the delivery.
    site.sql(
        "update deliveries set lock_token = lock_token + 1, attempt = 7, lease_until = now() + interval '2 seconds'",
    )
    .await;
    account.add_permits(1);
    site.account.answer();
    // The stalled worker says SUCCESS for the token it had. Nobody listens, until the new lease is lost as well.
    let found = site.notification(|found| found["deliveries"][0]["status"] != "PROCESSING").await;
    assert_eq!(found["deliveries"][0]["status"], "PENDING", "{found}");
    assert_eq!(found["deliveries"][0]["lastError"], "LEASE_LOST");
    assert_eq!(found["deliveries"][0]["attempts"], 7);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_hands_back_what_is_not_sent_without_charging_it() {
    let site = Site::start("stopping").await;
    let _held = site.account.hold();
    let (event_id, order) = order("one", USER);
    site.order_created(event_id, &order).await;
    site.notification(|found| found["deliveries"][0]["status"] == "PROCESSING").await;
    let db = site.db.clone();
    site.stop().await;

    let left: Vec<Left> = {
        use diesel_async::RunQueryDsl;
        let query = diesel::sql_query("select status, attempt from deliveries");
        query.load(&mut *db.read().await.unwrap()).await.unwrap()
    };
    assert_eq!(left, [Left { status: "PENDING".to_owned(), attempt: 0 }]);
}

#[derive(Debug, PartialEq, diesel::QueryableByName)]
struct Left {
    #[diesel(sql_type = diesel::sql_types::Text)]
    status: String,
    #[diesel(sql_type = diesel::sql_types::Integer)]
    attempt: i32,
}

#[tokio::test(flavor = "multi_thread")]
async fn an_email_waits_until_account_is_back() {
    let site = Site::start("account_away").await;
    site.account.go_away();
    let (event_id, order) = order("one", USER);
    site.order_created(event_id, &order).await;
    let waiting = site.notification(|found| found["deliveries"][0]["lastError"] == "ADDRESS_UNAVAILABLE").await;
    assert_eq!(waiting["status"], "IN_PROGRESS");
    assert!(waiting["deliveries"][0]["nextAttemptAt"].is_string());
    site.account.answer();
    let found = site.notification(is("COMPLETED")).await;
    assert!(found["deliveries"][0]["attempts"].as_i64().unwrap() >= 2);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_sent_when_an_operator_says_so_and_never_twice() {
    let site = Site::start("dead_letter").await;
    site.account.unknown.lock().unwrap().insert(USER.to_owned());
    let (event_id, order) = order("one", USER);
    site.order_created(event_id, &order).await;
    let dead = site.notification(is("FAILED")).await;
    let delivery = &dead["deliveries"][0];
    assert_eq!((&delivery["attempts"], &delivery["lastError"]), (&1.into(), &"RECIPIENT_UNKNOWN".into()));
    assert!(delivery["deadLetteredAt"].is_string());

    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let path =
        format!("/notifications/{}/deliveries/{}/retry", text(&dead["notificationId"]), text(&delivery["deliveryId"]));
    assert_eq!(site.call(Method::POST, &path, USER, Role::User).await.0, StatusCode::FORBIDDEN);
    site.account.unknown.lock().unwrap().clear();
    let (status, retried) = site.call(Method::POST, &path, STRANGER, Role::Admin).await;
    assert_eq!((status, &retried["status"]), (StatusCode::ACCEPTED, &"PENDING".into()));
    let found = site.notification(is("COMPLETED")).await;
    assert!(found["deliveries"][0]["deadLetteredAt"].is_null());

    let (status, problem) = site.call(Method::POST, &path, STRANGER, Role::Admin).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &"DELIVERY_NOT_RETRYABLE".into()));
    let (notification, delivery) = (text(&dead["notificationId"]), text(&dead["notificationId"]));
    let nowhere = format!("/notifications/{notification}/deliveries/{delivery}/retry");
    let (status, problem) = site.call(Method::POST, &nowhere, STRANGER, Role::Admin).await;
    assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &"DELIVERY_NOT_FOUND".into()));
    site.stop().await;
}
