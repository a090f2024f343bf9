//! Messages that users read here, and what they have muted.

use reqwest::Method;
use serde_json::{Value, json};
use testkit::{Answer, Client, text};

use crate::hub::{STRANGER, USER, all_ended, list, start, stranger, user};
use crate::senders::send;

/// A message to `user_id` over `channels`.
fn offer(user_id: uuid::Uuid, channels: &[&str]) -> Value {
    json!({
        "type": "WEEKLY_OFFERS",
        "recipient": { "userId": user_id },
        "channels": channels.iter().map(|channel| json!({ "channel": channel })).collect::<Vec<_>>(),
        "subject": "Shoes",
        "body": "Two for one.",
        "data": { "week": 48 },
    })
}

async fn mute(by: &Client, muted: Value) -> Answer {
    let request = by.request(Method::PUT, "/me/notification-preferences");
    by.send(request.json(&json!({ "muted": muted }))).await
}

async fn inbox(by: &Client, query: &str) -> Value {
    by.get(&format!("/me/inbox{query}")).await.expect(200).json()
}

#[tokio::test(flavor = "multi_thread")]
async fn users_read_their_own_messages_page_by_page() {
    let (site, _) = start(&[]).await;
    for key in ["1", "2", "3"] {
        send(&site.admin(), key, &offer(USER, &["INAPP"])).await.expect(201);
    }
    send(&site.admin(), "other", &offer(STRANGER, &["INAPP"])).await.expect(201);
    send(&site.admin(), "email", &offer(USER, &["EMAIL"])).await.expect(201);
    all_ended(&site.admin(), 5).await;

    let first = inbox(&user(&site), "?limit=2").await;
    let rest = inbox(&user(&site), &format!("?limit=2&cursor={}", text(&first["nextCursor"]))).await;
    assert!(rest["nextCursor"].is_null());
    let pages = [first["items"].as_array().unwrap(), rest["items"].as_array().unwrap()];
    assert_eq!(pages.map(Vec::len), [2, 1]);
    let message = &first["items"][0];
    assert_eq!((&message["subject"], &message["body"]), (&json!("Shoes"), &json!("Two for one.")));
    assert_eq!((&message["type"], &message["data"]), (&json!("WEEKLY_OFFERS"), &json!({ "week": 48 })));
    assert_eq!(inbox(&stranger(&site), "").await["items"].as_array().unwrap().len(), 1);
    site.anyone().get("/me/inbox").await.refused(401, "UNAUTHORIZED");
    user(&site).get("/me/inbox?cursor=x").await.refused(400, "VALIDATION_ERROR");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_muted_is_not_sent_and_a_notification_of_which_nothing_is_left_is_suppressed() {
    let (site, account) = start(&[]).await;
    let (user, admin) = (user(&site), site.admin());
    mute(&user, json!([{ "type": "WEEKLY_OFFERS", "channel": "EMAIL" }])).await.expect(200);
    let part = send(&admin, "part", &offer(USER, &["EMAIL", "INAPP"])).await.expect(201);
    let channels = |answer: &Answer| {
        let sent = answer.json();
        sent["deliveries"].as_array().unwrap().iter().map(|one| text(&one["channel"])).collect::<Vec<_>>()
    };
    assert_eq!(channels(&part), ["INAPP"]);
    let none = send(&admin, "none", &offer(USER, &["EMAIL"])).await.expect(201);
    assert_eq!(none.json()["deliveries"], json!([]));
    // Others have muted nothing.
    let other = send(&admin, "other", &offer(STRANGER, &["EMAIL"])).await.expect(201);
    assert_eq!(channels(&other), ["EMAIL"]);
    all_ended(&admin, 3).await;
    let suppressed = list(&admin, "?status=SUPPRESSED").await;
    assert_eq!(suppressed.len(), 1);
    assert_eq!(
        (suppressed[0]["notificationId"].clone(), account.asked(USER)),
        (none.json()["notificationId"].clone(), 0)
    );

    mute(&user, json!([])).await.expect(200);
    // A repeat is answered as the first request was, whatever the user wants by now.
    assert_eq!(send(&admin, "part", &offer(USER, &["EMAIL", "INAPP"])).await.expect(201).body, part.body);
    let later = send(&admin, "later", &offer(USER, &["EMAIL"])).await.expect(201);
    assert_eq!(channels(&later), ["EMAIL"]);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn preferences_are_the_users_own_and_what_is_transactional_cannot_be_muted() {
    let (site, _) = start(&[]).await;
    let user = user(&site);
    let preferences = async |by: &Client| by.get("/me/notification-preferences").await.expect(200).json();
    assert_eq!(preferences(&user).await["muted"], json!([]));
    let muted =
        json!([{ "type": "WEEKLY_OFFERS", "channel": "EMAIL" }, { "type": "WEEKLY_OFFERS", "channel": "INAPP" }]);
    let put = mute(&user, muted.clone()).await.expect(200).json();
    assert_eq!((&put["muted"], &preferences(&user).await), (&muted, &put));
    assert_eq!(preferences(&stranger(&site)).await["muted"], json!([]));

    let refused = mute(&user, json!([{ "type": "ORDER_PLACED", "channel": "EMAIL" }])).await;
    assert_eq!(refused.refused(422, "TYPE_NOT_MUTABLE")["details"], json!([{ "type": "ORDER_PLACED" }]));
    for bad in [
        json!([{ "type": "WEEKLY_OFFERS", "channel": "SLACK" }]),
        json!([{ "type": "weekly offers", "channel": "EMAIL" }]),
        json!([{ "type": "WEEKLY_OFFERS", "channel": "PIGEON" }]),
        json!([["WEEKLY_OFFERS", "EMAIL"]]),
        json!(7),
    ] {
        mute(&user, bad).await.refused(400, "VALIDATION_ERROR");
    }
    assert_eq!(preferences(&user).await["muted"], muted, "a refusal changes nothing");
    let to_nobody = json!({ "type": "T", "channels": [{ "channel": "INAPP" }], "subject": "s", "body": "b" });
    send(&site.admin(), "k", &to_nobody).await.refused(400, "VALIDATION_ERROR");
    site.stop().await;
}
