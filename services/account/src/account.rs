//! Rules: what an e-mail address and a password may be, what a user's role is, and why this service says no.

use std::time::Duration;

use common::auth::Role;
use common::text::{is_invisible, nfkc};
use common::{Code, Error, Refusal};
use contract::codes;

/// RFC 5321: the longest address that a mail server must take.
const EMAIL_BYTES_MAX: usize = 254;

const LOCAL_PART_BYTES_MAX: usize = 64;

/// Eight is NIST's minimum. 128 is longer than any passphrase and short enough to hash without a thought.
const PASSWORD_CHARS: std::ops::RangeInclusive<usize> = 8..=128;

/// Stored in place of a hash for an account without a password. It is no hash, so no password matches it.
pub const NO_PASSWORD: &str = "!";

/// Why this service says no.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("This e-mail address is registered already.")]
    EmailAlreadyExists,
    #[error("The e-mail address or the password is wrong.")]
    InvalidCredentials,
    #[error("The refresh token is not valid.")]
    RefreshTokenInvalid,
    #[error("The refresh token was used before; everybody who holds one from that log-in has to log in again.")]
    RefreshTokenReused,
    #[error("Too many people are logging in at this moment.")]
    TooManyAttempts,
    #[error("There is no such user.")]
    UserNotFound,
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Refused::EmailAlreadyExists => codes::EMAIL_ALREADY_EXISTS,
            Refused::InvalidCredentials => codes::INVALID_CREDENTIALS,
            Refused::RefreshTokenInvalid => codes::REFRESH_TOKEN_INVALID,
            Refused::RefreshTokenReused => codes::REFRESH_TOKEN_REUSED,
            Refused::TooManyAttempts => codes::TOO_MANY_ATTEMPTS,
            Refused::UserNotFound => codes::USER_NOT_FOUND,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        matches!(self, Refused::TooManyAttempts).then_some(Duration::from_secs(1))
    }
}

/// An address in its one spelling: in NFKC, trimmed and in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Email(String);

impl Email {
    /// Takes what looks like an address; only a mail that arrives proves one.
    ///
    /// The rule is short: a local part, one `@`, a domain of labels that are not empty. White space, control characters
    /// and the punctuation that has a meaning in mail headers are refused, because they turn one recipient into several.
    /// The local part loses its case too: no large provider tells `Ann@` from `ann@`, and two accounts that look the same
    /// would be a trap.
    pub fn parse(text: &str) -> Result<Email, common::Refused> {
        let address = nfkc(&nfkc(text).trim().to_lowercase()).into_owned();
        let wrong = || common::Refused::invalid("email", "email must be an e-mail address");
        let (local, domain) = address.split_once('@').ok_or_else(wrong)?;
        let has_meaning = |c: char| c.is_whitespace() || is_invisible(c) || "<>()[]\\,;:\"@".contains(c);
        let fits = !local.is_empty() && local.len() <= LOCAL_PART_BYTES_MAX && address.len() <= EMAIL_BYTES_MAX;
        let labels = domain.split('.').all(|label| !label.is_empty());
        if !fits || !labels || local.contains(has_meaning) || domain.contains(has_meaning) {
            return Err(wrong());
        }
        Ok(Email(address))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Length is the only rule that makes passwords better; rules about digits and signs make them worse.
pub fn check_new_password(password: &str) -> Result<(), common::Refused> {
    let (min, max) = (PASSWORD_CHARS.start(), PASSWORD_CHARS.end());
    if !PASSWORD_CHARS.contains(&nfkc(password).chars().take(max + 1).count()) {
        return Err(common::Refused::invalid("password", format!("password must be {min} to {max} characters long")));
    }
    Ok(())
}

/// Nobody has a password beyond the maximum, so a longer text is refused before it is hashed, whatever the account.
pub fn check_presented_password(password: &str) -> Result<(), common::Refused> {
    let max = PASSWORD_CHARS.end();
    if nfkc(password).chars().take(max + 1).count() > *max {
        return Err(common::Refused::invalid("password", format!("password must be at most {max} characters long")));
    }
    Ok(())
}

/// A role as it is stored. An unknown name is a fault of ours: the table allows none.
pub fn role(name: &str) -> Result<Role, Error> {
    Role::from_name(name).ok_or_else(|| Error::fault(anyhow::anyhow!("a user has the unknown role {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_spelling() {
        for (text, address) in [
            ("Ann@Example.COM", "ann@example.com"),
            (" ann@example.com\n", "ann@example.com"),
            ("ann+sale@example.co.kr", "ann+sale@example.co.kr"),
            ("앤@예시.한국", "앤@예시.한국"),
            (
                "\u{110b}\u{1162}\u{11ab}@\u{110b}\u{1168}\u{1109}\u{1175}.\u{1112}\u{1161}\u{11ab}\u{1100}\u{116e}\u{11a8}",
                "앤@예시.한국",
            ),
            ("Ａｎｎ＠example.com", "ann@example.com"),
            ("o'hara@localhost", "o'hara@localhost"),
        ] {
            assert_eq!(Email::parse(text).unwrap().as_str(), address, "{text:?}");
        }
    }

    #[test]
    fn what_cannot_be_an_address_is_refused() {
        let long_local = format!("{}@example.com", "a".repeat(65));
        let long = format!("a@{}.com", "b".repeat(250));
        for text in [
            "",
            "@",
            "ann",
            "ann@",
            "@example.com",
            "ann@@example.com",
            "ann@b@example.com",
            "ann@.com",
            "ann@example.",
            "ann@exa..mple",
            "an n@example.com",
            "ann@exam ple.com",
            "ann\0@example.com",
            "ann@example.com\r\nBcc: x@y",
            "ann@example.com\u{200b}",
            "a\u{ad}nn@example.com",
            "\u{202e}ann@example.com",
            "a,b@example.com",
            "Ann <ann@example.com>",
            "ann@[127.0.0.1]",
            "\"a\"@example.com",
            &long_local,
            &long,
        ] {
            assert!(Email::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_password_is_counted_in_characters() {
        check_new_password("비밀번호여덟글자").unwrap();
        check_new_password(&"가".repeat(128)).unwrap();
        for bad in ["", "1234567", &"a".repeat(129)] {
            assert!(check_new_password(bad).is_err(), "{bad:?}");
        }
        check_presented_password("short").unwrap();
        assert!(check_presented_password(&"a".repeat(129)).is_err());
    }
}
