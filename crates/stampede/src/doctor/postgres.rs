//! PostgreSQL: whether it answers, whether it is set so that nothing acknowledged is lost, and whether there is room.

use common::db::{Db, DbSettings};
use common::host::schema;
use common::settings::Settings;
use diesel::{QueryableByName, sql_query, sql_types};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::{ANSWER_MAX, Report};
use crate::reach::{self, Unreachable, shown};
use crate::services::SERVICES;

const CHECK: &str = "postgresql";
/// Constraints of ours need `unique nulls not distinct`.
const VERSION_MIN: i32 = 150_000;
/// Connections of a service beside its pool: its relay's and its listener's.
const BESIDE_POOL: i64 = 2;

#[derive(QueryableByName)]
struct Server {
    #[diesel(sql_type = sql_types::Text)]
    version: String,
    #[diesel(sql_type = sql_types::Integer)]
    version_number: i32,
    #[diesel(sql_type = sql_types::Text)]
    fsync: String,
    #[diesel(sql_type = sql_types::Text)]
    full_page_writes: String,
    #[diesel(sql_type = sql_types::Text)]
    synchronous_commit: String,
    #[diesel(sql_type = sql_types::Text)]
    autovacuum: String,
    #[diesel(sql_type = sql_types::Text)]
    lc_messages: String,
    #[diesel(sql_type = sql_types::Bool)]
    is_standby: bool,
    #[diesel(sql_type = sql_types::BigInt)]
    connections_max: i64,
    #[diesel(sql_type = sql_types::BigInt)]
    connections: i64,
}

/// A connection of its own to the schema of the first service. None: PostgreSQL does not answer, and the report says so.
pub async fn examine(settings: &Settings, report: &mut Report) -> anyhow::Result<Option<AsyncPgConnection>> {
    let address = shown(settings, "postgres.url");
    let mut connection = match connect(settings).await? {
        Ok(connection) => connection,
        Err(unreachable) => {
            report.fail(CHECK, unreachable.to_string(), unreachable.remedy());
            return Ok(None);
        }
    };
    match sql_query(include_str!("server.sql")).get_result::<Server>(&mut connection).await {
        Ok(server) => judge(&server, &address, settings.section("postgres")?, report),
        Err(error) => {
            report.fail(
                CHECK,
                format!("PostgreSQL at {address} does not say how it is set: {error}"),
                "look at its log",
            );
            return Ok(None);
        }
    }
    Ok(Some(connection))
}

/// The outer error is in the settings, the inner one is the server.
pub async fn connect(settings: &Settings) -> anyhow::Result<Result<AsyncPgConnection, Unreachable>> {
    let namespace: String = settings.section("host.namespace")?;
    let db = Db::open(&settings.section::<DbSettings>("postgres")?, &schema(&namespace, SERVICES[0].name)).await?;
    Ok(reach::connect(settings, &db, ANSWER_MAX).await)
}

fn judge(server: &Server, address: &str, settings: DbSettings, report: &mut Report) {
    let Server { version, fsync, synchronous_commit, lc_messages, connections, connections_max, .. } = server;
    report.ok(
        CHECK,
        format!(
            "PostgreSQL {version} at {address}: fsync {fsync}, synchronous_commit {synchronous_commit}, lc_messages \
             {lc_messages:?}, {connections} of {connections_max} connections in use"
        ),
    );
    if server.version_number < VERSION_MIN {
        report.fail(CHECK, format!("PostgreSQL {version} is too old"), "use PostgreSQL 15 or newer");
    }
    if server.is_standby {
        report.fail(CHECK, "this server is a standby and stores nothing", "let postgres.url name the primary");
    }
    for (setting, value) in [("fsync", fsync), ("full_page_writes", &server.full_page_writes)] {
        if value != "on" {
            report.fail(
                CHECK,
                format!("{setting} is {value}: a crash of the machine loses or breaks what was acknowledged"),
                format!("alter system set {setting} = on; select pg_reload_conf()"),
            );
        }
    }
    if synchronous_commit == "off" {
        report.fail(
            CHECK,
            "synchronous_commit is off: a crash loses orders that were acknowledged",
            "alter system set synchronous_commit = on; select pg_reload_conf()",
        );
    }
    if server.autovacuum != "on" {
        report.warn(
            CHECK,
            "autovacuum is off: outboxes and deliveries become slower with each day",
            "alter system set autovacuum = on; select pg_reload_conf()",
        );
    }
    let needed = (i64::from(settings.connections_max) + BESIDE_POOL) * SERVICES.len() as i64;
    if needed > *connections_max {
        report.warn(
            CHECK,
            format!("one replica of each service opens up to {needed} connections, and {connections_max} are allowed"),
            "raise max_connections, or lower postgres.connections_max",
        );
    }
}
