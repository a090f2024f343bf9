//! `GET /auth/me`, and where a person can be reached, for the services that write to people.

use actix_web::{HttpResponse, get};
use chrono::{DateTime, SecondsFormat, Utc};
use common::Result;
use common::auth::{Caller, Role};
use common::http::{Data, Problem};
use contract::account::Contact;
use contract::ids::AccountId;
use diesel::{ExpressionMethods, OptionalExtension, QueryDsl};
use diesel_async::RunQueryDsl;
use serde::Serialize;
use utoipa::ToSchema;

use crate::App;
use crate::account::No;
use crate::log_in;
use crate::schema::users;

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Me {
    user_id: AccountId,
    email: String,
    name: String,
    role: Role,
    #[schema(example = "2026-01-01T00:00:00.000Z", format = DateTime)]
    created_at: String,
}

/// Reads the caller's own account.
#[utoipa::path(
    tag = "auth",
    responses((status = 200, body = Me), (status = 401, body = Problem, description = "UNAUTHORIZED")),
    security(("bearer" = [])),
)]
#[get("/auth/me")]
pub async fn read_me(app: Data<App>, caller: Caller) -> Result<HttpResponse> {
    let mut conn = app.db.read().await?;
    let found: Option<(AccountId, String, String, String, DateTime<Utc>)> = users::table
        .find(caller.account)
        .select((users::id, users::email, users::name, users::role, users::created_at))
        .first(&mut *conn)
        .await
        .optional()?;
    let (user_id, email, name, role, created_at) = found.ok_or(No::UserNotFound)?;
    Ok(HttpResponse::Ok().json(Me {
        user_id,
        email,
        name,
        role: log_in::role(&role)?,
        created_at: created_at.to_rfc3339_opts(SecondsFormat::Millis, true),
    }))
}

/// Those of `accounts` that exist, in no particular order.
pub async fn contacts(app: &App, accounts: &[AccountId]) -> Result<Vec<Contact>> {
    let mut conn = app.db.read().await?;
    let found: Vec<(AccountId, String, String)> = users::table
        .filter(users::id.eq_any(accounts))
        .select((users::id, users::email, users::name))
        .load(&mut *conn)
        .await?;
    Ok(found.into_iter().map(|(id, email, name)| Contact { user_id: id.to_string(), email, name }).collect())
}
