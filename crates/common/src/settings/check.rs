//! What is wrong with settings, found out at start and all at once: each problem names its key and says what to write.

use config::{Config, Value, ValueKind};

use super::{collect, is_secret};
use crate::http::check_origin;

/// Of these there must be one at least; a limit of none would refuse everything.
const AT_LEAST_ONE: [&str; 10] = [
    "_timeout_ms",
    "deadline_ms",
    "connections_max",
    "batch_max",
    "requests_max",
    "lanes",
    "partitions",
    "replication_factor",
    "http_workers",
    "parallel",
];

/// Settings with a few values only.
const CHOICES: [(&str, &[&str]); 6] = [
    ("telemetry.log_format", &["auto", "json", "text"]),
    ("http.forwarded_header", &["x-forwarded-for", "forwarded"]),
    ("kafka.security", &["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"]),
    ("kafka.sasl_mechanism", &["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]),
    ("sandbox.kafka", &["auto", "apache", "embedded"]),
    ("notification_hub.default_language", &["ko", "en"]),
];

/// The problems of `given`, whose keys are all known to `default`.
pub(super) fn problems(default: &Config, given: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    collect("", &given.cache, &mut |key, value| {
        let expected = default.get::<Value>(key).ok();
        let wrong = wrong_kind(expected.as_ref().map(|expected| &expected.kind), &value.kind)
            .map(str::to_owned)
            .or_else(|| wrong_value(key, value));
        if let Some(wrong) = wrong {
            // An empty text and a number are no secrets, and help to find the mistake.
            let shown = if is_secret(key) { String::new() } else { format!(", not {}", written(value)) };
            problems.push(format!("{key} {wrong}{shown}"));
        }
    });
    problems.sort_unstable();
    problems
}

/// What is wrong with the ways to PostgreSQL, Redis, Kafka and other services: settings that do not fit together, and files
/// and keys that cannot be used. Settings that are `known` to be wrong are not told twice.
pub(super) fn server_problems(config: &Config, known: &[String]) -> Vec<String> {
    let mut problems = Vec::new();
    // A section with a value of the wrong kind cannot be looked at; that value is known to be wrong.
    problems.extend(config.get("postgres").iter().flat_map(crate::db::problems));
    problems.extend(config.get("redis").iter().flat_map(crate::redis::problems));
    problems.extend(config.get("kafka").iter().flat_map(crate::kafka::problems));
    problems.extend(config.get("rpc").iter().flat_map(crate::rpc::problems));
    let key = |problem: &String| problem.split(' ').next().map(str::to_owned);
    problems.retain(|problem| !known.iter().any(|known| key(known) == key(problem)));
    problems
}

fn wrong_kind(expected: Option<&ValueKind>, given: &ValueKind) -> Option<&'static str> {
    use ValueKind::{Array, Boolean, Float, I64, I128, String, U64, U128};
    match (expected?, given) {
        (I64(_), I64(number)) if *number < 0 => Some("must not be negative"),
        (I64(_), I64(_) | I128(_) | U64(_) | U128(_)) => None,
        (I64(_), _) => Some("must be a whole number"),
        (Float(_), Float(_) | I64(_)) | (Boolean(_), Boolean(_)) | (String(_), String(_)) | (Array(_), Array(_)) => {
            None
        }
        (Float(_), _) => Some("must be a number"),
        (Boolean(_), _) => Some("must be true or false"),
        (String(_), _) => Some("must be a text"),
        (Array(_), _) => Some("must be a list"),
        _ => None,
    }
}

fn wrong_value(key: &str, value: &Value) -> Option<String> {
    let name = key.rsplit('.').next().unwrap_or(key);
    match &value.kind {
        ValueKind::I64(0) if AT_LEAST_ONE.iter().any(|suffix| name.ends_with(suffix)) => {
            Some("must be at least 1".to_owned())
        }
        ValueKind::Array(origins) if key == "http.allowed_origins" => origins
            .iter()
            .find_map(|origin| check_origin(&origin.to_string()).err().map(|why| format!("is wrong: {why}"))),
        ValueKind::String(text) => wrong_text(key, name, text),
        _ => None,
    }
}

fn wrong_text(key: &str, name: &str, text: &str) -> Option<String> {
    if let Some((_, choices)) = CHOICES.iter().find(|(known, _)| *known == key) {
        return (!choices.contains(&text)).then(|| format!("must be one of {}", choices.join(", ")));
    }
    let schemes: &[&str] = match key {
        "postgres.url" => &["postgres", "postgresql"],
        "redis.url" => &["redis", "rediss"],
        "notification_hub.email.smtp_url" => &["smtp", "smtps"],
        _ => &["http", "https"],
    };
    let is_url = name == "url" || name.ends_with("_url") || name == "otlp_endpoint" || key.starts_with("upstreams.");
    if is_url {
        let scheme = text.split_once("://").filter(|(_, rest)| !rest.is_empty()).map(|(scheme, _)| scheme);
        let may_be_empty = !["postgres.url", "redis.url"].contains(&key);
        let fits = scheme.is_some_and(|scheme| schemes.contains(&scheme)) || (text.is_empty() && may_be_empty);
        return (!fits).then(|| format!("must be an address that begins with {}://", schemes[0]));
    }
    let is_address = |text: &str| {
        let parts = text.rsplit_once(':');
        parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    let fits = match key {
        "telemetry.log_filter" => tracing_subscriber::EnvFilter::try_new(text).is_ok(),
        "kafka.brokers" => text.split(',').all(|broker| is_address(broker.trim())),
        _ if name.ends_with("_listen") => is_address(text),
        _ => true,
    };
    let right = if key == "telemetry.log_filter" { "a filter such as info,common::outbox=debug" } else { "host:port" };
    (!fits).then(|| format!("must be {right}"))
}

fn written(value: &Value) -> String {
    match &value.kind {
        ValueKind::String(text) => format!("{text:?}"),
        _ => value.to_string(),
    }
}
