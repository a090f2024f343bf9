//! Rules: keys of programs, `nh_live_<id>_<secret>`: how they are written, what they allow, and how they are compared.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use common::Refused;
use contract::ids::ApiKeyId;
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr, VariantArray};
use utoipa::ToSchema;
use uuid::Uuid;

/// What every key begins with, so that it is recognised in a log, and by programs that look for leaked secrets.
pub const PREFIX: &str = "nh_live_";

/// An id without hyphens.
const ID_CHARS: usize = 32;

/// What a key allows.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, VariantArray, IntoStaticStr, EnumString, Serialize, Deserialize, ToSchema,
)]
pub enum Scope {
    #[strum(serialize = "notifications:write")]
    #[serde(rename = "notifications:write")]
    Write,
    /// Reading every notification, as operators do.
    #[strum(serialize = "notifications:read")]
    #[serde(rename = "notifications:read")]
    Read,
}

impl Scope {
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// The text of a new key. It is shown once and stored nowhere.
pub fn issue(id: ApiKeyId, secret: [u8; 32]) -> String {
    let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{PREFIX}{}_{secret}", id.uuid().simple())
}

/// The id in the text of a key. None: it is no key of ours.
pub fn id_of(key: &str) -> Option<ApiKeyId> {
    let (id, _) = key.strip_prefix(PREFIX)?.split_once('_')?;
    (id.len() == ID_CHARS).then(|| Uuid::try_parse(id).ok()).flatten().map(ApiKeyId::from)
}

/// What is stored of a key. The secret has 256 random bits, so a plain hash cannot be searched.
pub fn digest_of(key: &str) -> Vec<u8> {
    digest(&SHA256, key.as_bytes()).as_ref().to_vec()
}

/// Whether `stored` is the digest of `key`.
pub fn matches(key: &str, stored: &[u8]) -> bool {
    verify_slices_are_equal(&digest_of(key), stored).is_ok()
}

/// Refuses a name of a client that is not lower case letters, digits and `-`: two spellings would be two clients.
pub fn check_client(field: &str, client: &str) -> Result<(), Refused> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !(1..=50).contains(&client.len()) || !client.bytes().all(is_plain) {
        return Err(Refused::invalid(field, "Must be 1 to 50 lower case letters, digits and `-`."));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_its_id_and_matches_its_own_digest_only() {
        let id = ApiKeyId::derive(&[b"test"]);
        let (key, other) = (issue(id, [7; 32]), issue(id, [8; 32]));
        assert!(key.starts_with("nh_live_") && key.ends_with(&"07".repeat(32)), "{key}");
        assert_eq!(id_of(&key), Some(id));
        assert!(matches(&key, &digest_of(&key)) && !matches(&other, &digest_of(&key)));
        assert!(!matches(&key, b""));
    }

    #[test]
    fn what_is_no_key_has_no_id() {
        let id = ApiKeyId::derive(&[b"test"]).uuid();
        for text in
            ["", "nh_live_", "nh_live__x", "x.y.z", &format!("nh_live_{id}_x"), &format!("nh_test_{}_x", id.simple())]
        {
            assert_eq!(id_of(text), None, "{text}");
        }
    }

    #[test]
    fn scopes_have_the_same_name_in_the_database_and_in_json() {
        for scope in Scope::VARIANTS {
            assert_eq!(serde_json::to_value(scope).unwrap(), scope.name());
            assert_eq!(scope.name().parse(), Ok(*scope));
        }
    }

    #[test]
    fn a_client_has_one_spelling() {
        for client in ["order", "order-2", &"x".repeat(50)] {
            assert!(check_client("client", client).is_ok(), "{client}");
        }
        for client in ["", "Order", "a b", "a_b", "주문", &"x".repeat(51)] {
            assert!(check_client("client", client).is_err(), "{client}");
        }
    }
}
