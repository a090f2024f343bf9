//! Rules: Standard Webhooks. A request is signed with HMAC-SHA256 over `id.timestamp.body`, once for each secret that a
//! receiver may have.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What every secret begins with.
const SECRET_PREFIX: &str = "whsec_";
/// The scheme for shared secrets.
const SIGNATURE_PREFIX: &str = "v1,";

/// A new secret out of random bytes, as receivers get it.
pub fn secret(random: [u8; 32]) -> String {
    format!("{SECRET_PREFIX}{}", STANDARD.encode(random))
}

/// The value of `webhook-signature`. None: a secret is not one of ours.
pub fn sign(secrets: &[&str], id: &str, timestamp: i64, body: &[u8]) -> Option<String> {
    let signatures = secrets.iter().map(|secret| {
        let key = STANDARD.decode(secret.strip_prefix(SECRET_PREFIX)?).ok()?;
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &key));
        for part in [id.as_bytes(), b".", timestamp.to_string().as_bytes(), b".", body] {
            context.update(part);
        }
        Some(format!("{SIGNATURE_PREFIX}{}", STANDARD.encode(context.sign())))
    });
    Some(signatures.collect::<Option<Vec<_>>>()?.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_example_has_the_published_signature() {
        // Of the reference implementations' own tests.
        let signed = sign(
            &["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signed.as_deref(), Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
    }

    #[test]
    fn while_a_secret_is_being_replaced_both_sign() {
        let (new, old) = (secret([1; 32]), secret([2; 32]));
        let one = |secret: &str| sign(&[secret], "id", 1, b"{}").unwrap();
        assert_eq!(sign(&[&new, &old], "id", 1, b"{}").unwrap(), format!("{} {}", one(&new), one(&old)));
        assert_ne!(one(&new), one(&old));
        assert_ne!(one(&new), sign(&[&new], "id", 2, b"{}").unwrap(), "the time is signed");
        assert_eq!(sign(&["nonsense"], "id", 1, b"{}"), None);
    }
}
