//! Access tokens for sites without an account service: a signing key, and the key set that the site checks with.

use actix_web::web::{Json, get};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::Host;
use common::auth::{AUDIENCE, Claims, Jwk, JwkSet, Role, TYP};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use uuid::Uuid;

/// The key that every test of this process signs with would be enough; each site has its own all the same.
pub struct Issuer {
    key: Vec<u8>,
    name: String,
}

const KEY_ID: &str = "test";

impl Issuer {
    /// `name` is the setting `auth.issuer`.
    pub fn new(name: &str) -> Issuer {
        let key = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new()).expect("keys can be made");
        Issuer { key: key.as_ref().to_vec(), name: name.to_owned() }
    }

    /// Serves the key set at `/.well-known/jwks.json`, as the account service does.
    pub fn publish(&self, host: &mut Host) {
        let keys = self.key_set();
        host.http_root(move |routes| {
            let keys = keys.clone();
            routes.route("/.well-known/jwks.json", get().to(move || std::future::ready(Json(keys.clone()))));
        });
    }

    /// A token for `user`, valid for ten minutes.
    pub fn token(&self, user: Uuid, role: Role) -> String {
        self.token_for(user, role, 600)
    }

    /// A token for `user`, valid for `seconds`.
    pub fn token_for(&self, user: Uuid, role: Role, seconds: u64) -> String {
        let now = jsonwebtoken::get_current_timestamp();
        let claims = Claims {
            iss: self.name.clone(),
            aud: AUDIENCE.to_owned(),
            sub: user,
            jti: Uuid::now_v7(),
            iat: now,
            nbf: now,
            exp: now + seconds,
            roles: vec![role.name().to_owned()],
        };
        let header =
            Header { typ: Some(TYP.to_owned()), kid: Some(KEY_ID.to_owned()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ed_der(&self.key)).expect("claims can be signed")
    }

    fn key_set(&self) -> JwkSet {
        let pair = Ed25519KeyPair::from_pkcs8(&self.key).expect("it was made here");
        let jwk = Jwk {
            kty: "OKP".to_owned(),
            crv: "Ed25519".to_owned(),
            alg: "EdDSA".to_owned(),
            usage: "sig".to_owned(),
            kid: KEY_ID.to_owned(),
            x: URL_SAFE_NO_PAD.encode(pair.public_key()),
        };
        JwkSet { keys: vec![jwk] }
    }
}
