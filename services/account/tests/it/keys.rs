//! Signing keys: the next one is published before it signs, and a retired one is accepted no more. A process that starts
//! sees the keys as they would be after the time that a test has moved.

use reqwest::Method;
use serde_json::Value;
use testkit::Site;
use testkit::site::PASSWORD;

use crate::{access_token, log_in, site};

async fn published(site: &Site) -> Vec<Value> {
    let anyone = site.anyone();
    let keys = anyone.send(anyone.request_root(Method::GET, "/.well-known/jwks.json")).await.expect(200).json();
    keys["keys"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_signed_with_a_retired_key_is_refused() {
    let site = site().start().await;
    let buyer = site.buyer().await;
    buyer.get("/auth/me").await.expect(200);
    site.execute("update {account}.signing_keys set retire_at = now() - interval '1 second'").await;
    let later = site.replica().await;
    buyer.at(&later.api).get("/auth/me").await.refused(401, "UNAUTHORIZED");

    let token = access_token(&log_in(&later, &buyer.email, PASSWORD).await.expect(200));
    later.anyone().with_token(&token).get("/auth/me").await.expect(200);
    later.stop().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_key_is_published_while_the_present_one_signs() {
    let site = site().start().await;
    let buyer = site.buyer().await;
    let before = published(&site).await;
    assert_eq!(before.len(), 1);
    // 90 days after it began to sign the next one does; a day before that it is made.
    site.execute("update {account}.signing_keys set use_at = use_at - interval '89 days 1 hour'").await;
    let later = site.replica().await;
    assert_eq!(published(&later).await.len(), 2);
    let ahead = "select count(*) from {account}.signing_keys where use_at > now() + interval '22 hours'";
    assert_eq!(site.number(ahead).await, 1, "it signs when every verifier has had a day to read it");

    buyer.at(&later.api).get("/auth/me").await.expect(200);
    let token = access_token(&log_in(&later, &buyer.email, PASSWORD).await.expect(200));
    site.anyone().with_token(&token).get("/auth/me").await.expect(200);
    later.stop().await;
    site.stop().await;
}
