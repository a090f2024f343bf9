//! `/admin/templates`: administrators write versions of the texts of notifications, try them, and say which is sent.

use actix_web::{HttpResponse, get, post};
use common::auth::Admin;
use common::http::{Data, Json, Path, Problem, Query, detach};
use common::id::derive_uuid;
use common::idempotency::{IdempotencyKey, REPLAYED_HEADER, fingerprint};
use common::page::{Limit, Page, parse_cursor};
use common::{Refused as RefusedForm, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use crate::App;
use crate::channel::Channel;
use crate::notification::Refused;
use crate::request::{check_name, has_nul};
use crate::store_templates::{NewVersion, TemplateVersionView, TemplateView, create, list, read, set_active, versions};
use crate::template::{Compiled, Language, TemplateKey, builtin};

/// The version of [`CreateVersion`] in fingerprints. Raise it when a field is added.
const FINGERPRINT_VERSION: u8 = 1;
const SUBJECT_CHARS_MAX: usize = 1_000;
const BODY_CHARS_MAX: usize = 20_000;

/// A text before it is a version.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateVersion {
    /// Jinja; up to 1,000 characters. Must make one line.
    #[schema(example = "Your order {{ orderId }} is late", min_length = 1, max_length = 1000)]
    subject: String,
    /// Jinja; up to 20,000 characters. Over `SLACK` it is Slack's mark-up, in which variables are escaped.
    #[schema(example = "It comes on {{ day }}.", min_length = 1, max_length = 20000)]
    body: String,
    /// Variables to try it with. Not for the texts of this system's events: they are tried with samples of their events.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    sample: Option<Map<String, Value>>,
    /// Whether it is sent from now on; left out: yes.
    #[serde(default)]
    activate: Option<bool>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PreviewTemplate {
    channel: Channel,
    #[schema(example = "Your order {{ orderId }} is late", min_length = 1, max_length = 1000)]
    subject: String,
    #[schema(example = "It comes on {{ day }}.", min_length = 1, max_length = 20000)]
    body: String,
    /// The variables.
    #[schema(value_type = Object)]
    data: Map<String, Value>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreviewedTemplate {
    subject: String,
    body: String,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListTemplates {
    /// `nextCursor` of the page before.
    pub cursor: Option<String>,
    /// 1 to 100; 50 unless told.
    #[param(minimum = 1, maximum = 100)]
    pub limit: Option<i64>,
}

/// Try a text with data. Nothing is stored.
#[utoipa::path(
    tag = "notifications",
    request_body = PreviewTemplate,
    responses(
        (status = 200, body = PreviewedTemplate),
        (status = 400, body = Problem, description = "VALIDATION_ERROR"),
        (status = 422, body = Problem, description = "TEMPLATE_INVALID: `details` has the field, the line and why"),
    ),
    security(("bearer" = ["ADMIN"]))
)]
#[post("/admin/templates/preview")]
pub async fn preview_template(_admin: Admin, Json(body): Json<PreviewTemplate>) -> Result<HttpResponse> {
    check_lengths(&body.subject, &body.body)?;
    let compiled = Compiled::new(body.channel, &body.subject, &body.body).map_err(|flaw| flaw.refused())?;
    let message = compiled.render(&Value::Object(body.data)).map_err(|flaw| flaw.refused())?;
    Ok(HttpResponse::Ok().json(PreviewedTemplate { subject: message.subject, body: message.body }))
}

/// List the texts, by name, channel and language: what the system has by itself, and what administrators have added.
#[utoipa::path(
    tag = "notifications",
    params(ListTemplates),
    responses((status = 200, body = Page<TemplateView>), (status = 400, body = Problem, description = "VALIDATION_ERROR")),
    security(("bearer" = ["ADMIN"]))
)]
#[get("/admin/templates")]
pub async fn list_templates(app: Data<App>, _admin: Admin, query: Query<ListTemplates>) -> Result<HttpResponse> {
    let limit = Limit::parse(query.limit, app.settings.page_default.into(), app.settings.page_max.into())?;
    let after: Option<TemplateKey> = parse_cursor(query.cursor.as_deref())?;
    let templates = list(&mut *app.db.read().await?, after.as_ref(), limit).await?;
    Ok(HttpResponse::Ok().json(Page::new(templates, limit, TemplateView::place)))
}

