//! Rules: what a user may mute, and which deliveries that leaves.

use common::{Error, Refused, Result};
use contract::codes::TYPE_NOT_MUTABLE;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::channel::Channel;

/// More kinds of notification than there are.
const MUTED_MAX: usize = 200;

/// A kind of notification that a user does not want over a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Muted {
    #[serde(rename = "type")]
    #[schema(example = "WEEKLY_OFFERS")]
    pub kind: common::text::Text<1, 100>,
    /// `EMAIL` or `INAPP`: what goes to programs and operators is not the user's.
    pub channel: Channel,
}

/// As it is stored.
pub fn key(kind: &str, channel: Channel) -> String {
    format!("{kind}:{}", channel.name())
}

/// What is stored for `muted`. Refuses with `TYPE_NOT_MUTABLE` what users need to know whether they want it or not.
pub fn check(muted: &[Muted], transactional: &[String]) -> Result<Vec<String>> {
    if muted.len() > MUTED_MAX {
        return Err(Refused::invalid("muted", format!("At most {MUTED_MAX}.")).into());
    }
    for (place, Muted { kind, channel }) in muted.iter().enumerate() {
        let is_plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        if !kind.as_str().bytes().all(is_plain) {
            let field = format!("muted[{place}].type");
            return Err(Refused::invalid(&field, "Must be upper case letters, digits and `_`.").into());
        }
        if channel.is_for_operators() {
            let field = format!("muted[{place}].channel");
            return Err(Refused::invalid(&field, format!("{} is not a channel to users.", channel.name())).into());
        }
        if transactional.iter().any(|name| name == kind.as_str()) {
            return Err(not_mutable(kind.as_str()));
        }
    }
    let mut keys: Vec<String> = muted.iter().map(|one| key(one.kind.as_str(), one.channel)).collect();
    keys.sort();
    keys.dedup();
    Ok(keys)
}

fn not_mutable(kind: &str) -> Error {
    let text = format!("{kind} cannot be muted: it is about an order or a payment of the user.");
    Refused { details: vec![json!({ "type": kind })], ..Refused::new(TYPE_NOT_MUTABLE, text) }.into()
}

/// What is shown of `keys`. A channel that this build does not know is not shown.
pub fn shown(keys: &[String]) -> Vec<Muted> {
    let parse = |key: &String| {
        let (kind, channel) = key.split_once(':')?;
        Some(Muted { kind: common::text::Text::parse(kind).ok()?, channel: channel.parse().ok()? })
    };
    keys.iter().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn muted(kind: &str, channel: &str) -> Muted {
        serde_json::from_value(json!({ "type": kind, "channel": channel })).unwrap()
    }

    #[test]
    fn what_is_muted_is_stored_once_and_shown_as_it_was_said() {
        let wanted = [muted("OFFERS", "INAPP"), muted("OFFERS", "EMAIL"), muted("OFFERS", "INAPP")];
        let keys = check(&wanted, &[]).unwrap();
        assert_eq!(keys, ["OFFERS:EMAIL", "OFFERS:INAPP"]);
        assert_eq!(shown(&keys), [muted("OFFERS", "EMAIL"), muted("OFFERS", "INAPP")]);
        assert_eq!(shown(&["OFFERS:PIGEON".to_owned(), "nonsense".to_owned()]), []);
    }

    #[test]
    fn what_a_user_has_to_know_and_what_is_not_the_users_is_refused() {
        let transactional = ["ORDER_PLACED".to_owned()];
        for (bad, reason) in [
            (muted("ORDER_PLACED", "EMAIL"), "TYPE_NOT_MUTABLE"),
            (muted("OFFERS", "SLACK"), "VALIDATION_ERROR"),
            (muted("OFFERS", "WEBHOOK"), "VALIDATION_ERROR"),
            (muted("offers:x", "EMAIL"), "VALIDATION_ERROR"),
        ] {
            assert_eq!(check(&[bad], &transactional).unwrap_err().reason(), Some(reason));
        }
        let many: Vec<_> = (0..=MUTED_MAX).map(|n| muted(&format!("T{n}"), "EMAIL")).collect();
        assert!(check(&many, &[]).is_err());
    }
}
