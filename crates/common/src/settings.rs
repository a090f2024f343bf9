//! Settings: `config/default.toml`, overridden by a file, then by `STAMPEDE__SECTION__KEY`. Unknown keys are errors.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};
use config::{Config, Environment, File, FileFormat, Value, ValueKind};
use serde::de::DeserializeOwned;

/// The reference manual, and the only place where a default is written.
const DEFAULT: &str = include_str!("../../../config/default.toml");

mod check;

/// The ends of keys whose values are never printed, but for the address of a server in them.
const SECRET_KEYS: [&str; 7] = ["password", "secret", "token", "token_key", "url", "demo_accounts", "upstreams"];

/// Whether the value of `key` may hold a secret.
fn is_secret(key: &str) -> bool {
    SECRET_KEYS.iter().any(|end| key.ends_with(end))
}

/// What is in force for this process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Settings {
    config: Config,
}

impl Settings {
    /// Reads the defaults, then `files` in turn, then the environment, then `overrides` (`"section.key"`, value).
    ///
    /// Fails with one message that names every key that `config/default.toml` does not know.
    pub fn load(files: &[&Path], overrides: &[(String, String)]) -> anyhow::Result<Settings> {
        Settings::load_with_defaults("", files, overrides)
    }

    /// [`Settings::load`], with `text` (TOML) between the defaults and `files`.
    pub fn load_with_defaults(text: &str, files: &[&Path], overrides: &[(String, String)]) -> anyhow::Result<Settings> {
        let default = Config::builder().add_source(File::from_str(DEFAULT, FileFormat::Toml)).build()?;

        let mut above = Config::builder().add_source(File::from_str(text, FileFormat::Toml));
        for file in files {
            above = above.add_source(File::from(*file).format(FileFormat::Toml));
        }
        above = above.add_source(environment(&default)?);
        for (key, value) in overrides {
            above = above.set_override(key, typed(&default, key, value)).with_context(|| format!("setting {key}"))?;
        }
        let above = above.build()?;

        let known = leaves(&default);
        let unknown: Vec<_> = leaves(&above).into_keys().filter(|key| !is_known(&known, key)).collect();
        if !unknown.is_empty() {
            bail!("unknown settings: {} (config/default.toml lists them all)", unknown.join(", "));
        }
        let mut problems = check::problems(&default, &above);
        let config = Config::builder().add_source(default).add_source(above).build()?;
        problems.extend(check::server_problems(&config, &problems));
        if !problems.is_empty() {
            bail!("settings that cannot work (config/default.toml explains them):\n  {}", problems.join("\n  "));
        }
        Ok(Settings { config })
    }

    /// The defaults alone.
    pub fn defaults() -> anyhow::Result<Settings> {
        Ok(Settings { config: Config::builder().add_source(File::from_str(DEFAULT, FileFormat::Toml)).build()? })
    }

    /// The section `name`, typed. The structs deny unknown fields, so a key that nobody reads is an error here.
    pub fn section<T: DeserializeOwned>(&self, name: &str) -> anyhow::Result<T> {
        self.config
            .get(name)
            .map_err(|error| anyhow::anyhow!("settings section [{name}]: {}", self.scrub(&error.to_string())))
    }

    /// `message` without the secrets that it quotes.
    fn scrub(&self, message: &str) -> String {
        let mut secrets = Vec::new();
        collect("", &self.config.cache, &mut |key, value| {
            if is_secret(key) {
                match &value.kind {
                    ValueKind::Array(items) => secrets.extend(items.iter().map(Value::to_string)),
                    _ => secrets.push(value.to_string()),
                }
            }
        });
        secrets.retain(|secret| !secret.is_empty());
        secrets.iter().fold(message.to_owned(), |message, secret| message.replace(secret.as_str(), "***"))
    }

    /// Every setting in force as `section.key = value`, in alphabetical order, secrets masked.
    pub fn lines(&self) -> Vec<String> {
        leaves(&self.config)
            .into_iter()
            .map(|(key, value)| {
                // The address of an incoming webhook is itself the secret.
                let shown = match is_secret(&key) {
                    true if key.ends_with("slack.url") && !value.is_empty() => "***".to_owned(),
                    true => mask(&value),
                    false => value,
                };
                format!("{key} = {shown}")
            })
            .collect()
    }
}