type KeyPath = Path<(String, String, String)>;
type VersionPath = Path<(String, String, String, i32)>;

/// What a path names. A channel or a language that does not exist has no templates.
fn key(name: &str, channel: &str, language: &str) -> Result<TemplateKey> {
    check_name("name", name)?;
    let none = || Refused::TemplateNotFound { name: name.to_owned(), channel: Channel::Email, language: None };
    let channel = channel.parse().map_err(|_| Refused::UnknownChannel(channel.to_owned()))?;
    Ok(TemplateKey::new(name, channel, language.parse().map_err(|_| none())?))
}

/// List the versions of a text, the newest first.
#[utoipa::path(
    tag = "notifications",
    params(("name" = String, Path), ("channel" = Channel, Path), ("language" = Language, Path), ListTemplates),
    responses(
        (status = 200, body = Page<TemplateVersionView>),
        (status = 400, body = Problem, description = "VALIDATION_ERROR"),
        (status = 404, body = Problem, description = "TEMPLATE_NOT_FOUND"),
        (status = 422, body = Problem, description = "UNKNOWN_CHANNEL"),
    ),
    security(("bearer" = ["ADMIN"]))
)]
#[get("/admin/templates/{name}/{channel}/{language}/versions")]
pub async fn list_versions(
    app: Data<App>,
    _admin: Admin,
    path: KeyPath,
    query: Query<ListTemplates>,
) -> Result<HttpResponse> {
    let key = key(&path.0, &path.1, &path.2)?;
    let limit = Limit::parse(query.limit, app.settings.page_default.into(), app.settings.page_max.into())?;
    let before: Option<i32> = parse_cursor(query.cursor.as_deref())?;
    let versions = versions(&mut *app.db.read().await?, &key, before, limit).await?;
    Ok(HttpResponse::Ok().json(Page::new(versions, limit, |version| version.version)))
}

/// Write a new version of a text.
///
/// It is tried first; what cannot be rendered is refused, and nothing changes. The same key with the same body gives the
/// same version.
#[utoipa::path(
    tag = "notifications",
    request_body = CreateVersion,
    params(
        ("name" = String, Path, description = "Upper case letters, digits and `_`. The type of an event of this system: its text"),
        ("channel" = Channel, Path), ("language" = Language, Path),
        ("Idempotency-Key" = String, Header, description = "1 to 255 visible ASCII characters, chosen by the client for this intent"),
    ),
    responses(
        (status = 201, body = TemplateVersionView),
        (status = 400, body = Problem, description = "VALIDATION_ERROR, IDEMPOTENCY_KEY_REQUIRED"),
        (status = 404, body = Problem, description = "TEMPLATE_NOT_FOUND: there is no such language"),
        (status = 422, body = Problem, description = "TEMPLATE_INVALID: `details` has the field, the line and why; UNKNOWN_CHANNEL, IDEMPOTENCY_KEY_REUSED"),
    ),
    security(("bearer" = ["ADMIN"]))
)]
#[post("/admin/templates/{name}/{channel}/{language}/versions")]
pub async fn create_version(
    app: Data<App>,
    admin: Admin,
    path: KeyPath,
    idempotency: IdempotencyKey,
    Json(body): Json<CreateVersion>,
) -> Result<HttpResponse> {
    let key = key(&path.0, &path.1, &path.2)?;
    check_lengths(&body.subject, &body.body)?;
    let by = admin.0.account;
    let id = derive_uuid("template version", &[by.as_bytes(), idempotency.as_bytes()]);
    let fingerprint = fingerprint(FINGERPRINT_VERSION, &(&path.0, &path.1, &path.2, &body));
    let sample = tried(&key, &body)?;
    let activate = body.activate.unwrap_or(true);
    let new = NewVersion { key, id, fingerprint, subject: body.subject, body: body.body, sample, by: by.into() };
    let (row, is_new) =
        detach(
            async move { app.db.tx("create_template_version", async move |tx| create(tx, &new, activate).await).await },
        )
        .await?;
    let mut response = HttpResponse::Created();
    if !is_new {
        response.insert_header((REPLAYED_HEADER, "true"));
    }
    // As it was when it was made.
    Ok(response.json(TemplateVersionView { is_active: activate, ..row.into() }))
}

