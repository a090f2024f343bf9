//! `/admin/api-keys`: administrators make, list and revoke the keys of programs.

use actix_web::{HttpResponse, delete, get, post};
use chrono::{DateTime, SubsecRound, Utc};
use common::auth::Admin;
use common::db::Tx;
use common::http::{Data, Json, Path, Problem, Query, detach};
use common::idempotency::{IdempotencyKey, REPLAYED_HEADER, fingerprint, same_request};
use common::page::{Cursor, Limit, Page, parse_cursor};
use common::text::Text;
use common::{Error, Refused, Result};
use contract::codes::{API_KEY_LIMIT_REACHED, API_KEY_NOT_FOUND};
use contract::ids::{AccountId, ApiKeyId};
use diesel::dsl::now;
use diesel::pg::Pg;
use diesel::sql_types::{Array, Bytea, Text as SqlText, Uuid};
use diesel::{BoolExpressionMethods, ExpressionMethods, OptionalExtension, QueryDsl, SelectableHelper};
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::App;
use crate::api_key::{Scope, check_client, digest_of, issue};
use crate::schema::api_keys;

/// The version of [`CreateApiKey`] in fingerprints. Raise it when a field is added.
const FINGERPRINT_VERSION: u8 = 1;
/// The one in use, and the one that is to replace it.
const LIVE_MAX: i64 = 2;

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateApiKey {
    /// Whose key it is: lower case letters, digits and `-`. Keys of one client share their Idempotency-Keys.
    #[schema(example = "monitoring")]
    client: Text<1, 50>,
    /// What it allows; at least one.
    scopes: Vec<Scope>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreatedApiKey {
    #[serde(flatten)]
    api_key: ApiKeyView,
    /// The key itself. It is shown this once: a repeated request is answered without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeyView {
    key_id: ApiKeyId,
    client: String,
    scopes: Vec<String>,
    created_by: AccountId,
    created_at: DateTime<Utc>,
    /// Null: it is live.
    revoked_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListApiKeys {
    client: Option<Text<1, 50>>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
    /// 1 to 100; 50 unless told.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
}

/// Make a key for a program.
///
/// A client has two live keys at the most. To replace one: make the second, let the program use it, revoke the first. The
/// key is in the first answer only; who has lost that answer revokes the key and makes another.
#[utoipa::path(
    tag = "notifications",
    request_body = CreateApiKey,
    params(("Idempotency-Key" = String, Header, description = "1 to 255 visible ASCII characters, chosen by the client for this intent")),
    responses(
        (status = 201, body = CreatedApiKey),
        (status = 400, body = Problem, description = "VALIDATION_ERROR, IDEMPOTENCY_KEY_REQUIRED"),
        (status = 409, body = Problem, description = "API_KEY_LIMIT_REACHED: the client has two live keys"),
        (status = 422, body = Problem, description = "IDEMPOTENCY_KEY_REUSED"),
    ),
    security(("bearer" = ["ADMIN"]))
)]
#[post("/admin/api-keys")]
pub async fn create_api_key(
    app: Data<App>,
    admin: Admin,
    idempotency: IdempotencyKey,
    Json(body): Json<CreateApiKey>,
) -> Result<HttpResponse> {
    check_client("client", body.client.as_str())?;
    let repeats = body.scopes.iter().enumerate().any(|(place, scope)| body.scopes[..place].contains(scope));
    if body.scopes.is_empty() || repeats {
        return Err(Refused::invalid("scopes", "Name at least one scope, and each once.").into());
    }
    let by = admin.0.account;
    let id = ApiKeyId::derive(&[by.as_bytes(), b"api-key", idempotency.as_bytes()]);
    let key = issue(id, rand::random());
    let new = NewKey {
        id,
        digest: digest_of(&key),
        fingerprint: fingerprint(FINGERPRINT_VERSION, &body),
        client: body.client.into_string(),
        scopes: body.scopes,
        by: by.into(),
    };
    let (row, is_new) =
        detach(async move { app.db.tx("create_api_key", async move |tx| insert(tx, &new).await).await }).await?;
    let mut response = HttpResponse::Created();
    if !is_new {
        response.insert_header((REPLAYED_HEADER, "true"));
    }
    // As it was when it was made.
    let api_key = ApiKeyView { revoked_at: None, ..row.into() };
    Ok(response.json(CreatedApiKey { api_key, key: is_new.then_some(key) }))
}

#[derive(Clone)]
struct NewKey {
    id: ApiKeyId,
    digest: Vec<u8>,
    fingerprint: Vec<u8>,
    client: String,
    scopes: Vec<Scope>,
    by: AccountId,
}

