//! Cross-origin requests: which web sites may call us from a browser, and what their scripts may see of an answer.

use actix_cors::Cors;
use actix_web::http::header::{ETAG, HeaderName, LINK, LOCATION, RETRY_AFTER};

/// What scripts may read beside the few headers that browsers always show.
const EXPOSED: [HeaderName; 4] = [ETAG, LINK, LOCATION, RETRY_AFTER];
const EXPOSED_BY_NAME: [&str; 5] =
    ["Idempotent-Replayed", "RateLimit", "RateLimit-Policy", "X-Queue-Bypass", "X-Request-Id"];

/// Browsers keep the answer to a preflight for two hours at most, whatever we say.
const MAX_AGE_SECONDS: usize = 7200;

/// The answers to browsers. No origin is allowed unless `origins` names it. Tokens travel in a header of their own, so no
/// cookies are asked for.
pub fn cors(origins: &[String]) -> Cors {
    let origins = origins.to_vec();
    Cors::default()
        .allowed_origin_fn(move |origin, _| origin.to_str().is_ok_and(|origin| is_allowed(&origins, origin)))
        .allowed_methods(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
        .allow_any_header()
        .expose_headers(EXPOSED.iter().map(HeaderName::as_str).chain(EXPOSED_BY_NAME))
        .max_age(MAX_AGE_SECONDS)
}

/// Whether one of `allowed` is `origin`. One that ends in `:*` stands for all ports.
fn is_allowed(allowed: &[String], origin: &str) -> bool {
    allowed.iter().any(|allowed| match allowed.strip_suffix(":*") {
        Some(host) => origin.strip_prefix(host).is_some_and(|rest| {
            let port = rest.strip_prefix(':').filter(|port| !port.is_empty());
            rest.is_empty() || port.is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
        }),
        None => allowed == origin,
    })
}

/// What is wrong with an entry of the setting `http.allowed_origins`.
pub fn check_origin(origin: &str) -> Result<(), String> {
    let plain = origin.strip_suffix(":*").unwrap_or(origin);
    let parsed = plain.parse::<actix_web::http::Uri>().ok();
    let host = parsed.as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.authority()?)));
    match host {
        Some(("http" | "https", authority)) if plain.ends_with(authority.as_str()) && !plain.contains('@') => Ok(()),
        _ => Err(format!("{origin:?} is no origin; write it as https://shop.example.com, without a path")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_compared_as_a_whole() {
        let allowed = ["https://shop.example.com".to_owned(), "http://localhost:*".to_owned()];
        for (origin, is) in [
            ("https://shop.example.com", true),
            ("http://shop.example.com", false),
            ("https://shop.example.com.evil.com", false),
            ("https://shop.example.com:8443", false),
            ("http://localhost", true),
            ("http://localhost:5173", true),
            ("http://localhost:5173.evil.com", false),
            ("http://localhost.evil.com", false),
            ("http://localhost:", false),
            ("http://localhost5", false),
            ("null", false),
        ] {
            assert_eq!(is_allowed(&allowed, origin), is, "{origin}");
        }
    }

    #[test]
    fn an_entry_that_no_browser_sends_is_told() {
        for good in ["https://shop.example.com", "http://localhost:5173", "http://127.0.0.1:*"] {
            check_origin(good).unwrap();
        }
        for bad in ["*", "shop.example.com", "https://shop.example.com/", "https://a@b", "ftp://a", ""] {
            assert!(check_origin(bad).is_err(), "{bad}");
        }
    }
}
