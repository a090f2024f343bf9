//! `/me/notification-preferences`: what a user does not want to be told.

use std::collections::HashSet;

use actix_web::{HttpResponse, get, put};
use common::Result;
use common::auth::Caller;
use common::db::Tx;
use common::http::{Data, Json, Problem, detach};
use contract::ids::{AccountId, DeliveryId};
use diesel::dsl::now;
use diesel::{ExpressionMethods, OptionalExtension, PgArrayExpressionMethods, QueryDsl};
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::App;
use crate::channel::Channel;
use crate::preference::{Muted, check, key, shown};
use crate::request::Requested;
use crate::schema::notification_preferences;
use crate::template::Language;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PutPreferences {
    /// All that is muted from now on; an empty list: nothing.
    #[serde(deserialize_with = "common::object::list")]
    muted: Vec<Muted>,
    /// What messages are written in; left out: the shop's own language.
    #[serde(default)]
    language: Option<Language>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreferencesView {
    muted: Vec<Muted>,
    /// Null: the shop's own.
    language: Option<Language>,
    /// What cannot be muted.
    transactional_types: Vec<String>,
}

/// What the caller does not want to be told.
#[utoipa::path(
    tag = "notifications",
    responses((status = 200, body = PreferencesView)),
    security(("bearer" = []))
)]
#[get("/me/notification-preferences")]
pub async fn read_preferences(app: Data<App>, caller: Caller) -> Result<HttpResponse> {
    let stored: Option<(Vec<String>, Option<Language>)> = notification_preferences::table
        .find(AccountId::from(caller.account))
        .select((notification_preferences::muted, notification_preferences::language))
        .first(&mut *app.db.read().await?)
        .await
        .optional()?;
    let (muted, language) = stored.unwrap_or_default();
    Ok(view(&app, &muted, language))
}

/// Mute kinds of notifications, by channel, and choose a language.
///
/// Takes the place of what was there before. What is muted is not sent; a notification of which nothing is left is
/// `SUPPRESSED`. What is about an order or a payment cannot be muted.
#[utoipa::path(
    tag = "notifications",
    request_body = PutPreferences,
    responses(
        (status = 200, body = PreferencesView),
        (status = 400, body = Problem, description = "VALIDATION_ERROR"),
        (status = 422, body = Problem, description = "TYPE_NOT_MUTABLE"),
    ),
    security(("bearer" = []))
)]
#[put("/me/notification-preferences")]
pub async fn put_preferences(app: Data<App>, caller: Caller, Json(body): Json<PutPreferences>) -> Result<HttpResponse> {
    let muted = check(&body.muted, &app.settings.transactional_types)?;
    let (user, stored, db, language) = (AccountId::from(caller.account), muted.clone(), app.db.clone(), body.language);
    detach(async move { db.tx("put_preferences", async move |tx| put(tx, user, &stored, language).await).await })
        .await?;
    Ok(view(&app, &muted, language))
}

async fn put(tx: &mut Tx, user: AccountId, muted: &[String], language: Option<Language>) -> Result<()> {
    let wishes = (notification_preferences::muted.eq(muted), notification_preferences::language.eq(language));
    diesel::insert_into(notification_preferences::table)
        .values((notification_preferences::user_id.eq(user), wishes))
        .on_conflict(notification_preferences::user_id)
        .do_update()
        .set((wishes, notification_preferences::updated_at.eq(now)))
        .execute(tx)
        .await?;
    Ok(())
}

fn view(app: &App, muted: &[String], language: Option<Language>) -> HttpResponse {
    let transactional_types = app.settings.transactional_types.clone();
    HttpResponse::Ok().json(PreferencesView { muted: shown(muted), language, transactional_types })
}

/// Those of `users` who have muted `kind` over `channel`.
pub async fn who_muted(
    tx: &mut Tx,
    users: Vec<AccountId>,
    kind: &str,
    channel: Channel,
    transactional: &[String],
) -> Result<HashSet<AccountId>> {
    if transactional.iter().any(|name| name == kind) {
        return Ok(HashSet::new());
    }
    let muted = notification_preferences::table
        .filter(notification_preferences::user_id.eq_any(users))
        .filter(notification_preferences::muted.contains(vec![key(kind, channel)]))
        .select(notification_preferences::user_id)
        .load(tx)
        .await?;
    Ok(muted.into_iter().collect())
}

/// The deliveries of `requests` that their users have muted.
pub async fn muted_deliveries(
    tx: &mut Tx,
    requests: &[&Requested],
    transactional: &[String],
) -> Result<HashSet<DeliveryId>> {
    let is_mutable = |request: &&&Requested| !transactional.contains(&request.kind);
    let users: HashSet<AccountId> = requests.iter().filter(is_mutable).filter_map(|request| request.user).collect();
    if users.is_empty() {
        return Ok(HashSet::new());
    }
    let rows: Vec<(AccountId, Vec<String>)> = notification_preferences::table
        .filter(notification_preferences::user_id.eq_any(users))
        .select((notification_preferences::user_id, notification_preferences::muted))
        .load(tx)
        .await?;
    let mut muted = HashSet::new();
    for request in requests.iter().filter(is_mutable) {
        let Some((_, keys)) = rows.iter().find(|(user, _)| Some(*user) == request.user) else { continue };
        let of_request = request.deliveries.iter().filter(|one| {
            // What goes to operators and programs is not the user's.
            !one.channel.is_for_operators() && keys.contains(&key(&request.kind, one.channel))
        });
        muted.extend(of_request.map(|one| one.id));
    }
    Ok(muted)
}
