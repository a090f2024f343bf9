//! Connections to PostgreSQL: how they are opened, and what every session of ours is told.

use diesel_async::{AsyncConnection, AsyncPgConnection};
use futures_util::{FutureExt, StreamExt};

use serde::Deserialize;

/// Section `[postgres]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DbSettings {
    pub url: secrecy::SecretString,
    pub connections_max: u32,
    pub acquire_timeout_ms: u64,
    pub statement_timeout_ms: u64,
    pub lock_timeout_ms: u64,
    pub idle_in_transaction_timeout_ms: u64,
}

/// Notifications come from the task that drives the connection: their stream ends with it.
pub(super) fn still_open(conn: &mut AsyncPgConnection) -> diesel::QueryResult<()> {
    let mut notifications = std::pin::pin!(conn.notifications_stream());
    match notifications.next().now_or_never() {
        Some(None) => Err(diesel::result::Error::BrokenTransactionManager),
        Some(Some(_)) | None => Ok(()),
    }
}

/// Opens a connection whose deadlocks can be told.
pub(super) async fn establish(url: &str) -> diesel::ConnectionResult<AsyncPgConnection> {
    let mut conn = AsyncPgConnection::establish(url).await?;
    let query = diesel::dsl::sql::<diesel::sql_types::Text>("select current_setting('lc_messages')");
    let language: String = diesel_async::RunQueryDsl::get_result(query, &mut conn)
        .await
        .map_err(diesel::ConnectionError::CouldntSetupConfiguration)?;
    if speaks_english(&language) {
        return Ok(conn);
    }
    let refused = format!(
        "lc_messages is {language:?}, and deadlocks are told by PostgreSQL's English message: set it to 'C' for our role"
    );
    Err(diesel::ConnectionError::BadConnection(refused))
}

/// Whether PostgreSQL's messages are English with this `lc_messages`.
fn speaks_english(lc_messages: &str) -> bool {
    let language = lc_messages.split(['_', '.', '@']).next().unwrap_or_default();
    ["", "C", "POSIX", "en"].contains(&language)
}

/// Adds the schema and the session's limits to the URL, so that every connection has them from its first statement.
///
/// Our statements are many, small and always of the same shape, and the planner is told so:
/// - No just-in-time compilation: they run for less than it takes.
/// - One plan for a prepared statement, however its arrays are filled. By itself the planner prefers a new plan at each
///   use for some of them, which costs several times what running them does.
/// - No scan of a whole table where there is an index: a plan made while a table was empty is kept while it fills.
pub(super) fn connection_url(settings: &DbSettings, schema: &str) -> secrecy::SecretString {
    use secrecy::ExposeSecret;
    let url = settings.url.expose_secret();
    let options = format!(
        "-csearch_path={schema} -cjit=off -cplan_cache_mode=force_generic_plan -cenable_seqscan=off -cstatement_timeout={} -clock_timeout={} -cidle_in_transaction_session_timeout={}",
        settings.statement_timeout_ms, settings.lock_timeout_ms, settings.idle_in_transaction_timeout_ms
    )
    .replace(' ', "%20")
    .replace('=', "%3D");
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}options={options}&application_name={schema}").into()
}

/// `host:port` of a URL, for messages: without name, password, database and options.
pub(super) fn address_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{address_of, speaks_english};

    #[test]
    fn an_address_is_told_without_what_is_secret() {
        for url in ["postgres://u:hunter2@db:5432/d?options=x", "postgres://db:5432", "postgres://u:a@b/c@db:5432/d"] {
            assert_eq!(address_of(url), "db:5432", "{url}");
        }
    }

    #[test]
    fn a_database_whose_deadlocks_we_cannot_tell_is_refused() {
        assert!(["C", "POSIX", "en_US.UTF-8", "C.UTF-8", "en_GB", ""].into_iter().all(speaks_english));
        assert!(!["ko_KR.UTF-8", "de_DE", "english_x", "Korean_Korea.949"].into_iter().any(speaks_english));
    }
}
