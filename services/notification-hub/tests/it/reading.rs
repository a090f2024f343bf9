//! Who sees what, and how lists are filtered and paged.

use common::auth::Role;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::site::{STRANGER, Site, USER, is, order};

#[tokio::test(flavor = "multi_thread")]
async fn other_peoples_notifications_do_not_exist() {
    let site = Site::start("strangers").await;
    let (event_id, order) = order("one", USER);
    site.order_created(event_id, &order).await;
    let found = site.notification(is("COMPLETED")).await;
    let path = format!("/notifications/{}", found["notificationId"].as_str().unwrap());

    assert_eq!(site.get(&path).await, (StatusCode::OK, found.clone()));
    assert_eq!(site.call(Method::GET, &path, STRANGER, Role::Admin).await, (StatusCode::OK, found));
    let (status, problem) = site.call(Method::GET, &path, STRANGER, Role::User).await;
    assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &"NOTIFICATION_NOT_FOUND".into()));
    let (_, page) = site.call(Method::GET, "/notifications", STRANGER, Role::User).await;
    assert_eq!(page["items"], Value::Array(Vec::new()));
    let asking = format!("/notifications?userId={USER}");
    let (_, page) = site.call(Method::GET, &asking, STRANGER, Role::User).await;
    assert_eq!(page["items"], Value::Array(Vec::new()), "asking for somebody does not help");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_follow_each_other_without_gap_or_repetition() {
    let site = Site::start("pages").await;
    for name in 0..25 {
        let (event_id, order) = order(&name.to_string(), USER);
        site.order_created(event_id, &order).await;
    }
    let count = async || site.get("/notifications").await.1["items"].as_array().unwrap().len();
    while count().await < 25 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let (mut seen, mut cursor) = (std::collections::HashSet::new(), String::new());
    let mut sizes = Vec::new();
    loop {
        let (_, page) = site.get(&format!("/notifications?limit=10{cursor}")).await;
        let items = page["items"].as_array().unwrap();
        sizes.push(items.len());
        seen.extend(items.iter().map(|item| item["notificationId"].as_str().unwrap().to_owned()));
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!((sizes, seen.len()), (vec![10, 10, 5], 25));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_find_what_they_name_and_refuse_what_they_do_not_know() {
    let site = Site::start("filters").await;
    site.account.unknown.lock().unwrap().insert(USER.to_owned());
    let (event_id, order) = order("one", USER);
    site.order_created(event_id, &order).await;
    let (other_event, other_order) = crate::site::order("two", STRANGER);
    site.order_created(other_event, &other_order).await;
    site.notification(is("FAILED")).await;
    let admin = async |query: &str| {
        let (status, page) = site.call(Method::GET, &format!("/notifications?{query}"), STRANGER, Role::Admin).await;
        (status, page["items"].as_array().map(Vec::len))
    };
    while admin("status=COMPLETED").await.1 != Some(1) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    for (query, expected) in [
        ("", 2),
        ("status=FAILED", 1),
        ("status=IN_PROGRESS", 0),
        ("status=PARTIALLY_FAILED", 0),
        ("status=SUPPRESSED", 0),
        ("channel=EMAIL", 2),
        ("type=ORDER_CREATED", 2),
        ("type=COUPON_ISSUED", 0),
        (&format!("userId={USER}"), 1),
        ("from=2026-01-01T00:00:00Z", 2),
        ("to=2026-01-01T00:00:00Z", 0),
    ] {
        assert_eq!(admin(query).await, (StatusCode::OK, Some(expected)), "{query}");
    }
    for query in [
        "cursor=garbage",
        "limit=0",
        "limit=101",
        "limit=-1",
        "status=completed",
        "channel=FAX",
        "userId=1",
        "from=now",
        "x=1",
    ] {
        assert_eq!(admin(query).await, (StatusCode::BAD_REQUEST, None), "{query}");
    }
    site.stop().await;
}
