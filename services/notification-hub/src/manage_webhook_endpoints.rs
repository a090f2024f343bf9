//! `/admin/webhook-endpoints`: administrators enter, list and remove the addresses that webhooks go to, and replace
//! their secrets.

use actix_web::{HttpResponse, delete, get, post, put};
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use common::auth::Admin;
use common::db::Tx;
use common::http::{Data, Json, Path, Problem, Query, detach};
use common::page::{Limit, Page};
use common::text::Text;
use common::{Error, Refused, Result};
use contract::codes::WEBHOOK_ENDPOINT_NOT_FOUND;
use contract::ids::AccountId;
use diesel::dsl::now;
use diesel::pg::Pg;
use diesel::{ExpressionMethods, OptionalExtension, QueryDsl, SelectableHelper};
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::App;
use crate::api_key::check_client;
use crate::schema::webhook_endpoints;
use crate::webhook::{address, signature};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PutWebhookEndpoint {
    /// `https`, and on the public internet, unless the settings of the hub allow more.
    #[schema(example = "https://hooks.example.com/stampede")]
    url: Text<1, 1000>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebhookEndpointView {
    name: String,
    url: String,
    created_by: AccountId,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    /// Since then nothing is sent to it, because its receiver answered 410 Gone. Enter the address again to go on.
    disabled_at: Option<DateTime<Utc>>,
    /// Until then the secret before the present one signs too; null: it does not.
    old_secret_until: Option<DateTime<Utc>>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebhookSecrets {
    /// What the receiver checks signatures with, as libraries for Standard Webhooks take it.
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    secret: String,
    /// Signs too until `oldSecretUntil`; null: it does not.
    old_secret: Option<String>,
    old_secret_until: Option<DateTime<Utc>>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListWebhookEndpoints {
    /// `nextCursor` of the page before.
    cursor: Option<String>,
    /// 1 to 100; 50 unless told.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
}

/// Enter an address, or change it. One that was disabled is sent to again.
///
/// A new one gets a secret of its own, which `GET /admin/webhook-endpoints/{name}/secret` tells. Notifications name it as
/// the `target` of their channel `WEBHOOK`.
#[utoipa::path(
    tag = "notifications",
    request_body = PutWebhookEndpoint,
    params(("name" = String, Path, description = "1 to 50 lower case letters, digits and `-`")),
    responses(
        (status = 200, body = WebhookEndpointView, description = "It was there; its address is this one now"),
        (status = 201, body = WebhookEndpointView, description = "It is new"),
        (status = 400, body = Problem, description = "VALIDATION_ERROR: also where the address is not allowed"),
    ),
    security(("bearer" = ["ADMIN"]))
)]
#[put("/admin/webhook-endpoints/{name}")]
pub async fn put_webhook_endpoint(
    app: Data<App>,
    admin: Admin,
    name: Path<String>,
    Json(body): Json<PutWebhookEndpoint>,
) -> Result<HttpResponse> {
    check_client("name", &name)?;
    let url = address::parse(body.url.as_str(), app.settings.webhook.allowed())
        .map_err(|why| Refused::invalid("url", format!("url {why}")))?;
    let new = NewEndpoint {
        name: name.into_inner(),
        url: url.to_string(),
        secret: signature::secret(rand::random()),
        created_by: admin.0.account.into(),
    };
    let (row, is_new) =
        detach(async move { app.db.tx("put_webhook_endpoint", async move |tx| put(tx, &new).await).await }).await?;
    let mut response = if is_new { HttpResponse::Created() } else { HttpResponse::Ok() };
    Ok(response.json(WebhookEndpointView::from(row)))
}

#[derive(Clone, diesel::Insertable)]
#[diesel(table_name = webhook_endpoints)]
struct NewEndpoint {
    name: String,
    url: String,
    secret: String,
    created_by: AccountId,
}

/// The endpoint as it is now, and whether it is new.
async fn put(tx: &mut Tx, new: &NewEndpoint) -> Result<(EndpointRow, bool)> {
    let inserted: Option<EndpointRow> = diesel::insert_into(webhook_endpoints::table)
        .values(new)
        .on_conflict_do_nothing()
        .returning(EndpointRow::as_returning())
        .get_result(tx)
        .await
        .optional()?;
    if let Some(row) = inserted {
        return Ok((row, true));
    }
    let updated = diesel::update(webhook_endpoints::table.find(&new.name))
        .set((
            webhook_endpoints::url.eq(&new.url),
            webhook_endpoints::updated_at.eq(now),
            webhook_endpoints::disabled_at.eq(None::<DateTime<Utc>>),
        ))
        .returning(EndpointRow::as_returning())
        .get_result(tx)
        .await
        .optional()?;
    let row =
        updated.ok_or_else(|| Error::transient(anyhow::anyhow!("endpoint {} was removed meanwhile", new.name)))?;
    Ok((row, false))
}

#[derive(diesel::Queryable, diesel::Selectable)]
#[diesel(table_name = webhook_endpoints, check_for_backend(Pg))]
struct EndpointRow {
    name: String,
    url: String,
    secret: String,
    old_secret: Option<String>,
    old_secret_until: Option<DateTime<Utc>>,
    created_by: AccountId,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    disabled_at: Option<DateTime<Utc>>,
}

impl EndpointRow {
    /// The end of the overlap, if it is still to come.
    fn overlap(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.old_secret_until.filter(|until| at < *until)
    }

    fn secrets(self) -> WebhookSecrets {
        let until = self.overlap(Utc::now());
        WebhookSecrets {
            secret: self.secret,
            old_secret: self.old_secret.filter(|_| until.is_some()),
            old_secret_until: until.map(|instant| instant.trunc_subsecs(3)),
        }
    }
}

impl From<EndpointRow> for WebhookEndpointView {
    fn from(row: EndpointRow) -> Self {
        Self {
            old_secret_until: row.overlap(Utc::now()).map(|instant| instant.trunc_subsecs(3)),
            name: row.name,
            url: row.url,
            created_by: row.created_by,
            created_at: row.created_at.trunc_subsecs(3),
            updated_at: row.updated_at.trunc_subsecs(3),
            disabled_at: row.disabled_at.map(|instant| instant.trunc_subsecs(3)),
        }
    }
}

/// List the addresses, by name.
#[utoipa::path(
    tag = "notifications",
    params(ListWebhookEndpoints),
    responses((status = 200, body = Page<WebhookEndpointView>), (status = 400, body = Problem, description = "VALIDATION_ERROR")),
    security(("bearer" = ["ADMIN"]))
)]
#[get("/admin/webhook-endpoints")]
pub async fn list_webhook_endpoints(
    app: Data<App>,
    _admin: Admin,
    query: Query<ListWebhookEndpoints>,
) -> Result<HttpResponse> {
    let limit = Limit::parse(query.limit, app.settings.page_default.into(), app.settings.page_max.into())?;
    let mut rows = webhook_endpoints::table
        .select(EndpointRow::as_select())
        .order(webhook_endpoints::name)
        .limit(limit.rows())
        .into_boxed();
    if let Some(after) = &query.cursor {
        check_client("cursor", after)?;
        rows = rows.filter(webhook_endpoints::name.gt(after));
    }
    let rows: Vec<EndpointRow> = rows.load(&mut *app.db.read().await?).await?;
    let page = Page::new(rows, limit, |row| row.name.clone());
    Ok(HttpResponse::Ok().json(page.map(WebhookEndpointView::from)))
}