/// The sample to store with a text, which could be rendered with it.
fn tried(key: &TemplateKey, body: &CreateVersion) -> Result<Option<Value>> {
    let own = builtin::samples(&key.name, key.channel);
    let sample = body.sample.clone().map(Value::Object);
    let samples = match (own.is_empty(), &sample) {
        (true, Some(sample)) => vec![sample.clone()],
        (true, None) => return Err(RefusedForm::invalid("sample", "Send variables to try the text with.").into()),
        (false, None) => own,
        (false, Some(_)) => {
            return Err(RefusedForm::invalid("sample", "This text is tried with samples of its event.").into());
        }
    };
    if sample.as_ref().is_some_and(has_nul) {
        return Err(RefusedForm::invalid("sample", "Must not contain the character NUL.").into());
    }
    let compiled = Compiled::new(key.channel, &body.subject, &body.body).map_err(|flaw| flaw.refused())?;
    for sample in &samples {
        compiled.render(sample).map_err(|flaw| flaw.refused())?;
    }
    Ok(sample)
}

fn check_lengths(subject: &str, body: &str) -> Result<()> {
    for (field, text, max) in [("subject", subject, SUBJECT_CHARS_MAX), ("body", body, BODY_CHARS_MAX)] {
        if text.is_empty() || text.chars().count() > max {
            return Err(RefusedForm::invalid(field, format!("Must be 1 to {max} characters long.")).into());
        }
        if text.contains('\0') {
            return Err(RefusedForm::invalid(field, "Must not contain the character NUL.").into());
        }
    }
    Ok(())
}

/// Read a version of a text.
#[utoipa::path(
    tag = "notifications",
    params(("name" = String, Path), ("channel" = Channel, Path), ("language" = Language, Path), ("version" = i32, Path)),
    responses(
        (status = 200, body = TemplateVersionView),
        (status = 404, body = Problem, description = "TEMPLATE_NOT_FOUND"),
        (status = 422, body = Problem, description = "UNKNOWN_CHANNEL"),
    ),
    security(("bearer" = ["ADMIN"]))
)]
#[get("/admin/templates/{name}/{channel}/{language}/versions/{version}")]
pub async fn read_version(app: Data<App>, _admin: Admin, path: VersionPath) -> Result<HttpResponse> {
    let key = key(&path.0, &path.1, &path.2)?;
    let version = read(&mut *app.db.read().await?, &key, path.3).await?;
    Ok(HttpResponse::Ok().json(version))
}

/// Send this version from now on: a new one, or an older one again. Version 0 is the system's own text.
#[utoipa::path(
    tag = "notifications",
    params(("name" = String, Path), ("channel" = Channel, Path), ("language" = Language, Path), ("version" = i32, Path)),
    responses(
        (status = 200, body = TemplateVersionView),
        (status = 404, body = Problem, description = "TEMPLATE_NOT_FOUND"),
        (status = 422, body = Problem, description = "UNKNOWN_CHANNEL"),
    ),
    security(("bearer" = ["ADMIN"]))
)]
#[post("/admin/templates/{name}/{channel}/{language}/versions/{version}/activate")]
pub async fn activate_version(app: Data<App>, admin: Admin, path: VersionPath) -> Result<HttpResponse> {
    let (key, version) = (key(&path.0, &path.1, &path.2)?, path.3);
    tracing::info!(template = ?key, version, by = %admin.0.account, "An administrator chooses the version of a text");
    let view = detach(async move {
        app.db
            .tx("activate_template_version", async move |tx| {
                read(tx, &key, version).await?;
                set_active(tx, &key, version).await?;
                read(tx, &key, version).await
            })
            .await
    })
    .await?;
    Ok(HttpResponse::Ok().json(view))
}
