//! Tickets and passes as signed statements: what they say, and reading them again.
//!
//! A ticket is a place in the line, a pass is the turn. Both are bound to an account and a sale event, and signed with the
//! event's own key, so a place survives the loss of Redis and a pass can be checked by whoever knows the public key.

use chrono::{DateTime, Utc};
use common::Result;
use common::signed::{Rejected, SigningKey, Statement, Verified, VerifyingKey};
use contract::ids::{AccountId, SaleEventId, TicketId};

use crate::sale_event::SaleEvent;

const TICKET_TYP: &str = "ticket+jwt";
const PASS_TYP: &str = "entry+jwt";

/// Longer than any line: a ticket that outlives its sale is worth nothing.
const TICKET_SECONDS: u64 = 30 * 86_400;

/// A place in the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    pub id: TicketId,
    pub place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Came before the opening; the draw gives it a number.
    Lobby,
    /// `epoch` is that of the room that gave the number.
    Number { seq: i64, epoch: i64 },
}

/// The right to buy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    pub seq: i64,
    pub epoch: i64,
    pub until_ms: i64,
}

/// Signs and reads the tickets and passes of one event.
pub struct Signer {
    audience: String,
    private: SigningKey,
    public: VerifyingKey,
}

impl Signer {
    pub fn of(event: &SaleEvent) -> Result<Signer> {
        Ok(Signer {
            audience: format!("event:{}", event.id),
            private: SigningKey::from_pkcs8(&event.pass_private_key)?,
            public: VerifyingKey::from_public(&event.pass_public_key),
        })
    }
}

impl Ticket {
    pub fn numbered(event: SaleEventId, account: AccountId, seq: i64, epoch: i64) -> Ticket {
        let id = TicketId::derive(&[event.as_bytes(), account.as_bytes(), &seq.to_be_bytes()]);
        Ticket { id, place: Place::Number { seq, epoch } }
    }

    /// `nonce` is the client's, so that nobody who knows the seed of the draw chooses a good id for it.
    pub fn early(event: SaleEventId, account: AccountId, nonce: &str) -> Ticket {
        let id = TicketId::derive(&[event.as_bytes(), account.as_bytes(), b"early", nonce.as_bytes()]);
        Ticket { id, place: Place::Lobby }
    }

    fn name(&self) -> String {
        match self.place {
            Place::Lobby => format!("{}:lobby", self.id),
            Place::Number { seq, epoch } => format!("{}:{seq}:{epoch}", self.id),
        }
    }

    fn from_name(name: &str) -> Option<Ticket> {
        let mut parts = name.split(':');
        let id = parts.next()?.parse().ok()?;
        let place = match (parts.next()?, parts.next(), parts.next()) {
            ("lobby", None, None) => Place::Lobby,
            (seq, Some(epoch), None) => Place::Number { seq: seq.parse().ok()?, epoch: epoch.parse().ok()? },
            _ => return None,
        };
        Some(Ticket { id, place })
    }

    pub fn sign(&self, signer: &Signer, account: AccountId, now: DateTime<Utc>) -> Result<String> {
        let iat = seconds(now);
        let statement = Statement {
            aud: signer.audience.clone(),
            sub: account.uuid(),
            jti: self.name(),
            iat,
            exp: iat + TICKET_SECONDS,
        };
        signer.private.sign(TICKET_TYP, &statement)
    }

    /// None: not a ticket of this account for this event.
    pub fn read(
        verified: &Verified,
        signer: &Signer,
        account: AccountId,
        token: &str,
        now: DateTime<Utc>,
    ) -> Option<Ticket> {
        let Signer { audience, public, .. } = signer;
        let read = verified.verify(public, TICKET_TYP, audience, account.uuid(), token, seconds(now));
        Ticket::from_name(&read.ok()?.jti)
    }
}

impl Pass {
    pub fn sign(&self, signer: &Signer, account: AccountId, now: DateTime<Utc>) -> Result<String> {
        let statement = Statement {
            aud: signer.audience.clone(),
            sub: account.uuid(),
            jti: format!("{}:{}", self.epoch, self.seq),
            iat: seconds(now),
            exp: u64::try_from(self.until_ms / 1000).unwrap_or_default(),
        };
        signer.private.sign(PASS_TYP, &statement)
    }

