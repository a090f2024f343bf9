//! Who sees what, and how lists are filtered and paged.

use std::collections::HashSet;

use serde_json::Value;

use crate::hub::{STRANGER, USER, all_ended, ended, list, publish_order, start, stranger, user};

#[tokio::test(flavor = "multi_thread")]
async fn a_user_sees_no_notification_of_another() {
    let (site, _) = start(&[]).await;
    publish_order(&site, "one", USER).await;
    let found = ended(&user(&site)).await;
    let path = format!("/notifications/{}", found["notificationId"].as_str().unwrap());

    assert_eq!(user(&site).get(&path).await.expect(200).json(), found);
    assert_eq!(site.admin().get(&path).await.expect(200).json(), found);
    stranger(&site).get(&path).await.refused(404, "NOTIFICATION_NOT_FOUND");
    assert_eq!(list(&stranger(&site), "").await, [] as [Value; 0]);
    let of_user = format!("?userId={USER}");
    assert_eq!(list(&stranger(&site), &of_user).await, [] as [Value; 0], "asking for somebody does not help");
    site.anyone().get(&path).await.refused(401, "UNAUTHORIZED");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_follow_each_other_without_gap_or_repetition() {
    let (site, _) = start(&[]).await;
    for name in 0..25 {
        publish_order(&site, &name.to_string(), USER).await;
    }
    all_ended(&user(&site), 25).await;
    let (mut seen, mut sizes, mut cursor) = (HashSet::new(), Vec::new(), String::new());
    loop {
        let page = user(&site).get(&format!("/notifications?limit=10{cursor}")).await.expect(200).json();
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
    let (site, account) = start(&[]).await;
    account.forget(USER);
    publish_order(&site, "one", USER).await;
    publish_order(&site, "two", STRANGER).await;
    let operator = site.admin();
    all_ended(&operator, 2).await;
    for (query, expected) in [
        ("", 2),
        ("status=FAILED", 1),
        ("status=COMPLETED", 1),
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
        assert_eq!(list(&operator, &format!("?{query}")).await.len(), expected, "{query}");
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
        operator.get(&format!("/notifications?{query}")).await.refused(400, "VALIDATION_ERROR");
    }
    site.stop().await;
}