/// What the receiver of an address checks signatures with.
#[utoipa::path(
    tag = "notifications",
    params(("name" = String, Path)),
    responses((status = 200, body = WebhookSecrets), (status = 404, body = Problem, description = "WEBHOOK_ENDPOINT_NOT_FOUND")),
    security(("bearer" = ["ADMIN"]))
)]
#[get("/admin/webhook-endpoints/{name}/secret")]
pub async fn read_webhook_secret(app: Data<App>, _admin: Admin, name: Path<String>) -> Result<HttpResponse> {
    check_client("name", &name)?;
    let row: Option<EndpointRow> = webhook_endpoints::table
        .find(name.as_str())
        .select(EndpointRow::as_select())
        .first(&mut *app.db.read().await?)
        .await
        .optional()?;
    Ok(HttpResponse::Ok().json(row.ok_or_else(|| not_found(&name))?.secrets()))
}

/// Replace the secret of an address.
///
/// For a day (`notification_hub.webhook.secret_overlap_hours`) requests are signed with both, so that the receiver can be
/// changed at any time of it. A repeat within that time changes nothing.
#[utoipa::path(
    tag = "notifications",
    params(("name" = String, Path)),
    responses((status = 200, body = WebhookSecrets), (status = 404, body = Problem, description = "WEBHOOK_ENDPOINT_NOT_FOUND")),
    security(("bearer" = ["ADMIN"]))
)]
#[post("/admin/webhook-endpoints/{name}/rotate-secret")]
pub async fn rotate_webhook_secret(app: Data<App>, _admin: Admin, name: Path<String>) -> Result<HttpResponse> {
    check_client("name", &name)?;
    let overlap = TimeDelta::hours(app.settings.webhook.secret_overlap_hours.into());
    let (name, secret) = (name.into_inner(), signature::secret(rand::random()));
    let row = detach(async move {
        app.db.tx("rotate_webhook_secret", async move |tx| rotate(tx, &name, &secret, overlap).await).await
    })
    .await?;
    Ok(HttpResponse::Ok().json(row.secrets()))
}

async fn rotate(tx: &mut Tx, name: &str, secret: &str, overlap: TimeDelta) -> Result<EndpointRow> {
    let row: Option<EndpointRow> =
        webhook_endpoints::table.find(name).select(EndpointRow::as_select()).for_update().first(tx).await.optional()?;
    let row = row.ok_or_else(|| not_found(name))?;
    let at = Utc::now();
    if row.overlap(at).is_some() {
        return Ok(row);
    }
    let rotated = diesel::update(webhook_endpoints::table.find(name))
        .set((
            webhook_endpoints::secret.eq(secret),
            webhook_endpoints::old_secret.eq(&row.secret),
            webhook_endpoints::old_secret_until.eq(at + overlap),
            webhook_endpoints::updated_at.eq(now),
        ))
        .returning(EndpointRow::as_returning())
        .get_result(tx)
        .await?;
    Ok(rotated)
}

/// Remove an address. What is still to be sent to it becomes a dead letter.
#[utoipa::path(
    tag = "notifications",
    params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = Problem, description = "WEBHOOK_ENDPOINT_NOT_FOUND")),
    security(("bearer" = ["ADMIN"]))
)]
#[delete("/admin/webhook-endpoints/{name}")]
pub async fn remove_webhook_endpoint(app: Data<App>, _admin: Admin, name: Path<String>) -> Result<HttpResponse> {
    check_client("name", &name)?;
    let remove = diesel::delete(webhook_endpoints::table.find(name.as_str()));
    let removed = app.db.tx("remove_webhook_endpoint", async |tx| Ok(remove.execute(tx).await?)).await?;
    if removed == 0 {
        return Err(not_found(&name));
    }
    Ok(HttpResponse::NoContent().finish())
}

fn not_found(name: &str) -> Error {
    Refused::new(WEBHOOK_ENDPOINT_NOT_FOUND, format!("There is no webhook endpoint {name}.")).into()
}
