//! Kafka's jars: brought by Maven once, then shared by every sandbox of this user.

use std::env;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::programs;

/// Pins every version, and says when the cache is out of date.
const POM: &str = include_str!("../pom.xml");

const FOLDER: &str = "kafka-4.3.0";

/// The folder with the jars, filled first if need be. Several processes may ask at once: one fills, the others wait.
///
/// Blocking, for as long as Maven takes.
pub(crate) fn fetch(data_dir: &Path) -> Result<PathBuf> {
    let cache = cache_dir(data_dir)?;
    let libs = cache.join("libs");
    if is_complete(&cache) {
        return Ok(libs);
    }
    let lock = open_lock(&cache)?;
    lock.lock()?;
    if is_complete(&cache) {
        return Ok(libs);
    }
    tracing::info!("Fetching Apache Kafka with Maven into {}", cache.display());
    if libs.exists() {
        fs::remove_dir_all(&libs)?;
    }
    let pom = cache.join("pom.xml");
    fs::write(&pom, POM)?;
    let mut maven = Command::new(programs::maven()?);
    maven
        .args(["-B", "-q", "-f"])
        .arg(&pom)
        .args(["dependency:copy-dependencies", "-DincludeScope=runtime"])
        .arg(format!("-DoutputDirectory={}", libs.display()));
    let output = maven.stdin(Stdio::null()).process_group(0).output().context("cannot start Maven")?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        bail!("Maven could not bring Kafka's jars ({}): {}", output.status, said.concat());
    }
    // Written last: without it the jars count as half there.
    fs::write(cache.join("complete"), POM)?;
    Ok(libs)
}

/// Whether the jars are there already, so that neither Maven nor a network is needed.
pub(crate) fn are_cached(data_dir: &Path) -> bool {
    cache_dir(data_dir).is_ok_and(|cache| is_complete(&cache))
}

/// The user's cache, or the data folder where the cache neither has the jars nor can be written to.
fn cache_dir(data_dir: &Path) -> Result<PathBuf> {
    let user_cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|dir| dir.is_absolute())
        .or_else(|| Some(env::home_dir()?.join(".cache")));
    if let Some(user_cache) = user_cache {
        let dir = user_cache.join("stampede").join(FOLDER);
        if is_complete(&dir) || (fs::create_dir_all(&dir).is_ok() && open_lock(&dir).is_ok()) {
            return Ok(dir);
        }
    }
    let dir = data_dir.join(FOLDER);
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

fn is_complete(cache: &Path) -> bool {
    fs::read_to_string(cache.join("complete")).is_ok_and(|pom| pom == POM)
}

fn open_lock(cache: &Path) -> Result<File> {
    let path = cache.join("lock");
    File::create(&path).with_context(|| format!("cannot open {}", path.display()))
}