/// `STAMPEDE__SECTION__KEY`, and `STAMPEDE__SECTION__KEY_FILE` for secrets that are mounted as files.
fn environment(default: &Config) -> anyhow::Result<Config> {
    let mut found = Config::builder();
    let variables = Config::builder()
        .add_source(Environment::with_prefix("STAMPEDE").prefix_separator("__").separator("__"))
        .build()?;
    let known = leaves(default);
    for (key, value) in leaves(&variables) {
        let file_of = key.strip_suffix("_file").filter(|_| !known.contains_key(&key));
        let (key, value) = match file_of {
            Some(plain) => {
                let text =
                    std::fs::read_to_string(&value).with_context(|| format!("setting {plain} from file {value}"))?;
                (plain.to_owned(), text.trim_end().to_owned())
            }
            None => (key, value),
        };
        found = found.set_override(&key, typed(default, &key, &value))?;
    }
    Ok(found.build()?)
}

/// `value` as the type that the default has, so that a password of digits stays a text and `true` becomes a flag.
fn typed(default: &Config, key: &str, value: &str) -> Value {
    let text = || ValueKind::String(value.to_owned());
    let kind = match default.get::<Value>(key).map(|value| value.kind) {
        Ok(ValueKind::Array(_)) => {
            let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
            ValueKind::Array(items.map(|item| Value::new(None, item.to_owned())).collect())
        }
        Ok(ValueKind::Boolean(_)) => value.parse().map_or_else(|_| text(), ValueKind::Boolean),
        Ok(ValueKind::I64(_)) => value.parse().map_or_else(|_| text(), ValueKind::I64),
        Ok(ValueKind::Float(_)) => value.parse().map_or_else(|_| text(), ValueKind::Float),
        _ => text(),
    };
    Value::new(None, kind)
}

/// Tables of free names (`[upstreams]` may name any service) are known as a whole.
fn is_known(known: &BTreeMap<String, String>, key: &str) -> bool {
    known.contains_key(key) || ["upstreams.", "rpc.public_keys."].iter().any(|table| key.starts_with(table))
}

/// Every leaf as (`section.key`, text). An array of tables is one leaf.
fn leaves(config: &Config) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    collect("", &config.cache, &mut |key, value| drop(found.insert(key.to_owned(), value.to_string())));
    found
}

/// Calls `found` with each leaf and its `section.key`.
fn collect(prefix: &str, value: &Value, found: &mut impl FnMut(&str, &Value)) {
    match &value.kind {
        ValueKind::Table(table) => {
            for (key, value) in table {
                let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                collect(&path, value, found);
            }
        }
        _ => found(prefix, value),
    }
}

