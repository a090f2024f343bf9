//! `postgres.url`: libpq's words for TLS, which the driver does not all know, and how they say whom we trust.

use std::path::PathBuf;

use form_urlencoded::parse;
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::tls::{self, Verify};

/// The parameters that are ours to read. The driver gets all others.
const OURS: [&str; 4] = ["sslmode", "sslrootcert", "sslcert", "sslkey"];
const MODES: [&str; 5] = ["disable", "prefer", "require", "verify-ca", "verify-full"];

/// What a URL says: where the server is, and what it has to prove.
pub(super) struct ServerUrl {
    pub(super) config: Config,
    /// None: without TLS.
    tls: Option<Tls>,
    /// `host:port`, for messages.
    pub(super) address: String,
}

struct Tls {
    mode: String,
    root: Root,
    /// The files of our certificate and its key.
    identity: Option<(PathBuf, PathBuf)>,
}

enum Root {
    /// The server is not checked.
    Any,
    System,
    File(PathBuf),
}

impl ServerUrl {
    /// An error is what is wrong, without the URL: a mistake in it may be a part of the password.
    pub(super) fn read(url: &str) -> Result<ServerUrl, String> {
        let (rest, query) = split(url);
        // A plus is no space here.
        let query = query.replace('+', "%2B");
        let is_ours = |pair: &str| OURS.contains(&pair.split('=').next().unwrap_or_default());
        let [mut mode, mut root, mut certificate, mut key] = [const { String::new() }; 4];
        for (name, value) in parse(query.as_bytes()) {
            match &*name {
                "sslmode" => mode = value.into_owned(),
                "sslrootcert" => root = value.into_owned(),
                "sslcert" => certificate = value.into_owned(),
                "sslkey" => key = value.into_owned(),
                _ => {}
            }
        }
        let driver: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty() && !is_ours(pair)).collect();
        let mut config: Config = format!("{rest}?{}", driver.join("&")).parse().map_err(|_| {
            "is no address of PostgreSQL: write postgres://user:password@host:port/database, parameters that libpq knows, \
             and special characters in the user and the password as %40"
                .to_owned()
        })?;
        if mode.is_empty() {
            // As libpq has it: who trusts the roots of the system wants the server checked.
            mode = if root == "system" { "verify-full" } else { "prefer" }.to_owned();
        }
        let tls = Tls::read(mode, &root, [&certificate, &key])?;
        config.ssl_mode(match tls.as_ref().map(|tls| tls.mode.as_str()) {
            None => SslMode::Disable,
            Some("prefer") => SslMode::Prefer,
            Some(_) => SslMode::Require,
        });
        Ok(ServerUrl { config, tls, address: address_of(url).to_owned() })
    }

    /// What is wrong with a URL and the files that it names.
    pub(super) fn problem(url: &str) -> Option<String> {
        match ServerUrl::read(url) {
            Ok(server) => server.connector().err().map(|wrong| format!("{wrong:#}")),
            Err(wrong) => Some(wrong),
        }
    }

    /// TLS as the URL asks for it. Reads the files: a certificate that was replaced counts from the next connection on.
    pub(super) fn connector(&self) -> anyhow::Result<Option<MakeRustlsConnect>> {
        let Some(tls) = &self.tls else { return Ok(None) };
        let roots = match &tls.root {
            Root::Any => None,
            Root::System => Some(tls::system_roots()?),
            Root::File(path) => {
                Some(tls::roots(path).map_err(|wrong| wrong.context("has an sslrootcert that cannot be used"))?)
            }
        };
        let verify = match (roots, tls.mode.as_str()) {
            (None, _) => Verify::Nothing,
            (Some(roots), "verify-full") => Verify::AuthorityAndName(roots),
            (Some(roots), _) => Verify::Authority(roots),
        };
        let identity = tls.identity.as_ref().map(|(certificate, key)| tls::identity(certificate, key)).transpose();
        let identity = identity.map_err(|wrong| wrong.context("has an sslcert and an sslkey that cannot be used"))?;
        Ok(Some(MakeRustlsConnect::new(tls::client_config(&verify, identity)?)))
    }

    /// How this server is checked, for messages.
    pub(super) fn trust(&self) -> String {
        let Some(tls) = &self.tls else { return "sslmode=disable".to_owned() };
        let root = match &tls.root {
            Root::Any => String::new(),
            Root::System => ", sslrootcert=system".to_owned(),
            Root::File(path) => format!(", sslrootcert={}", path.display()),
        };
        let identity = match &tls.identity {
            Some((certificate, _)) => format!(", sslcert={}", certificate.display()),
            None => ", no sslcert".to_owned(),
        };
        format!("sslmode={}{root}{identity}", tls.mode)
    }
}

