//! What a sandbox may be asked for.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Error, bail};
use serde::{Deserialize, Serialize};

use crate::unix_user::{self, UnixUser};

/// How to start a sandbox.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where everything is kept. Created if missing; must be reachable for an ordinary user if we are root.
    pub data_dir: PathBuf,
    /// Forget what an earlier sandbox left in `data_dir` first.
    pub fresh: bool,
    /// Remove everything again at the end, even if that end is a crash.
    pub ephemeral: bool,
    /// What whoever starts the sandbox keeps in `data_dir` by itself: it is removed with the rest. Nothing else in the folder is.
    pub beside: Vec<String>,
    pub kafka: KafkaChoice,
    /// For Apache Kafka's `server.properties`; these come above what is written there otherwise.
    pub kafka_properties: Vec<(String, String)>,
    /// PostgreSQL counts what it executes with `pg_stat_statements`, if it has that module.
    pub count_statements: bool,
    pub external: External,
    pub extras: Extras,
}

/// What servers are started with beyond what a sandbox needs: for tests of TLS and passwords.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    pub postgres_settings: Vec<(String, String)>,
    pub redis_arguments: Vec<String>,
    /// More addresses of Apache Kafka; clients are told to call it `localhost` there.
    pub kafka_listeners: Vec<KafkaListener>,
    /// Names and passwords for SCRAM.
    pub kafka_users: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
pub struct KafkaListener {
    pub name: String,
    /// As in `listener.security.protocol.map`.
    pub protocol: String,
    pub port: u16,
}

/// Servers that run already and are used instead of starting our own.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct External {
    pub postgres_url: Option<String>,
    pub redis_url: Option<String>,
    pub kafka_brokers: Option<String>,
}

/// Which broker to start.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KafkaChoice {
    /// Apache Kafka, or with a warning the embedded broker where Java or Maven are missing.
    #[default]
    Auto,
    Apache,
    Embedded,
}

impl FromStr for KafkaChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<KafkaChoice, Error> {
        match text {
            "auto" => Ok(KafkaChoice::Auto),
            "apache" => Ok(KafkaChoice::Apache),
            "embedded" => Ok(KafkaChoice::Embedded),
            _ => bail!("{text:?} is none of auto, apache, embedded"),
        }
    }
}

/// Which broker there is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KafkaKind {
    /// The real one; its data survives a kill.
    Apache,
    /// In memory, limited, for trying things out.
    Embedded,
    /// Not ours.
    External,
}

impl fmt::Display for KafkaKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KafkaKind::Apache => "Apache",
            KafkaKind::Embedded => "embedded, in memory",
            KafkaKind::External => "external",
        })
    }
}

/// One of the three servers.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Server {
    Postgres,
    Redis,
    Kafka,
}

impl Server {
    pub const ALL: [Server; 3] = [Server::Postgres, Server::Redis, Server::Kafka];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Server::Postgres => "postgres",
            Server::Redis => "redis",
            Server::Kafka => "kafka",
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Server {
    type Err = Error;

    fn from_str(text: &str) -> Result<Server, Error> {
        match Server::ALL.into_iter().find(|server| server.name() == text) {
            Some(server) => Ok(server),
            None => bail!("{text:?} is none of postgres, redis, kafka"),
        }
    }
}

/// Refuses a folder that some server cannot work in, before anything is made.
///
/// Kafka separates folders by commas, nginx and the JVM each have their own rules for spaces and for what is not ASCII, and
/// a site that fails half-way is worse than none.
pub fn check_data_dir(folder: &Path) -> Result<(), Error> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@~=".contains(c);
    if let Some(odd) = folder.to_string_lossy().chars().find(|c| !is_plain(*c)) {
        bail!(
            "{} cannot be the data folder, because of {odd:?}: servers take only letters and digits of ASCII and /._-+@~= in its \
             path; choose another with --data-dir",
            folder.display()
        );
    }
    if let Some(file) = folder.ancestors().find(|ancestor| ancestor.exists()).filter(|existing| !existing.is_dir()) {
        bail!("{} cannot be the data folder: {} is no folder", folder.display(), file.display());
    }
    Ok(())
}

/// `preferred`, or a folder of the same site below /var/lib when we are root and `preferred` is below a folder that
/// ordinary users may not enter, such as root's home.
pub fn reachable_data_dir(preferred: &Path) -> PathBuf {
    let Some(existing) = preferred.ancestors().find_map(|ancestor| fs::canonicalize(ancestor).ok()) else {
        return preferred.to_owned();
    };
    let is_reachable = match UnixUser::for_servers() {
        Ok(user) => unix_user::check_access(user.as_ref(), &existing).is_ok(),
        // Starting will say what is wrong.
        Err(_) => true,
    };
    if is_reachable {
        return preferred.to_owned();
    }
    let name = preferred.display().to_string().replace('/', "-");
    Path::new("/var/lib/stampede").join(name.trim_start_matches('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_no_server_could_use_is_refused_by_what_is_wrong() {
        let folder = std::env::temp_dir().join(format!("stampede-options-{}", std::process::id()));
        check_data_dir(&folder.join("not/there")).unwrap();
        for odd in ["a b", "a,b", "자료", "a'b", "a\nb"] {
            let error = check_data_dir(&folder.join(odd)).unwrap_err().to_string();
            assert!(error.contains("--data-dir"), "{error}");
        }
        fs::write(&folder, "a file").unwrap();
        for used in [folder.clone(), folder.join("below")] {
            assert!(check_data_dir(&used).unwrap_err().to_string().contains("is no folder"), "{used:?}");
        }
        fs::remove_file(&folder).unwrap();
    }

    #[test]
    fn names_of_servers_and_brokers_read_back() {
        for server in Server::ALL {
            assert_eq!(server.to_string().parse::<Server>().unwrap(), server);
        }
        assert!("mysql".parse::<Server>().is_err());
        assert_eq!("embedded".parse::<KafkaChoice>().unwrap(), KafkaChoice::Embedded);
        assert!("rabbit".parse::<KafkaChoice>().is_err());
    }
}
