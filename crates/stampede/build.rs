//! The commit that is built, for `stampede --version`.

#![expect(clippy::disallowed_methods, reason = "these are no settings: they are read while it is built")]

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=STAMPEDE_COMMIT");
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = match std::env::var("STAMPEDE_COMMIT") {
        // An image is built without the repository's history.
        Ok(commit) if !commit.is_empty() => commit,
        _ if is_release => git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned()),
        // A build for development is not made anew for each commit, so it would name an old one.
        _ => "development".to_owned(),
    };
    if is_release && let Some(log) = git(&["rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    println!("cargo::rustc-env=STAMPEDE_COMMIT={commit}");
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
