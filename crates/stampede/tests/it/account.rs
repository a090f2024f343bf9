//! Accounts: registering, logging in, staying logged in, and losing a session to a thief.

use crate::site::system;
use std::collections::HashSet;
use testkit::site::{ADMIN_EMAIL, ADMIN_PASSWORD, PASSWORD};
use testkit::{Answer, Site, eventually, text};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

fn person(email: &str) -> Value {
    json!({ "email": email, "password": PASSWORD, "name": "김하나" })
}

fn email() -> String {
    format!("{}@example.com", Uuid::new_v4().simple())
}

async fn log_in(site: &Site, email: &str, password: &str) -> Answer {
    site.anyone().post("/auth/login", &json!({ "email": email, "password": password })).await
}

async fn refresh(site: &Site, token: &str) -> Answer {
    site.anyone().post("/auth/refresh", &json!({ "refreshToken": token })).await
}

async fn log_out(site: &Site, token: &str) {
    site.anyone().post("/auth/logout", &json!({ "refreshToken": token })).await.expect(204);
}

fn refresh_token(answer: &Answer) -> String {
    text(&answer.json()["refreshToken"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_registers_can_log_in_and_is_told_who_they_are() {
    let site = system().start().await;
    let address = email();
    let registered = site.anyone().post("/auth/register", &person(&address)).await.expect(201).json();
    assert_eq!((&registered["email"], &registered["role"]), (&json!(address), &json!("USER")));
    assert!(registered.get("password").is_none());

    let tokens = log_in(&site, &address.to_uppercase(), PASSWORD).await.expect(200);
    assert_eq!(tokens.header("Cache-Control"), Some("no-store"));
    let told = tokens.json();
    assert_eq!((&told["tokenType"], &told["expiresIn"]), (&json!("Bearer"), &json!(900)));
    let known = site.anyone().with_token(&text(&told["accessToken"]));
    let me = known.get("/auth/me").await.expect(200).json();
    assert_eq!((&me["userId"], &me["email"], &me["name"]), (&registered["userId"], &json!(address), &json!("김하나")));
    assert_eq!(me["role"], "USER");
    known.get("/admin/holds").await.refused(403, "FORBIDDEN");

    let admin = site.admin();
    assert_eq!(admin.get("/auth/me").await.expect(200).json()["role"], "ADMIN");
    admin.get("/admin/holds").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_is_registered_once_however_it_is_written() {
    let site = system().start().await;
    let address = email();
    let spellings = [address.clone(), address.to_uppercase(), format!(" {address} ")];
    let racing = spellings.iter().cycle().take(12);
    let answers =
        join_all(racing.map(async |address| site.anyone().post("/auth/register", &person(address)).await)).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
    for refused in answers.iter().filter(|answer| answer.status != 201) {
        refused.refused(409, "EMAIL_ALREADY_EXISTS");
    }
    let query = format!("select count(*) from {{account}}.users where email = '{address}'");
    assert_eq!(site.number(&query).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_and_an_unknown_address_are_refused_alike() {
    let site = system().start().await;
    let wrong = log_in(&site, ADMIN_EMAIL, "not the password").await.refused(401, "INVALID_CREDENTIALS");
    let unknown = log_in(&site, &email(), "not the password").await.refused(401, "INVALID_CREDENTIALS");
    assert_eq!((&wrong["message"], &wrong["details"]), (&unknown["message"], &unknown["details"]));
    // Passwords are compared to the last character, and kept nowhere.
    log_in(&site, ADMIN_EMAIL, &ADMIN_PASSWORD[..ADMIN_PASSWORD.len() - 1]).await.refused(401, "INVALID_CREDENTIALS");
    log_in(&site, ADMIN_EMAIL, &ADMIN_PASSWORD.to_uppercase()).await.refused(401, "INVALID_CREDENTIALS");
    let stored = site.rows("select password_hash from {account}.users").await;
    assert!(stored.iter().all(|row| text(&row["password_hash"]).starts_with("$argon2id$")), "{stored:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_token_is_exchanged_once_and_repeats_get_the_same_successor() {
    let site = system().start().await;
    let buyer = site.buyer().await;
    let first = refresh_token(&log_in(&site, &buyer.email, PASSWORD).await.expect(200));
    // A client whose answer was lost asks again, perhaps several times at once.
    let answers = join_all((0..10).map(|_| refresh(&site, &first))).await;
    let successors: HashSet<String> = answers.iter().map(|answer| refresh_token(&answer.clone().expect(200))).collect();
    assert_eq!(successors.len(), 1);
    let successor = successors.into_iter().next().expect("there is one");
    assert_ne!(successor, first);
    let access = text(&answers[0].json()["accessToken"]);
    site.anyone().with_token(&access).get("/auth/me").await.expect(200);
    let third = refresh_token(&refresh(&site, &successor).await.expect(200));
    refresh(&site, &third).await.expect(200);
    for garbage in ["", "x", &"A".repeat(43), &"A".repeat(5000), &access, "한글"] {
        refresh(&site, garbage).await.refused(401, "REFRESH_TOKEN_INVALID");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_presents_a_used_token_late_ends_that_session_and_no_other() {
    let site = system().settings(&[("account.refresh_grace_seconds", "1")]).start().await;
    let buyer = site.buyer().await;
    let stolen = refresh_token(&log_in(&site, &buyer.email, PASSWORD).await.expect(200));
    let elsewhere = refresh_token(&log_in(&site, &buyer.email, PASSWORD).await.expect(200));
    let mut newest = refresh_token(&refresh(&site, &stolen).await.expect(200));
    newest = refresh_token(&refresh(&site, &newest).await.expect(200));
    let age =
        "select count(*) from {account}.refresh_tokens where used_at < clock_timestamp() - interval '1.1 seconds'";
    eventually("the grace is over", async || (site.number(age).await >= 2).then_some(())).await;

    refresh(&site, &stolen).await.refused(401, "REFRESH_TOKEN_REUSED");
    let after = refresh(&site, &newest).await;
    assert_eq!(after.status, 401, "the thief's and the owner's tokens are of one session: {after}");
    refresh(&site, &elsewhere).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logging_out_ends_a_session_for_good() {
    let site = system().start().await;
    let buyer = site.buyer().await;
    let first = refresh_token(&log_in(&site, &buyer.email, PASSWORD).await.expect(200));
    let second = refresh_token(&refresh(&site, &first).await.expect(200));
    log_out(&site, &second).await;
    log_out(&site, &second).await;
    log_out(&site, "nonsense").await;
    for token in [&first, &second] {
        assert_eq!(refresh(&site, token).await.status, 401);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guessing_passwords_is_slowed_down_without_locking_others_out() {
    let site = system().settings(&[("account.log_ins_per_minute_and_account", "5")]).start().await;
    let buyer = site.buyer().await;
    let guesses = join_all((0..20).map(|_| log_in(&site, ADMIN_EMAIL, "a guess"))).await;
    let slowed: Vec<_> = guesses.iter().filter(|answer| answer.status == 429).collect();
    assert!(slowed.len() >= 13, "{} of 20", slowed.len());
    for answer in slowed {
        answer.refused(429, "TOO_MANY_ATTEMPTS");
        assert!(answer.header("Retry-After").is_some(), "{answer}");
    }
    log_in(&site, &buyer.email, PASSWORD).await.expect(200);

    let site = system().settings(&[("account.log_ins_per_minute_and_address", "5")]).start().await;
    let guesses = join_all((0..20).map(async |_| log_in(&site, &email(), "a guess").await)).await;
    assert!(guesses.iter().filter(|answer| answer.status == 429).count() >= 13);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_log_ins_is_turned_away_at_the_queue_and_not_queued_for_ever() {
    let site = system()
        .settings(&[
            ("account.hashing.waiting_max", "2"),
            ("account.hashing.parallel", "1"),
            ("account.hashing.memory_kib", "19456"),
            ("account.hashing.passes", "20"),
        ])
        .start()
        .await;
    let answers = join_all((0..40).map(async |_| log_in(&site, &email(), "a password").await)).await;
    let turned_away: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(!turned_away.is_empty() && turned_away.len() < 40, "{}", turned_away.len());
    for answer in &answers {
        match answer.status.as_u16() {
            429 => drop(answer.refused(429, "TOO_MANY_ATTEMPTS")),
            _ => drop(answer.refused(401, "INVALID_CREDENTIALS")),
        }
    }
    log_in(&site, ADMIN_EMAIL, ADMIN_PASSWORD).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_published_keys_are_public_and_enough_to_check_a_token() {
    let site = system().start().await;
    let anyone = site.anyone();
    let answer = anyone.send(anyone.request_root(Method::GET, "/.well-known/jwks.json")).await.expect(200);
    assert!(answer.header("Cache-Control").is_some_and(|value| value.contains("max-age")), "{answer}");
    let token = site.buyer().await.token.expect("a buyer has one");
    let header = jsonwebtoken::decode_header(&token).expect("it is a token");
    let keys = answer.json();
    let keys = keys["keys"].as_array().expect("keys");
    let key = keys.iter().find(|key| key["kid"].as_str() == header.kid.as_deref()).expect("its key is published");
    assert!(keys.iter().all(|key| key.get("d").is_none()), "private keys stay private");
    let x = text(&key["x"]);
    let decoding = jsonwebtoken::DecodingKey::from_ed_components(&x).expect("it is a key");
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::EdDSA);
    validation.set_audience(&["stampede"]);
    let claims =
        jsonwebtoken::decode::<Value>(&token, &decoding, &validation).expect("it is signed with that key").claims;
    assert_eq!(claims["roles"], json!(["USER"]));
}