    pub fn read(
        signer: &Signer,
        account: AccountId,
        token: &str,
        now: DateTime<Utc>,
    ) -> std::result::Result<Pass, Rejected> {
        let Signer { audience, public, .. } = signer;
        let statement = public.verify(PASS_TYP, audience, account.uuid(), token, seconds(now))?;
        let numbers =
            statement.jti.split_once(':').and_then(|(epoch, seq)| Some((epoch.parse().ok()?, seq.parse().ok()?)));
        let (epoch, seq) = numbers.ok_or(Rejected::Invalid)?;
        let until_ms = i64::try_from(statement.exp).map_err(|_| Rejected::Invalid)?.saturating_mul(1000);
        Ok(Pass { seq, epoch, until_ms })
    }
}

fn seconds(at: DateTime<Utc>) -> u64 {
    u64::try_from(at.timestamp()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

    use super::*;
    use crate::sale_event::tests::event;

    fn signing() -> SaleEvent {
        let pair = Ed25519KeyPair::generate().unwrap();
        SaleEvent {
            pass_public_key: pair.public_key().as_ref().to_vec(),
            pass_private_key: pair.to_pkcs8().unwrap().as_ref().to_vec(),
            ..event()
        }
    }

    fn signer(event: &SaleEvent) -> Signer {
        Signer::of(event).unwrap()
    }

    fn verified() -> Verified {
        Verified::new(1)
    }

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
    }

    #[test]
    fn a_ticket_is_read_by_its_owner_at_its_event_alone() {
        let (event, account) = (signing(), AccountId::derive(&[b"ann"]));
        let tickets = [Ticket::numbered(event.id, account, 7, 2), Ticket::early(event.id, account, "n-1")];
        for ticket in tickets {
            let token = ticket.sign(&signer(&event), account, at(0)).unwrap();
            let read = |event: &SaleEvent, account| Ticket::read(&verified(), &signer(event), account, &token, at(1));
            assert_eq!(read(&event, account), Some(ticket));
            assert_eq!(read(&event, AccountId::derive(&[b"bob"])), None);
            assert_eq!(read(&SaleEvent { id: SaleEventId::derive(&[b"other"]), ..event.clone() }, account), None);
            assert_eq!(read(&signing(), account), None, "another key");
            let as_pass = Pass::read(&signer(&event), account, &token, at(1));
            assert_eq!(as_pass, Err(Rejected::Invalid), "a ticket is no pass");
        }
        assert_ne!(tickets[0].id, Ticket::numbered(event.id, account, 8, 2).id);
        assert_eq!(tickets[0].id, Ticket::numbered(event.id, account, 7, 3).id, "a place outlives its room");
    }

    #[test]
    fn a_pass_has_a_clock_of_its_own() {
        let (signer, account) = (signer(&signing()), AccountId::derive(&[b"ann"]));
        let until_ms = at(600).timestamp_millis() + 999;
        let token = Pass { seq: 7, epoch: 2, until_ms }.sign(&signer, account, at(0)).unwrap();
        let read = Pass { seq: 7, epoch: 2, until_ms: at(600).timestamp_millis() };
        assert_eq!(Pass::read(&signer, account, &token, at(599)), Ok(read));
        assert_eq!(Pass::read(&signer, account, &token, at(600)), Err(Rejected::Expired));
        assert_eq!(Ticket::read(&verified(), &signer, account, &token, at(1)), None, "a pass is no ticket");
    }

    #[test]
    fn names_that_are_none_are_not_read() {
        let id = TicketId::derive(&[b"x"]);
        for name in ["", "x:1:2", &id.to_string(), &format!("{id}:1"), &format!("{id}:lobby:1"), &format!("{id}:1:2:3")]
        {
            assert_eq!(Ticket::from_name(name), None, "{name}");
        }
    }
}
