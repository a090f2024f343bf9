//! `POST /auth/register`. A repeat is told that the address is taken, so it needs no Idempotency-Key.

use actix_web::http::header::LOCATION;
use actix_web::{HttpRequest, HttpResponse, post};
use common::Result;
use common::auth::Role;
use common::http::{self, Data, Json, Problem};
use common::text::Text;
use contract::ids::AccountId;
use diesel::{ExpressionMethods, Insertable, QueryDsl};
use diesel_async::RunQueryDsl;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::App;
use crate::account::{Email, Refused, check_new_password};
use crate::hash_password::Queue;
use crate::schema::users;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Register {
    #[schema(example = "ann@example.com", max_length = 254)]
    email: String,
    #[schema(value_type = String, min_length = 8, max_length = 128, format = Password)]
    password: SecretString,
    name: Text<1, 100>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Registered {
    user_id: AccountId,
    email: String,
    role: Role,
}

/// Registers a buyer.
#[utoipa::path(
    tag = "auth",
    responses(
        (status = 201, body = Registered),
        (status = 400, body = Problem, description = "VALIDATION_ERROR"),
        (status = 409, body = Problem, description = "EMAIL_ALREADY_EXISTS"),
        (status = 429, body = Problem, description = "TOO_MANY_ATTEMPTS"),
    ),
)]
#[post("/auth/register")]
pub async fn register(app: Data<App>, request: HttpRequest, body: Json<Register>) -> Result<HttpResponse> {
    let Register { email, password, name } = body.into_inner();
    app.registrations_by_address.check(http::client_address(&request))?;
    let email = Email::parse(&email)?;
    check_new_password(password.expose_secret())?;
    let registered = http::detach(async move {
        // Before the expensive hash; the unique index decides between two at once.
        if is_taken(&app, &email).await? {
            return Err(Refused::EmailAlreadyExists.into());
        }
        let account = AccountId::generate();
        if !create(&app, account, &email, name.as_str(), password, Role::User).await? {
            return Err(Refused::EmailAlreadyExists.into());
        }
        tracing::info!(userId = %account, "Registered {account}");
        Ok(Registered { user_id: account, email: email.as_str().to_owned(), role: Role::User })
    })
    .await?;
    Ok(HttpResponse::Created().insert_header((LOCATION, "/api/v1/auth/me")).json(registered))
}

pub async fn is_taken(app: &App, email: &Email) -> Result<bool> {
    let mut conn = app.db.read().await?;
    let taken = diesel::select(diesel::dsl::exists(users::table.filter(users::email.eq(email.as_str()))));
    Ok(taken.get_result(&mut *conn).await?)
}

/// Inserts a user. Returns whether it did: nothing changes when the address is taken.
pub async fn create(
    app: &App,
    account: AccountId,
    email: &Email,
    name: &str,
    password: SecretString,
    role: Role,
) -> Result<bool> {
    let password_hash = app.passwords.hash(app.passwords.turn(Queue::Registrations).await?, password).await?;
    let (id, email, role) = (account.uuid(), email.as_str(), role.name());
    let row = NewUser { id, email, name, password_hash: &password_hash, role };
    let insert = diesel::insert_into(users::table).values(row).on_conflict(users::email).do_nothing();
    let inserted = app.db.tx("register", async |tx| Ok(insert.execute(tx).await?)).await?;
    Ok(inserted == 1)
}

#[derive(Clone, Insertable)]
#[diesel(table_name = users)]
struct NewUser<'a> {
    id: Uuid,
    email: &'a str,
    name: &'a str,
    password_hash: &'a str,
    role: &'a str,
}