impl Tls {
    fn read(mode: String, root: &str, [certificate, key]: [&str; 2]) -> Result<Option<Tls>, String> {
        let root = match (mode.as_str(), root) {
            (other, _) if !MODES.contains(&other) => {
                return Err(format!("has an sslmode that is none of {}", MODES.join(", ")));
            }
            ("verify-full", "" | "system") => Root::System,
            ("verify-ca", "") => {
                return Err("has sslmode=verify-ca, which needs sslrootcert: the file of the authorities".to_owned());
            }
            (_, "system") => return Err("has sslrootcert=system, which needs sslmode=verify-full".to_owned()),
            ("disable" | "prefer" | "require", "") => Root::Any,
            ("disable" | "prefer", _) => {
                return Err(format!(
                    "has an sslrootcert, which sslmode={mode} does not look at; write sslmode=verify-full"
                ));
            }
            (_, file) => Root::File(file.into()),
        };
        let identity = match (certificate, key) {
            ("", "") => None,
            ("", _) | (_, "") => return Err("needs both sslcert and sslkey, or none of them".to_owned()),
            _ if mode == "disable" => return Err("has an sslcert, and sslmode=disable".to_owned()),
            _ => Some((certificate.into(), key.into())),
        };
        Ok((mode != "disable").then_some(Tls { mode, root, identity }))
    }
}

/// The URL without its parameters, and these. As the driver has it, the user and the password go up to the first `@`.
fn split(url: &str) -> (&str, &str) {
    let host = url.find('@').unwrap_or_default();
    match url[host..].find('?') {
        Some(mark) => (&url[..host + mark], &url[host + mark + 1..]),
        None => (url, ""),
    }
}

/// `host:port` of a URL, for messages: without name, password, database and options.
fn address_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust(parameters: &str) -> String {
        let server = ServerUrl::read(&format!("postgres://u:p%40@db:5432/d?{parameters}"));
        server.map_or_else(|wrong| wrong, |server| server.trust())
    }

    #[test]
    fn an_address_is_told_without_what_is_secret() {
        for url in ["postgres://u:hunter2@db:5432/d?options=x", "postgres://db:5432", "postgres://u:a@b/c@db:5432/d"] {
            assert_eq!(address_of(url), "db:5432", "{url}");
        }
    }

    #[test]
    fn the_words_of_libpq_say_whom_we_trust() {
        for (parameters, expected) in [
            ("", "sslmode=prefer, no sslcert"),
            ("sslmode=disable&connect_timeout=1", "sslmode=disable"),
            ("sslmode=require", "sslmode=require, no sslcert"),
            ("sslmode=require&sslrootcert=/a+b.pem", "sslmode=require, sslrootcert=/a+b.pem, no sslcert"),
            ("sslrootcert=%2Fa.pem&sslmode=verify-ca", "sslmode=verify-ca, sslrootcert=/a.pem, no sslcert"),
            ("sslmode=verify-full&sslcert=c&sslkey=k", "sslmode=verify-full, sslrootcert=system, sslcert=c"),
            ("sslrootcert=system", "sslmode=verify-full, sslrootcert=system, no sslcert"),
        ] {
            assert_eq!(trust(parameters), expected, "{parameters}");
        }
    }

    #[test]
    fn words_that_would_trust_less_than_they_seem_to_are_refused() {
        for (parameters, told) in [
            ("sslmode=verify_full", "none of disable, prefer, require, verify-ca, verify-full"),
            ("sslmode=allow", "none of disable"),
            ("sslmode=verify-ca", "needs sslrootcert"),
            ("sslrootcert=/a.pem", "sslmode=prefer does not look at"),
            ("sslmode=disable&sslrootcert=/a.pem", "sslmode=disable does not look at"),
            ("sslmode=require&sslrootcert=system", "needs sslmode=verify-full"),
            ("sslmode=require&sslcert=c", "both sslcert and sslkey"),
            ("sslmode=disable&sslcert=c&sslkey=k", "sslmode=disable"),
            ("sslmodus=require", "is no address of PostgreSQL"),
        ] {
            assert!(trust(parameters).contains(told), "{parameters}: {}", trust(parameters));
        }
    }

    #[test]
    fn a_mistake_in_a_url_is_told_without_quoting_it() {
        for url in ["postgres://u:hunter2@db:5432/d?hunter2=1", "postgres://u:hunter2@db:hunter2/d"] {
            let told = ServerUrl::problem(url).unwrap();
            assert!(told.contains("no address") && !told.contains("hunter2"), "{told}");
        }
    }
}
