//! Tokens that must not pass, and the few that must.

use jsonwebtoken::crypto::sign;
use jsonwebtoken::{EncodingKey, get_current_timestamp};
use serde_json::{Value, json};

use super::*;

/// The first test vector of RFC 8032, section 7.1.
const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

/// PKCS #8 around a bare Ed25519 seed (RFC 8410).
const PKCS8_PREFIX: &str = "302e020100300506032b657004220420";

const KID: &str = "key-1";
const ACCOUNT: &str = "019aa000-0000-7000-8000-000000000001";

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn verifier() -> Verifier {
    let settings = AuthSettings {
        issuer: "stampede-test".to_owned(),
        jwks_url: String::new(),
        jwks_refresh_seconds: 30,
        jwks_age_max_seconds: 300,
        jwks_timeout_ms: 1000,
        verified_tokens_max: 100,
        access_token_minutes: 15,
    };
    Verifier::fixed(&settings, HashMap::from([(KID.to_owned(), DecodingKey::from_ed_der(&bytes(PUBLIC)))]))
}

fn good_header() -> Value {
    json!({ "alg": "EdDSA", "typ": "at+jwt", "kid": KID })
}

fn good_claims() -> Value {
    let now = get_current_timestamp();
    json!({
        "iss": "stampede-test", "aud": "stampede", "sub": ACCOUNT, "jti": "019aa000-0000-7000-8000-000000000002",
        "iat": now, "nbf": now, "exp": now + 900, "roles": ["USER"],
    })
}

