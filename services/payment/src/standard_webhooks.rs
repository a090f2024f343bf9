//! Standard Webhooks: whether a request was signed within the last minutes by somebody who knows the secret.
//!
//! The signature is HMAC-SHA256 over `id.timestamp.body`, the body byte for byte as it was received. The crate
//! `standardwebhooks` 1.0 is no replacement: it fails several of `cases.rs` (bodies that are not UTF-8, repeated headers, a
//! second spelling of a time, ids with a full stop) and reads the clock itself.

use actix_web::http::header::HeaderMap;
use anyhow::{Context as _, ensure};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use secrecy::{ExposeSecret, SecretString};

/// How far the sender's clock and ours may differ, and for how long a recorded request can be replayed.
const TOLERANCE: TimeDelta = TimeDelta::minutes(5);

/// The standard asks for as much: shorter secrets can be guessed.
const SECRET_BYTES_MIN: usize = 24;

/// We store ids, so their length is limited.
const ID_CHARS_MAX: usize = 128;

/// Seconds since 1970 have ten digits until the year 2286.
const TIMESTAMP_DIGITS_MAX: usize = 10;

/// A sender that changes its secret signs with two.
const SIGNATURES_MAX: usize = 8;

const SECRET_PREFIX: &str = "whsec_";
/// The scheme for shared secrets.
const SIGNATURE_PREFIX: &str = "v1,";

/// What a sender signs with: several while one is being replaced.
pub struct Secrets(Vec<hmac::Key>);

impl Secrets {
    /// Each is `whsec_` and base64, as senders print them. Without any, every signature is refused.
    pub fn parse(texts: &[SecretString]) -> anyhow::Result<Secrets> {
        let key = |text: &SecretString| {
            // No cause in the error: it would quote the secret.
            let encoded = text.expose_secret().strip_prefix(SECRET_PREFIX);
            let bytes = encoded.and_then(|encoded| STANDARD.decode(encoded).ok());
            let bytes = bytes.context("a webhook secret is `whsec_` and base64")?;
            ensure!(bytes.len() >= SECRET_BYTES_MIN, "a webhook secret has {SECRET_BYTES_MIN} bytes or more");
            Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
        };
        Ok(Secrets(texts.iter().map(key).collect::<anyhow::Result<_>>()?))
    }
}

/// Why a request is refused. The sender is not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    #[error("a header is missing, repeated, too long or not plain ASCII")]
    Header,
    #[error("the timestamp is no time")]
    Timestamp,
    #[error("too old")]
    Stale,
    #[error("from the future")]
    Future,
    #[error("no signature matches")]
    Signature,
}

/// The request's id, if one of `secrets` signed it within [`TOLERANCE`] of `now`.
pub fn verify<'a>(
    headers: &'a HeaderMap,
    body: &[u8],
    secrets: &Secrets,
    now: DateTime<Utc>,
) -> Result<&'a str, Unverified> {
    let id = only(headers, "webhook-id")?;
    let timestamp = only(headers, "webhook-timestamp")?;
    let signatures = only(headers, "webhook-signature")?;
    // A full stop in an id would let the same bytes be read as another id, time and body.
    let plain = |character: char| character.is_ascii_graphic() && character != '.';
    if id.is_empty() || id.len() > ID_CHARS_MAX || !id.chars().all(plain) {
        return Err(Unverified::Header);
    }
    let age = now.signed_duration_since(time(timestamp)?);
    if age > TOLERANCE {
        return Err(Unverified::Stale);
    }
    if age < -TOLERANCE {
        return Err(Unverified::Future);
    }
    let presented = || signatures.split(' ').filter_map(signature).take(SIGNATURES_MAX);
    let matches = |key: &hmac::Key| {
        let expected = sign(key, id, timestamp, body);
        presented().any(|presented| verify_slices_are_equal(&presented, expected.as_ref()).is_ok())
    };
    if secrets.0.iter().any(matches) { Ok(id) } else { Err(Unverified::Signature) }
}

/// The value of a header that is sent once. Of two, a proxy and we might each use another.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, Unverified> {
    let mut values = headers.get_all(name);
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().map_err(|_| Unverified::Header),
        _ => Err(Unverified::Header),
    }
}

