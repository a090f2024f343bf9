//! `GET /auth/me`, and where a person can be reached, for the services that write to people.

use actix_web::{HttpResponse, get};
use chrono::{DateTime, SecondsFormat, Utc};
use common::Result;
use common::auth::{Caller, Role};
use common::http::{Data, Problem};
use contract::account::Contact;
use contract::ids::AccountId;
use diesel::pg::Pg;
use diesel::{ExpressionMethods, OptionalExtension, QueryDsl, Queryable, Selectable, SelectableHelper};
use diesel_async::RunQueryDsl;
use serde::Serialize;
use utoipa::ToSchema;

use crate::App;
use crate::account::{Refused, role};
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
    let found: Option<User> =
        users::table.find(caller.account).select(User::as_select()).first(&mut *conn).await.optional()?;
    let user = found.ok_or(Refused::UserNotFound)?;
    Ok(HttpResponse::Ok().json(Me {
        user_id: user.id,
        email: user.email,
        name: user.name,
        role: role(&user.role)?,
        created_at: user.created_at.to_rfc3339_opts(SecondsFormat::Millis, true),
    }))
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = users, check_for_backend(Pg))]
struct User {
    id: AccountId,
    email: String,
    name: String,
    role: String,
    created_at: DateTime<Utc>,
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
