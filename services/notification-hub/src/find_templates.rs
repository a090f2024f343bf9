//! Finds the texts that are sent: the versions in force, and the languages of those who are told.

use std::collections::HashMap;
use std::sync::Arc;

use common::Result;
use common::batch::Batch;
use common::db::Db;
use contract::ids::AccountId;
use diesel::{ExpressionMethods, QueryDsl};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use parking_lot::Mutex;
use serde_json::Value;

use crate::Settings;
use crate::channel::{Channel, Message};
use crate::notification::Refused;
use crate::schema::{notification_preferences, notification_templates};
use crate::template::{Compiled, Flaw, Language, TemplateKey, builtin, languages};

/// Beyond this many the compiled texts are compiled anew.
const COMPILED_MAX: usize = 1_000;

/// Versions never change, so what is compiled stays right.
type Versions = Mutex<HashMap<(TemplateKey, i32), Result<Arc<Compiled>, Flaw>>>;

/// The texts of this process.
pub struct Templates {
    compiled: Arc<Versions>,
    lookups: Batch<Wanted, Texts>,
    default: Language,
}

/// What a message needs.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub name: String,
    pub user: Option<AccountId>,
}

/// The texts of one name or of several that are in force, and the languages of users.
#[derive(Clone)]
pub struct Texts {
    in_force: Arc<HashMap<TemplateKey, Result<Arc<Compiled>, Flaw>>>,
    of_users: Arc<HashMap<AccountId, Language>>,
    default: Language,
}

impl Templates {
    pub fn new(db: &Db, settings: &Settings) -> Templates {
        let compiled: Arc<Versions> = Arc::default();
        let (db, versions, default) = (db.clone(), compiled.clone(), settings.default_language);
        let lookups = Batch::start("template_lookups", &settings.batch, move |wanted: Arc<[Wanted]>| {
            let (db, versions) = (db.clone(), versions.clone());
            async move {
                let texts = load(&mut *db.read().await?, &versions, default, &wanted).await?;
                Ok(wanted.iter().map(|_| Ok(texts.clone())).collect())
            }
        });
        Templates { compiled, lookups, default }
    }

    /// What `wanted` needs, read together with what others are waiting for.
    pub async fn find(&self, wanted: Wanted) -> Result<Texts> {
        self.lookups.submit(wanted).await
    }

    /// The same, read in a transaction of the caller.
    pub async fn find_in(&self, conn: &mut AsyncPgConnection, wanted: &[Wanted]) -> Result<Texts> {
        load(conn, &self.compiled, self.default, wanted).await
    }
}

type Row = (String, Channel, Language, i32, String, String);

async fn load(
    conn: &mut AsyncPgConnection,
    compiled: &Versions,
    default: Language,
    wanted: &[Wanted],
) -> Result<Texts> {
    let mut names: Vec<&str> = wanted.iter().map(|one| one.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let rows: Vec<Row> = {
        use notification_templates as t;
        let active = t::table.filter(t::name.eq_any(names)).filter(t::is_active);
        active.select((t::name, t::channel, t::language, t::version, t::subject, t::body)).load(conn).await?
    };
    let users: Vec<AccountId> = wanted.iter().filter_map(|one| one.user).collect();
    let of_users: Vec<(AccountId, Option<Language>)> = match users.is_empty() {
        true => Vec::new(),
        false => {
            notification_preferences::table
                .filter(notification_preferences::user_id.eq_any(users))
                .filter(notification_preferences::language.is_not_null())
                .select((notification_preferences::user_id, notification_preferences::language))
                .load(conn)
                .await?
        }
    };
    let mut versions = compiled.lock();
    if versions.len() > COMPILED_MAX {
        versions.clear();
    }
    let in_force = rows.into_iter().map(|(name, channel, language, version, subject, body)| {
        let key = TemplateKey { name, channel, language };
        let compile = || Compiled::new(channel, &subject, &body).map(Arc::new);
        let compiled = versions.entry((key.clone(), version)).or_insert_with(compile).clone();
        (key, compiled)
    });
    Ok(Texts {
        in_force: Arc::new(in_force.collect()),
        of_users: Arc::new(of_users.into_iter().filter_map(|(user, language)| Some((user, language?))).collect()),
        default,
    })
}

impl Texts {
    /// The message that `name` makes of `variables` over `channel`. Refuses with `TEMPLATE_NOT_FOUND` or
    /// `TEMPLATE_INVALID`.
    pub fn message(
        &self,
        name: &str,
        channel: Channel,
        asked: Option<Language>,
        user: Option<AccountId>,
        variables: &Value,
    ) -> Result<Message, Refused> {
        for language in languages(asked, self.of(user), self.default) {
            let key = TemplateKey::new(name, channel, language);
            let compiled = match self.in_force.get(&key) {
                Some(compiled) => compiled.clone(),
                None => match builtin::compiled(&key) {
                    Some(compiled) => Ok(compiled),
                    None => continue,
                },
            };
            let rendered = compiled.and_then(|compiled| compiled.render(variables));
            return rendered.map_err(|flaw| flaw.refused_of(&key));
        }
        Err(Refused::TemplateNotFound { name: name.to_owned(), channel, language: asked })
    }

    /// The message of an event that has a built-in text. A version of an administrator that cannot be rendered is left
    /// out: somebody has to be told in any case.
    pub fn message_of_event(
        &self,
        name: &'static str,
        channel: Channel,
        user: Option<AccountId>,
        variables: &Value,
    ) -> Result<Message> {
        match self.message(name, channel, None, user, variables) {
            Ok(message) => Ok(message),
            Err(refused) => {
                tracing::error!(
                    template = name, channel = channel.name(), %refused,
                    "Template {name} of channel {} cannot be rendered for an event: {refused}; the built-in text is sent in its place",
                    channel.name()
                );
                metrics::counter!("stampede_template_failures_total", "template" => name).increment(1);
                let language = self.of(user).unwrap_or(self.default);
                let key = TemplateKey::new(name, channel, language);
                let compiled = builtin::compiled(&key).ok_or_else(|| common::Error::from(refused))?;
                compiled.render(variables).map_err(common::Error::fault)
            }
        }
    }

    pub fn of(&self, user: Option<AccountId>) -> Option<Language> {
        self.of_users.get(&user?).copied()
    }
}
