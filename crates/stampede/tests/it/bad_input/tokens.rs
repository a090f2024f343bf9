//! Tokens: forged, expired, for somebody else, twice.

use crate::site::system;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::crypto::sign;
use jsonwebtoken::{Algorithm, EncodingKey, get_current_timestamp};
use reqwest::Method;
use serde_json::{Value, json};
use testkit::{Site, fresh_key, text};
use uuid::Uuid;

use super::Trial;

/// The site's own key, as a thief of its database would have it.
pub struct Key {
    kid: String,
    private: EncodingKey,
    public: Vec<u8>,
    issuer: String,
}

impl Key {
    pub async fn stolen_from(site: &Site) -> Key {
        let query = "select kid, encode(private, 'base64') as private, encode(public, 'base64') as public
                       from {account}.signing_keys order by use_at limit 1";
        let row = site.rows(query).await.remove(0);
        let bytes = |name: &str| {
            let wrapped = text(&row[name]).replace('\n', "");
            base64::engine::general_purpose::STANDARD.decode(wrapped).expect("PostgreSQL writes base64")
        };
        let settings: common::auth::AuthSettings = site.settings().section("auth").expect("the settings are right");
        Key {
            kid: text(&row["kid"]),
            private: EncodingKey::from_ed_der(&bytes("private")),
            public: bytes("public"),
            issuer: settings.issuer,
        }
    }

    fn header(&self) -> Value {
        json!({ "alg": "EdDSA", "typ": "at+jwt", "kid": self.kid })
    }

