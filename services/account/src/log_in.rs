//! `POST /auth/login`: an access token for minutes and a refresh token for days.

use actix_web::http::header::CACHE_CONTROL;
use actix_web::{HttpRequest, HttpResponse, post};
use chrono::{DateTime, Utc};
use common::Result;
use common::auth::Role;
use common::http::{self, Data, Json, Problem};
use contract::ids::AccountId;
use diesel::{ExpressionMethods, Insertable, OptionalExtension, QueryDsl};
use diesel_async::RunQueryDsl;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::App;
use crate::account::{Email, Refused, check_presented_password, role};
use crate::hash_password::{Queue, Verdict};
use crate::schema::{refresh_tokens, token_families, users};
use crate::session::{NewToken, RefreshToken};

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogIn {
    #[schema(example = "ann@example.com", max_length = 254)]
    email: String,
    #[schema(value_type = String, max_length = 128, format = Password)]
    password: SecretString,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tokens {
    access_token: String,
    refresh_token: String,
    #[schema(example = "Bearer")]
    token_type: &'static str,
    /// Seconds until the access token expires.
    #[schema(example = 900)]
    expires_in: i64,
}

/// Logs in.
#[utoipa::path(
    tag = "auth",
    responses(
        (status = 200, body = Tokens),
        (status = 400, body = Problem, description = "VALIDATION_ERROR"),
        (status = 401, body = Problem, description = "INVALID_CREDENTIALS"),
        (status = 429, body = Problem, description = "TOO_MANY_ATTEMPTS"),
    ),
)]
#[post("/auth/login")]
pub async fn log_in(app: Data<App>, request: HttpRequest, body: Json<LogIn>) -> Result<HttpResponse> {
    let LogIn { email, password } = body.into_inner();
    let address = http::client_address(&request);
    app.log_ins_by_address.check(address)?;
    let email = Email::parse(&email)?;
    check_presented_password(password.expose_secret())?;
    // Who guesses from one address is stopped by this one, and the owner at another address is not.
    app.log_ins_by_account_and_address.check((email.as_str(), address))?;
    app.log_ins_by_account.check(email.as_str())?;
    let tokens = http::detach(async move {
        let (account, role) = authenticate(&app, &email, password).await?;
        let refresh = begin_session(&app, account).await?;
        tokens(&app, account, role, &refresh, Utc::now())
    })
    .await?;
    Ok(answer(tokens))
}

/// What carries a token must not be kept by any cache on the way (RFC 6749, section 5.1).
pub fn answer(tokens: Tokens) -> HttpResponse {
    HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(tokens)
}

/// The answer to a log-in and to a refresh, with a new access token.
pub fn tokens(app: &App, account: AccountId, role: Role, refresh: &RefreshToken, now: DateTime<Utc>) -> Result<Tokens> {
    Ok(Tokens {
        access_token: app.signer.mint(account, role, Uuid::new_v4(), now)?,
        refresh_token: refresh.text(),
        token_type: "Bearer",
        expires_in: app.signer.lifetime_seconds(),
    })
}

/// Whose address and password these are. Does the same work whether or not the account exists.
async fn authenticate(app: &App, email: &Email, password: SecretString) -> Result<(AccountId, Role)> {
    let found: Option<(AccountId, String, String)> = {
        let mut conn = app.db.read().await?;
        users::table
            .filter(users::email.eq(email.as_str()))
            .select((users::id, users::password_hash, users::role))
            .first(&mut *conn)
            .await
            .optional()?
    };
    let stored = found.as_ref().map(|(_, hash, _)| hash.clone());
    let turn = app.passwords.turn(Queue::LogIns).await?;
    app.db.point("log_in.before_hash").await;
    let verdict = app.passwords.verify(turn, password, stored).await?;
    let Some((account, old_hash, role_name)) = found else { return Err(Refused::InvalidCredentials.into()) };
    match verdict {
        Verdict::Wrong => return Err(Refused::InvalidCredentials.into()),
        Verdict::Right => {}
        Verdict::RightButOld(new_hash) => replace_hash(app, account, old_hash, new_hash).await?,
    }
    Ok((account, role(&role_name)?))
}

async fn replace_hash(app: &App, account: AccountId, old_hash: String, new_hash: String) -> Result<()> {
    app.db
        .tx("replace_hash", async |tx| {
            // Only over the hash that was compared: a password changed meanwhile stays changed.
            diesel::update(users::table)
                .filter(users::id.eq(account.uuid()))
                .filter(users::password_hash.eq(old_hash))
                .set(users::password_hash.eq(new_hash))
                .execute(tx)
                .await?;
            Ok(())
        })
        .await
}

/// A new row of `token_families`.
#[derive(Insertable)]
#[diesel(table_name = token_families)]
struct NewSession {
    id: Uuid,
    user_id: Uuid,
    expires_at: DateTime<Utc>,
}

async fn begin_session(app: &App, account: AccountId) -> Result<RefreshToken> {
    let (now, token) = (Utc::now(), RefreshToken::from_random(rand::random()));
    let session = NewSession { id: Uuid::now_v7(), user_id: account.uuid(), expires_at: now + app.lifetimes.session };
    let first = NewToken {
        hash: token.hash(),
        family: session.id,
        user_id: session.user_id,
        expires_at: app.lifetimes.token_expires_at(now, session.expires_at),
    };
    app.db
        .tx("log_in", async |tx| {
            diesel::insert_into(token_families::table).values(&session).execute(tx).await?;
            diesel::insert_into(refresh_tokens::table).values(&first).execute(tx).await?;
            Ok(())
        })
        .await?;
    Ok(token)
}
