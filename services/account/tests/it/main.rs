//! The account service through its own door: sessions, people, signing keys, and log-ins while hashing is busy. What a
//! whole site promises of accounts is tested with the site.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod keys;
mod log_in;
mod people;
mod sessions;

use serde_json::json;
use testkit::site::PASSWORD;
use testkit::{Answer, Builder, PATIENT, Site, text};

fn site() -> Builder {
    Site::builder(&[account::spec()]).settings(&PATIENT)
}

async fn log_in(site: &Site, email: &str, password: &str) -> Answer {
    site.anyone().post("/auth/login", &json!({ "email": email, "password": password })).await
}

async fn refresh(site: &Site, token: &str) -> Answer {
    site.anyone().post("/auth/refresh", &json!({ "refreshToken": token })).await
}

/// The refresh token of a new session.
async fn session(site: &Site, email: &str) -> String {
    refresh_token(&log_in(site, email, PASSWORD).await.expect(200))
}

fn refresh_token(answer: &Answer) -> String {
    text(&answer.json()["refreshToken"])
}

fn access_token(answer: &Answer) -> String {
    text(&answer.json()["accessToken"])
}