/// Digits only: a sign, a space or a fraction would be a second spelling of the same time.
fn time(text: &str) -> Result<DateTime<Utc>, Unverified> {
    let is_number = (1..=TIMESTAMP_DIGITS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = is_number.then(|| text.parse().ok()).flatten();
    seconds.and_then(|seconds| DateTime::from_timestamp(seconds, 0)).ok_or(Unverified::Timestamp)
}

/// The bytes of one signature; None for another scheme, and for what is no base64.
fn signature(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text.strip_prefix(SIGNATURE_PREFIX)?).ok()
}

fn sign(key: &hmac::Key, id: &str, timestamp: &str, body: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        context.update(part);
    }
    context.sign()
}

#[cfg(test)]
pub mod cases;

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::cases::{OLD_SECRET, SECRET, cases};
    use super::*;

    fn secrets(texts: &[&str]) -> anyhow::Result<Secrets> {
        Secrets::parse(&texts.iter().map(|text| SecretString::from(*text)).collect::<Vec<_>>())
    }

    fn verified(case: &cases::Case, secrets: &Secrets, now: DateTime<Utc>) -> Result<String, Unverified> {
        let mut headers = HeaderMap::new();
        for (name, value) in &case.headers {
            headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
        }
        verify(&headers, &case.body, secrets, now).map(str::to_owned)
    }

    #[test]
    fn only_a_request_with_a_right_signature_is_accepted() {
        let now = DateTime::from_timestamp(1_763_712_000, 0).unwrap();
        let both = secrets(&[SECRET, OLD_SECRET]).unwrap();
        let cases = cases(now, "cb4ee9f4-0ac5-53ec-a4bf-6f5f7cbb3d35");
        assert!(cases.iter().filter(|case| !case.is_good).count() >= 30);
        for case in cases {
            assert_eq!(verified(&case, &both, now).is_ok(), case.is_good, "{}", case.name);
        }
    }

    #[test]
    fn the_tolerance_ends_to_the_second() {
        let now = DateTime::from_timestamp(1_763_712_000, 0).unwrap();
        let secrets = secrets(&[SECRET]).unwrap();
        let case = cases::signed_at("a case", now, "msg_1", b"{}");
        for (seconds, expected) in [
            (-301, Err(Unverified::Future)),
            (-300, Ok("msg_1".to_owned())),
            (300, Ok("msg_1".to_owned())),
            (301, Err(Unverified::Stale)),
        ] {
            assert_eq!(verified(&case, &secrets, now + TimeDelta::seconds(seconds)), expected, "{seconds}");
        }
    }

    #[test]
    fn a_withdrawn_secret_is_refused_and_without_secrets_everybody_is() {
        let now = DateTime::from_timestamp(1_763_712_000, 0).unwrap();
        let case = cases::signed_at("a case", now, "msg_1", b"{}");
        assert_eq!(verified(&case, &secrets(&[OLD_SECRET]).unwrap(), now), Err(Unverified::Signature));
        assert_eq!(verified(&case, &secrets(&[]).unwrap(), now), Err(Unverified::Signature));
    }

    #[test]
    fn a_published_example_is_accepted() {
        // Of the reference implementations' own tests.
        let now = DateTime::from_timestamp(1_614_265_330, 0).unwrap();
        let case = cases::Case {
            name: "published",
            is_good: true,
            headers: vec![
                ("webhook-id", b"msg_p5jXN8AQM9LWM0D4loKWxJek".to_vec()),
                ("webhook-timestamp", b"1614265330".to_vec()),
                ("webhook-signature", b"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=".to_vec()),
            ],
            body: br#"{"test": 2432232314}"#.to_vec(),
        };
        let published = secrets(&["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]).unwrap();
        assert!(verified(&case, &published, now).is_ok());
    }

    #[test]
    fn a_malformed_secret_is_found_at_start() {
        for text in ["", "whsec_", "whsec_AAAA", "whsec_!!!!", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
            let error = secrets(&[text]).err().unwrap().to_string();
            assert!(text.len() < 7 || !error.contains(&text[6..]), "{error}");
        }
    }
}