/// `***`, except that of an address its scheme, host and path are no secrets. What stands before `@` and behind `?` may be.
fn mask(value: &str) -> String {
    match value.split_once("://") {
        Some((scheme, rest)) => {
            let (rest, query) = match rest.split_once('?') {
                Some((rest, _)) => (rest, "?***"),
                None => (rest, ""),
            };
            match rest.rsplit_once('@') {
                Some((_, address)) => format!("{scheme}://***@{address}{query}"),
                // Of a password with a question mark, which should be written as %3F, the first half would be shown.
                None if value.contains('@') => format!("{scheme}://***"),
                None => format!("{scheme}://{rest}{query}"),
            }
        }
        None if value.is_empty() => String::new(),
        None => "***".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(overrides: &[(&str, &str)]) -> anyhow::Result<Settings> {
        let overrides: Vec<_> = overrides.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Settings::load(&[], &overrides)
    }

    #[test]
    fn of_an_address_nothing_is_shown_that_may_be_a_password() {
        for (address, shown) in [
            ("postgres://ann:secret@db:5432/shop?sslpassword=secret", "postgres://***@db:5432/shop?***"),
            ("postgres://db/shop", "postgres://db/shop"),
            ("postgres://ann:se?cret@db/shop", "postgres://***"),
            ("postgres://db/shop?user=ann@home", "postgres://***"),
            ("secret", "***"),
        ] {
            assert_eq!(mask(address), shown, "{address}");
        }
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let error = load(&[("host.htpp_listen", "127.0.0.1:1")]).unwrap_err().to_string();
        assert!(error.contains("host.htpp_listen"), "{error}");
    }

    #[test]
    fn an_override_takes_the_type_of_the_default() {
        let settings = load(&[("postgres.connections_max", "3"), ("postgres.url", "postgres://u:12345@h/d")]).unwrap();
        let postgres: crate::db::DbSettings = settings.section("postgres").unwrap();
        assert_eq!(postgres.connections_max, 3);
    }

    #[test]
    fn values_that_can_never_work_are_told_all_at_once() {
        for (key, value, told) in [
            ("postgres.connections_max", "many", "postgres.connections_max must be a whole number, not \"many\""),
            ("postgres.connections_max", "0", "postgres.connections_max must be at least 1, not 0"),
            ("host.http_workers", "-1", "host.http_workers must not be negative, not -1"),
            ("host.migrate", "yes", "host.migrate must be true or false, not \"yes\""),
            ("host.http_listen", "8080", "host.http_listen must be host:port, not \"8080\""),
            ("kafka.brokers", "kafka", "kafka.brokers must be host:port, not \"kafka\""),
            ("postgres.url", "host=h password=hunter2", "postgres.url must be an address that begins with postgres://"),
            ("upstreams.order", "order:9090", "upstreams.order must be an address that begins with http://"),
            ("telemetry.log_filter", "a=b=c", "telemetry.log_filter must be a filter"),
            ("telemetry.log_format", "xml", "telemetry.log_format must be one of auto, json, text, not \"xml\""),
            ("http.allowed_origins", "https://a.example/", "http.allowed_origins is wrong"),
            ("rpc.token_key", "hunter2", "rpc.token_key cannot be used: it is no private key"),
            ("rpc.public_keys.order", "hunter2", "rpc.public_keys.order cannot be used: a public key"),
        ] {
            let error = load(&[(key, value)]).unwrap_err().to_string();
            assert!(error.contains(told), "{key} = {value}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let error = load(&[("order.lines_max", "x"), ("host.migrate", "y")]).unwrap_err().to_string();
        assert!(error.contains("order.lines_max") && error.contains("host.migrate"), "{error}");
    }

    #[test]
    fn secrets_are_not_printed() {
        let settings = load(&[("postgres.url", "postgres://u:hunter2@localhost/d")]).unwrap();
        let lines = settings.lines().join("\n");
        assert!(lines.contains("postgres.url = postgres://***@localhost/d"), "{lines}");
        assert!(!lines.contains("hunter2"));
        let key = crate::rpc::key_of([7; 32]);
        let lines = load(&[("rpc.token_key", &key)]).unwrap().lines().join("\n");
        assert!(lines.contains("rpc.token_key = ***") && !lines.contains(&key), "{lines}");
    }

    #[test]
    fn secrets_are_not_printed_however_they_are_written() {
        for (key, value) in [
            ("postgres.url", "postgres://u:hunter2@h/d"),
            ("postgres.url", "postgres://h/d?user=u&password=hunter2"),
            ("postgres.url", "postgres://u:p@hunter2@h/d"),
            ("notification_hub.slack.url", "https://hooks.slack.com/services/hunter2"),
            ("payment.webhooks.naverpay_secret", "hunter2,other"),
            ("account.demo_accounts", "ADMIN:a@example.com:A:hunter2"),
        ] {
            let lines = load(&[(key, value)]).unwrap().lines().join("\n");
            assert!(!lines.contains("hunter2"), "{key} = {value}");
        }
        // A list that is written as a text.
        let file = "[payment.webhooks]\nnaverpay_secret = \"hunter2\"";
        let error = format!("{:#}", Settings::load_with_defaults(file, &[], &[]).unwrap_err());
        assert!(
            error.contains("payment.webhooks.naverpay_secret must be a list") && !error.contains("hunter2"),
            "{error}"
        );
        // A text that the section's own type does not take.
        #[derive(Debug, serde::Deserialize)]
        struct Numbers {
            #[expect(dead_code, reason = "it cannot be read")]
            url: u64,
        }
        let error = load(&[("redis.url", "redis://:hunter2@h")]).unwrap().section::<Numbers>("redis").unwrap_err();
        assert!(!format!("{error:#}").contains("hunter2"), "{error:#}");
    }
}
