//! Rules: a refresh token, the one that follows it, and what it means when one is presented.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};

/// An opaque secret. Stored only as its hash.
#[derive(Clone, PartialEq, Eq)]
pub struct RefreshToken([u8; 32]);

impl RefreshToken {
    pub fn from_random(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// `None`: this was never one of ours.
    pub fn parse(text: &str) -> Option<Self> {
        // The length first: nobody needs a megabyte decoded to learn that it is not a token.
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

    /// The token that replaces this one: always the same, so that a client whose answer got lost asks again and gets
    /// it, and known only to who has both this token and `secret`, so that nothing stored gives it away.
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
    /// For so long a used token is taken for a repeated request, not for a theft.
    pub grace: TimeDelta,
}

impl Lifetimes {
    pub fn token_expires_at(&self, now: DateTime<Utc>, session_expires_at: DateTime<Utc>) -> DateTime<Utc> {
        session_expires_at.min(now + self.token)
    }
}

/// What is known about a token that is presented.
#[derive(Debug, Clone)]
pub struct Known {
    pub expires_at: DateTime<Utc>,
    pub used_at: Option<DateTime<Utc>>,
    pub session_revoked: bool,
}

/// What presenting a token means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presented {
    /// It is fresh: replace it.
    Rotate,
    /// It was replaced a moment ago: answer with the same successor.
    Repeat,
    /// Somebody has a copy: end the session for both.
    Reused,
    Invalid,
}

pub fn presented(token: &Known, now: DateTime<Utc>, grace: TimeDelta) -> Presented {
    match token.used_at {
        _ if token.expires_at <= now => Presented::Invalid,
        Some(used_at) if now - used_at > grace => Presented::Reused,
        _ if token.session_revoked => Presented::Invalid,
        Some(_) => Presented::Repeat,
        None => Presented::Rotate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
    }

    #[test]
    fn a_used_token_is_a_repeat_within_the_grace_and_a_theft_after_it() {
        let grace = TimeDelta::seconds(60);
        let check = |used: Option<i64>, revoked, now, expected| {
            let token = Known { expires_at: at(1000), used_at: used.map(at), session_revoked: revoked };
            assert_eq!(presented(&token, at(now), grace), expected, "{used:?} {revoked} {now}");
        };
        check(None, false, 0, Presented::Rotate);
        check(None, false, 999, Presented::Rotate);
        check(None, false, 1000, Presented::Invalid);
        check(None, true, 0, Presented::Invalid);
        check(Some(10), false, 70, Presented::Repeat);
        check(Some(10), false, 71, Presented::Reused);
        check(Some(10), true, 70, Presented::Invalid);
        check(Some(10), true, 71, Presented::Reused);
        check(Some(10), false, 1000, Presented::Invalid);
        // The other request's transaction began later and committed first.
        check(Some(10), false, 9, Presented::Repeat);
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
    fn only_our_own_spelling_is_a_token() {
        let token = RefreshToken::from_random([200; 32]);
        assert!(RefreshToken::parse(&token.text()) == Some(token.clone()));
        let text = token.text();
        for bad in ["", &text[1..], &format!("{text}="), &format!(" {}", &text[1..]), &text.replace(&text[42..], "_")] {
            assert!(RefreshToken::parse(bad).is_none(), "{bad}");
        }
    }
}
