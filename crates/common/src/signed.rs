//! Signed statements that are no access tokens: what one service says, and whoever knows its public key can check without
//! asking it.
//!
//! Each kind has a type of its own, and each statement an audience, so that none works in another's place.

use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use quick_cache::sync::Cache as Memory;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::auth::LEEWAY_SECONDS;
use crate::error::{Error, Result};

/// Ours are about 400 bytes; whatever is longer is not worth decoding.
const TOKEN_BYTES_MAX: usize = 1024;

/// What a statement says. All are required.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// What it is about: `event:<id>`.
    pub aud: String,
    /// The account that it is for.
    pub sub: Uuid,
    /// Its own name.
    pub jti: String,
    /// Unix seconds, as is `exp`.
    pub iat: u64,
    pub exp: u64,
}

/// Why a statement is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// Not signed by this key, or of another type, audience or account, or no statement at all.
    Invalid,
    Expired,
}

/// The header that our statements have. Any other member and a missing one make the token unreadable.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatementHeader {
    alg: String,
    typ: String,
}

/// An Ed25519 key that signs statements. Cheap to clone. Reading it costs as much as a signature, so it is read once.
#[derive(Clone)]
pub struct SigningKey(Arc<Ed25519KeyPair>);

impl SigningKey {
    /// Version 1 of PKCS #8 has no public half, version 2 may have.
    pub fn from_pkcs8(private: &[u8]) -> Result<SigningKey> {
        Ok(SigningKey(Arc::new(Ed25519KeyPair::from_pkcs8_maybe_unchecked(private).map_err(Error::fault)?)))
    }

    /// The public half, as services tell each other.
    pub fn public_text(&self) -> String {
        public_text(self.0.public_key().as_ref())
    }

    /// RFC 7515, section 7.1. The library's own function reads the key anew for each signature.
    pub fn sign(&self, typ: &str, statement: &impl Serialize) -> Result<String> {
        let header = Header { typ: Some(typ.to_owned()), ..Header::new(Algorithm::EdDSA) };
        let mut token = String::with_capacity(TOKEN_BYTES_MAX / 2);
        URL_SAFE_NO_PAD.encode_string(serde_json::to_vec(&header).map_err(Error::fault)?, &mut token);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(serde_json::to_vec(statement).map_err(Error::fault)?, &mut token);
        let signature = self.0.sign(token.as_bytes());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.as_ref(), &mut token);
        Ok(token)
    }
}

/// The public half: 32 bytes.
#[derive(Clone)]
pub struct VerifyingKey {
    public: Vec<u8>,
    key: DecodingKey,
}

impl VerifyingKey {
    pub fn from_public(public: &[u8]) -> VerifyingKey {
        VerifyingKey { public: public.to_vec(), key: DecodingKey::from_ed_der(public) }
    }

    /// As services tell each other: base64url.
    pub fn from_text(public: &str) -> Result<VerifyingKey> {
        let bytes = URL_SAFE_NO_PAD.decode(public).map_err(Error::fault)?;
        Ok(Self::from_public(&bytes))
    }

    /// What `token` says, if it is of type `typ`, about `audience`, for `subject`, and its time is not up at `now`.
    pub fn verify(
        &self,
        typ: &str,
        audience: &str,
        subject: Uuid,
        token: &str,
        now: u64,
    ) -> std::result::Result<Statement, Rejected> {
        let statement: Statement = self.read(typ, token)?;
        statement.check(audience, subject, now)?;
        Ok(statement)
    }

    /// What `token` says, if it is of type `typ` and this key has signed it.
    pub(crate) fn read<T: DeserializeOwned>(&self, typ: &str, token: &str) -> std::result::Result<T, Rejected> {
        if token.len() > TOKEN_BYTES_MAX || !has_header(token, typ) {
            return Err(Rejected::Invalid);
        }
        let mut validation = Validation::new(Algorithm::EdDSA);
        // The time and the audience are compared in `check`: its clock is the caller's.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let decoded = jsonwebtoken::decode::<T>(token, &self.key, &validation);
        Ok(decoded.map_err(|_| Rejected::Invalid)?.claims)
    }
}

impl Statement {
    fn check(&self, audience: &str, subject: Uuid, now: u64) -> std::result::Result<(), Rejected> {
        if self.aud != audience || self.sub != subject || self.iat > now + LEEWAY_SECONDS {
            return Err(Rejected::Invalid);
        }
        if self.exp <= now {
            return Err(Rejected::Expired);
        }
        Ok(())
    }
}

/// Statements whose signature was good: whoever shows one again and again costs one check of it, of 25 µs. Cheap to clone.
#[derive(Clone)]
pub struct Verified(Arc<Memory<[u8; 32], Arc<Statement>>>);

impl Verified {
    /// Remembers `max` of them.
    pub fn new(max: usize) -> Verified {
        Verified(Arc::new(Memory::new(max)))
    }

