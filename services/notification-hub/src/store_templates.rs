//! The versions of texts as they are stored. Version 0 is in the program, and in the lists like any other.

use std::collections::BTreeMap;

use chrono::{DateTime, SubsecRound, Utc};
use common::db::{Prepared, Tx};
use common::idempotency::same_request;
use common::page::Limit;
use common::{Error, Result};
use contract::ids::AccountId;
use diesel::dsl::count_star;
use diesel::pg::Pg;
use diesel::sql_types::{BigInt, Integer, Text};
use diesel::{
    BoolExpressionMethods, ExpressionMethods, OptionalExtension, QueryDsl, QueryableByName, SelectableHelper,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::channel::Channel;
use crate::notification::Refused;
use crate::schema::notification_templates;
use crate::template::{Language, TemplateKey, builtin};

#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateVersionView {
    pub name: String,
    pub channel: Channel,
    pub language: Language,
    /// 0: the text that the system has by itself.
    pub version: i32,
    pub subject: String,
    pub body: String,
    /// What it was tried with; null: samples of the system's own.
    #[schema(value_type = Option<Object>)]
    pub sample: Option<Value>,
    /// Whether it is the one that is sent.
    pub is_active: bool,
    /// Null: version 0.
    pub created_by: Option<AccountId>,
    pub created_at: Option<DateTime<Utc>>,
}

/// A text with all its versions.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateView {
    name: String,
    channel: Channel,
    language: Language,
    /// The one that is sent; null: none of them is.
    active_version: Option<i32>,
    newest_version: i32,
}

impl TemplateView {
    /// As the cursor of a list names it.
    pub fn place(&self) -> TemplateKey {
        TemplateKey::new(&self.name, self.channel, self.language)
    }
}

#[derive(QueryableByName)]
struct Stored {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    channel: Channel,
    #[diesel(sql_type = Text)]
    language: Language,
    #[diesel(sql_type = Integer)]
    active: i32,
    #[diesel(sql_type = Integer)]
    newest: i32,
}

/// The texts after `after`, in the order of their names, and one more than the page has.
pub async fn list(
    conn: &mut AsyncPgConnection,
    after: Option<&TemplateKey>,
    limit: Limit,
) -> Result<Vec<TemplateView>> {
    let after = after.map(TemplateKey::parts).unwrap_or_default();
    let query = diesel::sql_query(include_str!("store_templates_list.sql"))
        .bind::<Text, _>(after.0)
        .bind::<Text, _>(after.1)
        .bind::<Text, _>(after.2)
        .bind::<BigInt, _>(limit.rows());
    let stored: Vec<Stored> = Prepared(query).load(conn).await?;
    let mut found = BTreeMap::new();
    for key in builtin::keys().filter(|key| key.parts() > after) {
        found.insert(key.parts(), (key.clone(), Some(0), 0));
    }
    let stored: Vec<(TemplateKey, i32, i32)> = stored
        .into_iter()
        .map(|row| {
            (TemplateKey { name: row.name, channel: row.channel, language: row.language }, row.active, row.newest)
        })
        .collect();
    for (key, active, newest) in &stored {
        let active = Some(*active).filter(|active| *active > 0 || builtin::source(key).is_some());
        found.insert(key.parts(), (key.clone(), active, *newest));
    }
    let views = found.into_values().take(limit.rows() as usize).map(|(key, active_version, newest_version)| {
        let TemplateKey { name, channel, language } = key;
        TemplateView { name, channel, language, active_version, newest_version }
    });
    Ok(views.collect())
}

/// A version to be stored.
#[derive(Clone)]
pub struct NewVersion {
    pub key: TemplateKey,
    pub id: Uuid,
    pub fingerprint: Vec<u8>,
    pub subject: String,
    pub body: String,
    pub sample: Option<Value>,
    pub by: AccountId,
}

/// The version that the request names, and whether this request has made it.
pub async fn create(tx: &mut Tx, new: &NewVersion, activate: bool) -> Result<(VersionRow, bool)> {
    use notification_templates as t;
    let TemplateKey { name, channel, language } = &new.key;
    let made: Option<VersionRow> =
        t::table.filter(t::id.eq(new.id)).select(VersionRow::as_select()).first(tx).await.optional()?;
    if let Some(row) = made {
        same_request(&row.fingerprint, &new.fingerprint)?;
        return Ok((row, false));
    }
    let newest: Option<i32> = of(&new.key).select(diesel::dsl::max(t::version)).first(tx).await?;
    let version = newest.unwrap_or(0) + 1;
    let row: Option<VersionRow> = diesel::insert_into(t::table)
        .values((
            (t::name.eq(name), t::channel.eq(channel), t::language.eq(language), t::version.eq(version)),
            (t::id.eq(new.id), t::fingerprint.eq(&new.fingerprint)),
            (t::subject.eq(&new.subject), t::body.eq(&new.body), t::sample.eq(&new.sample)),
            t::created_by.eq(new.by),
        ))
        .on_conflict_do_nothing()
        .returning(VersionRow::as_returning())
        .get_result(tx)
        .await
        .optional()?;
    let row = row.ok_or_else(|| Error::transient(anyhow::anyhow!("another version of {name} is made at once")))?;
    if activate {
        set_active(tx, &new.key, version).await?;
    }
    Ok((row, true))
}

