//! `POST /auth/logout`: ends the session of a refresh token. Access tokens end by themselves, within minutes.

use actix_web::{HttpResponse, post};
use common::Result;
use common::http::{self, Data, Json};
use diesel::{OptionalExtension, QueryDsl};
use diesel_async::RunQueryDsl;
use secrecy::ExposeSecret;
use uuid::Uuid;

use crate::App;
use crate::refresh::{Refresh, revoke};
use crate::schema::refresh_tokens;
use crate::session::RefreshToken;

/// Logs out. Idempotent; a token that is not ours ends nothing and gets the same answer.
#[utoipa::path(tag = "auth", responses((status = 204, description = "No token of this log-in is accepted any more")))]
#[post("/auth/logout")]
pub async fn log_out(app: Data<App>, body: Json<Refresh>) -> Result<HttpResponse> {
    if let Some(token) = RefreshToken::parse(body.0.refresh_token.expose_secret()) {
        http::detach(async move {
            let hash = token.hash();
            app.db
                .tx("log_out", async |tx| {
                    let family = refresh_tokens::table.find(hash).select(refresh_tokens::family);
                    match family.first::<Uuid>(tx).await.optional()? {
                        Some(family) => revoke(tx, family).await,
                        None => Ok(()),
                    }
                })
                .await
        })
        .await?;
    }
    Ok(HttpResponse::NoContent().finish())
}
