//! `POST /auth/refresh`: every refresh token is used once and replaced. When a used one is presented later, somebody has a
//! copy: its session is revoked.

use actix_web::{HttpResponse, post};
use chrono::{DateTime, Utc};
use common::db::{Prepared, Tx};
use common::http::{self, Data, Json, Problem};
use common::{Error, Result};
use contract::ids::AccountId;
use diesel::{ExpressionMethods, OptionalExtension, QueryDsl, QueryableByName, sql_types};
use diesel_async::RunQueryDsl;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::App;
use crate::account::{Refused, role};
use crate::log_in::{self, Tokens};
use crate::schema::{refresh_tokens, token_families};
use crate::session::{NewToken, RefreshToken, StoredToken, TokenUse};

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Refresh {
    #[schema(value_type = String)]
    pub refresh_token: SecretString,
}

/// Exchanges a refresh token. Asked again within the grace, it answers with the same refresh token.
#[utoipa::path(
    tag = "auth",
    responses(
        (status = 200, body = Tokens),
        (status = 401, body = Problem, description = "REFRESH_TOKEN_INVALID, REFRESH_TOKEN_REUSED"),
    ),
)]
#[post("/auth/refresh")]
pub async fn refresh(app: Data<App>, body: Json<Refresh>) -> Result<HttpResponse> {
    let token = RefreshToken::parse(body.0.refresh_token.expose_secret()).ok_or(Refused::RefreshTokenInvalid)?;
    let tokens = http::detach(async move {
        match exchange(&app, &token).await? {
            Exchanged::Successor { row, kid } => {
                let successor = token.successor(&app.signer.key(&kid)?.private);
                log_in::tokens(&app, row.user_id, role(&row.role)?, &successor, Utc::now())
            }
            Exchanged::Reused { user, family } => {
                tracing::warn!(
                    userId = %user, session = %family,
                    "A refresh token was presented again after its grace; its session is revoked and the user has to log in again"
                );
                metrics::counter!("stampede_refresh_tokens_reused_total").increment(1);
                Err(Refused::RefreshTokenReused.into())
            }
            Exchanged::Invalid => Err(Refused::RefreshTokenInvalid.into()),
        }
    })
    .await?;
    Ok(log_in::answer(tokens))
}

/// What a presented token led to, committed.
enum Exchanged {
    /// The successor is derived with signing key `kid`.
    Successor {
        row: Row,
        kid: String,
    },
    Reused {
        user: AccountId,
        family: Uuid,
    },
    Invalid,
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = sql_types::Uuid)]
    user_id: AccountId,
    #[diesel(sql_type = sql_types::Uuid)]
    family: Uuid,
    #[diesel(sql_type = sql_types::Timestamptz)]
    expires_at: DateTime<Utc>,
    #[diesel(sql_type = sql_types::Nullable<sql_types::Timestamptz>)]
    used_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = sql_types::Nullable<sql_types::Text>)]
    successor_kid: Option<String>,
    #[diesel(sql_type = sql_types::Timestamptz)]
    session_expires_at: DateTime<Utc>,
    #[diesel(sql_type = sql_types::Bool)]
    session_revoked: bool,
    #[diesel(sql_type = sql_types::Text)]
    role: String,
    #[diesel(sql_type = sql_types::Timestamptz)]
    now: DateTime<Utc>,
}

async fn exchange(app: &App, token: &RefreshToken) -> Result<Exchanged> {
    let hash = token.hash();
    let signing = app.signer.current(Utc::now())?;
    let successor_hash = token.successor(&signing.private).hash();
    let lifetimes = app.lifetimes;
    app.db
        .tx("refresh", async |tx| {
            let found: Option<Row> =
                Prepared(diesel::sql_query(include_str!("refresh.sql")).bind::<sql_types::Bytea, _>(&hash))
                    .get_result(tx)
                    .await
                    .optional()?;
            let Some(row) = found else { return Ok(Exchanged::Invalid) };
            tx.point("refresh.after_lock").await;
            let Row { expires_at, used_at, session_revoked, .. } = row;
            match (StoredToken { expires_at, used_at, session_revoked }).presented(row.now, lifetimes.grace) {
                TokenUse::First => {
                    mark_used(tx, &hash, &row, &signing.kid).await?;
                    let expires_at = lifetimes.token_expires_at(row.now, row.session_expires_at);
                    let (family, user_id) = (row.family, row.user_id.uuid());
                    let successor = NewToken { hash: successor_hash, family, user_id, expires_at };
                    diesel::insert_into(refresh_tokens::table).values(successor).execute(tx).await?;
                    Ok(Exchanged::Successor { row, kid: signing.kid })
                }
                TokenUse::Repeated => {
                    let kid = row.successor_kid.clone();
                    let kid = kid.ok_or_else(|| Error::fault(anyhow::anyhow!("a used token has no successor")))?;
                    Ok(Exchanged::Successor { row, kid })
                }
                TokenUse::Reused => {
                    revoke(tx, row.family).await?;
                    Ok(Exchanged::Reused { user: row.user_id, family: row.family })
                }
                TokenUse::Invalid => Ok(Exchanged::Invalid),
            }
        })
        .await
}

async fn mark_used(tx: &mut Tx, hash: &[u8], row: &Row, kid: &str) -> Result<()> {
    diesel::update(refresh_tokens::table.find(hash))
        .set((refresh_tokens::used_at.eq(row.now), refresh_tokens::successor_kid.eq(kid)))
        .execute(tx)
        .await?;
    Ok(())
}

/// Ends a session: no token of it is accepted from here on. Revoking twice changes nothing.
pub async fn revoke(tx: &mut Tx, family: Uuid) -> Result<()> {
    diesel::update(token_families::table.find(family))
        .filter(token_families::revoked_at.is_null())
        .set(token_families::revoked_at.eq(diesel::dsl::now))
        .execute(tx)
        .await?;
    Ok(())
}
