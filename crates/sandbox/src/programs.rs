//! Where the servers' programs are, and what to install where they are not.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Kafka 4 brokers need it.
const JAVA_VERSION_MIN: u32 = 17;

/// Where Debian keeps server programs that are in no PATH.
const SBIN: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

/// The folder of the newest PostgreSQL server: Debian keeps each version apart from PATH.
pub(crate) fn postgres_dir() -> Result<PathBuf> {
    let newest = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, dir)| dir.join("initdb").is_file())
        .max();
    if let Some((_, dir)) = newest {
        return Ok(dir);
    }
    let initdb = find("initdb").context("found no PostgreSQL server: install the package postgresql")?;
    // Some systems put links into PATH; the other programs are beside the original.
    let initdb = initdb.canonicalize()?;
    Ok(initdb.parent().context("initdb is in no folder")?.to_owned())
}

pub(crate) fn redis_server() -> Result<PathBuf> {
    find("redis-server")
        .or_else(|| find("valkey-server"))
        .context("found no Redis server: install the package redis-server")
}

pub(crate) fn nginx() -> Result<PathBuf> {
    find("nginx").context("found no nginx: install the package nginx-light")
}

/// A Java that can run a Kafka broker.
pub(crate) fn java() -> Result<PathBuf> {
    let home = env::var_os("JAVA_HOME").map(|home| Path::new(&home).join("bin/java")).filter(|java| java.is_file());
    let java = home.or_else(|| find("java")).context("found no Java: install the package default-jre-headless")?;
    let output =
        Command::new(&java).arg("-version").output().with_context(|| format!("cannot run {}", java.display()))?;
    let text = String::from_utf8_lossy(&output.stderr);
    match java_version(&text) {
        Some(version) if version >= JAVA_VERSION_MIN => Ok(java),
        _ => bail!(
            "{} is not Java {JAVA_VERSION_MIN} or newer, which Kafka needs (it says {:?})",
            java.display(),
            text.lines().next().unwrap_or_default()
        ),
    }
}

pub(crate) fn maven() -> Result<PathBuf> {
    find("mvn").context("found no Maven: install the package maven")
}

fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SBIN.iter().map(PathBuf::from))
        .map(|dir| dir.join(OsStr::new(name)))
        .find(|candidate| candidate.is_file())
}

/// Reads `openjdk version "17.0.15" …`; a line before it may report JAVA_TOOL_OPTIONS.
fn java_version(text: &str) -> Option<u32> {
    let (_, version) = text.split_once(" version \"")?;
    version.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn java_tells_its_version_in_several_ways() {
        assert_eq!(java_version("openjdk version \"17.0.15\" 2025-04-15\nOpenJDK"), Some(17));
        assert_eq!(java_version("Picked up JAVA_TOOL_OPTIONS: -Xmx1g\nopenjdk version \"21\" 2023"), Some(21));
        assert_eq!(java_version("java version \"1.8.0_202\""), Some(1));
        assert_eq!(java_version("command not found"), None);
    }
}
