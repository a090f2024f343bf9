//! Rules: a refresh token, its successor, and what follows when one is presented.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use diesel::Insertable;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::schema::refresh_tokens;

/// An opaque secret. Stored only as its hash.
#[derive(Clone, PartialEq, Eq)]
pub struct RefreshToken([u8; 32]);

impl RefreshToken {
    pub fn from_random(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// None: it cannot be one of ours.
    pub fn parse(text: &str) -> Option<Self> {
        // The length first, so that a long text is not decoded.
        if text.len() != 43 {
            return None;
        }
        URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(Self)
    }

    /// 43 characters of base64url.
    pub fn text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    pub fn hash(&self) -> Vec<u8> {
        Sha256::digest(self.0).to_vec()
    }

    /// The token that replaces this one. It is always the same, so that a client whose answer was lost can ask again. Only
    /// who has both this token and `secret` can derive it, so nothing that is stored gives it away.
    pub fn successor(&self, secret: &[u8]) -> Self {
        use aws_lc_rs::hmac;
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let mut context = hmac::Context::with_key(&key);
        context.update(b"stampede refresh token successor");
        context.update(&self.0);
        let mut successor = [0; 32];
        successor.copy_from_slice(context.sign().as_ref());
        Self(successor)
    }
}

/// How long things last.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    pub token: TimeDelta,
    /// From the log-in on, however often it was refreshed.
    pub session: TimeDelta,
    /// A used token is taken for a repeated request for so long, and for a stolen one afterwards.
    pub grace: TimeDelta,
}

impl Lifetimes {
    pub fn token_expires_at(&self, now: DateTime<Utc>, session_expires_at: DateTime<Utc>) -> DateTime<Utc> {
        session_expires_at.min(now + self.token)
    }
}

/// A new row of `refresh_tokens`.
#[derive(Insertable)]
#[diesel(table_name = refresh_tokens)]
pub struct NewToken {
    pub hash: Vec<u8>,
    pub family: Uuid,
    pub user_id: Uuid,
    pub expires_at: DateTime<Utc>,
}

/// What is stored about a token that is presented.
#[derive(Debug, Clone)]
pub struct StoredToken {
    pub expires_at: DateTime<Utc>,
    pub used_at: Option<DateTime<Utc>>,
    pub session_revoked: bool,
}

/// What presenting a token means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenUse {
    /// It was not used before: replace it.
    First,
    /// It was replaced a moment ago, and the client may not have got the answer: answer with the same successor.
    Repeated,
    /// Somebody has a copy: end the session for both.
    Reused,
    Invalid,
}

impl StoredToken {
    pub fn presented(&self, now: DateTime<Utc>, grace: TimeDelta) -> TokenUse {
        match self.used_at {
            _ if self.expires_at <= now => TokenUse::Invalid,
            Some(used_at) if now - used_at > grace => TokenUse::Reused,
            _ if self.session_revoked => TokenUse::Invalid,
            Some(_) => TokenUse::Repeated,
            None => TokenUse::First,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
    }

    #[test]
    fn a_used_token_is_a_repeated_request_within_the_grace_and_a_reuse_after_it() {
        let grace = TimeDelta::seconds(60);
        let check = |used: Option<i64>, revoked, now, expected| {
            let token = StoredToken { expires_at: at(1000), used_at: used.map(at), session_revoked: revoked };
            assert_eq!(token.presented(at(now), grace), expected, "{used:?} {revoked} {now}");
        };
        check(None, false, 0, TokenUse::First);
        check(None, false, 999, TokenUse::First);
        check(None, false, 1000, TokenUse::Invalid);
        check(None, true, 0, TokenUse::Invalid);
        check(Some(10), false, 70, TokenUse::Repeated);
        check(Some(10), false, 71, TokenUse::Reused);
        check(Some(10), true, 70, TokenUse::Invalid);
        check(Some(10), true, 71, TokenUse::Reused);
        check(Some(10), false, 1000, TokenUse::Invalid);
        // The other request's transaction began later and committed first.
        check(Some(10), false, 9, TokenUse::Repeated);
    }

    #[test]
    fn a_token_never_outlives_its_session() {
        let lifetimes =
            Lifetimes { token: TimeDelta::days(14), session: TimeDelta::days(90), grace: TimeDelta::seconds(60) };
        assert_eq!(lifetimes.token_expires_at(at(0), at(0) + TimeDelta::days(90)), at(0) + TimeDelta::days(14));
        assert_eq!(lifetimes.token_expires_at(at(0), at(60)), at(60));
    }

    #[test]
    fn the_successor_is_the_same_every_time_and_needs_the_secret() {
        let token = RefreshToken::from_random([7; 32]);
        assert!(token.successor(b"secret") == token.successor(b"secret"));
        assert!(token.successor(b"secret") != token.successor(b"other"));
        assert!(token.successor(b"secret") != RefreshToken::from_random([8; 32]).successor(b"secret"));
        assert_ne!(token.hash(), token.successor(b"secret").hash());
    }

    #[test]
    fn a_token_has_exactly_one_spelling() {
        let token = RefreshToken::from_random([200; 32]);
        assert!(RefreshToken::parse(&token.text()) == Some(token.clone()));
        let text = token.text();
        for bad in ["", &text[1..], &format!("{text}="), &format!(" {}", &text[1..]), &text.replace(&text[42..], "_")] {
            assert!(RefreshToken::parse(bad).is_none(), "{bad}");
        }
    }
}
