//! Refresh tokens: each is used once, and a revoked or expired session gives no tokens. The clock does not move in these
//! tests, stored moments do.

use serde_json::json;
use testkit::{Site, eventually};

use crate::{refresh, refresh_token, session, site};

/// Waits until one transaction of the site waits for the lock of another; false when `is_finished` comes first.
async fn waits_for_lock(site: &Site, is_finished: impl Fn() -> bool) -> bool {
    let waiting = format!(
        "select count(*) from pg_stat_activity where application_name = '{}' and wait_event_type = 'Lock'",
        site.schema("account")
    );
    eventually("the second request waits or ends", async || match site.number(&waiting).await {
        0 => is_finished().then_some(false),
        _ => Some(true),
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_refresh_token_gets_no_tokens_after_its_grace_and_ends_its_session() {
    let site = site().start().await;
    let buyer = site.buyer().await;
    let (first, elsewhere) = (session(&site, &buyer.email).await, session(&site, &buyer.email).await);
    let second = refresh_token(&refresh(&site, &first).await.expect(200));
    assert_eq!(refresh_token(&refresh(&site, &first).await.expect(200)), second, "a repeat gets the same token");

    site.execute("update {account}.refresh_tokens set used_at = used_at - interval '61 seconds'").await;
    refresh(&site, &first).await.refused(401, "REFRESH_TOKEN_REUSED");
    refresh(&site, &second).await.refused(401, "REFRESH_TOKEN_INVALID");
    refresh(&site, &elsewhere).await.expect(200);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_requests_with_one_refresh_token_get_the_same_successor() {
    let site = site().start().await;
    let buyer = site.buyer().await;
    let token = session(&site, &buyer.email).await;
    let tokens_before = site.number("select count(*) from {account}.refresh_tokens").await;
    let mut in_first = site.pause("account", "refresh.after_lock");
    let request = |site: &Site| {
        let (anyone, body) = (site.anyone(), json!({ "refreshToken": token }));
        tokio::spawn(async move { anyone.post("/auth/refresh", &body).await })
    };
    let first = request(&site);
    in_first.reached().await;
    let second = request(&site);
    assert!(waits_for_lock(&site, || second.is_finished()).await, "the second request waits for the first");
    in_first.resume();
    let (first, second) = (first.await.unwrap().expect(200), second.await.unwrap().expect(200));
    assert_eq!(refresh_token(&first), refresh_token(&second));
    assert_eq!(site.number("select count(*) from {account}.refresh_tokens").await, tokens_before + 1);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_session_gives_no_tokens() {
    let site = site().start().await;
    let buyer = site.buyer().await;
    let first = session(&site, &buyer.email).await;
    let second = refresh_token(&refresh(&site, &first).await.expect(200));
    // As an operator logs everybody out.
    site.execute("update {account}.token_families set revoked_at = now()").await;
    for token in [&first, &second] {
        refresh(&site, token).await.refused(401, "REFRESH_TOKEN_INVALID");
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_out_revokes_the_token_that_is_being_issued_meanwhile() {
    let site = site().start().await;
    let buyer = site.buyer().await;
    let token = session(&site, &buyer.email).await;
    let mut in_refresh = site.pause("account", "refresh.after_lock");
    let request = |path: &'static str| {
        let (anyone, body) = (site.anyone(), json!({ "refreshToken": token }));
        tokio::spawn(async move { anyone.post(path, &body).await })
    };
    let refreshing = request("/auth/refresh");
    in_refresh.reached().await;
    let leaving = request("/auth/logout");
    assert!(waits_for_lock(&site, || leaving.is_finished()).await, "the log-out waits for the refresh");
    in_refresh.resume();
    let successor = refresh_token(&refreshing.await.unwrap().expect(200));
    leaving.await.unwrap().expect(204);
    refresh(&site, &successor).await.refused(401, "REFRESH_TOKEN_INVALID");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_ends_with_its_time_and_no_token_outlives_its_session() {
    let site = site().start().await;
    let buyer = site.buyer().await;
    let (expired, last) = (session(&site, &buyer.email).await, session(&site, &buyer.email).await);
    let bounded = refresh_token(&refresh(&site, &expired).await.expect(200));
    site.execute("update {account}.refresh_tokens set expires_at = now() where used_at is not null").await;
    refresh(&site, &expired).await.refused(401, "REFRESH_TOKEN_INVALID");
    refresh(&site, &bounded).await.expect(200);

    site.execute("update {account}.token_families set expires_at = now() + interval '1 hour'").await;
    refresh(&site, &last).await.expect(200);
    let beyond_session = "select extract(epoch from refresh_tokens.expires_at - token_families.expires_at)::bigint
         from {account}.refresh_tokens
         join {account}.token_families on token_families.id = refresh_tokens.family
         order by refresh_tokens.issued_at desc
         limit 1";
    assert_eq!(site.number(beyond_session).await, 0, "the newest token ends with its session, although it is young");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_sessions_are_forgotten() {
    let site = site().start().await;
    let buyer = site.buyer().await;
    let kept = session(&site, &buyer.email).await;
    site.execute(
        "update {account}.refresh_tokens set expires_at = now() - interval '1 second'
         where issued_at < (select max(issued_at) from {account}.refresh_tokens);
         update {account}.token_families set expires_at = now() - interval '1 second'
         where created_at < (select max(created_at) from {account}.token_families)",
    )
    .await;
    // The loop runs when a process starts.
    let replica = site.replica().await;
    site.until_number("select count(*) from {account}.token_families where expires_at < now()", 0).await;
    assert_eq!(site.number("select count(*) from {account}.refresh_tokens where expires_at < now()").await, 0);
    refresh(&site, &kept).await.expect(200);
    replica.stop().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_token_is_remembered_until_it_expires_so_that_a_thief_is_found_out() {
    let site = site().start().await;
    let buyer = site.buyer().await;
    let stolen = session(&site, &buyer.email).await;
    let successor = refresh_token(&refresh(&site, &stolen).await.expect(200));
    site.execute("update {account}.refresh_tokens set used_at = used_at - interval '13 days'").await;
    // The same transaction forgets this session.
    let expired = "update {account}.token_families set expires_at = now() - interval '1 second'
         where created_at = (select min(created_at) from {account}.token_families)";
    site.execute(expired).await;
    let replica = site.replica().await;
    site.until_number("select count(*) from {account}.token_families where expires_at < now()", 0).await;
    refresh(&site, &stolen).await.refused(401, "REFRESH_TOKEN_REUSED");
    refresh(&site, &successor).await.refused(401, "REFRESH_TOKEN_INVALID");
    replica.stop().await;
    site.stop().await;
}
