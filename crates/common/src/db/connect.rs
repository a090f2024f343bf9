//! Connections to PostgreSQL: how they are opened, and what every session of ours is told.

use std::error::Error as _;

use diesel::ConnectionError;
use diesel_async::AsyncPgConnection;
use futures_util::{FutureExt, StreamExt};
use secrecy::ExposeSecret;
use serde::Deserialize;
use tokio_postgres::NoTls;

use super::url::ServerUrl;
use crate::tls;

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

/// Why there is no connection.
pub(super) enum Failure {
    /// TLS fails, and will fail until somebody changes a setting or a certificate.
    Tls(String),
    Other(ConnectionError),
}

impl From<Failure> for ConnectionError {
    fn from(failure: Failure) -> ConnectionError {
        match failure {
            Failure::Tls(text) => ConnectionError::BadConnection(text),
            Failure::Other(error) => error,
        }
    }
}

impl From<ConnectionError> for Failure {
    fn from(error: ConnectionError) -> Failure {
        Failure::Other(error)
    }
}

/// Opens a connection whose deadlocks can be told. All connections of all services are opened here.
pub(super) async fn establish(server: &ServerUrl) -> Result<AsyncPgConnection, Failure> {
    let failed = |error: tokio_postgres::Error| explain(server, &error);
    let connector = server.connector().map_err(|wrong| Failure::Tls(format!("postgres.url {wrong:#}")))?;
    let mut conn = match connector {
        Some(connector) => {
            let (client, connection) = server.config.connect(connector).await.map_err(failed)?;
            AsyncPgConnection::try_from_client_and_connection(client, connection).await?
        }
        None => {
            let (client, connection) = server.config.connect(NoTls).await.map_err(failed)?;
            AsyncPgConnection::try_from_client_and_connection(client, connection).await?
        }
    };
    let query = diesel::dsl::sql::<diesel::sql_types::Text>("select current_setting('lc_messages')");
    let language: String = diesel_async::RunQueryDsl::get_result(query, &mut conn)
        .await
        .map_err(ConnectionError::CouldntSetupConfiguration)?;
    if speaks_english(&language) {
        return Ok(conn);
    }
    let refused = format!(
        "lc_messages is {language:?}, and deadlocks are told by PostgreSQL's English message: set it to 'C' for our role"
    );
    Err(ConnectionError::BadConnection(refused).into())
}

/// What `error` means, in words that name the server and the setting.
fn explain(server: &ServerUrl, error: &tokio_postgres::Error) -> Failure {
    let reason = match (tls::failure(error), error.source()) {
        (Some(reason), _) => reason.to_string(),
        // The one failure of TLS that the driver finds itself.
        (None, Some(reason)) if reason.to_string() == "server does not support TLS" => {
            "it does not speak TLS".to_owned()
        }
        _ => {
            let causes = std::iter::successors(error.source(), |&cause| cause.source());
            let text = causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
            return Failure::Other(ConnectionError::BadConnection(text));
        }
    };
    Failure::Tls(format!(
        "TLS with PostgreSQL at {} fails: {reason} (postgres.url has {})",
        server.address,
        server.trust()
    ))
}

/// Whether PostgreSQL's messages are English with this `lc_messages`.
fn speaks_english(lc_messages: &str) -> bool {
    let language = lc_messages.split(['_', '.', '@']).next().unwrap_or_default();
    ["", "C", "POSIX", "en"].contains(&language)
}

/// The server of these settings. The schema and the session's limits are in it, so that every connection has them from its
/// first statement.
///
/// Our statements are many, small and always of the same shape, and the planner is told so:
/// - No just-in-time compilation: they run for less than it takes.
/// - One plan for a prepared statement, however its arrays are filled. By itself the planner prefers a new plan at each
///   use for some of them, which costs several times what running them does.
/// - No scan of a whole table where there is an index: a plan made while a table was empty is kept while it fills.
pub(super) fn server(settings: &DbSettings, schema: &str) -> anyhow::Result<ServerUrl> {
    with_options(settings, schema, "")
}

/// The same for the connections of a pool, which write in transactions alone: PostgreSQL refuses everything else that would
/// change something, as where the begin of a transaction has failed.
pub(super) fn pooled(settings: &DbSettings, schema: &str) -> anyhow::Result<ServerUrl> {
    with_options(settings, schema, " -cdefault_transaction_read_only=on")
}

fn with_options(settings: &DbSettings, schema: &str, more: &str) -> anyhow::Result<ServerUrl> {
    let read = ServerUrl::read(settings.url.expose_secret());
    let mut server = read.map_err(|wrong| anyhow::anyhow!("postgres.url {wrong}"))?;
    server.config.application_name(schema).options(format!(
        "-csearch_path={schema} -cjit=off -cplan_cache_mode=force_generic_plan -cenable_seqscan=off -cstatement_timeout={} -clock_timeout={} -cidle_in_transaction_session_timeout={}{more}",
        settings.statement_timeout_ms, settings.lock_timeout_ms, settings.idle_in_transaction_timeout_ms
    ));
    Ok(server)
}

/// What is wrong with `postgres.url` and the files that it names.
pub(crate) fn problems(settings: &DbSettings) -> Vec<String> {
    let wrong = ServerUrl::problem(settings.url.expose_secret());
    wrong.map(|wrong| format!("postgres.url {wrong}")).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::speaks_english;

    #[test]
    fn a_database_whose_deadlocks_we_cannot_tell_is_refused() {
        assert!(["C", "POSIX", "en_US.UTF-8", "C.UTF-8", "en_GB", ""].into_iter().all(speaks_english));
        assert!(!["ko_KR.UTF-8", "de_DE", "english_x", "Korean_Korea.949"].into_iter().any(speaks_english));
    }
}
