//! `POST /auth/refresh`: every refresh token is used once and replaced; who presents a used one is taken for a thief.

use actix_web::{HttpResponse, post};
use chrono::{DateTime, Utc};
use common::db::Tx;
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
use crate::account::No;
use crate::log_in::{self, Tokens};
use crate::schema::{refresh_tokens, token_families};
use crate::session::{Known, Presented, RefreshToken, presented};

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
    let token = RefreshToken::parse(body.0.refresh_token.expose_secret()).ok_or(No::RefreshTokenInvalid)?;
    let tokens = http::detach(async move {
        match exchange(&app, &token).await? {
            Exchanged::Successor { row, kid } => {
                let successor = token.successor(&app.signer.key(&kid)?.private);
                log_in::tokens(&app, row.user_id, log_in::role(&row.role)?, &successor, Utc::now())
            }
            Exchanged::Reused { family } => {
                tracing::warn!(%family, "A used refresh token was presented; its session is revoked");
                metrics::counter!("stampede_refresh_tokens_reused_total").increment(1);
                Err(No::RefreshTokenReused.into())
            }
            Exchanged::Invalid => Err(No::RefreshTokenInvalid.into()),
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
            let query = diesel::sql_query(include_str!("refresh.sql")).bind::<sql_types::Bytea, _>(&hash);
            let Some(row) = query.get_result::<Row>(tx).await.optional()? else { return Ok(Exchanged::Invalid) };
            let known =
                Known { expires_at: row.expires_at, used_at: row.used_at, session_revoked: row.session_revoked };
            match presented(&known, row.now, lifetimes.grace) {
                Presented::Rotate => {
                    mark_used(tx, &hash, &row, &signing.kid).await?;
                    let expires_at = lifetimes.token_expires_at(row.now, row.session_expires_at);
                    insert_successor(tx, &successor_hash, &row, expires_at).await?;
                    Ok(Exchanged::Successor { row, kid: signing.kid })
                }
                Presented::Repeat => {
                    let kid = row.successor_kid.clone();
                    let kid = kid.ok_or_else(|| Error::fault(anyhow::anyhow!("a used token has no successor")))?;
                    Ok(Exchanged::Successor { row, kid })
                }
                Presented::Reused => {
                    revoke(tx, row.family).await?;
                    Ok(Exchanged::Reused { family: row.family })
                }
                Presented::Invalid => Ok(Exchanged::Invalid),
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

async fn insert_successor(tx: &mut Tx, hash: &[u8], row: &Row, expires_at: DateTime<Utc>) -> Result<()> {
    diesel::insert_into(refresh_tokens::table)
        .values((
            refresh_tokens::hash.eq(hash),
            refresh_tokens::family.eq(row.family),
            refresh_tokens::user_id.eq(row.user_id.uuid()),
            refresh_tokens::issued_at.eq(row.now),
            refresh_tokens::expires_at.eq(expires_at),
        ))
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
