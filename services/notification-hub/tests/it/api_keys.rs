//! Keys of programs: what they open, and until when.

use serde_json::{Value, json};
use testkit::{fresh_key, text};

use crate::hub::{replica, start, user};
use crate::senders::{incident, make_key, program, revoke, send};

const WRITE: &str = "notifications:write";
const READ: &str = "notifications:read";

#[tokio::test(flavor = "multi_thread")]
async fn a_key_opens_what_its_scopes_name_and_nothing_else() {
    let (site, _) = start(&[]).await;
    let (_, writer) = program(&site, "writer", &[WRITE]).await;
    let (_, reader) = program(&site, "reader", &[READ]).await;
    let sent = send(&writer, "k", &incident()).await.expect(201).json();
    let path = format!("/notifications/{}", text(&sent["notificationId"]));
    assert_eq!(reader.get(&path).await.expect(200).json()["type"], "SYSTEM_INCIDENT");
    assert_eq!(reader.get("/notifications").await.expect(200).json()["items"].as_array().unwrap().len(), 1);

    writer.get(&path).await.refused(403, "FORBIDDEN");
    writer.get("/notifications").await.refused(403, "FORBIDDEN");
    // Whatever is wrong with the body.
    for body in [incident(), json!({ "nonsense": true })] {
        send(&reader, "k", &body).await.refused(403, "FORBIDDEN");
        send(&user(&site), "k", &body).await.refused(403, "FORBIDDEN");
        send(&site.anyone(), "k", &body).await.refused(401, "UNAUTHORIZED");
    }
    send(&writer, "l", &json!({ "nonsense": true })).await.refused(400, "VALIDATION_ERROR");
    for client in [&writer, &reader] {
        // Not what administrators do, whatever the scopes.
        client.get("/admin/api-keys").await.refused(401, "UNAUTHORIZED");
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_opens_nothing_at_any_replica_while_the_second_key_lives() {
    let (site, account) = start(&[]).await;
    let other = replica(&site, &account, &[]).await;
    let (old_id, old) = program(&site, "monitoring", &[WRITE]).await;
    let (_, new) = program(&site, "monitoring", &[WRITE]).await;
    make_key(&site, &fresh_key(), "monitoring", &[WRITE]).await.refused(409, "API_KEY_LIMIT_REACHED");
    // Both keys are one client: what was sent with one is not sent again with the other.
    let first = send(&old.at(&other.api), "k", &incident()).await.expect(201);
    assert_eq!(send(&new, "k", &incident()).await.expect(201).body, first.body);

    for _ in 0..2 {
        revoke(&site, &old_id).await.expect(204);
    }
    for site in [&site, &other] {
        send(&old.at(&site.api), "l", &incident()).await.refused(401, "UNAUTHORIZED");
    }
    send(&new, "l", &incident()).await.expect(201);
    program(&site, "monitoring", &[WRITE]).await;
    revoke(&site, &uuid::Uuid::nil().to_string()).await.refused(404, "API_KEY_NOT_FOUND");
    other.stop().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_shown_once_and_stored_as_a_hash() {
    let (site, _) = start(&[]).await;
    let first = make_key(&site, "k", "monitoring", &[WRITE, READ]).await.expect(201);
    let key = text(&first.json()["key"]);
    assert!(key.starts_with("nh_live_"), "{key}");
    let again = make_key(&site, "k", "monitoring", &[WRITE, READ]).await.expect(201);
    assert!(again.is_replay() && again.json().get("key").is_none(), "{again}");
    assert_eq!(again.json()["keyId"], first.json()["keyId"]);
    make_key(&site, "k", "monitoring", &[READ]).await.refused(422, "IDEMPOTENCY_KEY_REUSED");

    let secret = key.rsplit_once('_').unwrap().1;
    let stored = site.rows("select * from {notification_hub}.api_keys").await;
    assert_eq!(stored.len(), 1);
    assert!(!stored[0].to_string().contains(secret));
    let listed = site.admin().get("/admin/api-keys?client=monitoring").await.expect(200);
    assert!(!listed.body.contains(secret) && !listed.body.contains("digest"), "{listed}");
    assert_eq!(listed.json()["items"].as_array().unwrap().len(), 1);
    // Of the right form, but not the key.
    let forged = site.anyone().with_token(&format!("{}0", &key[..key.len() - 1]));
    let other_end = site.anyone().with_token(&format!("{}1", &key[..key.len() - 1]));
    for forged in [forged, other_end].into_iter().filter(|forged| forged.token.as_ref() != Some(&key)) {
        send(&forged, "k", &incident()).await.refused(401, "UNAUTHORIZED");
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_for_keys_are_refused_and_users_make_none() {
    let (site, _) = start(&[]).await;
    for (client, scopes) in [
        ("Monitoring", vec![WRITE]),
        ("a b", vec![WRITE]),
        ("monitoring", vec![]),
        ("monitoring", vec![WRITE, WRITE]),
        ("monitoring", vec!["orders:write"]),
    ] {
        make_key(&site, &fresh_key(), client, &scopes).await.refused(400, "VALIDATION_ERROR");
    }
    let body = json!({ "client": "monitoring", "scopes": [WRITE] });
    site.admin().post("/admin/api-keys", &body).await.refused(400, "IDEMPOTENCY_KEY_REQUIRED");
    user(&site).get("/admin/api-keys").await.refused(403, "FORBIDDEN");
    assert_eq!(site.rows("select id from {notification_hub}.api_keys").await, [] as [Value; 0]);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_keys_is_read_page_by_page() {
    let (site, _) = start(&[]).await;
    for client in ["a", "b", "c"] {
        program(&site, client, &[READ]).await;
    }
    let admin = site.admin();
    let first = admin.get("/admin/api-keys?limit=2").await.expect(200).json();
    let rest = format!("/admin/api-keys?limit=2&cursor={}", text(&first["nextCursor"]));
    let rest = admin.get(&rest).await.expect(200).json();
    let clients = |page: &Value| {
        let items = page["items"].as_array().unwrap();
        items.iter().map(|item| text(&item["client"])).collect::<Vec<_>>()
    };
    assert_eq!((clients(&first), clients(&rest)), (vec!["c".to_owned(), "b".to_owned()], vec!["a".to_owned()]));
    assert!(rest["nextCursor"].is_null());
    site.stop().await;
}
