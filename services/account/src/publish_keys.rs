//! `GET /.well-known/jwks.json`: the public keys that every service checks access tokens with.

use actix_web::http::header::CACHE_CONTROL;
use actix_web::{HttpResponse, get};
use chrono::Utc;
use common::Result;
use common::auth::JwkSet;
use common::http::Data;

use crate::App;

/// Reads the public keys (RFC 7517).
#[utoipa::path(tag = "auth", responses((status = 200, body = JwkSet)))]
#[get("/.well-known/jwks.json")]
pub async fn publish_keys(app: Data<App>) -> Result<HttpResponse> {
    let keys = app.signer.published(Utc::now());
    // Five minutes are nothing against the day for which the next key is published before it signs.
    Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, "public, max-age=300")).json(keys))
}