/// `base` with `member` replaced, or removed when `value` is null.
fn with(mut base: Value, member: &str, value: Value) -> Value {
    match value {
        Value::Null => drop(base.as_object_mut().unwrap().remove(member)),
        value => base[member] = value,
    }
    base
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Signed with our own key, so that nothing but the text of the two parts is wrong with it.
fn signed_text(header: &str, claims: &str) -> String {
    let message = format!("{}.{}", encode(header), encode(claims));
    let key = EncodingKey::from_ed_der(&bytes(&format!("{PKCS8_PREFIX}{SEED}")));
    let signature = sign(message.as_bytes(), &key, Algorithm::EdDSA).unwrap();
    format!("{message}.{signature}")
}

fn signed(header: Value, claims: Value) -> String {
    signed_text(&header.to_string(), &claims.to_string())
}

fn good() -> String {
    signed(good_header(), good_claims())
}

/// HS256 with the bytes of the public key, in every spelling an attacker finds published.
fn confused(secret: &[u8], alg: &str) -> String {
    let header = with(good_header(), "alg", json!(alg));
    let message = format!("{}.{}", encode(header.to_string()), encode(good_claims().to_string()));
    let signature = sign(message.as_bytes(), &EncodingKey::from_secret(secret), Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

fn bad_headers() -> Vec<(&'static str, Value)> {
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(bytes(PUBLIC)) });
    let header = |member: &str, value: Value| with(good_header(), member, value);
    vec![
        ("alg none", header("alg", json!("none"))),
        ("alg None", header("alg", json!("None"))),
        ("alg in lower case", header("alg", json!("eddsa"))),
        ("alg Ed25519", header("alg", json!("Ed25519"))),
        ("alg missing", header("alg", Value::Null)),
        ("alg is a list", header("alg", json!(["EdDSA"]))),
        ("typ JWT", header("typ", json!("JWT"))),
        ("typ of another kind of token", header("typ", json!("pass+jwt"))),
        ("typ in capitals", header("typ", json!("AT+JWT"))),
        ("typ with its media type", header("typ", json!("application/at+jwt"))),
        ("typ missing", header("typ", Value::Null)),
        ("kid missing", header("kid", Value::Null)),
        ("kid empty", header("kid", json!(""))),
        ("kid unknown", header("kid", json!("key-2"))),
        ("kid path", header("kid", json!("../../../../dev/null"))),
        ("kid absolute path", header("kid", json!("/proc/sys/kernel/randomize_va_space"))),
        ("kid SQL", header("kid", json!("key-1' UNION SELECT 'secret' --"))),
        ("kid URL", header("kid", json!("https://evil.example/key"))),
        ("kid with NUL", header("kid", json!("key-1\u{0}"))),
        ("kid with a space", header("kid", json!("key-1 "))),
        ("kid too long", header("kid", json!("k".repeat(65)))),
        ("kid is a number", header("kid", json!(1))),
        ("kid in Unicode", header("kid", json!("kеy-1"))),
        ("jwk", header("jwk", jwk)),
        ("jku", header("jku", json!("https://evil.example/jwks.json"))),
        ("x5u", header("x5u", json!("https://evil.example/cert.pem"))),
        ("x5c", header("x5c", json!(["MIIB"]))),
        ("x5t", header("x5t", json!("abc"))),
        ("crit", header("crit", json!(["exp"]))),
        ("crit empty", header("crit", json!([]))),
        ("b64", header("b64", json!(false))),
        ("zip", header("zip", json!("DEF"))),
        ("cty of a nested token", header("cty", json!("JWT"))),
        ("a member nobody knows", header("x", json!(1))),
        ("header is a list", json!(["EdDSA", "at+jwt"])),
    ]
}

fn bad_claims() -> Vec<(&'static str, Value)> {
    let now = get_current_timestamp();
    let claims = |member: &str, value: Value| with(good_claims(), member, value);
    vec![
        ("iss missing", claims("iss", Value::Null)),
        ("iss of somebody else", claims("iss", json!("https://evil.example"))),
        ("iss is a list", claims("iss", json!(["stampede-test"]))),
        ("iss with a suffix", claims("iss", json!("stampede-test/"))),
        ("aud missing", claims("aud", Value::Null)),
        ("aud of another kind of token", claims("aud", json!("stampede-refresh"))),
        ("aud is a list", claims("aud", json!(["stampede", "other"]))),
        ("aud empty", claims("aud", json!(""))),
        ("sub missing", claims("sub", Value::Null)),
        ("sub is not a UUID", claims("sub", json!("admin"))),
        ("sub is a number", claims("sub", json!(1))),
        ("jti missing", claims("jti", Value::Null)),
        ("iat missing", claims("iat", Value::Null)),
        ("iat in the future", claims("iat", json!(now + 60))),
        ("nbf missing", claims("nbf", Value::Null)),
        ("nbf in the future", claims("nbf", json!(now + 60))),
        ("nbf as a string", claims("nbf", json!(now.to_string()))),
        ("exp missing", claims("exp", Value::Null)),
        ("exp in the past", claims("exp", json!(now - 60))),
        ("exp just past the leeway", claims("exp", json!(now - LEEWAY_SECONDS - 1))),
        ("exp as a string", claims("exp", json!((now + 900).to_string()))),
        ("exp as a fraction", claims("exp", json!(1e300))),
        ("exp negative", claims("exp", json!(-1))),
        ("exp zero", claims("exp", json!(0))),
        ("exp as a list", claims("exp", json!([now + 900]))),
        ("roles missing", claims("roles", Value::Null)),
        ("roles as text", claims("roles", json!("ADMIN"))),
        ("claims are a list", json!([])),
        ("claims are text", json!("claims")),
    ]
}

fn bad_texts() -> Vec<(&'static str, String)> {
    let good = good();
    let parts: Vec<&str> = good.split('.').collect();
    let (header, claims, signature) = (parts[0], parts[1], parts[2]);
    let swapped = encode(with(good_claims(), "roles", json!(["ADMIN"])).to_string());
    let (header_text, claims_text) = (good_header().to_string(), good_claims().to_string());
    let repeated = |text: &str, member: &str| format!("{{{member},{}", &text[1..]);
    let unsigned = encode(with(good_header(), "alg", json!("none")).to_string());
    let mut altered_signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    altered_signature[40] ^= 1;
    vec![
        ("empty", String::new()),
        ("dots", "..".to_owned()),
        ("one segment", header.to_owned()),
        ("two segments", format!("{header}.{claims}")),
        ("four segments", format!("{good}.x")),
        ("five segments, as JWE", format!("{good}.x.y")),
        ("empty signature", format!("{header}.{claims}.")),
        ("alg none without signature", format!("{unsigned}.{claims}.")),
        ("truncated signature", good[..good.len() - 4].to_owned()),
        ("one bit of the signature", format!("{header}.{claims}.{}", encode(altered_signature))),
        ("signature of zeros", format!("{header}.{claims}.{}", encode([0; 64]))),
        ("padded signature", format!("{good}==")),
        ("claims of another token", format!("{header}.{swapped}.{signature}")),
        ("HS256 with the public key", confused(&bytes(PUBLIC), "HS256")),
        ("HS256 with the public key in base64url", confused(encode(bytes(PUBLIC)).as_bytes(), "HS256")),
        ("HS256 with the public key in hex", confused(PUBLIC.as_bytes(), "HS256")),
        ("HS256 posing as EdDSA", confused(&bytes(PUBLIC), "EdDSA")),
        ("HS256 with an empty secret", confused(b"", "HS256")),
        ("space before", format!(" {good}")),
        ("space after", format!("{good} ")),
        ("line break after", format!("{good}\n")),
        ("tab inside", good.replacen('.', ".\t", 1)),
        ("standard base64", good.replacen(header, &header.replace(['-', '_'], "+"), 1) + "+"),
        ("percent encoding", good.replace('.', "%2E")),
        ("not ASCII", format!("{good}é")),
        ("NUL after", format!("{good}\0")),
        ("too long", good.replacen(claims, &"A".repeat(TOKEN_BYTES_MAX), 1)),
        ("a megabyte", "A".repeat(1 << 20)),
        ("alg twice", signed_text(&repeated(&header_text, r#""alg":"none""#), &claims_text)),
        ("kid twice", signed_text(&repeated(&header_text, r#""kid":"other""#), &claims_text)),
        ("sub twice", signed_text(&header_text, &repeated(&claims_text, r#""sub":"0""#))),
        ("exp twice", signed_text(&header_text, &repeated(&claims_text, r#""exp":1"#))),
        ("claims cut short", signed_text(&header_text, &claims_text[..claims_text.len() - 1])),
        ("text after the claims", signed_text(&header_text, &format!("{claims_text}{{}}"))),
        ("text after the header", signed_text(&format!("{header_text}x"), &claims_text)),
    ]
}

#[tokio::test]
async fn no_bad_token_passes_even_when_a_good_one_has() {
    let verifier = verifier();
    verifier.verify(&good()).await.unwrap();
    let headers = bad_headers().into_iter().map(|(name, header)| (name, signed(header, good_claims())));
    let claims = bad_claims().into_iter().map(|(name, claims)| (name, signed(good_header(), claims)));
    let corpus: Vec<_> = headers.chain(claims).chain(bad_texts()).collect();
    assert!(corpus.len() >= 90, "{}", corpus.len());
    for (name, token) in corpus {
        let error = verifier.verify(&token).await.expect_err(name);
        assert_eq!(error.reason(), Some("UNAUTHORIZED"), "{name}: {error}");
    }
}

#[tokio::test]
async fn a_good_token_says_who_calls_the_first_time_and_from_the_cache() {
    let verifier = verifier();
    let future_claims = with(with(good_claims(), "roles", json!(["ADMIN", "OF_THE_FUTURE"])), "tenant", json!("later"));
    let token = signed(good_header(), future_claims);
    for _ in 0..3 {
        let caller = verifier.verify(&token).await.unwrap();
        assert_eq!((caller.account, caller.roles), (ACCOUNT.parse().unwrap(), vec![Role::Admin]));
    }
}

#[tokio::test]
async fn a_token_that_passed_once_does_not_outlive_its_time() {
    let verifier = verifier();
    let now = get_current_timestamp();
    let token = signed(good_header(), with(good_claims(), "exp", json!(now - LEEWAY_SECONDS + 1)));
    verifier.verify(&token).await.unwrap();
    while get_current_timestamp() <= now + 1 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let error = verifier.verify(&token).await.unwrap_err();
    assert!(error.to_string().contains("expired"), "{error}");
}
