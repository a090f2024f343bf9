//! The `Idempotency-Key` header and the fingerprint that tells a retry from another request under the same key.
//!
//! There is no table of keys: what a request creates has an id derived from the account and the key, so every retry
//! names the same row, for ever. The row carries the fingerprint.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::error::{Error, IDEMPOTENCY_KEY_REQUIRED, IDEMPOTENCY_KEY_REUSED, Refused};

/// The header of a request that creates something.
pub const HEADER: &str = "Idempotency-Key";
/// Marks an answer that was given before.
pub const REPLAYED_HEADER: &str = "Idempotent-Replayed";

/// Longer keys are refused: a key is an id, not a document.
const LENGTH_MAX: usize = 255;

/// A client-chosen name for one intent: 1 to 255 visible ASCII characters, bare or as a quoted structured-field string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    pub fn parse(value: &[u8]) -> Result<Self, Refused> {
        let bare = match value {
            [b'"', inner @ .., b'"'] => inner,
            bare => bare,
        };
        let valid = (1..=LENGTH_MAX).contains(&bare.len()) && bare.iter().all(|b| b.is_ascii_graphic() && *b != b'"');
        if !valid {
            let message = format!("{HEADER} must be 1 to {LENGTH_MAX} visible ASCII characters");
            return Err(Refused::invalid(HEADER, message));
        }
        Ok(Self(bare.iter().map(|b| char::from(*b)).collect()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl FromRequest for IdempotencyKey {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let mut values = request.headers().get_all(HEADER);
        ready(match (values.next(), values.next()) {
            (None, _) => {
                Err(Refused::new(IDEMPOTENCY_KEY_REQUIRED, format!("The {HEADER} header is required here.")).into())
            }
            (Some(_), Some(_)) => Err(Refused::invalid(HEADER, format!("{HEADER} must be sent once")).into()),
            (Some(value), None) => Self::parse(value.as_bytes()).map_err(Error::from),
        })
    }
}

/// SHA-256 over the validated request, behind one byte of version.
///
/// The version belongs to the shape of the request: a deploy that adds a field raises it, and [`same_request`]
/// compares only fingerprints of one version, so that the deploy does not turn retries into refusals.
pub fn fingerprint(version: u8, request: &impl Serialize) -> Vec<u8> {
    let canonical = serde_json::to_vec(request).expect("a request that came from JSON can be written as JSON");
    let mut fingerprint = vec![version];
    fingerprint.extend_from_slice(&Sha256::digest(&canonical));
    fingerprint
}

/// Refuses with `IDEMPOTENCY_KEY_REUSED` when `stored` and `presented` are of one version and differ.
pub fn same_request(stored: &[u8], presented: &[u8]) -> Result<(), Refused> {
    if stored.first() == presented.first() && stored != presented {
        return Err(reused());
    }
    Ok(())
}

/// The refusal of another request under a key that is taken.
pub fn reused() -> Refused {
    Refused::new(
        IDEMPOTENCY_KEY_REUSED,
        "This Idempotency-Key was used for another request; use a new key for a new intent.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_key_is_the_same_key() {
        assert_eq!(IdempotencyKey::parse(b"\"abc-1\"").unwrap(), IdempotencyKey::parse(b"abc-1").unwrap());
        let long = [b'a'; 256];
        for bad in [&b""[..], b"\"\"", b"a b", b"a\"b", "\u{ac00}".as_bytes(), b"a\0b", &long] {
            assert!(IdempotencyKey::parse(bad).is_err(), "{bad:?}");
        }
        assert!(IdempotencyKey::parse(&long[..255]).is_ok());
    }

    #[test]
    fn another_body_is_told_from_a_retry_but_not_across_versions() {
        let first = fingerprint(1, &serde_json::json!({ "quantity": 1 }));
        assert!(same_request(&first, &fingerprint(1, &serde_json::json!({ "quantity": 1 }))).is_ok());
        assert!(same_request(&first, &fingerprint(1, &serde_json::json!({ "quantity": 2 }))).is_err());
        assert!(same_request(&first, &fingerprint(2, &serde_json::json!({ "quantity": 1 }))).is_ok());
    }
}
