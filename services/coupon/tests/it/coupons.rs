//! Administrators make and change coupons, and everybody reads them.

use reqwest::Method;
use serde_json::json;
use testkit::{eventually, fresh_key, text};

use crate::site::{Site, new_coupon};

#[tokio::test(flavor = "multi_thread")]
async fn a_key_makes_one_coupon() {
    let site = Site::start().await;
    let (key, new) = (fresh_key(), new_coupon(json!({ "total": 7 })));
    let made = site.create(&key, &new).await.expect(201);
    assert_eq!(made.json()["remaining"], 7);
    let again = site.create(&key, &new).await.expect(201);
    assert_eq!((again.is_replay(), &again.body), (true, &made.body));
    site.create(&key, &new_coupon(json!({ "total": 8 }))).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    let coupon = text(&made.json()["couponId"]);
    assert_eq!(site.anyone().get(&format!("/coupons/{coupon}")).await.expect(200).json(), made.json());
    let request = site.somebody().request(Method::POST, "/admin/coupons").header("Idempotency-Key", key);
    site.somebody().send(request.json(&new)).await.refused(403, "FORBIDDEN");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coupon_that_cannot_be_is_refused() {
    let site = Site::start().await;
    for (wrong, field) in [
        (json!({ "discount": { "kind": "FIXED", "value": 5000 }, "minimumAmount": 5000 }), "minimumAmount"),
        (json!({ "discount": { "kind": "PERCENT", "value": 100 } }), "discount.value"),
        (json!({ "total": 0 }), "total"),
        (json!({ "expiresAt": "2020-01-01T00:00:00Z" }), "expiresAt"),
        (json!({ "maximumDiscount": 0 }), "maximumDiscount"),
        (json!({ "name": "" }), "name"),
        (json!({ "currency": "USD" }), "currency"),
    ] {
        let refused = site.create(&fresh_key(), &new_coupon(wrong)).await.refused(400, "VALIDATION_ERROR");
        assert_eq!(refused["details"][0]["field"], field);
    }
    assert_eq!(site.number("select count(*) from {coupon}.coupons").await, 0);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_counts_from_the_next_issue_on() {
    let site = Site::start().await;
    let coupon = site.coupon(1).await;
    site.issued(&site.somebody(), &coupon).await;
    site.issue(&site.somebody(), &coupon).await.refused(409, "COUPON_SOLD_OUT");

    site.change(&coupon, "\"7\"", json!({ "total": 2 })).await.refused(412, "VERSION_CONFLICT");
    site.change(&coupon, "\"1\"", json!({ "total": 0 })).await.refused(400, "VALIDATION_ERROR");
    let changed = site.change(&coupon, "\"1\"", json!({ "total": 2, "name": "second round" })).await.expect(200);
    assert_eq!((&changed.json()["remaining"], &changed.json()["name"]), (&json!(1), &json!("second round")));
    assert_eq!(changed.header("ETag"), Some("\"2-1\""));
    site.issued(&site.somebody(), &coupon).await;
    site.issue(&site.somebody(), &coupon).await.refused(409, "COUPON_SOLD_OUT");
    site.change(&coupon, "\"2\"", json!({ "total": 1 })).await.refused(400, "VALIDATION_ERROR");

    site.change(&coupon, "*", json!({ "total": 9, "closed": true })).await.expect(200);
    site.issue(&site.somebody(), &coupon).await.refused(410, "COUPON_EXPIRED");
    let unknown = uuid::Uuid::now_v7().to_string();
    site.change(&unknown, "*", json!({ "total": 9 })).await.refused(404, "COUPON_NOT_FOUND");
    site.gate_agrees(&coupon).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_seen_a_coupon_is_told_when_fewer_remain() {
    let site = Site::start().await;
    let coupon = site.coupon(2).await;
    let path = format!("/coupons/{coupon}");
    let seen = site.anyone().get(&path).await.expect(200);
    let tag = seen.header("ETag").unwrap().to_owned();
    let ask = || site.anyone().request(Method::GET, &path).header("If-None-Match", &tag);
    site.anyone().send(ask()).await.expect(304);
    site.issued(&site.somebody(), &coupon).await;
    let news = eventually("the issue shows", async || {
        let answer = site.anyone().send(ask()).await;
        (answer.status != 304).then_some(answer)
    })
    .await;
    assert_eq!(news.expect(200).json()["remaining"], 1);
    // Issues do not stand in the way of a change: its version is the same.
    site.change(&coupon, &tag, json!({ "name": "second round" })).await.expect(200);
    site.change(&coupon, &tag, json!({ "name": "third round" })).await.refused(412, "VERSION_CONFLICT");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_is_read_to_its_end_and_shows_what_is_left() {
    let site = Site::start().await;
    let made = [site.coupon(1).await, site.coupon(2).await, site.coupon(3).await];
    let mut path = "/coupons?limit=2".to_owned();
    let mut listed = Vec::new();
    loop {
        let page = site.anyone().get(&path).await.expect(200).json();
        listed.extend(page["items"].as_array().unwrap().iter().map(|coupon| text(&coupon["couponId"])));
        if page["nextCursor"].is_null() {
            break;
        }
        path = format!("/coupons?limit=2&cursor={}", text(&page["nextCursor"]));
    }
    assert_eq!(listed, made.iter().rev().cloned().collect::<Vec<_>>());
    site.anyone().get("/coupons?limit=0").await.refused(400, "VALIDATION_ERROR");
    site.issued(&site.somebody(), &made[2]).await;
    let shown = format!("/coupons/{}", made[2]);
    eventually("the issue shows", async || {
        (site.anyone().get(&shown).await.expect(200).json()["remaining"] == 2).then_some(())
    })
    .await;
    site.stop().await;
}