#[derive(diesel::Queryable, diesel::Selectable)]
#[diesel(table_name = notification_templates, check_for_backend(Pg))]
pub struct VersionRow {
    name: String,
    channel: Channel,
    language: Language,
    version: i32,
    fingerprint: Vec<u8>,
    subject: String,
    body: String,
    sample: Option<Value>,
    is_active: bool,
    created_by: AccountId,
    created_at: DateTime<Utc>,
}

impl From<VersionRow> for TemplateVersionView {
    fn from(row: VersionRow) -> Self {
        TemplateVersionView {
            name: row.name,
            channel: row.channel,
            language: row.language,
            version: row.version,
            subject: row.subject,
            body: row.body,
            sample: row.sample,
            is_active: row.is_active,
            created_by: Some(row.created_by),
            created_at: Some(row.created_at.trunc_subsecs(3)),
        }
    }
}

/// Version 0, where there is one.
fn built_in(key: &TemplateKey, is_active: bool) -> Option<TemplateVersionView> {
    let builtin::Source { subject, body } = builtin::source(key)?;
    let TemplateKey { name, channel, language } = key.clone();
    Some(TemplateVersionView {
        name,
        channel,
        language,
        version: 0,
        subject: subject.to_owned(),
        body: body.to_owned(),
        sample: None,
        is_active,
        created_by: None,
        created_at: None,
    })
}

/// The versions of one text.
fn of(key: &TemplateKey) -> notification_templates::BoxedQuery<'_, Pg> {
    use notification_templates as t;
    t::table
        .filter(t::name.eq(&key.name))
        .filter(t::channel.eq(key.channel))
        .filter(t::language.eq(key.language))
        .into_boxed()
}

async fn has_active(conn: &mut AsyncPgConnection, key: &TemplateKey) -> Result<bool> {
    let active: i64 = of(key).filter(notification_templates::is_active).select(count_star()).first(conn).await?;
    Ok(active > 0)
}

/// The versions before `before`, the newest first, and one more than the page has. Refuses with `TEMPLATE_NOT_FOUND` a text
/// that has none.
pub async fn versions(
    conn: &mut AsyncPgConnection,
    key: &TemplateKey,
    before: Option<i32>,
    limit: Limit,
) -> Result<Vec<TemplateVersionView>> {
    let before_or_all = before.unwrap_or(i32::MAX);
    let rows: Vec<VersionRow> = of(key)
        .filter(notification_templates::version.lt(before_or_all))
        .order(notification_templates::version.desc())
        .limit(limit.rows())
        .select(VersionRow::as_select())
        .load(conn)
        .await?;
    let mut versions: Vec<TemplateVersionView> = rows.into_iter().map(TemplateVersionView::from).collect();
    if before_or_all > 0 {
        let is_active = !has_active(conn, key).await?;
        versions.extend(built_in(key, is_active));
    }
    if versions.is_empty() && before.is_none() {
        let TemplateKey { name, channel, language } = key.clone();
        return Err(Refused::TemplateNotFound { name, channel, language: Some(language) }.into());
    }
    Ok(versions)
}

/// Refuses with `TEMPLATE_NOT_FOUND`.
pub async fn read(conn: &mut AsyncPgConnection, key: &TemplateKey, version: i32) -> Result<TemplateVersionView> {
    let found = match version {
        0 => {
            let is_active = !has_active(conn, key).await?;
            built_in(key, is_active)
        }
        version => {
            let row: Option<VersionRow> = of(key)
                .filter(notification_templates::version.eq(version))
                .select(VersionRow::as_select())
                .first(conn)
                .await
                .optional()?;
            row.map(TemplateVersionView::from)
        }
    };
    Ok(found.ok_or_else(|| Refused::TemplateVersionNotFound { key: key.clone(), version })?)
}

/// Lets `version` be the one that is sent.
pub async fn set_active(tx: &mut Tx, key: &TemplateKey, version: i32) -> Result<()> {
    use notification_templates as t;
    let own = || t::name.eq(key.name.clone()).and(t::channel.eq(key.channel)).and(t::language.eq(key.language));
    // Two who choose at once: the second sees what the first has chosen.
    t::table.filter(own()).order(t::version).select(t::version).for_update().load::<i32>(tx).await?;
    diesel::update(t::table.filter(own()).filter(t::is_active)).set(t::is_active.eq(false)).execute(tx).await?;
    diesel::update(t::table.filter(own()).filter(t::version.eq(version)))
        .set(t::is_active.eq(true))
        .execute(tx)
        .await?;
    Ok(())
}
