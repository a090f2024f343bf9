//! The servers that a command asks: where their addresses come from, and what is said when PostgreSQL gives no connection.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use common::db::Db;
use common::settings::Settings;
use diesel_async::AsyncPgConnection;

use crate::site::{SITE_FILE, START};

/// Nothing answers: the exit code of every command.
pub const UNREACHABLE: u8 = 3;
/// A server that has not answered by then is away: one that is busy answers sooner.
pub const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Help of `--data-dir`, short and long, of commands that ask a development system or else the servers of the settings.
pub const DATA_DIR_HELP: &str = "Data folder of a `stampede dev` [default: .stampede]; if none is known there, the \
                                 servers that the settings name are asked";
pub const DATA_DIR_ORDER: &str = "\
Which servers are asked. They are looked for in this order:
1. In this data folder, else in .stampede of the current folder: if it has a site.json, the servers that this file names, whatever the settings say. `stampede dev` writes it when it is ready, and removes it when it stops.
2. In the settings: the environment (STAMPEDE__POSTGRES__URL), else each --config FILE, the last one first, else config/default.toml.";

/// Where the address of the servers comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// This file, which a development system has written.
    System(PathBuf),
    /// The settings, because no system is known in this folder.
    NoSystem(PathBuf),
    /// The settings: the command was told to take them.
    Settings,
}

impl Origin {
    /// As [`site::settings`](crate::site::settings) looks.
    pub fn of(data_dir: &Path) -> Origin {
        let file = data_dir.join(SITE_FILE);
        if file.is_file() { Origin::System(file) } else { Origin::NoSystem(data_dir.to_owned()) }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::System(file) => {
                write!(f, "{} names this server, and the system that has written it may have ended", file.display())
            }
            Origin::NoSystem(folder) => {
                write!(f, "no running system is known in {}, so the settings name this server", folder.display())
            }
            Origin::Settings => f.write_str("the settings name this server"),
        }
    }
}

/// PostgreSQL gives us no connection.
#[derive(Debug)]
pub struct Unreachable {
    server: String,
    cause: String,
}

impl std::error::Error for Unreachable {}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgreSQL at {} gives no connection: {}", self.server, self.cause)
    }
}

impl Unreachable {
    /// What to do.
    pub fn remedy(&self) -> String {
        if self.cause.contains("lc_messages") {
            return "alter role <our role> set lc_messages = 'C'".to_owned();
        }
        format!("start PostgreSQL there, {START}, or set postgres.url (STAMPEDE__POSTGRES__URL)")
    }
}

/// A connection of its own to the schema of `db`, which these settings name.
pub async fn connect(settings: &Settings, db: &Db, wait: Duration) -> Result<AsyncPgConnection, Unreachable> {
    let cause = match tokio::time::timeout(wait, db.dedicated()).await {
        Ok(Ok(connection)) => return Ok(connection),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", wait.as_secs()),
    };
    Err(Unreachable { server: server(&shown(settings, "postgres.url")), cause })
}

/// Prints what went wrong, and what to do where PostgreSQL gives no connection. Returns [`UNREACHABLE`].
pub fn report(error: &anyhow::Error, origin: &Origin) -> ExitCode {
    eprintln!("stampede: {error:#}");
    if let Some(unreachable) = error.downcast_ref::<Unreachable>() {
        eprintln!("stampede: {origin}; {}", unreachable.remedy());
    }
    ExitCode::from(UNREACHABLE)
}

/// The value of `key` as `stampede config` shows it: without what is secret.
pub fn shown(settings: &Settings, key: &str) -> String {
    let head = format!("{key} = ");
    settings.lines().iter().find_map(|line| line.strip_prefix(&head)).unwrap_or_default().to_owned()
}

/// Host, port and database of an address whose secrets are masked.
fn server(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split('?').next().unwrap_or_default();
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    match rest.split_once('/') {
        // The host is a parameter, which is masked.
        Some(("", _)) => url.to_owned(),
        Some((host, "")) => host.to_owned(),
        Some((host, database)) => format!("{host} (database {database})"),
        None => rest.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_told_by_host_port_and_database() {
        for (url, told) in [
            ("postgres://***@127.0.0.1:5432/stampede", "127.0.0.1:5432 (database stampede)"),
            ("postgres://db:5432/stampede?***", "db:5432 (database stampede)"),
            ("postgres://***@db:5432", "db:5432"),
            ("postgres://***@db:5432/", "db:5432"),
            ("postgres:///stampede?***", "postgres:///stampede?***"),
        ] {
            assert_eq!(server(url), told, "{url}");
        }
    }

    #[test]
    fn what_helps_depends_on_why_there_is_no_connection() {
        let remedy = |cause: &str| Unreachable { server: "db".to_owned(), cause: cause.to_owned() }.remedy();
        let told = remedy("Connection refused");
        for way in ["./stampede dev", "--data-dir", "STAMPEDE__POSTGRES__URL"] {
            assert!(told.contains(way), "{told}");
        }
        assert!(remedy("lc_messages is \"ko_KR\"").contains("set lc_messages = 'C'"));
    }
}
