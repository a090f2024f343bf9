//! The key that this site's callers are signed with, as account would publish it.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::auth::{Jwk, JwkSet};

/// In PKCS #8.
pub fn new_key() -> Vec<u8> {
    Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new()).unwrap().as_ref().to_vec()
}

pub fn published(key: &[u8]) -> JwkSet {
    let pair = Ed25519KeyPair::from_pkcs8(key).unwrap();
    let jwk = Jwk {
        kty: "OKP".to_owned(),
        crv: "Ed25519".to_owned(),
        alg: "EdDSA".to_owned(),
        usage: "sig".to_owned(),
        kid: "test".to_owned(),
        x: URL_SAFE_NO_PAD.encode(pair.public_key()),
    };
    JwkSet { keys: vec![jwk] }
}