    fn claims(&self, user: &str) -> Value {
        let now = get_current_timestamp();
        json!({
            "iss": self.issuer, "aud": "stampede", "sub": user, "jti": Uuid::new_v4(),
            "iat": now, "nbf": now, "exp": now + 600, "roles": ["USER", "ADMIN"],
        })
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encode(&header.to_string()), encode(&claims.to_string()));
        let signature = sign(message.as_bytes(), &self.private, Algorithm::EdDSA).expect("the key is one");
        format!("{message}.{signature}")
    }

    /// An administrator's token whose time was up a minute ago.
    pub fn expired(&self, user: &str) -> String {
        let mut claims = self.claims(user);
        set(&mut claims, "exp", &json!(get_current_timestamp() - 60));
        self.sign(&self.header(), &claims)
    }

    /// Tokens that differ from a good one in one thing.
    fn bad(&self, user: &str) -> Vec<(String, String)> {
        let now = get_current_timestamp();
        let mut tokens = Vec::new();
        for (name, value) in [
            ("exp", json!(now - 60)),
            ("exp", json!("9999999999")),
            ("exp", Value::Null),
            ("nbf", json!(now + 600)),
            ("iat", json!(now + 600)),
            ("iss", json!("somebody else")),
            ("aud", json!("somebody else")),
            ("aud", json!(["stampede", "x"])),
            ("aud", Value::Null),
            ("sub", json!("admin")),
            ("sub", json!(1)),
            ("sub", Value::Null),
            ("roles", json!("ADMIN")),
        ] {
            let mut claims = self.claims(user);
            set(&mut claims, name, &value);
            tokens.push((format!("{name} {value}"), self.sign(&self.header(), &claims)));
        }
        for (name, value) in [
            ("alg", json!("none")),
            ("alg", json!("HS256")),
            ("typ", json!("JWT")),
            ("typ", Value::Null),
            ("kid", json!("other")),
            ("kid", json!("../../../dev/null")),
            ("kid", json!("x' union select 1 --")),
            ("kid", Value::Null),
            ("jku", json!("http://127.0.0.1:1/jwks.json")),
            ("jwk", json!({ "kty": "OKP" })),
            ("crit", json!(["exp"])),
        ] {
            let mut header = self.header();
            set(&mut header, name, &value);
            tokens.push((format!("header {name} {value}"), self.sign(&header, &self.claims(user))));
        }
        tokens.extend(self.mangled(user));
        tokens
    }

    /// Tokens that are not signed as they should be, or not whole.
    fn mangled(&self, user: &str) -> Vec<(String, String)> {
        let good = self.sign(&self.header(), &self.claims(user));
        let unsigned = format!(
            "{}.{}.",
            encode(&json!({ "alg": "none", "typ": "at+jwt", "kid": self.kid }).to_string()),
            encode(&self.claims(user).to_string())
        );
        let hs256 = json!({ "alg": "HS256", "typ": "at+jwt", "kid": self.kid });
        let message = format!("{}.{}", encode(&hs256.to_string()), encode(&self.claims(user).to_string()));
        let confused = sign(message.as_bytes(), &EncodingKey::from_secret(&self.public), Algorithm::HS256)
            .expect("HMAC takes any key");
        let stranger =
            Key { private: another_key(), kid: self.kid.clone(), public: Vec::new(), issuer: self.issuer.clone() };
        let (body, signature) = good.rsplit_once('.').expect("three parts");
        vec![
            ("alg none, unsigned".to_owned(), unsigned),
            ("HMAC with the public key".to_owned(), format!("{message}.{confused}")),
            ("signed by somebody else".to_owned(), stranger.sign(&self.header(), &self.claims(user))),
            ("signature cut".to_owned(), good[..good.len() - 2].to_owned()),
            ("no signature".to_owned(), format!("{body}.")),
            (
                "signature of another".to_owned(),
                format!(
                    "{}.{signature}",
                    self.sign(&self.header(), &self.claims(&Uuid::nil().to_string()))
                        .rsplit_once('.')
                        .expect("three parts")
                        .0
                ),
            ),
            ("four parts".to_owned(), format!("{good}.x")),
            ("garbage".to_owned(), "x.y.z".to_owned()),
            ("long".to_owned(), "a".repeat(8000)),
        ]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_are_not_right_in_every_way_open_nothing() {
    let mut trial = Trial::start().await;
    let key = Key::stolen_from(&trial.site).await;
    let admin = trial.admin.clone();
    // So that the others fail for what is wrong with them: this one is right.
    let right = admin.with_token(&key.sign(&key.header(), &key.claims(&admin.user_id)));
    right.get("/admin/holds").await.expect(200);
    let order = json!({ "items": [testkit::line(&trial.product, 1)] });
    for (what, token) in key.bad(&admin.user_id) {
        let bad = admin.with_token(&token);
        for path in ["/orders", "/auth/me", "/notifications", "/admin/holds"] {
            trial
                .refuse_with(&format!("{what}: {path}"), &bad, bad.request(Method::GET, path), 401, "UNAUTHORIZED")
                .await;
        }
        trial.refuse_with(&what, &bad, bad.placing(&fresh_key(), &order), 401, "UNAUTHORIZED").await;
    }
    let token = admin.token.clone().expect("an administrator has one");
    let anyone = trial.site.anyone();
    let with = |values: &[String]| {
        values
            .iter()
            .fold(anyone.request(Method::GET, "/orders"), |request, value| request.header("Authorization", value))
    };
    for values in [
        vec![],
        vec![String::new()],
        vec!["Bearer".to_owned()],
        vec!["Bearer ".to_owned()],
        vec![token.clone()],
        vec![format!("Basic {token}")],
        vec![format!("Bearer {token} x")],
        vec![format!("Bearer  {token}")],
        vec![format!("Bearer {token}"), format!("Bearer {token}")],
        vec![format!("Bearer {token}"), "Basic eA==".to_owned()],
        vec!["Bearer x".to_owned(), format!("Bearer {token}")],
        vec![format!("Bearer {token}, Bearer {token}")],
    ] {
        trial.refuse_with(&format!("{} headers", values.len()), &anyone, with(&values), 401, "UNAUTHORIZED").await;
    }
    let in_query = anyone.request(Method::GET, &format!("/orders?access_token={token}"));
    trial.refuse_with("a token in the query", &anyone, in_query, 401, "UNAUTHORIZED").await;
    // A refresh token is no access token.
    let log_in = json!({ "email": trial.buyer.email, "password": testkit::site::PASSWORD });
    trial.end().await;
    let site = system().start().await;
    let buyer = site.buyer().await;
    let tokens = site
        .anyone()
        .post("/auth/login", &json!({ "email": buyer.email, "password": log_in["password"] }))
        .await
        .expect(200)
        .json();
    buyer.with_token(&text(&tokens["refreshToken"])).get("/auth/me").await.refused(401, "UNAUTHORIZED");
}

fn set(object: &mut Value, name: &str, value: &Value) {
    let members = object.as_object_mut().expect("an object");
    match value {
        Value::Null => drop(members.remove(name)),
        value => drop(members.insert(name.to_owned(), value.clone())),
    }
}

fn encode(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// PKCS #8 around the seed of RFC 8032's first test vector: a key that everybody has.
fn another_key() -> EncodingKey {
    let der = "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpe3EyaXGTA6wDGuf2";
    let der = base64::engine::general_purpose::STANDARD.decode(der).unwrap_or_default();
    EncodingKey::from_ed_der(&der)
}