    /// As [`VerifyingKey::verify`].
    pub fn verify(
        &self,
        key: &VerifyingKey,
        typ: &str,
        audience: &str,
        subject: Uuid,
        token: &str,
        now: u64,
    ) -> std::result::Result<Arc<Statement>, Rejected> {
        let digest: [u8; 32] = Sha256::new()
            .chain_update(&key.public)
            .chain_update(typ)
            .chain_update([0])
            .chain_update(token)
            .finalize()
            .into();
        let statement = self.0.get_or_insert_with(&digest, || key.read(typ, token).map(Arc::new))?;
        statement.check(audience, subject, now)?;
        Ok(statement)
    }
}

/// The public key as services tell each other.
pub fn public_text(public: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(public)
}

fn has_header(token: &str, typ: &str) -> bool {
    let mut segments = token.split('.');
    let (Some(header), Some(_), Some(_), None) = (segments.next(), segments.next(), segments.next(), segments.next())
    else {
        return false;
    };
    let decoded = URL_SAFE_NO_PAD.decode(header).ok();
    let read = decoded.and_then(|bytes| serde_json::from_slice::<StatementHeader>(&bytes).ok());
    read.is_some_and(|header| header.alg == "EdDSA" && header.typ == typ)
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 8410, section 10.3, and its public key.
    const PRIVATE: &str = "MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp-K06_nwoy_HU--CXqI9EdVhC";
    const PUBLIC: &str = "Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE";
    const TYP: &str = "entry+jwt";

    fn key() -> SigningKey {
        SigningKey::from_pkcs8(&URL_SAFE_NO_PAD.decode(PRIVATE).unwrap()).unwrap()
    }

    fn public() -> VerifyingKey {
        VerifyingKey::from_text(PUBLIC).unwrap()
    }

    fn statement() -> Statement {
        Statement { aud: "event:1".to_owned(), sub: Uuid::from_u128(7), jti: "1:3".to_owned(), iat: 100, exp: 200 }
    }

    #[test]
    fn what_is_signed_is_read_again_until_its_time_is_up() {
        let token = key().sign(TYP, &statement()).unwrap();
        let verify = |now| public().verify(TYP, "event:1", Uuid::from_u128(7), &token, now);
        assert_eq!(verify(100), Ok(statement()));
        assert_eq!(verify(199), Ok(statement()));
        assert_eq!(verify(200), Err(Rejected::Expired));
        assert_eq!(verify(90), Err(Rejected::Invalid), "from the future");
    }

    #[test]
    fn a_statement_for_another_purpose_is_not_believed() {
        let token = key().sign(TYP, &statement()).unwrap();
        let verify = |typ, aud, sub| public().verify(typ, aud, Uuid::from_u128(sub), &token, 150);
        assert_eq!(verify("ticket+jwt", "event:1", 7), Err(Rejected::Invalid));
        assert_eq!(verify(TYP, "event:2", 7), Err(Rejected::Invalid));
        assert_eq!(verify(TYP, "event:1", 8), Err(Rejected::Invalid));
    }

    #[test]
    fn a_statement_that_was_verified_is_looked_at_again_each_time() {
        let (verified, token) = (Verified::new(10), key().sign(TYP, &statement()).unwrap());
        let verify = |typ, aud, sub, now| {
            let read = verified.verify(&public(), typ, aud, Uuid::from_u128(sub), &token, now);
            read.map(|statement| (*statement).clone())
        };
        for _ in 0..2 {
            assert_eq!(verify(TYP, "event:1", 7, 150), Ok(statement()));
            assert_eq!(verify("ticket+jwt", "event:1", 7, 150), Err(Rejected::Invalid));
            assert_eq!(verify(TYP, "event:2", 7, 150), Err(Rejected::Invalid));
            assert_eq!(verify(TYP, "event:1", 8, 150), Err(Rejected::Invalid));
            assert_eq!(verify(TYP, "event:1", 7, 200), Err(Rejected::Expired));
        }
        let other = VerifyingKey::from_public(&[7; 32]);
        let by_another = verified.verify(&other, TYP, "event:1", Uuid::from_u128(7), &token, 150);
        assert_eq!(by_another, Err(Rejected::Invalid));
    }

    #[test]
    fn a_forged_statement_is_not_believed() {
        let token = key().sign(TYP, &statement()).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let longer = encode(&serde_json::to_string(&Statement { exp: 900, ..statement() }).unwrap());
        let (none, hmac, linked) = (
            encode(r#"{"typ":"entry+jwt","alg":"none"}"#),
            encode(r#"{"typ":"entry+jwt","alg":"HS256"}"#),
            encode(r#"{"typ":"entry+jwt","alg":"EdDSA","jku":"https://example.com"}"#),
        );
        for forged in [
            String::new(),
            "a.b.c".to_owned(),
            format!("{token}."),
            format!("{}.{}.", parts[0], parts[1]),
            format!("{}.{longer}.{}", parts[0], parts[2]),
            format!("{none}.{}.", parts[1]),
            format!("{hmac}.{}.{}", parts[1], parts[2]),
            format!("{linked}.{}.{}", parts[1], parts[2]),
            format!("{}.{}.{}", parts[0], parts[1], "A".repeat(86)),
            "x".repeat(TOKEN_BYTES_MAX + 1),
        ] {
            let read = public().verify(TYP, "event:1", Uuid::from_u128(7), &forged, 150);
            assert_eq!(read, Err(Rejected::Invalid), "{forged}");
        }
    }
}
