//! Log-ins while others are being hashed.

use testkit::site::PASSWORD;

use crate::{log_in, site};

#[tokio::test(flavor = "multi_thread")]
async fn while_hashing_is_busy_no_password_is_accepted() {
    let site = site().set("account.hashing.parallel", 1).set("account.hashing.waiting_max", 0).start().await;
    let buyer = site.buyer().await;
    let mut hashing = site.pause("account", "log_in.before_hash");
    let first = tokio::spawn({
        let (anyone, email) = (site.anyone(), buyer.email.clone());
        async move { anyone.log_in(&email, PASSWORD).await }
    });
    hashing.reached().await;
    for password in ["a wrong password", PASSWORD] {
        let answer = log_in(&site, &buyer.email, password).await;
        answer.refused(429, "TOO_MANY_ATTEMPTS");
        assert!(answer.header("Retry-After").is_some(), "{answer}");
    }
    log_in(&site, "nobody@example.com", PASSWORD).await.refused(429, "TOO_MANY_ATTEMPTS");

    hashing.resume();
    assert_eq!(first.await.unwrap().user_id, buyer.user_id);
    log_in(&site, &buyer.email, "a wrong password").await.refused(401, "INVALID_CREDENTIALS");
    log_in(&site, &buyer.email, PASSWORD).await.expect(200);
    site.stop().await;
}
