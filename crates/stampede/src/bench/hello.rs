//! What the server itself does: a handler that says hello, behind the same middleware as all handlers. It goes through the
//! framework's routing, which looks at a place in a line and issues of coupons skip (`http::Direct`).

use actix_web::web::Bytes;
use actix_web::{HttpResponse, get, post};
use anyhow::Context as _;
use common::Host;
use common::host::Running;
use serde_json::json;

use crate::site::Site;

pub const PATH: &str = "/api/v1/hello";

/// Says hello.
#[utoipa::path(tag = "bench", responses((status = 200, description = "Hello")))]
#[get("/hello")]
async fn hello() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "message": "hello" }))
}

/// Says hello. The body is read: a connection with a body that nobody has read cannot be used again.
#[utoipa::path(tag = "bench", responses((status = 201, description = "Hello")))]
#[post("/hello")]
async fn post_hello(_: Bytes) -> HttpResponse {
    HttpResponse::Created().json(json!({ "message": "hello" }))
}

/// A server with that handler alone, with the settings of `site` on a port of its own. Stop it in the end.
pub async fn serve(site: &Site) -> anyhow::Result<Running> {
    let mut host = Host::new(site.settings().clone()).await.context("a server that says hello")?;
    host.http(|config| {
        config.service(hello).service(post_hello);
    });
    host.start().await
}