/// The key that the request names, and whether this request has made it.
async fn insert(tx: &mut Tx, new: &NewKey) -> Result<(KeyRow, bool)> {
    let scopes: Vec<&str> = new.scopes.iter().map(|scope| scope.name()).collect();
    let made = diesel::sql_query(include_str!("manage_api_keys_insert.sql"))
        .bind::<Uuid, _>(new.id)
        .bind::<SqlText, _>(&new.client)
        .bind::<Array<SqlText>, _>(scopes)
        .bind::<Bytea, _>(&new.digest)
        .bind::<Bytea, _>(&new.fingerprint)
        .bind::<Uuid, _>(new.by)
        .execute(tx)
        .await?;
    let found: Option<KeyRow> = api_keys::table.find(new.id).select(KeyRow::as_select()).first(tx).await.optional()?;
    match found {
        Some(row) => {
            same_request(&row.fingerprint, &new.fingerprint)?;
            Ok((row, made > 0))
        }
        None => {
            let live = api_keys::table
                .filter(api_keys::client.eq(&new.client))
                .filter(api_keys::revoked_at.is_null())
                .count()
                .get_result::<i64>(tx)
                .await?;
            if live >= LIVE_MAX {
                let text = format!("{} has {LIVE_MAX} live keys; revoke one first.", new.client);
                return Err(Refused::new(API_KEY_LIMIT_REACHED, text).into());
            }
            Err(Error::transient(anyhow::anyhow!("another key of {} was made at the same time", new.client)))
        }
    }
}

#[derive(diesel::Queryable, diesel::Selectable)]
#[diesel(table_name = api_keys, check_for_backend(Pg))]
struct KeyRow {
    id: ApiKeyId,
    client: String,
    scopes: Vec<String>,
    fingerprint: Vec<u8>,
    created_by: AccountId,
    created_at: DateTime<Utc>,
    revoked_at: Option<DateTime<Utc>>,
}

impl From<KeyRow> for ApiKeyView {
    fn from(row: KeyRow) -> Self {
        Self {
            key_id: row.id,
            client: row.client,
            scopes: row.scopes,
            created_by: row.created_by,
            created_at: row.created_at.trunc_subsecs(3),
            revoked_at: row.revoked_at.map(|instant| instant.trunc_subsecs(3)),
        }
    }
}

/// List the keys, the newest first, revoked ones included.
#[utoipa::path(
    tag = "notifications",
    params(ListApiKeys),
    responses((status = 200, body = Page<ApiKeyView>), (status = 400, body = Problem, description = "VALIDATION_ERROR")),
    security(("bearer" = ["ADMIN"]))
)]
#[get("/admin/api-keys")]
pub async fn list_api_keys(app: Data<App>, _admin: Admin, query: Query<ListApiKeys>) -> Result<HttpResponse> {
    let limit = Limit::parse(query.limit, app.settings.page_default.into(), app.settings.page_max.into())?;
    let after = parse_cursor::<Cursor>(query.cursor.as_deref())?;
    let mut rows = api_keys::table
        .select(KeyRow::as_select())
        .order((api_keys::created_at.desc(), api_keys::id.desc()))
        .limit(limit.rows())
        .into_boxed();
    if let Some(client) = &query.client {
        rows = rows.filter(api_keys::client.eq(client.as_str()));
    }
    if let Some(Cursor { at, id }) = after {
        // The first condition alone is what the index can use.
        rows = rows.filter(api_keys::created_at.le(at));
        rows = rows.filter(api_keys::created_at.lt(at).or(api_keys::id.lt(ApiKeyId::from(id))));
    }
    let rows: Vec<KeyRow> = rows.load(&mut *app.db.read().await?).await?;
    let page = Page::new(rows, limit, |row| Cursor { at: row.created_at, id: row.id.uuid() });
    Ok(HttpResponse::Ok().json(page.map(ApiKeyView::from)))
}

/// Revoke a key. It opens nothing from now on; revoking it again changes nothing.
#[utoipa::path(
    tag = "notifications",
    params(("id" = ApiKeyId, Path)),
    responses((status = 204), (status = 404, body = Problem, description = "API_KEY_NOT_FOUND")),
    security(("bearer" = ["ADMIN"]))
)]
#[delete("/admin/api-keys/{id}")]
pub async fn revoke_api_key(app: Data<App>, admin: Admin, id: Path<ApiKeyId>) -> Result<HttpResponse> {
    let (id, by) = (*id, AccountId::from(admin.0.account));
    detach(async move {
        app.db
            .tx("revoke_api_key", async move |tx| {
                let found = api_keys::table.find(id).select(api_keys::id).for_update().first::<ApiKeyId>(tx).await;
                found.optional()?.ok_or_else(|| not_found(id))?;
                diesel::update(api_keys::table.find(id).filter(api_keys::revoked_at.is_null()))
                    .set((api_keys::revoked_at.eq(now), api_keys::revoked_by.eq(by)))
                    .execute(tx)
                    .await?;
                Ok(())
            })
            .await
    })
    .await?;
    tracing::info!(apiKeyId = %id, "An administrator has revoked an API key");
    Ok(HttpResponse::NoContent().finish())
}

fn not_found(id: ApiKeyId) -> Error {
    Refused::new(API_KEY_NOT_FOUND, format!("There is no API key {id}.")).into()
}
